"""Rows of one treatment and readout under one condition: calls along the dose, and where the evidence disagrees."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cellgap.ask._calls import CALLS, entropy
from cellgap.ask._select_rows import Rows

_SPLIT_BY = ("source", "named", "model")
_WORDS = {"named": "data set", "model": "model"}
_UP, _DOWN, _FEW = CALLS.index("up"), CALLS.index("down"), CALLS.index("insufficient")


@dataclass(frozen=True)
class Step:
    """One dose.

    Parameters
    ----------
    call
        One of ``CALLS``, or ``"contested"`` where rows that nothing tells apart disagree.
    row
        Position of the row that speaks for it: measured before predicted, then the strongest.
    """

    call: str
    row: int


@dataclass(frozen=True)
class Ladder:
    """Calls along the doses, lowest first.

    Parameters
    ----------
    steps
        One a dose; a single one where there is no dose.
    rows
        Positions of all rows behind it.
    label
        Which part of the evidence it is, in words; empty for all of it.
    """

    steps: tuple[Step, ...]
    rows: tuple[int, ...]
    label: str = ""

    @property
    def verdict(self) -> str:
        """What the calls come to."""
        calls = {step.call for step in self.steps} - {"insufficient"}
        if "contested" in calls or {"up", "down"} <= calls:
            return "mixed"
        if not calls:
            return "insufficient"
        return "raises" if "up" in calls else "lowers" if "down" in calls else "no_change"


@dataclass(frozen=True)
class Finding:
    """What the rows of one treatment and readout say under one condition.

    Parameters
    ----------
    treatment, readout
        Names.
    ladders
        One, or one a part of the evidence that disagrees with another.
    strength
        Largest absolute effect with a call, 0 without one.
    conflict
        Whether parts of the evidence, or rows that nothing tells apart, go in opposite directions.
    disagrees
        Parts of the evidence that disagree, in words; empty where none do.
    """

    treatment: str
    readout: str
    ladders: tuple[Ladder, ...]
    strength: float
    conflict: bool = False
    disagrees: str = ""

    @property
    def verdict(self) -> str:
        """What the ladders come to; where no directions are opposed, measured rows count before predicted ones."""
        verdicts = list(dict.fromkeys(x.verdict for x in self.ladders if x.verdict != "insufficient"))
        if not verdicts:
            return "insufficient"
        if self.conflict or (len(verdicts) > 1 and not self.ladders[0].label.startswith("measured")):
            return "mixed"
        return verdicts[0]

    @property
    def rows(self) -> tuple[int, ...]:
        """Positions of all rows behind it."""
        return tuple(row for ladder in self.ladders for row in ladder.rows)


def find(treatment: str, readout: str, rows: Rows, at: Iterable[int]) -> Finding:
    """Return what rows of one treatment, readout, context and time say.

    Rows of the same call are one group, whatever their source. Where rows of one dose disagree, or rows of one source,
    data set or model go up and those of another down, they are split by the attribute that takes away most of the
    entropy of the calls; ties go to the first of source, data set, model.

    Parameters
    ----------
    treatment, readout
        Names.
    rows
        All rows selected.
    at
        Positions of those to look at; their order does not matter.
    """

    def order(i: int) -> tuple[object, ...]:
        dose = rows.number("base_dose", i)
        texts = (rows.text("source", i), rows.text("named", i), rows.text("model", i))
        return rows.text("base_unit", i), -1.0 if math.isnan(dose) else dose, texts, rows.text("row_id", i)

    places = sorted((int(i) for i in at), key=order)
    ladders: list[Ladder] = []
    for _, part in itertools.groupby(places, key=lambda i: rows.text("base_unit", i)):
        ladders += _parts(rows, list(part), ())
    called = [abs(rows.number("effect", i)) for i in places if rows["call"][i] in (_UP, _DOWN)]
    split = len({ladder.label for ladder in ladders}) > 1
    directions = {step.call for ladder in ladders for step in ladder.steps} & {"up", "down"}
    contested = [step for ladder in ladders for step in ladder.steps if step.call == "contested"]
    conflict = (split and len(directions) > 1) or any(_opposed(rows, places, step.row) for step in contested)
    disagrees = ""
    if split:
        disagrees = ", ".join(f"{ladder.label}: {ladder.verdict.replace('_', ' ')}" for ladder in ladders)
    elif contested:
        disagrees = "rows that have one key"
    return Finding(treatment, readout, tuple(ladders), max(called, default=0.0), conflict, disagrees)


def _parts(rows: Rows, at: list[int], labels: tuple[str, ...]) -> list[Ladder]:
    contested = [i for dose in _by_dose(rows, at) if len(_calls(rows, dose)) > 1 for i in dose]
    if not contested and not _apart(rows, at):
        return [_ladder(rows, at, labels)]
    looked = contested or at
    calls = np.array([rows["call"][i] for i in looked])
    before, best, chosen = entropy(calls), 1e-12, ""
    for attribute in _SPLIT_BY:
        values = np.array([rows.text(attribute, i) for i in looked])
        after = sum(float((values == v).mean()) * entropy(calls[values == v]) for v in np.unique(values))
        if before - after > best + 1e-12:
            best, chosen = before - after, attribute
    if not chosen:
        return [_ladder(rows, at, labels)]
    made: list[Ladder] = []
    for value in sorted({rows.text(chosen, i) for i in at}):
        label = f"{value} rows" if chosen == "source" else f"{_WORDS[chosen]} {value}"
        made += _parts(rows, [i for i in at if rows.text(chosen, i) == value], (*labels, label))
    return made


def _by_dose(rows: Rows, at: Sequence[int]) -> list[list[int]]:
    return [list(part) for _, part in itertools.groupby(at, key=lambda i: str(rows.number("base_dose", i)))]


def _calls(rows: Rows, at: Sequence[int]) -> set[int]:
    """Return the calls of rows; too few cells are no call."""
    return {int(rows["call"][i]) for i in at} - {_FEW}


def _apart(rows: Rows, at: Sequence[int]) -> bool:
    """Return whether an attribute parts rows that go up from rows that go down."""
    active = [i for i in at if rows["call"][i] in (_UP, _DOWN)]
    if len(_calls(rows, active)) < 2:
        return False
    for attribute in _SPLIT_BY:
        parts = [[i for i in active if rows.text(attribute, i) == v] for v in rows.values(attribute, active)]
        if len(parts) > 1 and all(len(_calls(rows, part)) == 1 for part in parts):
            return True
    return False


def _opposed(rows: Rows, at: Sequence[int], row: int) -> bool:
    """Return whether rows of the dose of a row go up and down."""
    same = [i for i in at if str(rows.number("base_dose", i)) == str(rows.number("base_dose", row))]
    return {_UP, _DOWN} <= _calls(rows, same)


def _ladder(rows: Rows, at: list[int], labels: tuple[str, ...]) -> Ladder:
    def speaks(i: int) -> tuple[object, ...]:
        return rows.text("source", i), -abs(rows.number("effect", i)), rows.text("named", i), rows.text("row_id", i)

    steps = []
    for dose in _by_dose(rows, at):
        calls = sorted(_calls(rows, dose))
        counted = [i for i in dose if rows["call"][i] != _FEW] or dose
        call = "insufficient" if not calls else CALLS[calls[0]] if len(calls) == 1 else "contested"
        steps.append(Step(call, min(counted, key=speaks)))
    return Ladder(tuple(steps), tuple(at), ", ".join(labels))

"""Combinations that a question binds and no table has: said, with what was tested nearest."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cellgap.ask._answer import Answer, Citation
from cellgap.ask._calls import CallRule
from cellgap.ask._effect_table import treatments_of
from cellgap.ask._nearest import nearest_rows
from cellgap.ask._quantities import Range, plain
from cellgap.ask._question import Question
from cellgap.ask._select_rows import Rows, select
from cellgap.ask._split_rows import find
from cellgap.ask._verdict_text import Writer, condition_sentence, place_words
from cellgap.study import Condition


@dataclass(frozen=True)
class Place:
    """A context and a time that rows share, and their treatment unless treatments are set side by side.

    Parameters
    ----------
    treatment
        Name, or empty.
    context
        Names and values.
    time
        In hours, NaN where it is not known.
    """

    treatment: str
    context: tuple[tuple[str, str], ...]
    time: float

    @property
    def words(self) -> str:
        """The place in a few words."""
        where = place_words(self.context, self.time).rstrip(", ")
        return " ".join(part for part in (self.treatment, where[:1].lower() + where[1:]) if part) or "all cells"

    @property
    def attributes(self) -> dict[str, str]:
        """The context and the time as plain values."""
        return dict(self.context) | ({} if math.isnan(self.time) else {"time": f"{plain(self.time)} h"})


def not_tested(
    question: Question, rows: Rows, rule: CallRule, cited: Callable[[Rows, Sequence[int]], tuple[Citation, ...]]
) -> list[Answer]:
    """Return an answer for every combination of bound contexts and times that has no row.

    Parameters
    ----------
    question
        As read.
    rows
        What it selects.
    rule
        Calls the nearest rows.
    cited
        Cites rows.
    """
    if question.intent == "list" and len(rows):
        return []
    axes = [[(name, value) for value in values] for name, values in question.context.items()]
    if question.unknown and rows.context:
        column = rows.context[0] if len(rows.context) == 1 else "cells"
        unknown = [(column, value) for value in question.unknown]
        same = next((axis for axis in axes if axis[0][0] == column), None)
        if same is None:
            axes.append(unknown)
        else:
            same += unknown
    made = []
    everything: Rows | None = None
    for bound in itertools.product(*axes):
        for time in question.times or (None,):
            if not _some(rows, bound, time):
                if everything is None:
                    everything = select(question, rows.tables, rule, bound=False)
                made.append(_answer(question, everything, rule, cited, bound, time))
    return made


def _some(rows: Rows, bound: Sequence[tuple[str, str]], time: Range | None) -> bool:
    here = np.ones(len(rows), dtype=bool)
    for name, value in bound:
        here &= rows[name] == value if name in rows.context else False
    if time is not None:
        here &= np.array([time.holds(t) for t in rows["time_h"].tolist()], dtype=bool)
    return bool(here.any())


def _answer(
    question: Question,
    everything: Rows,
    rule: CallRule,
    cited: Callable[[Rows, Sequence[int]], tuple[Citation, ...]],
    bound: Sequence[tuple[str, str]],
    time: Range | None,
) -> Answer:
    subject = " or ".join(" + ".join(sorted(names)) for names in question.treatments)
    what = f" on {' and '.join(question.readouts)}" if question.readouts else ""
    text = f"{subject} was not tested{what}" if subject else f"No treatment was tested{what}"
    text += " under this condition"
    citations: tuple[Citation, ...] = ()
    nearest: dict[str, str] = {}
    if len(everything):
        # A value that the tables do not know is as far from every row as from any other.
        context = {name: (value,) for name, value in bound}
        near = nearest_rows(everything, replace(question, context=context, times=(time,) if time else ()))
        first = int(near[0])
        finding = find(
            everything.text("treatment", first), everything.text("readout", first), everything, near.tolist()
        )
        held = tuple(
            (name, everything.text(name, first)) for name in everything.context if everything.text(name, first)
        )
        place = Place(finding.treatment, held, everything.number("time_h", first))
        where = place_words(place.context, place.time)
        told = Writer(everything, rule, {}, bool(question.doses)).answer(where[:1].lower() + where[1:], [finding])
        text += f"; the nearest that was tested: {told}"
        citations = cited(everything, finding.rows)
        nearest = {"nearest": place.words, "nearest_verdict": finding.verdict}
    else:
        text += "."
    at = time.low if time is not None and time.low == time.high else math.nan
    dose = " or ".join(r.words for r in question.doses)
    key = None
    if len(question.treatments) == 1:
        key = Condition.of(treatments_of(" + ".join(sorted(question.treatments[0]))), bound)
    sentence = condition_sentence(bound, at, dose=dose)
    if time is not None and math.isnan(at):
        sentence = f"{sentence.rstrip('.')} for {time.words}."
    return Answer(
        sentence,
        text,
        citations,
        1.0,
        key,
        Place("", tuple(bound), at).attributes | nearest | {"rule": rule.words},
        dict.fromkeys(question.readouts or ("all",), "not_tested"),
    )

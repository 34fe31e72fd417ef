"""Rows of an effect table that passages put into words, read back as numbers.

"<treatment> in K562 at 1 uM for 24 h: apoptosis score +1.8, q = 0.011, 400 cells" is a row; in what order and with what
words it is told does not matter. A statement that lacks a part, or that can be read in two ways, gives no row.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cellgap.ask import _rows_words as roles
from cellgap.ask._answer import Answers, Citation
from cellgap.ask._effect_table import EffectTable
from cellgap.ask._extract_cite import cite_passage
from cellgap.ask._passage import Passage
from cellgap.ask._rows_words import Item
from cellgap.ask._sentences import sentence_spans
from cellgap.ask._typed import told_source

NAME = "effects told in passages"
_CONDITIONS = ("dose", "time", "line")


@dataclass(frozen=True)
class RowsInText:
    """An effect table that was read from passages.

    Parameters
    ----------
    table
        The rows; a row told twice is there once.
    passages
        Position of the passage of every row of the table, zero-based.
    spans
        Characters of that passage that state the row.
    asked
        Names of treatments of the table that the question has; empty where it has none.
    """

    table: EffectTable
    passages: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    asked: tuple[str, ...]


@dataclass
class _Statement:
    """A sentence with at least one effect, and what its passage says around it."""

    passage: int
    start: int
    end: int
    text: str
    items: list[Item]
    title: list[Item]
    around: list[list[Item]]
    background: str
    alone: bool


def rows_in_text(question: str, passages: Sequence[Passage]) -> RowsInText | None:
    """Return the effect table that passages put into words, or None where no row can be read.

    A row needs a treatment, a readout, an effect, a q value (or an adjusted or plain p) and a condition (dose, time or cell
    line; whichever any row has, every row needs). What a sentence leaves out is taken from the title or from sentences
    without an effect of the same passage, if they say one thing only. Suspicious passages are not read.

    Parameters
    ----------
    question
        Its names help to tell treatments from readouts.
    passages
        As for ``extract``.
    """
    statements = _statements(passages)
    if not statements:
        return None
    asked = roles.items_of(question)
    _mark_lines(statements, asked)
    treatments, own = _treatments(asked, statements)
    readouts = _Readouts(asked, statements, treatments)
    rows = [row for statement in statements for row in _rows(statement, treatments, readouts)]
    for part, column in (("dose", "dose"), ("time", "time_h"), ("line", "cell_line")):
        if any(_known(row[column]) for row in rows):
            rows = [row for row in rows if _known(row[column])]
        elif part == "line":
            rows = [{k: v for k, v in row.items() if k != column} for row in rows]
    if not rows:
        return None
    for column in ("readout", "treatment", "cell_line"):
        spelled = roles.common_first(row[column] for row in rows if column in row)
        for row in rows:
            if column in row:
                row[column] = spelled[row[column].lower()]
    frame = pd.DataFrame(rows)
    table = EffectTable.of(frame.drop(columns=["passage", "span"]), name=NAME)
    kept = [int(i) for i in table.origin]
    names = tuple(dict.fromkeys(row["treatment"] for row in rows if row["treatment"].lower() in own))
    return RowsInText(table, tuple(rows[i]["passage"] for i in kept), tuple(rows[i]["span"] for i in kept), names)


def answer_from_text(question: str, passages: Sequence[Passage]) -> Answers | None:
    """Return the answer from rows that passages put into words, or None where fewer than two are about the question."""
    from cellgap.ask._table_answers import answer_from_tables

    read = rows_in_text(question, passages)
    if read is None:
        return None
    about = read.table.frame["treatment"].isin(read.asked).sum() if read.asked else len(read.table)
    if about < 2:
        return None

    def cite(table: EffectTable, row: int) -> Citation:
        place = read.passages[row]
        return cite_passage(passages[place], place + 1, read.spans[row])

    answers = answer_from_tables(question, [read.table], k_max=None, cite=cite)
    return answers if answers is not None and answers.answers else None


def _statements(passages: Sequence[Passage]) -> list[_Statement]:
    found = []
    for place, passage in enumerate(passages):
        if passage.suspicious:
            continue
        spans = sentence_spans(passage.text)
        parts = [roles.items_of(passage.text[start:end]) for start, end in spans]
        with_effect = [any(item.kind == "effect" for item in items) for items in parts]
        title = roles.items_of(passage.title)
        title = [i for i in title if i.kind != "effect"]
        around = [items for items, has in zip(parts, with_effect, strict=True) if not has]
        background = " ".join(passage.text[a:b] for (a, b), has in zip(spans, with_effect, strict=True) if not has)
        found += [
            _Statement(
                place, start, end, passage.text[start:end], items, title, around, background, sum(with_effect) == 1
            )
            for (start, end), items, has in zip(spans, parts, with_effect, strict=True)
            if has
        ]
    return found


def _texts(statement: _Statement) -> list[list[Item]]:
    return [statement.items, statement.title, *statement.around]


def _treatments(asked: Sequence[Item], statements: Sequence[_Statement]) -> tuple[frozenset[str], set[str]]:
    """Return the words (lower case) that name treatments, and those of them that the question has."""
    surplus: dict[str, float] = {}
    for statement in statements:
        for items in (statement.items, *statement.around):
            for first, end in roles.runs(items):
                role = roles.treatment_role(items, first, end) - roles.readout_role(items, first, end)
                for k in range(first, end):
                    surplus[items[k].low] = surplus.get(items[k].low, 0.0) + role
    in_titles = {i.low for s in statements for i in s.title if i.bears}
    own: dict[str, float] = {}
    unknown = frozenset(i.low for i in asked if i.low not in surplus and i.low not in in_titles)
    for (first, end), role in roles.asked_roles(asked, roles.runs(asked, unknown)).items():
        for k in range(first, end):
            # What the question makes of a word counts as much as what the statements do, which are many.
            own[asked[k].low] = surplus.get(asked[k].low, 0.0) + 2.0 * len(statements) * role
    # Of several words in the question, those that stand about as the surest one does (a comparison has two).
    own = {w: s for w, s in own.items() if s > 0 and s >= max(own.values()) / 3}
    beside: Counter[str] = Counter()
    apart: Counter[str] = Counter()
    stands: Counter[tuple[str, str]] = Counter()
    others: list[_Statement] = []
    for statement in statements:
        places = [(items, k) for items in _texts(statement) for k, item in enumerate(items) if item.low in own]
        stands.update(roles.neighbours(items, k) for items, k in places)
        spoken = {i.low for items in (statement.items, *statement.around) for i in items if i.bears}
        (beside if places else apart).update(spoken)
        others += [] if places else [statement]
    names = set(own)
    for statement in others:
        # Another treatment stands where the one asked for stands in other statements, and seldom beside it.
        scored: dict[str, float] = {}
        for items in _texts(statement):
            for k, item in enumerate(items):
                if item.bears and beside[item.low] < max(apart[item.low], 1):
                    alike = 3.0 * (stands[roles.neighbours(items, k)] > 0) + surplus.get(item.low, 0.0) / len(
                        statements
                    )
                    scored[item.low] = max(scored.get(item.low, -math.inf), alike)
        best = max(scored.values(), default=0.0)
        top = [w for w, s in scored.items() if s == best]
        if len(top) == 1 and (best > 0 or len(scored) == 1):
            names.add(top[0])
    return frozenset(names), set(own)


def _mark_lines(statements: Sequence[_Statement], asked: Sequence[Item]) -> None:
    """Mark the cell lines of all sentences; a word of the question is one only if it stands as one there too."""
    there = roles.cell_lines([asked], frozenset())
    not_lines = frozenset(i.low for i in asked if i.bears) - there
    lines = roles.cell_lines((items for s in statements for items in _texts(s)), not_lines)
    for statement in statements:
        statement.items = roles.with_lines(statement.items, lines)
        statement.title = roles.with_lines(statement.title, lines)
        statement.around = [roles.with_lines(items, lines) for items in statement.around]


class _Readouts:
    """The phrases that name readouts in the statements."""

    def __init__(self, asked: Sequence[Item], statements: Sequence[_Statement], treatments: frozenset[str]):
        self._apart = treatments | _boilerplate(asked, statements, treatments)
        frequency: Counter[str] = Counter()
        score: dict[str, float] = {}
        for statement in statements:
            for phrase, role in self._phrases(statement.items):
                frequency[phrase] += 1
                score[phrase] = score.get(phrase, 0.0) + role
        named = [" ".join(asked[k].low for k in range(*run)) for run in roles.runs(asked, treatments)]
        known = {p for p in frequency if any(_inside(p, name) or _inside(name, p) for name in named)}
        n = len(statements)
        # "reach apoptosis" is apoptosis where nearly all other statements say so.
        self._short = {
            p: next((q for q in frequency if q != p and _inside(q, p) and frequency[q] >= 3 * frequency[p]), p)
            for p in frequency
        }
        self._rank = {p: score[p] / frequency[p] + 0.5 * (frequency[p] < n) + 4.0 * (p in known) for p in frequency}

    def _phrases(self, items: Sequence[Item]) -> list[tuple[str, float]]:
        return [
            (" ".join(items[k].low for k in range(first, end)), roles.readout_role(items, first, end))
            for first, end in roles.runs(items, self._apart)
        ]

    def _shortened(self, phrase: str) -> str:
        short = self._short.get(phrase.lower(), phrase.lower())
        at = f" {phrase.lower()} ".find(f" {short} ")
        return phrase[at : at + len(short)]

    def of(self, items: Sequence[Item], n: int) -> list[str] | None:
        """Return the readout of each of `n` effects of a sentence, or None where that is not clear."""
        spans = roles.runs(items, self._apart)
        named = [self._shortened(" ".join(items[k].text for k in range(*span))) for span in spans]
        ranked = [(self._rank.get(text.lower(), 0.0), text) for text in named]
        if not ranked:
            return None
        if n > 1:
            good = [text for rank, text in ranked if rank > 1]
            good = list(dict.fromkeys(good))
            return good if len(good) == n else good * n if len(good) == 1 else None
        best = max(rank for rank, _ in ranked)
        top = {text.lower() for rank, text in ranked if rank == best}
        if best <= 0 or len(top) > 1:
            return None
        return [next(text for rank, text in ranked if rank == best)]


def _boilerplate(asked: Sequence[Item], statements: Sequence[_Statement], treatments: frozenset[str]) -> frozenset[str]:
    """Return the words that every statement has beside readouts that differ; with one readout alone none can be told."""
    spoken = [{i.low for i in s.items if i.bears} - treatments for s in statements]
    common = set.intersection(*spoken) - {i.low for i in asked}
    named = {i.low for i in asked if i.bears} - treatments
    if all(words & named for words in spoken) or any(words - common for words in spoken):
        return frozenset(common if all(words - common for words in spoken) else ())
    return frozenset()


def _inside(part: str, whole: str) -> bool:
    return f" {part} " in f" {whole} "


def _rows(statement: _Statement, treatments: frozenset[str], readouts: _Readouts) -> list[dict[str, Any]]:
    """Return the rows of a statement; none where a part is missing or can be read in two ways."""
    items = statement.items
    effects = [i for i in items if i.kind == "effect"]
    n = len(effects)
    names = _aligned([i.text for i in items if i.low in treatments], n)
    names = names or _unique(
        [i.text for part in (statement.title, *statement.around) for i in part if i.low in treatments], n
    )
    told = readouts.of(items, n)
    if told is None and not any(True for _ in roles.runs(items, treatments)):
        told = next((r for part in (*statement.around, statement.title) if (r := readouts.of(part, 1))), None)
        told = told * n if told else None
    parts: dict[str, list[Any]] = {}
    for kind in _CONDITIONS:
        mine = [_value(i) for i in items if i.kind == kind]
        if mine:
            got = _aligned(mine, n)
            if got is None:
                return []
        else:
            got = _unique(
                [_value(i) for part in (statement.title, *statement.around) for i in part if i.kind == kind], n
            )
        parts[kind] = got or [None] * n
    told_of = (
        items
        if any(i.kind == "q" for i in items) or not statement.alone
        else [i for p in (items, *statement.around) for i in p]
    )
    q = _aligned([i.typed.value for i in told_of if i.kind == "q" and i.typed], n)
    if names is None or told is None or q is None:
        return []
    source = told_source(statement.text) or told_source(statement.background)
    if source == "?":
        return []
    cells, control, se = (_optional(told_of, kind, n) for kind in ("n_cells", "n_control", "se"))
    rows = []
    for k in range(n):
        effect = effects[k].typed.value if effects[k].typed else None
        dose, unit = parts["dose"][k] or (math.nan, "")
        stated = any(parts[kind][k] is not None for kind in _CONDITIONS)
        if effect is None or q[k] is None or not 0 <= q[k] <= 1 or dose == 0 or not stated:
            continue
        rows.append(
            {
                "treatment": names[k], "dose": dose, "unit": unit, "cell_line": parts["line"][k] or "",
                "time_h": math.nan if parts["time"][k] is None else parts["time"][k], "readout": told[k], "effect": effect,
                "se": se[k], "q": q[k], "n_cells": cells[k], "n_control": control[k], "source": source or "measured",
                "passage": statement.passage, "span": (statement.start, statement.end),
            }
        )  # fmt: skip
    return rows


def _value(item: Item) -> Any:
    if item.typed is None:
        return item.text
    return (item.typed.value, item.typed.unit) if item.kind == "dose" else item.typed.value


def _aligned(values: Sequence[Any], n: int) -> list[Any] | None:
    """Return one value an effect: those there are, in order, or the only one for all; None where that does not go up."""
    different = list(dict.fromkeys(v.lower() if isinstance(v, str) else v for v in values))
    if len(different) == 1:
        return [values[0]] * n
    return list(values) if len(values) == n else None


def _unique(values: Sequence[Any], n: int) -> list[Any] | None:
    return _aligned(values, n) if len({v.lower() if isinstance(v, str) else v for v in values}) == 1 else None


def _optional(items: Sequence[Item], kind: str, n: int) -> list[float]:
    values = [i.typed.value for i in items if i.kind == kind and i.typed]
    got = values if len(values) == n else values * n if len(values) == 1 else [None] * n
    return [math.nan if v is None else v for v in got]


def _known(value: Any) -> bool:
    return value != "" and not (isinstance(value, float) and math.isnan(value))

"""Rows of an effect table that passages put into words, read back as numbers.

"<treatment> in K562 at 1 uM for 24 h: apoptosis score +1.8, q = 0.011, 400 cells" is a row; in what order and with what
words it is told does not matter. A statement that lacks a part, or that can be read in two ways, gives no row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cellgap.ask import _rows_words as roles
from cellgap.ask._answer import Answers, Citation
from cellgap.ask._effect_table import EffectTable
from cellgap.ask._extract_cite import cite_passage
from cellgap.ask._passage import Passage
from cellgap.ask._rows_names import Readouts, Statement, mark_cell_lines, named_treatments, statements_of
from cellgap.ask._rows_words import Item
from cellgap.ask._typed import told_source

NAME = "effects told in passages"
# Numbers beyond it are misprints, or infinite.
_ABSURD = 1e12
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


def rows_in_text(question: str, passages: Sequence[Passage]) -> RowsInText | None:
    """Return the effect table that passages put into words, or None where no row can be read.

    A row needs a treatment, a readout, an effect, a q value (or an adjusted or plain p) and a condition (dose, time or
    cell line; whichever any row has, every row needs). What a sentence leaves out is taken from the title or sentences
    without an effect of the same passage, if they say one thing only. Suspicious passages are not read.

    Parameters
    ----------
    question
        Its names help to tell treatments from readouts.
    passages
        As for ``extract``.
    """
    statements = statements_of(passages)
    if not statements:
        return None
    asked = roles.items_of(question)
    mark_cell_lines(statements, asked)
    treatments, own = named_treatments(asked, statements)
    readouts = Readouts(asked, statements, treatments)
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


def _rows(statement: Statement, treatments: frozenset[str], readouts: Readouts) -> list[dict[str, Any]]:
    """Return the rows of a statement; none where a part is missing or can be read in two ways."""
    items = statement.items
    effects = [i.typed.value for i in items if i.kind == "effect" and i.typed]
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
        effect = effects[k]
        dose, unit = parts["dose"][k] or (math.nan, "")
        stated = any(parts[kind][k] is not None for kind in _CONDITIONS)
        time = math.nan if parts["time"][k] is None else parts["time"][k]
        sizes = (effect, dose, time, se[k], cells[k], control[k])
        absurd = any(size is not None and abs(size) > _ABSURD for size in sizes)
        if effect is None or q[k] is None or not 0 <= q[k] <= 1 or dose == 0 or absurd or not stated:
            continue
        rows.append(
            {
                "treatment": names[k], "dose": dose, "unit": unit, "cell_line": parts["line"][k] or "", "time_h": time,
                "readout": told[k], "effect": effect, "se": se[k], "q": q[k], "n_cells": cells[k],
                "n_control": control[k], "source": source or "measured",
                "passage": statement.passage, "span": (statement.start, statement.end),
            }
        )  # fmt: skip
    return rows


def _value(item: Item) -> Any:
    if item.typed is None:
        return item.text
    return (item.typed.value, item.typed.unit) if item.kind == "dose" else item.typed.value


def _aligned(values: Sequence[Any], n: int) -> list[Any] | None:
    """Return one value an effect: those there are, in order, or the only one for all; None if neither fits."""
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

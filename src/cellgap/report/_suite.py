"""The field's benchmark suite as a table: predictors in rows, members in columns."""

import math

import pandas as pd

from cellgap.report._tables import Cell, Row, ScoreTable
from cellgap.report._words import fixed, number

MEAN = "mean"
"""The member that is the mean over all others; it has a scaled score only."""


def suite_table(suite: pd.DataFrame, model: str) -> ScoreTable | None:
    """Return the table of a suite, in the order of its rows; None where there is none.

    Parameters
    ----------
    suite
        ``predictor, kind, member, label, better, value, scaled``, one row a predictor and member.
    model
        The predictor that the page is about.
    """
    rows = suite.to_dict("records")
    heads = tuple({row["member"]: (str(row["label"]), str(row["member"]), str(row["better"])) for row in rows}.values())
    found = {(row["predictor"], row["member"]): row for row in rows}
    kinds = {row["predictor"]: str(row["kind"]) for row in rows}
    table = []
    for name, kind in kinds.items():
        cells = tuple(_cell(found.get((name, member), {})) for _, member, _ in heads)
        if any(cell.value or cell.scaled for cell in cells):
            shown = "own" if name == model else "repeat" if kind == "anchor" else kind
            table.append(Row(str(name), shown, cells))
    return ScoreTable("raw counts", heads, tuple(table)) if table else None


def _cell(row: dict) -> Cell:
    value, scaled = (float(row.get(key, math.nan)) for key in ("value", "scaled"))
    return Cell(
        number(value) if math.isfinite(value) else "",
        scaled=fixed(scaled) if math.isfinite(scaled) else "",
        below=scaled < 0,
    )

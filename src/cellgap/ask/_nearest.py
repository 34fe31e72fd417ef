"""What was tested nearest to a combination that was not."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from cellgap.ask._calls import CALLS
from cellgap.ask._quantities import Range
from cellgap.ask._question import Question
from cellgap.ask._select_rows import Rows


def nearest_rows(rows: Rows, question: Question) -> Int[np.ndarray, " n"]:
    """Return the positions of the rows nearest to what a question binds: one treatment, context, time and readout.

    The fewest things differ, a readout counting more than a context; then times and doses are as near as can be, by
    ratio. Where no readout is named it is the one that moved most; ties go to the first in the order of names.

    Parameters
    ----------
    rows
        All rows of the treatments asked for.
    question
        What is bound.
    """
    differs = np.zeros(len(rows))
    if question.readouts:
        differs += 100.0 * ~np.isin(rows["readout"].astype(str), question.readouts)
    for name, values in question.context.items():
        differs += 10.0 * (~np.isin(rows[name].astype(str), values) if name in rows.context else 1.0)
    for name, values in question.excluded.items():
        differs += 10.0 * (np.isin(rows[name].astype(str), values) if name in rows.context else 0.0)
    if question.datasets:
        differs += 1.0 * ~np.isin(rows["dataset"].astype(str), question.datasets)
    if question.source:
        differs += 1.0 * (rows["source"] != question.source)
    times = _apart(rows["time_h"], np.full(len(rows), "h", dtype=object), question.times)
    doses = _apart(rows["base_dose"], rows["base_unit"], question.doses)

    def order(i: int) -> tuple[object, ...]:
        dose, time = rows.number("base_dose", i), rows.number("time_h", i)
        names = (rows.text("treatment", i), *(rows.text(c, i) for c in rows.context))
        known = (-1.0 if math.isnan(time) else time, rows.text("readout", i), -1.0 if math.isnan(dose) else dose)
        return int(rows["group"][i]), names, known, rows.text("row_id", i)

    ties = np.arange(len(rows))
    for values in (differs, times, doses):
        ties = ties[values[ties] == values[ties].min()]
    if not question.readouts:
        # Of what was tested nearest, what moved most says more than what comes first in the alphabet.
        sizes = np.abs(rows["effect"][ties].astype(float))
        called = np.isin(rows["call"][ties], (CALLS.index("up"), CALLS.index("down")))
        sizes = np.where(called, sizes, 0.0) if called.any() else sizes
        ties = ties[sizes == sizes.max()]
    first = min(ties.tolist(), key=order)
    same = np.ones(len(rows), dtype=bool)
    # Where a dose is asked for, only the nearest: what holds at others is not what is asked.
    dose = ("base_dose", "base_unit") if question.doses else ()
    for name in ("treatment", "readout", "time_h", *rows.context, *dose):
        column, value = rows[name], rows[name][first]
        same &= np.isnan(column) if isinstance(value, float) and math.isnan(value) else column == value
    return np.flatnonzero(same)


def _apart(values: np.ndarray, units: np.ndarray, ranges: Sequence[Range]) -> np.ndarray:
    """Return how far values are from the nearest range, as the logarithm of a ratio; 0 inside, large where unknown."""
    pairs = list(zip(np.nan_to_num(values, nan=-1.0).tolist(), units.tolist(), strict=True))
    far = {(v, u): min((_one_apart(v, u, r) for r in ranges), default=0.0) for v, u in dict.fromkeys(pairs)}
    return np.array([far[pair] for pair in pairs])


def _one_apart(value: float, unit: str, bound: Range) -> float:
    if unit != bound.unit or value < 0:
        return 1e3
    if bound.holds(value):
        return 0.0
    edge = bound.low if value <= bound.low else bound.high
    return abs(math.log(value / edge)) if value > 0 and edge > 0 else 100.0 + abs(value - edge)

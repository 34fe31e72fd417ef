"""Which cells the effect embedding reads: populations of single treatments, by context."""

from collections.abc import Mapping, Sequence

import numpy as np

from cellgap.encode._population_distance import Population
from cellgap.errors import ConfigError
from cellgap.space import AbstractFittedSpace
from cellgap.study import Condition, Role, Split, Treatment

Rows = Mapping[Condition, np.ndarray]


def measured_alone(
    split: Split, conditions: Sequence[Condition], roles: Sequence[Role], min_cells: int
) -> tuple[Rows, tuple[Condition, ...]]:
    """Return the rows with these roles of the conditions of one treatment, and the conditions with too few."""
    single = [condition for condition in conditions if len(condition.treatments) == 1]
    rows = {condition: split.rows(condition, *roles) for condition in single}
    enough = {condition: found for condition, found in rows.items() if len(found) >= min_cells}
    return enough, tuple(condition for condition in single if condition not in enough)


def control_rows(split: Split, conditions: Sequence[Condition]) -> Rows:
    """Return the rows of the controls that conditions are compared with, one entry for each control condition.

    Training controls; where a context has none, because it is held out, those that predictions start from.

    Raises
    ------
    ConfigError
        A context has no such controls.
    """
    found: dict[Condition, np.ndarray] = {}
    for condition in conditions:
        control = condition.control
        if control in found:
            continue
        rows = split.rows(control, Role.TRAIN) if control in split.study.populations else np.zeros(0, int)
        if not len(rows) and control in split.study.populations:
            rows = split.rows(control, Role.SOURCE)
        if not len(rows):
            raise ConfigError(
                f"Effect() compares {str(condition)!r} with controls of its context, of which the split has none: "
                "keep training controls in every context."
            )
        found[control] = rows
    return found


def populations_of(
    split: Split, space: AbstractFittedSpace, rows: Rows, controls: Rows | None
) -> dict[Treatment, Population]:
    """Return the cells of every treatment by context, float64, treatments sorted.

    Parameters
    ----------
    split, space
        Whose cells, in which coordinates.
    rows
        The cells of each condition; no others are read.
    controls
        The cells whose mean is subtracted in each context; None subtracts nothing.
    """
    if not rows:
        return {}
    everything = {**rows, **(controls or {})}
    index = np.concatenate(list(everything.values()))
    codes = space.encode(split.study.adata, index).astype(np.float64)
    cuts = np.cumsum([len(part) for part in everything.values()])[:-1]
    cells = dict(zip(everything, np.split(codes, cuts), strict=True))
    means = {control: cells[control].mean(axis=0) for control in controls or {}}
    found: dict[Treatment, dict[tuple[tuple[str, str], ...], np.ndarray]] = {}
    for condition in sorted(rows, key=lambda c: c.sort_key):
        origin = means.get(condition.control, 0.0)
        found.setdefault(condition.treatments[0], {})[condition.context] = cells[condition] - origin
    return {treatment: found[treatment] for treatment in sorted(found)}

"""Gaps of a map that is the gradient of a convex potential."""

import dataclasses
from collections.abc import Callable

import numpy as np

from cellgap.gap import Gap
from cellgap.study import Condition, Role
from cellgap.transport._codes import Codes
from cellgap.transport._gaps import map_gaps
from cellgap.transport._map import AbstractMap

_CELLS = 1024
_CONDITIONS = 8


def dual_gaps(
    fitted: AbstractMap, codes: Codes, back: Callable[[np.ndarray, Condition], np.ndarray]
) -> tuple[Gap, ...]:
    """Return the gaps of a map, and how far the gradients of its two potentials are from inverse to each other.

    Parameters
    ----------
    fitted
        The map.
    codes
        Cells it was trained on.
    back
        The gradient of the other potential: moves treated cells back.
    """
    longer = "train longer, with more inner steps or a lower learning rate"
    gaps = tuple(
        dataclasses.replace(gap, remedy=longer if gap.name == "Monge gap" else f"{longer}; or use a Monge map")
        for gap in map_gaps(fitted, codes)
    )
    conditions = codes.split.train_conditions
    chosen = [conditions[i] for i in np.unique(np.linspace(0, len(conditions) - 1, _CONDITIONS).astype(int))]
    errors = []
    for condition in chosen:
        x = codes.cells(condition.control, Role.TRAIN)[:_CELLS]
        returned = back(np.asarray(fitted.transport(x, condition)), condition)
        errors.append(((returned - x) ** 2).sum() / max(((x - x.mean(0)) ** 2).sum(), 1e-12))
    inverse = Gap(
        "inverse gap",
        float(np.mean(errors)),
        f"0 = the potentials are conjugate; in units of the controls' variance, {len(chosen)} conditions",
        "the two potentials do not solve the dual problem: cells that are moved and moved back do not come home",
        longer,
    )
    return (*gaps, inverse)

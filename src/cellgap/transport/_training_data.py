"""From codes to the arrays of a training problem, and the numbers that depend on the scale of the data."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cellgap.errors import DataError
from cellgap.ot import Cost, double_paired_cost
from cellgap.study import Condition, Role
from cellgap.transport._affine import AffinePath, condition_features
from cellgap.transport._codes import Codes
from cellgap.transport._map import vocabulary_of
from cellgap.transport._problem import Problem, rows_table
from cellgap.transport._start import StartMap

_PAIRS = 2000
VALID_CELLS = 512
"""Cells of a population that a model is judged on while it trains: distances between all pairs grow with the square."""


def training_problem(
    codes: Codes, conditions: tuple[Condition, ...], role: Role, path: AffinePath | StartMap, *, most: int | None = None
) -> Problem:
    """Return the problem of some conditions: their treated cells and matched controls that have one role.

    Parameters
    ----------
    codes
        Encoded cells.
    conditions
        Treated conditions.
    role
        Which of their cells.
    path
        Closed-form maps that the network starts from.
    most
        Cells of a population to keep at most, evenly spaced; None keeps all.
    """

    def kept(condition: Condition) -> np.ndarray:
        rows = codes.rows(condition, role)
        if most is None or len(rows) <= most:
            return rows
        return rows[np.linspace(0, len(rows) - 1, most).astype(int)]

    controls = list(dict.fromkeys(c.control for c in conditions))
    encoded = codes.encoder.encode_many(conditions)
    shifts, linears = zip(*_maps(codes, conditions, path), strict=True)
    used = np.concatenate([kept(c) for c in (*controls, *conditions)])
    # Only the cells of this problem go to the device, so row numbers are those of the compacted table.
    place = np.full(len(codes.z), -1, np.int64)
    rows, first = np.unique(used, return_index=True)
    rows = used[np.sort(first)]
    place[rows] = np.arange(len(rows))
    return Problem(
        cells=jnp.asarray(codes.z[rows]),
        sources=rows_table([place[kept(c)] for c in controls]),
        source_of=jnp.asarray([controls.index(c.control) for c in conditions], jnp.int32),
        targets=rows_table([place[kept(c)] for c in conditions]),
        entities=jnp.asarray(encoded.entities),
        mask=jnp.asarray(encoded.mask),
        context=jnp.asarray(encoded.context),
        center=path.center,
        shifts=jnp.stack(shifts),
        linears=_stacked(linears),
    )


def _maps(
    codes: Codes, conditions: tuple[Condition, ...], path: AffinePath | StartMap
) -> list[tuple[Float[Array, " d"], Float[Array, "d d"] | None]]:
    """Return the closed-form map of every condition."""
    features = [condition_features(codes.encoder, c) for c in conditions]
    if isinstance(path, AffinePath):
        return [path.at(f) for f in features]
    known = path.known(vocabulary_of(codes))
    return [path.at(c, f, known) for c, f in zip(conditions, features, strict=True)]


def _stacked(linears: Sequence[Float[Array, "d d"] | None]) -> Float[Array, "k d d"] | None:
    """Return linear parts as one array, zeros where a condition has none; None where no condition has one."""
    given = [linear for linear in linears if linear is not None]
    if not given:
        return None
    return jnp.stack([jnp.zeros_like(given[0]) if linear is None else linear for linear in linears])


def validation_conditions(codes: Codes) -> tuple[Condition, ...]:
    """Return the conditions on which a model is judged while it trains.

    The wholly held-out validation conditions where the split has any, else the training conditions with held-out cells;
    only those with two cells or more on both sides.
    """
    split = codes.split
    candidates = split.valid_conditions or split.train_conditions
    return tuple(
        c
        for c in candidates
        if len(codes.rows(c, Role.VALID)) >= 2
        and len(codes.rows(c.control, Role.VALID)) >= 2
        and codes.encoder.can_encode(c)
    )


def typical_cost(codes: Codes, cost: Cost) -> float:
    """Return the mean cost between random training controls and treated cells: the unit of a relative epsilon.

    Raises
    ------
    DataError
        All cells are at the same point.
    """
    rng = np.random.default_rng(0)
    split = codes.split
    treated = np.concatenate([codes.rows(c, Role.TRAIN) for c in split.train_conditions])
    controls = np.concatenate([codes.rows(c, Role.TRAIN) for c in {c.control for c in split.train_conditions}])
    x = codes.z[np.sort(controls)[rng.integers(len(controls), size=_PAIRS)]]
    y = codes.z[np.sort(treated)[rng.integers(len(treated), size=_PAIRS)]]
    mean = float(double_paired_cost(x, y, cost).mean())
    if mean <= 0.0:
        raise DataError(
            "all training cells, control and treated, lie at one point of the space: look at the measurements with "
            "`cellgap check`, or choose another space."
        )
    return mean

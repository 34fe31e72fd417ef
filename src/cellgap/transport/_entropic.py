"""The entropic map: each control cell goes to a mean of treated cells, weighted by an entropic plan."""

import dataclasses
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from pydantic import Field

from cellgap.encode import AbstractEncoder, FittedEncoder
from cellgap.errors import DataError
from cellgap.gap import Gap
from cellgap.ot import debiased_entropic_map, entropic_cost, entropic_map, entropic_self_cost
from cellgap.settings import settings
from cellgap.space import AbstractFittedSpace, AbstractSpace
from cellgap.storage import storable
from cellgap.study import Condition, Role, Split
from cellgap.transport._codes import Codes
from cellgap.transport._familiarity import Vocabulary
from cellgap.transport._gaps import map_gaps
from cellgap.transport._map import AbstractMap, vocabulary_of
from cellgap.transport._measured import trained_number
from cellgap.transport._problem import Rows, rows_table
from cellgap.transport._training_data import typical_cost

FlatCost = Literal["euclidean", "sqeuclidean"]


@settings
class EntropicMap:
    """One map for every condition that was trained on, from one Sinkhorn solve each; no network.

    ``T(x) = sum_j w_j(x) y_j`` with ``w_j`` proportional to ``exp((g_j - c(x, y_j)) / eps)``: the barycenter of the
    entropic plan, at any point `x`. It averages treated cells, and so contracts the population the more, the larger
    epsilon and the fewer cells there are.

    Parameters
    ----------
    space, encoder
        Where cells live; the encoder describes conditions in reports only.
    epsilon
        Entropic regularization, relative to the mean cost between control and treated cells where `relative` is True.
    relative
        Whether epsilon is relative.
    cost
        Ground cost.
    debiased
        Subtract what the same map does to the controls themselves: ``x + T_xy(x) - T_xx(x)``. Gives back most of the
        spread that entropy takes.
    max_cells
        Most cells of a population to solve with, evenly spaced; time and memory grow with the square.
    tol, max_iterations
        Stopping rule of the solve.

    Notes
    -----
    Sources: Pooladian and Niles-Weed 2021; Pooladian, Cuturi and Niles-Weed 2022 for the debiased map.
    """

    space: AbstractSpace
    encoder: AbstractEncoder
    epsilon: Annotated[float, Field(gt=0)] = 0.1
    relative: bool = True
    cost: FlatCost = "sqeuclidean"
    debiased: bool = True
    max_cells: Annotated[int, Field(ge=2)] = 2048
    tol: Annotated[float, Field(gt=0)] = 1e-3
    max_iterations: Annotated[int, Field(ge=1)] = 2000

    def fit(self, split: Split, *, key=None) -> "FittedEntropicMap":
        """Return the maps of a split's training conditions."""
        return self.fit_codes(Codes.of(split, self.space, self.encoder))

    def fit_codes(self, codes: Codes, *, key=None) -> "FittedEntropicMap":
        """Return the maps of encoded training conditions.

        Raises
        ------
        DataError
            All cells are at the same point.
        """
        conditions = codes.split.train_conditions
        controls = list(dict.fromkeys(c.control for c in conditions))
        cells = [self._kept(codes, c) for c in (*controls, *conditions)]
        ends = np.cumsum([0, *map(len, cells)])
        rows = [np.arange(a, b) for a, b in pairwise(ends)]
        epsilon = self.epsilon * (typical_cost(codes, self.cost) if self.relative else 1.0)
        fitted = FittedEntropicMap(
            "entropic",
            codes.space,
            codes.encoder,
            vocabulary_of(codes),
            (),
            self.cost,
            epsilon,
            jnp.asarray(np.concatenate(cells)),
            rows_table(rows[: len(controls)]),
            jnp.asarray([controls.index(c.control) for c in conditions], jnp.int32),
            rows_table(rows[len(controls) :]),
            jnp.zeros((len(conditions), 0)),
            None,
            (),
        )
        fitted = _solved(fitted, self)
        wrong = np.flatnonzero(~np.isfinite(np.asarray(fitted.duals)).all(1))
        if len(wrong):
            raise DataError(
                f"the entropic problem of {str(conditions[wrong[0]])!r} has no finite solution with epsilon "
                f"{epsilon:.3g}: raise epsilon, or look at the cells."
            )
        return dataclasses.replace(fitted, measured_gaps=_gaps(fitted, codes, self.tol))

    def _kept(self, codes: Codes, condition: Condition) -> np.ndarray:
        cells = codes.cells(condition, Role.TRAIN)
        if len(cells) <= self.max_cells:
            return cells
        return cells[np.linspace(0, len(cells) - 1, self.max_cells).astype(int)]


@storable
class FittedEntropicMap(AbstractMap):
    """See `EntropicMap`.

    Parameters
    ----------
    cost, epsilon
        Of the problem; epsilon in the unit of the cost.
    cells, sources, source_of, targets
        Cells, control populations, that of every condition, and treated populations, as rows of the cells.
    duals
        Potential of the treated cells of every condition.
    self_duals
        Potential of every control population against itself; None for the plain map.
    errors
        Violation of the marginals that each solve ended with.
    """

    name: str
    space: AbstractFittedSpace
    encoder: FittedEncoder
    vocabulary: Vocabulary
    measured_gaps: tuple[Gap, ...]
    cost: FlatCost = eqx.field(static=True)
    epsilon: float
    cells: Float[Array, "cells d"]
    sources: Rows
    source_of: Array
    targets: Rows
    duals: Float[Array, "k width"]
    self_duals: Float[Array, "c most"] | None
    errors: tuple[float, ...]

    def transport(self, z: np.ndarray, condition: Condition) -> np.ndarray:
        """Return the mapped cells, for a condition that was trained on; see `AbstractMap.transport`."""
        if condition.is_control:
            return z
        k = jnp.int32(trained_number(self.vocabulary, condition, self.name))
        shared = {"epsilon": self.epsilon, "cost": self.cost}
        x = jnp.asarray(z)
        y, b = _population(self.cells, self.targets, k)
        if self.self_duals is None:
            return np.asarray(_plain(x, y, self.duals[k], b=b, **shared))
        c = self.source_of[k]
        x0, a = _population(self.cells, self.sources, c)
        return np.asarray(_debiased(x, y, self.duals[k], x0, self.self_duals[c], a=a, b=b, **shared))


_plain = partial(jax.jit, static_argnames="cost")(entropic_map)
_debiased = partial(jax.jit, static_argnames="cost")(debiased_entropic_map)


def _population(cells: Array, rows: Rows, k: Array) -> tuple[Float[Array, "width d"], Float[Array, " width"]]:
    """Return the cells of population `k` and their weights, 0 for padding."""
    real = jnp.arange(rows.index.shape[1]) < rows.size[k]
    return cells[rows.index[k]], jnp.where(real, 1.0 / rows.size[k], 0.0)


def _solved(fitted: FittedEntropicMap, given: EntropicMap) -> FittedEntropicMap:
    """Return the maps with their potentials; one compiled program for all conditions."""
    solve = {"epsilon": fitted.epsilon, "cost": given.cost, "tol": given.tol, "max_iterations": given.max_iterations}

    @jax.jit
    def of_condition(cells: Array, sources: Rows, targets: Rows, c: Array, k: Array):
        (x, a), (y, b) = _population(cells, sources, c), _population(cells, targets, k)
        found = entropic_cost(x, y, a=a, b=b, anneal=True, **solve)
        return found.g, found.error

    @jax.jit
    def of_controls(cells: Array, sources: Rows, c: Array):
        x, a = _population(cells, sources, c)
        return entropic_self_cost(x, a=a, **solve).f

    tables = (fitted.cells, fitted.sources, fitted.targets)
    solved = [of_condition(*tables, c, jnp.int32(k)) for k, c in enumerate(fitted.source_of)]
    own = [of_controls(*tables[:2], jnp.int32(c)) for c in range(len(fitted.sources.size))] if given.debiased else None
    return dataclasses.replace(
        fitted,
        duals=jnp.stack([g for g, _ in solved]),
        self_duals=None if own is None else jnp.stack(own),
        errors=tuple(float(error) for _, error in solved),
    )


def _gaps(fitted: FittedEntropicMap, codes: Codes, tol: float) -> tuple[Gap, ...]:
    smaller = "lower epsilon, solve with more cells, or take the debiased map"
    gaps = tuple(dataclasses.replace(gap, remedy=smaller) for gap in map_gaps(fitted, codes))
    marginal = Gap(
        "marginal gap",
        max(fitted.errors),
        f"0 = exact; the largest of {len(fitted.errors)} conditions, tolerance {tol:g}",
        "the entropic problem was not solved: the map rests on a plan whose marginals are off",
        "raise max_iterations or epsilon",
    )
    return (*gaps, marginal)

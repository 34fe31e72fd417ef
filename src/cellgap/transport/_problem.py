"""The arrays that a map is trained on: all cells once on the device, conditions as tables of row numbers."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from cellgap.nn import PerturbationNet
from cellgap.storage import storable
from cellgap.train import draw_without_replacement
from cellgap.transport._affine import affine


@storable
class Rows(eqx.Module):
    """Populations as a padded table of row numbers.

    Parameters
    ----------
    index
        Row numbers into the cells; only the first ``size[k]`` of a row are meant.
    size
        Cells of each population.
    """

    index: Int[Array, "k width"]
    size: Int[Array, " k"]


def rows_table(populations: list[np.ndarray]) -> Rows:
    """Return populations of unequal size as one padded table."""
    width = max(len(rows) for rows in populations)
    index = np.zeros((len(populations), width), np.int32)
    for k, rows in enumerate(populations):
        index[k, : len(rows)] = rows
    return Rows(jnp.asarray(index), jnp.asarray([len(rows) for rows in populations], jnp.int32))


class Problem(eqx.Module):
    """What a training step reads.

    Parameters
    ----------
    cells
        All cells in the model's space.
    sources
        Control populations.
    source_of
        Control population of each condition.
    targets
        Treated population of each condition.
    entities, mask, context
        The conditions as vectors; see `cellgap.encode`.
    center, shifts, linears
        Closed-form affine map of each condition, which the network starts from; see `AffinePath`.
    """

    cells: Float[Array, "cells d"]
    sources: Rows
    source_of: Int[Array, " k"]
    targets: Rows
    entities: Float[Array, "k m e"]
    mask: Bool[Array, "k m"]
    context: Float[Array, "k c"]
    center: Float[Array, " d"]
    shifts: Float[Array, "k d"]
    linears: Float[Array, "k d d"] | None

    def transport(self, net: PerturbationNet, x: Float[Array, "n d"], k: Int[Array, ""]) -> Float[Array, "n d"]:
        """Return the cells `x` mapped to condition `k`: the closed-form map plus the network's displacement."""
        start = affine(x, self.center, self.shifts[k], None if self.linears is None else self.linears[k])
        return start + (net(x, self.entities[k], self.mask[k], self.context[k]) - x)

    @property
    def n_conditions(self) -> int:
        """Number of conditions."""
        return self.source_of.shape[0]


class Draw(NamedTuple):
    """Row numbers of one batch; `slot` are the positions of `x` in the source population, beyond it for padding."""

    x: Int[Array, " n"]
    x2: Int[Array, " n"]
    y: Int[Array, " n"]
    slot: Int[Array, " n"]
    weights: Float[Array, " n"] | None


def pair_size(problem: Problem, k: Int[Array, ""] | int) -> Int[Array, ""]:
    """Return how many cells each of two disjoint batches can have in condition `k`."""
    half = problem.sources.size[problem.source_of[k]] // 2
    return jnp.maximum(jnp.minimum(half, problem.targets.size[k]), 1)


def largest_batch(problem: Problem, batch_size: int) -> tuple[int, bool]:
    """Return the number of rows of a batch and whether any condition needs padding."""
    sizes = np.asarray(jax.vmap(lambda k: pair_size(problem, k))(jnp.arange(problem.n_conditions)))
    n = int(min(batch_size, sizes.max()))
    return n, bool((sizes < n).any())


def draw(problem: Problem, k: Int[Array, ""], key: PRNGKeyArray, n: int, *, padded: bool) -> Draw:
    """Return two disjoint batches of sources and one of treated cells of condition `k`, without replacement.

    All have one size, so that the terms of the two-batch divergence carry one bias. A population with fewer cells gives
    smaller batches, padded with zero weights.
    """
    key_x, key_y = jr.split(key)
    c = problem.source_of[k]
    size = jnp.minimum(pair_size(problem, k), n)
    slots = draw_without_replacement(key_x, 2 * n, problem.sources.size[c])
    y = problem.targets.index[k, draw_without_replacement(key_y, n, problem.targets.size[k])]
    i = jnp.arange(n)
    source = problem.sources.index[c]
    if not padded:
        return Draw(source[slots[:n]], source[slots[n:]], y, slots[:n], None)
    weights = jnp.where(i < size, 1.0 / size, 0.0).astype(problem.cells.dtype)
    return Draw(source[slots[:n]], source[slots[size + i]], y, jnp.where(i < size, slots[:n], len(source)), weights)


def largest_gap_batch(problem: Problem, gap_batch_size: int) -> tuple[int, bool]:
    """Return the number of rows of a batch of the gap and whether any condition needs padding."""
    sizes = np.asarray(problem.sources.size)[np.unique(np.asarray(problem.source_of))]
    n = int(min(gap_batch_size, sizes.max()))
    return n, bool((sizes < n).any())


class SourceDraw(NamedTuple):
    """Row numbers of source cells; see `Draw`."""

    x: Int[Array, " n"]
    slot: Int[Array, " n"]
    weights: Float[Array, " n"] | None


def draw_sources(problem: Problem, k: Int[Array, ""], key: PRNGKeyArray, n: int, *, padded: bool) -> SourceDraw:
    """Return one batch of sources of condition `k`, without replacement: the Monge gap needs no treated cells."""
    c = problem.source_of[k]
    slots = draw_without_replacement(key, n, problem.sources.size[c])
    source = problem.sources.index[c]
    if not padded:
        return SourceDraw(source[slots], slots, None)
    size = jnp.minimum(problem.sources.size[c], n)
    i = jnp.arange(n)
    weights = jnp.where(i < size, 1.0 / size, 0.0).astype(problem.cells.dtype)
    return SourceDraw(source[slots], jnp.where(i < size, slots, len(source)), weights)

"""Pairs of cells drawn from an entropic transport plan."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cellgap.ot._cost import squared_distances
from cellgap.ot._sinkhorn import _placed
from cellgap.ot._solve import Weights, plan, solve

# Below this share of the mean cost, epsilon is lowered step by step.
_ANNEAL_BELOW = 0.01


class Pairs(NamedTuple):
    """Partners drawn from a plan.

    Parameters
    ----------
    partner
        Row of `y` that every row of `x` is paired with.
    iterations, error
        How the plan was reached: pairs of row and column updates, L1 violation of the row marginal.
    """

    partner: Int[Array, " n"]
    iterations: Int[Array, ""]
    error: Float[Array, ""]


def draw_pairs(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    epsilon: float,
    a: Weights = None,
    b: Float[Array, " m"] | None = None,
    key: PRNGKeyArray,
    tol: float = 1e-3,
    max_iterations: int = 200,
) -> Pairs:
    """Return one partner for every row of `x`, drawn from its row of the entropic plan between two clouds.

    The plan is that of ``min_P <P, C> + eps KL(P | a b^T)`` with `C` the squared distance divided by its mean. Every
    row is paired once, so the law of `x` is kept exactly, and that of `y` in expectation. No gradient.

    Parameters
    ----------
    x, y
        Two clouds, one cell a row.
    epsilon
        Entropic regularization, relative to the mean cost: small values pair near-optimally, large ones independently.
    a, b
        Weights summing to 1; None for uniform. Zero weights are padding: never drawn, and what such a row of `x` is
        paired with means nothing.
    key
        Random key of the draws.
    tol, max_iterations
        Stopping rule of the plan, as in `entropic_cost`.
    """
    c = squared_distances(_placed(x, a), _placed(y, b))
    rows = jnp.mean(c, 0) if a is None else a @ c
    unit = jnp.mean(rows) if b is None else rows @ b
    # Where all cells are at one point every plan is optimal.
    eps = epsilon * jnp.where(unit > 0.0, unit, 1.0)
    start = jnp.zeros(x.shape[0], c.dtype)
    solved = solve(
        c, eps, a, b, start, tol=tol, max_iterations=max_iterations, anneal=epsilon < _ANNEAL_BELOW
    )  # fmt: skip
    # Held as an array: it is read three times below, and its exponentials cost more than its memory.
    p = jax.lax.optimization_barrier(plan(c, solved.f, solved.g, a, b, eps))
    partner = draw_columns(p, jr.uniform(key, (x.shape[0],), p.dtype))
    return Pairs(partner, solved.iterations, solved.error)


def draw_columns(p: Float[Array, "n m"], u: Float[Array, " n"]) -> Int[Array, " n"]:
    """Return for every row of `p` the column where its running sum first exceeds `u` times the row's sum.

    In two steps, over blocks of columns and inside the chosen block: running sums over whole rows are slow on CPUs. A
    column of probability 0 is never chosen, unless the row has no other.

    Parameters
    ----------
    p
        Non-negative numbers, proportional to the probabilities of every row.
    u
        Numbers from 0 to below 1.
    """
    n, m = p.shape
    size = math.isqrt(max(m - 1, 0)) + 1
    n_blocks = -(-m // size)
    blocks = jnp.pad(p, ((0, 0), (0, n_blocks * size - m))).reshape(n, n_blocks, size)
    sums = jnp.cumsum(jnp.sum(blocks, 2), 1)
    target = (u * sums[:, -1])[:, None]
    block = jnp.minimum(jnp.sum(sums <= target, 1), n_blocks - 1)[:, None]
    inside = jnp.cumsum(jnp.take_along_axis(blocks, block[:, :, None], 1)[:, 0], 1)
    before = jnp.where(block > 0, jnp.take_along_axis(sums, jnp.maximum(block - 1, 0), 1), 0.0)
    # The two running sums round differently: what is left must stay below the sum of the block.
    left = jnp.minimum(target - before, inside[:, -1:] * (1.0 - 2.0**-22))
    column = jnp.sum(inside <= left, 1)
    return jnp.minimum(block[:, 0] * size + column, m - 1).astype(jnp.int32)

"""Sinkhorn iterations on a cost matrix: log-domain sweeps around absorbed kernel iterations.

A block takes one log-domain sweep, whose exponentials are the kernel of the current potentials, then iterates with
matrix-vector products only, and absorbs the scalings into the potentials. Sources: Cuturi 2013; Schmitzer 2019
(absorption).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Scalings beyond this range are absorbed into the potentials before float32 products lose rows or columns.
_RANGE = 1e12
# A row or column whose kernel underflowed keeps a finite scaling; the log-domain sweep that follows repairs it.
_TINY = 1e-30
_INNER = 40
_ANNEAL_FACTOR = 0.25
_ANNEAL_ITERATIONS = 20

Weights = Float[Array, " n"] | None
TargetWeights = Float[Array, " m"] | None


class Potentials(NamedTuple):
    """Dual potentials and how they were reached.

    Parameters
    ----------
    f, g
        Potentials of rows and columns, in the unit of the cost; the plan is
        ``P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon)`` and its columns sum to ``b``.
    iterations
        Pairs of row and column updates, those of the annealing included.
    error
        L1 violation of the row marginal, ``sum_i |sum_j P_ij - a_i|``.
    """

    f: Float[Array, " n"]
    g: Float[Array, " m"]
    iterations: Int[Array, ""]
    error: Float[Array, ""]


def plan(cost: Array, f: Array, g: Array, a: Array | None, b: Array | None, epsilon: Array | float) -> Array:
    """Return ``P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps)``, exactly 0 where a weight is."""
    density = jnp.exp((f[:, None] + g[None, :] - cost) / epsilon)
    # Potentials of padding are arbitrary, so its density may overflow: zero weights select, they do not multiply.
    rows = density / f.shape[0] if a is None else jnp.where(a[:, None] > 0, density * a[:, None], 0.0)
    return rows / g.shape[0] if b is None else jnp.where(b[None, :] > 0, rows * b[None, :], 0.0)


def _weigh(values: Array, weights: Array | None) -> Array:
    return values / values.shape[0] if weights is None else values * weights


def _sweep_columns(cost: Array, f: Array, a: Array | None, epsilon: Array) -> tuple[Array, Array]:
    """Return ``g_j = -eps log sum_i a_i exp((f_i - C_ij)/eps)`` and the kernel ``exp((f_i + g_j - C_ij)/eps)``."""
    z = (f[:, None] - cost) / epsilon
    if a is not None:
        z = jnp.where(a[:, None] > 0, z, -jnp.inf)
    top = jnp.max(z, axis=0)
    e = jnp.exp(z - top[None, :])
    total = jnp.mean(e, axis=0) if a is None else a @ e
    return -epsilon * (top + jnp.log(total)), e / total[None, :]


def _sweep_rows(cost: Array, g: Array, b: Array | None, epsilon: Array) -> Array:
    """Return ``f_i = -eps log sum_j b_j exp((g_j - C_ij)/eps)``."""
    z = (g[None, :] - cost) / epsilon
    if b is not None:
        z = jnp.where(b[None, :] > 0, z, -jnp.inf)
    top = jnp.max(z, axis=1)
    e = jnp.exp(z - top[:, None])
    return -epsilon * (top + jnp.log(jnp.mean(e, axis=1) if b is None else e @ b))


def _block(
    cost: Array, f: Array, a: Array | None, b: Array | None, epsilon: Array, tol: Array, budget: Array
) -> Potentials:
    """Return the potentials after one log-domain column sweep and up to `budget` kernel iterations from `f`."""
    g, k = _sweep_columns(cost, f, a, epsilon)

    def row_sums(v):
        return k @ _weigh(v, b)

    def violation(u, s):
        return jnp.sum(_weigh(jnp.abs(u * s - 1.0), a))

    def proceed(carry):
        _, _, _, inner, error, widest = carry
        return (inner < jnp.minimum(_INNER, budget)) & (error > tol) & (widest < _RANGE)

    def update(carry):
        _, _, s, inner, _, _ = carry
        u = _scaling(s, a)
        v = _scaling(_weigh(u, a) @ k, b)
        s = row_sums(v)
        return u, v, s, inner + 1, violation(u, s), jnp.maximum(_width(u), _width(v))

    u, v = jnp.ones_like(f), jnp.ones_like(g)
    s = row_sums(v)
    start = (u, v, s, jnp.int32(0), violation(u, s), jnp.ones((), f.dtype))
    u, v, s, inner, error, _ = jax.lax.while_loop(proceed, update, start)
    return Potentials(f + epsilon * jnp.log(u), g + epsilon * jnp.log(v), inner, error)


def _scaling(sums: Array, weights: Array | None) -> Array:
    """Return ``1 / sums``, finite where the kernel underflowed, and 1 for padding."""
    scaling = 1.0 / jnp.where(sums < _TINY, _TINY, sums)
    return scaling if weights is None else jnp.where(weights > 0, scaling, 1.0)


def _width(u: Array) -> Array:
    return jnp.maximum(jnp.max(u), 1.0 / jnp.min(u))


def solve(
    cost: Float[Array, "n m"],
    epsilon: Float[Array, ""],
    a: Weights,
    b: TargetWeights,
    f0: Float[Array, " n"],
    *,
    tol: float,
    max_iterations: int,
    anneal: bool = False,
) -> Potentials:
    """Return potentials of the entropic problem ``min_P <P, C> + eps KL(P | a b^T)``.

    Parameters
    ----------
    cost
        Ground cost.
    epsilon
        Entropic regularization in the unit of the cost.
    a, b
        Weights of rows and columns summing to 1; None for uniform. Zero weights are padding and change nothing.
    f0
        Potential of the rows to start from (zeros, or a warm start).
    tol
        Stop when the L1 violation of the row marginal is at most this.
    max_iterations
        Stop after this many iterations, at least 1, annealing included; the error is returned either way.
    anneal
        Start at the mean cost and lower epsilon geometrically; for epsilon far below the mean cost.
    """
    tolerance = jnp.asarray(tol, cost.dtype)
    spent = jnp.int32(0)
    if anneal:
        f0, spent = _anneal(cost, epsilon, a, b, f0, max_iterations)

    # The first block starts from f0 as it is; one copy of the block in the program halves the time to compile it.
    def proceed(carry: tuple[Potentials, Array]):
        state, started = carry
        return ~started | ((state.error > tolerance) & (state.iterations < max_iterations))

    def repeat(carry: tuple[Potentials, Array]):
        state, started = carry
        f = jax.lax.cond(started, lambda: _sweep_rows(cost, state.g, b, epsilon), lambda: state.f)
        before = state.iterations + started
        new = _block(cost, f, a, b, epsilon, tolerance, max_iterations - before)
        return new._replace(iterations=before + new.iterations), jnp.bool_(True)

    start = Potentials(f0, jnp.zeros(cost.shape[1], cost.dtype), spent, jnp.asarray(jnp.inf, cost.dtype))
    return jax.lax.while_loop(proceed, repeat, (start, jnp.bool_(False)))[0]


def _anneal(
    cost: Array, epsilon: Array, a: Array | None, b: Array | None, f: Array, max_iterations: int
) -> tuple[Array, Array]:
    """Return a row potential for `epsilon`, reached geometrically from the mean cost, and the iterations spent."""
    rough = jnp.asarray(1e-2, cost.dtype)
    rows = jnp.mean(cost, axis=0) if a is None else a @ cost
    start = jnp.maximum(jnp.mean(rows) if b is None else rows @ b, epsilon)

    def proceed(carry):
        _, current, spent = carry
        return (current > epsilon) & (spent < max_iterations)

    def lower(carry):
        f, current, spent = carry
        budget = jnp.minimum(_ANNEAL_ITERATIONS, max_iterations - spent - 1)
        solved = _block(cost, f, a, b, current, rough, budget)
        current = jnp.maximum(current * _ANNEAL_FACTOR, epsilon)
        return solved.f, current, spent + solved.iterations + 1

    f, _, spent = jax.lax.while_loop(proceed, lower, (f, start, jnp.int32(0)))
    return f, spent


def solve_symmetric(
    cost: Float[Array, "n n"],
    epsilon: Float[Array, ""],
    a: Weights,
    *,
    tol: float,
    max_iterations: int,
) -> Potentials:
    """Return the single potential of a cloud against itself by averaged updates ``f <- (f + softmin(C - f)) / 2``.

    The averaged update is the kernel iteration ``u <- sqrt(u / (K a u))``: a handful of matrix-vector products after
    one log-domain sweep. The plan is kept at total mass 1, which makes the value ``2 <a, f>`` exact to second order in
    the error. Arguments as in `solve`; `cost` must be symmetric.
    """
    tolerance = jnp.asarray(tol, cost.dtype)

    def block(state: Potentials) -> Potentials:
        f = 0.5 * (state.f + _sweep_rows(cost, state.f, a, epsilon))
        z = (f[:, None] + f[None, :] - cost) / epsilon
        k = jnp.exp(z if a is None else jnp.where(a[None, :] > 0, z, -jnp.inf))

        def measured(u):
            s = k @ _weigh(u, a)
            root = jnp.sqrt(jnp.sum(_weigh(u * s, a)))
            u, s = u / root, s / root
            return u, s, jnp.sum(_weigh(jnp.abs(u * s - 1.0), a))

        def proceed(carry):
            u, _, inner, error = carry
            budget = jnp.minimum(_INNER, max_iterations - state.iterations - 1)
            return (inner < budget) & (error > tolerance) & (_width(u) < _RANGE)

        def update(carry):
            u, s, inner, _ = carry
            u, s, error = measured(jnp.sqrt(u * _scaling(s, a)))
            return u, s, inner + 1, error

        u, s, error = measured(jnp.ones_like(f))
        u, _, inner, error = jax.lax.while_loop(proceed, update, (u, s, jnp.int32(0), error))
        f = f + epsilon * jnp.log(u)
        return Potentials(f, f, state.iterations + inner + 1, error)

    def proceed(state: Potentials):
        return (state.error > tolerance) & (state.iterations < max_iterations)

    zero = jnp.zeros(cost.shape[0], cost.dtype)
    start = Potentials(zero, zero, jnp.int32(0), jnp.asarray(jnp.inf, cost.dtype))
    return jax.lax.while_loop(proceed, block, start)

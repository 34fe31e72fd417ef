"""Entropic optimal transport between point clouds, with gradients by the envelope theorem."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cellgap.ot._cost import Cost, cost_matrix, dot, paired_cost
from cellgap.ot._solve import Potentials, Weights, solve, solve_symmetric


class SinkhornResult(NamedTuple):
    """Value and duals of an entropic problem.

    Parameters
    ----------
    value
        ``OT_kl = min_P <P, C> + eps KL(P | a b^T)``, as the dual value ``<a, f> + <b, g>``.
    f, g
        Dual potentials (no gradient).
    iterations, error, converged
        How the iteration ended: L1 violation of the row marginal, and whether it is at most the tolerance.
    """

    value: Float[Array, ""]
    f: Float[Array, " n"]
    g: Float[Array, " m"]
    iterations: Int[Array, ""]
    error: Float[Array, ""]
    converged: Bool[Array, ""]


class _Problem(NamedTuple):
    """The static part of a solve; hashable, so that it can be a non-differentiated argument."""

    cost: Cost
    tol: float
    max_iterations: int
    anneal: bool
    symmetric: bool
    paired: bool


def _costs(x: Array, y: Array, problem: _Problem) -> Array:
    c = cost_matrix(x, y, problem.cost)
    if problem.symmetric or problem.paired:
        # The matrix product leaves about 1e-3 where two points coincide, far above a small epsilon.
        exact = jnp.zeros(x.shape[0], c.dtype) if problem.symmetric else paired_cost(x, y, problem.cost)
        c = jnp.where(jnp.eye(x.shape[0], dtype=bool), exact[:, None], c)
    return c


def _run(c: Array, a: Weights, b: Weights, epsilon: Array, f0: Array, problem: _Problem) -> Potentials:
    limits = {"tol": problem.tol, "max_iterations": problem.max_iterations}
    if problem.symmetric:
        return solve_symmetric(c, epsilon, a, **limits)
    return solve(c, epsilon, a, b, f0, anneal=problem.anneal, **limits)


def _average(values: Array, weights: Weights) -> Array:
    if weights is None:
        return jnp.mean(values)
    return jnp.sum(jnp.where(weights > 0, weights * values, 0.0))


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _value(
    x: Array, y: Array, a: Weights, b: Weights, epsilon: Array, f0: Array, problem: _Problem
) -> tuple[Array, Potentials]:
    solved = _run(_costs(x, y, problem), a, b, epsilon, f0, problem)
    return _average(solved.f, a) + _average(solved.g, b), solved


def _value_forward(x, y, a, b, epsilon, f0, problem):
    c = _costs(x, y, problem)
    solved = _run(c, a, b, epsilon, f0, problem)
    plan = jnp.exp((solved.f[:, None] + solved.g[None, :] - c) / epsilon)
    plan = plan * (1.0 / x.shape[0] if a is None else a[:, None]) * (1.0 / y.shape[0] if b is None else b[None, :])
    # |x - y| has no gradient at 0: it is defined as 0 there.
    slope = 2.0 * plan if problem.cost == "sqeuclidean" else jnp.where(c > 0, plan / jnp.where(c > 0, c, 1.0), 0.0)
    value = _average(solved.f, a) + _average(solved.g, b)
    return (value, solved), (x, y, slope)


def _value_backward(problem, residuals, cotangents):
    x, y, slope = residuals
    scale = cotangents[0]
    grad_x = scale * (jnp.sum(slope, 1)[:, None] * x - dot(slope, y))
    grad_y = scale * (jnp.sum(slope, 0)[:, None] * y - dot(slope.T, x))
    return grad_x, grad_y, None, None, None, None


_value.defvjp(_value_forward, _value_backward)


def entropic_cost(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    epsilon: Float[Array, ""] | float,
    cost: Cost = "euclidean",
    a: Weights = None,
    b: Weights = None,
    f0: Float[Array, " n"] | None = None,
    tol: float = 1e-3,
    max_iterations: int = 2000,
    anneal: bool = False,
    paired: bool = False,
) -> SinkhornResult:
    """Return the entropic transport cost in KL form, differentiable in `x` and `y`.

    ``OT_kl(x, y) = min_P <P, C> + eps KL(P | a b^T)``. The gradient is that of the cost at the fixed optimal plan
    (envelope theorem), written as two matrix products; no derivative goes through the iterations, and no array is
    larger than ``n x m``. It is exact only at convergence: look at `error`.

    Parameters
    ----------
    x, y
        Two clouds, one cell a row.
    epsilon
        Entropic regularization, in the unit of the cost (absolute).
    cost
        ``"euclidean"`` or ``"sqeuclidean"``.
    a, b
        Weights summing to 1; None for uniform. Zero weights are padding and change nothing.
    f0
        Potential of the rows to start from.
    tol, max_iterations
        Stopping rule: L1 violation of the row marginal, checked at every iteration.
    anneal
        Lower epsilon from the mean cost; advisable when epsilon is below about 1 % of the mean cost.
    paired
        ``x_i`` and ``y_i`` belong together and may coincide: their cost is computed without cancellation.

    Returns
    -------
    SinkhornResult
        Value (with gradient), potentials, iterations, error, and whether it converged.
    """
    start = jnp.zeros(x.shape[0], x.dtype) if f0 is None else f0
    problem = _Problem(cost, float(tol), int(max_iterations), anneal, False, paired)
    value, solved = _value(x, y, a, b, jnp.asarray(epsilon, x.dtype), jax.lax.stop_gradient(start), problem)
    return _result(value, solved, tol)


def entropic_self_cost(
    x: Float[Array, "n d"],
    *,
    epsilon: Float[Array, ""] | float,
    cost: Cost = "euclidean",
    a: Weights = None,
    tol: float = 1e-3,
    max_iterations: int = 2000,
) -> SinkhornResult:
    """Return ``OT_kl(x, x)`` by the one-vector symmetric solver, differentiable in `x`. Arguments as in `entropic_cost`."""
    problem = _Problem(cost, float(tol), int(max_iterations), False, True, False)
    start = jnp.zeros(x.shape[0], x.dtype)
    value, solved = _value(x, x, a, a, jnp.asarray(epsilon, x.dtype), start, problem)
    return _result(value, solved, tol)


def _result(value: Array, solved: Potentials, tol: float) -> SinkhornResult:
    solved = jax.lax.stop_gradient(solved)
    return SinkhornResult(value, solved.f, solved.g, solved.iterations, solved.error, solved.error <= tol)


def sinkhorn(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    epsilon: Float[Array, ""] | float,
    cost: Cost = "euclidean",
    a: Weights = None,
    b: Weights = None,
    tol: float = 1e-3,
    max_iterations: int = 2000,
) -> SinkhornResult:
    """Return `entropic_cost` with epsilon annealed from the mean cost, safe for any epsilon.

    The plan is `transport_plan` of the returned potentials.
    """
    return entropic_cost(
        x, y, epsilon=epsilon, cost=cost, a=a, b=b, tol=tol, max_iterations=max_iterations, anneal=True
    )


def transport_plan(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    result: SinkhornResult,
    *,
    epsilon: Float[Array, ""] | float,
    cost: Cost = "euclidean",
    a: Weights = None,
    b: Weights = None,
) -> Float[Array, "n m"]:
    """Return the plan ``P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps)`` of solved potentials."""
    density = jnp.exp((result.f[:, None] + result.g[None, :] - cost_matrix(x, y, cost)) / epsilon)
    rows = 1.0 / x.shape[0] if a is None else a[:, None]
    columns = 1.0 / y.shape[0] if b is None else b[None, :]
    return density * rows * columns

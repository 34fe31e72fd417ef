"""Entropic optimal transport between point clouds, with gradients by the envelope theorem."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cellgap.errors import ConfigError
from cellgap.ot._cost import (
    COSTS,
    Cost,
    check_cost,
    check_symmetric,
    cost_matrix,
    dot,
    flat_cost,
    on_sphere,
    pair_gradients,
    paired_cost,
)
from cellgap.ot._solve import Potentials, TargetWeights, Weights, plan, solve, solve_symmetric


class SinkhornResult(NamedTuple):
    """Value and duals of an entropic problem.

    Parameters
    ----------
    value
        ``OT_kl = min_P <P, C> + eps KL(P | a b^T)``, as the dual value ``<a, f> + <b, g>``.
    f, g
        Dual potentials (no gradient).
    iterations, error, converged
        How the iteration ended: pairs of row and column updates, L1 violation of the row marginal, and whether it is at
        most the tolerance.
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
    coupled: bool


def _placed(x: Array, weights: Weights) -> Array:
    """Return the cells with padding moved to their mean, where it can neither overflow nor spoil the centering."""
    if weights is None:
        return x
    real = weights[:, None] > 0
    return jnp.where(real, x, weights @ jnp.where(real, x, 0.0))


def flat_cells(x: Array, weights: Weights, cost: Cost) -> Array:
    """Return the cells where `flat_cost` measures the cost; a gradient goes back through it."""
    return on_sphere(_placed(x, weights), cost) if cost == "cosine" else x


def _costs(x: Array, y: Array, cost: Cost, coupled: bool) -> Array:
    c = cost_matrix(x, y, cost)
    if coupled:
        # The matrix product leaves about 1e-3 where two points coincide, far above a small epsilon.
        c = jnp.where(jnp.eye(x.shape[0], dtype=bool), paired_cost(x, y, cost)[:, None], c)
    return c


def _run(c: Array, a: Weights, b: TargetWeights, epsilon: Array, f0: Array, problem: _Problem) -> Potentials:
    limits = {"tol": problem.tol, "max_iterations": problem.max_iterations}
    if problem.symmetric:
        return solve_symmetric(c, epsilon, a, **limits)
    return solve(c, epsilon, a, b, f0, anneal=problem.anneal, **limits)


def _average(values: Array, weights: Weights) -> Array:
    if weights is None:
        return jnp.mean(values)
    return jnp.sum(jnp.where(weights > 0, weights * values, 0.0))


def _solved_value(
    x: Array, y: Array, a: Weights, b: TargetWeights, epsilon: Array, f0: Array, problem: _Problem
) -> tuple[Array, Potentials]:
    x, y = _placed(x, a), _placed(y, b)
    solved = _run(_costs(x, y, problem.cost, problem.coupled), a, b, epsilon, f0, problem)
    return _average(solved.f, a) + _average(solved.g, b), solved


# Compiled on their own as well, or every call outside of jit would compile the loops anew.
_value = jax.custom_vjp(jax.jit(_solved_value, static_argnums=6), nondiff_argnums=(6,))


@functools.partial(jax.jit, static_argnums=6)
def _value_forward(x, y, a, b, epsilon, f0, problem):
    x, y = _placed(x, a), _placed(y, b)
    c = _costs(x, y, problem.cost, problem.coupled)
    solved = _run(c, a, b, epsilon, f0, problem)
    slope = plan(c, solved.f, solved.g, a, b, epsilon)
    value = _average(solved.f, a) + _average(solved.g, b)
    if problem.cost not in COSTS:
        return (value, solved), (x, y, slope, None)
    # slope_ij times (x_i - y_j) is what pair (i, j) adds to the gradient in x_i.
    # |x - y| has no gradient at 0: it is defined as 0 there.
    slope = 2.0 * slope if problem.cost == "sqeuclidean" else jnp.where(c == 0, 0.0, slope / jnp.where(c == 0, 1.0, c))
    own = None
    if problem.coupled and not problem.symmetric:
        # Pairs (i, i) may be close together: their differences are taken directly, not through matrix products.
        own = jnp.diagonal(slope)[:, None] * (x - y)
        slope = jnp.where(jnp.eye(x.shape[0], dtype=bool), 0.0, slope)
    return (value, solved), (x, y, slope, own)


@functools.partial(jax.jit, static_argnums=0)
def _value_backward(problem, residuals, cotangents):
    x, y, slope, own = residuals
    if problem.cost not in COSTS:
        grad_x, grad_y = pair_gradients(x, y, slope, problem.cost)
        if problem.symmetric:
            grad_x, grad_y = 2.0 * grad_x, jnp.zeros_like(y)
        return cotangents[0] * grad_x, cotangents[0] * grad_y, None, None, None, None
    grad_x = jnp.sum(slope, 1)[:, None] * x - dot(slope, y)
    if problem.symmetric:
        # Both sides are one cloud and the plan is symmetric: all of the gradient goes through the first argument.
        grad_x, grad_y = 2.0 * grad_x, jnp.zeros_like(y)
    else:
        grad_y = jnp.sum(slope, 0)[:, None] * y - dot(slope.T, x)
        if own is not None:
            grad_x, grad_y = grad_x + own, grad_y - own
    return cotangents[0] * grad_x, cotangents[0] * grad_y, None, None, None, None


_value.defvjp(_value_forward, _value_backward)


def entropic_cost(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    epsilon: Float[Array, ""] | float,
    cost: Cost = "euclidean",
    a: Weights = None,
    b: TargetWeights = None,
    f0: Float[Array, " n"] | None = None,
    tol: float = 1e-3,
    max_iterations: int = 2000,
    anneal: bool = False,
    paired: bool = False,
) -> SinkhornResult:
    """Return the entropic transport cost in KL form, differentiable in `x` and `y`.

    ``OT_kl(x, y) = min_P <P, C> + eps KL(P | a b^T)``. The gradient is that of the cost at the fixed optimal plan
    (envelope theorem), written as two matrix products for the named costs and by blocks of pairs for others; no
    derivative goes through the iterations, and no array is larger than ``n x m``. It is exact only at convergence: look
    at `error`.

    Parameters
    ----------
    x, y
        Two clouds, one cell a row.
    epsilon
        Entropic regularization, in the unit of the cost (absolute).
    cost
        ``"euclidean"``, ``"sqeuclidean"``, ``"cosine"``, or a function of two points; see `cost_matrix`.
    a, b
        Weights summing to 1; None for uniform. Zero weights are padding and change nothing.
    f0
        Potential of the rows to start from.
    tol, max_iterations
        Stopping rule: L1 violation of the row marginal, checked at every iteration; at most so many iterations.
    anneal
        Lower epsilon from the mean cost; advisable when epsilon is below about 1 % of the mean cost.
    paired
        ``x_i`` and ``y_i`` belong together and may coincide: their cost is computed without cancellation.

    Returns
    -------
    SinkhornResult
        Value (with gradient), potentials, iterations, error, and whether it converged. Epsilon, weights and
        potentials have no gradient.

    Raises
    ------
    ConfigError
        The cost is unknown, or epsilon is a number that is not above 0.

    Notes
    -----
    Source: Cuturi 2013 for the iteration, Feydy et al. 2019, section 3 for the gradient.
    """
    check_epsilon(epsilon)
    check_cost(cost)
    start = jnp.zeros(x.shape[0], x.dtype) if f0 is None else f0
    x, y = flat_cells(x, a, cost), flat_cells(y, b, cost)
    problem = _Problem(flat_cost(cost), float(tol), int(max_iterations), anneal, False, paired)
    value, solved = _value(x, y, a, b, jnp.asarray(epsilon, x.dtype), jax.lax.stop_gradient(start), problem)
    return result(value, solved, tol)


def entropic_self_cost(
    x: Float[Array, "n d"],
    *,
    epsilon: Float[Array, ""] | float,
    cost: Cost = "euclidean",
    a: Weights = None,
    tol: float = 1e-3,
    max_iterations: int = 2000,
) -> SinkhornResult:
    """Return ``OT_kl(x, x)`` by the one-vector symmetric solver, differentiable in `x`.

    Arguments as in `entropic_cost`; the cost has to be symmetric.
    """
    check_epsilon(epsilon)
    check_cost(cost)
    check_symmetric(cost, x.shape[1])
    x = flat_cells(x, a, cost)
    problem = _Problem(flat_cost(cost), float(tol), int(max_iterations), False, True, True)
    start = jnp.zeros(x.shape[0], x.dtype)
    value, solved = _value(x, x, a, a, jnp.asarray(epsilon, x.dtype), start, problem)
    return result(value, solved, tol)


def check_epsilon(epsilon: Array | float) -> None:
    if isinstance(epsilon, (int, float)) and not 0.0 < epsilon < float("inf"):
        raise ConfigError(f"epsilon must be a finite number above 0, in the unit of the cost, found {epsilon}.")


def result(value: Array, solved: Potentials, tol: float) -> SinkhornResult:
    solved = jax.lax.stop_gradient(solved)
    return SinkhornResult(value, solved.f, solved.g, solved.iterations, solved.error, solved.error <= tol)


def sinkhorn(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    epsilon: Float[Array, ""] | float,
    cost: Cost = "euclidean",
    a: Weights = None,
    b: TargetWeights = None,
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
    b: TargetWeights = None,
    paired: bool = False,
) -> Float[Array, "n m"]:
    """Return the plan ``P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps)`` of solved potentials.

    Arguments as in `entropic_cost`, with the values of the solve.
    """
    check_cost(cost)
    x, y = flat_cells(x, a, cost), flat_cells(y, b, cost)
    c = _costs(_placed(x, a), _placed(y, b), flat_cost(cost), paired)
    return plan(c, result.f, result.g, a, b, epsilon)

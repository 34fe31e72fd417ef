"""Entropic transport between clouds too large for an array of all pairs: memory grows with the points only.

Three things keep the number of sweeps over all pairs small, which is all that counts: potentials are functions, so
those of a fourth of the points, found by the same means, are a start for all of them; an iteration needs one sweep
instead of two; and Anderson's extrapolation replaces most iterations. Sources: Cuturi 2013; Feydy 2020, section 3.3
(coarse to fine); Chizat et al. 2020 (extrapolation).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cellgap.errors import ConfigError
from cellgap.ot._anderson import fixed_point
from cellgap.ot._cost import Cost, check_cost, check_symmetric, flat_cost, paired_cost
from cellgap.ot._entropic_map import entropic_potential
from cellgap.ot._sinkhorn import (
    SinkhornResult,
    _placed,
    check_epsilon,
    entropic_cost,
    entropic_self_cost,
    flat_cells,
    result,
)
from cellgap.ot._solve import Potentials, TargetWeights, Weights
from cellgap.ot._sweeps import gradients, self_sweep, sweep

# Clouds up to this size are solved with an array of all pairs.
_COARSEST = 2048
_FACTOR = 4
# A start need not be better than its sample.
_COARSE_TOLERANCE = 1e-3


class _Problem(NamedTuple):
    cost: Cost
    tol: float
    max_iterations: int
    block: int | None
    coarsest: int


class StreamedDivergence(NamedTuple):
    """A Sinkhorn divergence and its three problems.

    Parameters
    ----------
    value
        ``OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2`` (with gradient).
    cross, own_x, own_y
        The problems between the clouds and within each: value, potentials, sweeps, error.
    """

    value: Float[Array, ""]
    cross: SinkhornResult
    own_x: SinkhornResult
    own_y: SinkhornResult


def _smaller(size: int, coarsest: int) -> int:
    return min(size, max(-(-size // _FACTOR), coarsest // _FACTOR))


def _sample(x: Array, weights: Array, uniform: bool, size: int) -> Array:
    """Return `size` points spread evenly over the weights; the same ones at every call."""
    steps = np.arange(size)
    # Golden ratio: even, and out of step with any order of the cells.
    quantiles = (steps + steps * 0.6180339887498949 % 1.0) / size
    if uniform:
        return x[np.minimum((quantiles * x.shape[0]).astype(int), x.shape[0] - 1)]
    cumulative = jnp.cumsum(weights)
    rows = jnp.searchsorted(cumulative, jnp.asarray(quantiles, x.dtype) * cumulative[-1], side="right")
    return x[jnp.minimum(rows, x.shape[0] - 1)]


def _filled(weights: Array | None, x: Array) -> Array:
    return jnp.full(x.shape[0], 1.0 / x.shape[0], x.dtype) if weights is None else weights


def _weighted_sum(values: Array, weights: Array) -> Array:
    """Return ``weights . values`` in two stages: a running sum of 10^6 numbers loses digits in single precision."""
    products = jnp.where(weights > 0, weights * values, 0.0)
    width = 1024
    padded = jnp.pad(products, (0, -products.shape[0] % width))
    return jnp.sum(jnp.sum(padded.reshape(-1, width), axis=1))


def _solve(x: Array, y: Array, a: Array | None, b: Array | None, epsilon: Array, problem: _Problem) -> Potentials:
    """Return the potentials of two clouds, by way of those of smaller ones."""
    n, m = x.shape[0], y.shape[0]
    if max(n, m) <= problem.coarsest:
        dense = entropic_cost(
            x,
            y,
            epsilon=epsilon,
            cost=problem.cost,
            a=a,
            b=b,
            tol=problem.tol,
            max_iterations=problem.max_iterations,
            anneal=True,
        )
        return Potentials(dense.f, dense.g, dense.iterations, dense.error)
    rows, columns = _filled(a, x), _filled(b, y)
    few_x = _sample(x, rows, a is None, _smaller(n, problem.coarsest))
    few_y = _sample(y, columns, b is None, _smaller(m, problem.coarsest))
    rough = problem._replace(tol=max(problem.tol, _COARSE_TOLERANCE))
    coarse = _solve(few_x, few_y, None, None, epsilon, rough)
    options = {"epsilon": epsilon, "cost": problem.cost, "block": problem.block}
    start = entropic_potential(y, few_x, coarse.f, **options)

    def step(g: Array) -> tuple[Array, Array, Array]:
        f, sums = sweep(x, y, g, a=rows, b=columns, **options)
        real = columns > 0
        move = jnp.where(real, -epsilon * jnp.log(sums), 0.0)
        return move, _weighted_sum(jnp.abs(sums - 1.0), columns), f

    found = fixed_point(
        step, jnp.where(columns > 0, start, 0.0), columns, tol=problem.tol, max_iterations=problem.max_iterations
    )
    return Potentials(found.found, found.at, found.iterations, found.error)


def _solve_self(x: Array, a: Array | None, epsilon: Array, problem: _Problem) -> Potentials:
    """Return the potential of a cloud against itself, by way of that of a smaller one."""
    n = x.shape[0]
    if n <= problem.coarsest:
        dense = entropic_self_cost(
            x, epsilon=epsilon, cost=problem.cost, a=a, tol=problem.tol, max_iterations=problem.max_iterations
        )
        return Potentials(dense.f, dense.f, dense.iterations, dense.error)
    weights = _filled(a, x)
    few = _sample(x, weights, a is None, _smaller(n, problem.coarsest))
    rough = problem._replace(tol=max(problem.tol, _COARSE_TOLERANCE))
    coarse = _solve_self(few, None, epsilon, rough)
    options = {"epsilon": epsilon, "cost": problem.cost, "block": problem.block}
    others = jnp.exp(-entropic_potential(x, few, coarse.f, **options) / epsilon)
    # A cell is its own neighbor, which its potential over the others does not know: u (others + own u) = 1.
    own = weights * jnp.exp(-paired_cost(x, x, problem.cost) / epsilon)
    start = epsilon * jnp.log(2.0 / (others + jnp.sqrt(others**2 + 4.0 * own)))

    def step(f: Array) -> tuple[Array, Array, Array]:
        sums = self_sweep(x, f, a=weights, **options)
        # The potential is shifted so that the plan has mass 1.
        mass = _weighted_sum(sums, weights)
        shifted = f - 0.5 * epsilon * jnp.log(mass)
        move = jnp.where(weights > 0, -0.5 * epsilon * jnp.log(sums), 0.0)
        return move, _weighted_sum(jnp.abs(sums / mass - 1.0), weights), shifted

    found = fixed_point(
        step, jnp.where(weights > 0, start, 0.0), weights, tol=problem.tol, max_iterations=problem.max_iterations
    )
    return Potentials(found.found, found.found, found.iterations, found.error)


def _centered(x: Array, y: Array, a: Array | None, b: Array | None, cost: Cost) -> tuple[Array, Array]:
    """Return both clouds with padding out of the way, and around the origin where the cost depends on differences."""
    x, y = _placed(x, a), _placed(y, b)
    if not isinstance(cost, str):
        return x, y
    center = jnp.mean(x, axis=0)
    return x - center, y - center


def _value_of(x, y, a, b, epsilon, problem):
    x, y = _centered(x, y, a, b, problem.cost)
    solved = _solve(x, y, a, b, epsilon, problem)
    return _weighted_sum(solved.f, _filled(a, x)) + _weighted_sum(solved.g, _filled(b, y)), solved


def _self_value_of(x, a, epsilon, problem):
    x, _ = _centered(x, x, a, a, problem.cost)
    solved = _solve_self(x, a, epsilon, problem)
    return 2.0 * _weighted_sum(solved.f, _filled(a, x)), solved


_value = jax.custom_vjp(jax.jit(_value_of, static_argnums=5), nondiff_argnums=(5,))
_self_value = jax.custom_vjp(jax.jit(_self_value_of, static_argnums=3), nondiff_argnums=(3,))


def _value_forward(x, y, a, b, epsilon, problem):
    value, solved = _value(x, y, a, b, epsilon, problem)
    return (value, solved), (x, y, a, b, epsilon, solved.f, solved.g)


def _self_value_forward(x, a, epsilon, problem):
    value, solved = _self_value(x, a, epsilon, problem)
    return (value, solved), (x, a, epsilon, solved.f)


@functools.partial(jax.jit, static_argnums=0)
def _value_backward(problem, residuals, cotangents):
    x, y, a, b, epsilon, f, g = residuals
    x, y = _centered(x, y, a, b, problem.cost)
    options = {"epsilon": epsilon, "cost": problem.cost, "block": problem.block}
    in_x, in_y = gradients(x, y, f, g, a=_filled(a, x), b=_filled(b, y), **options)
    return cotangents[0] * in_x, cotangents[0] * in_y, None, None, None


@functools.partial(jax.jit, static_argnums=0)
def _self_value_backward(problem, residuals, cotangents):
    x, a, epsilon, f = residuals
    x, _ = _centered(x, x, a, a, problem.cost)
    options = {"epsilon": epsilon, "cost": problem.cost, "block": problem.block}
    weights = _filled(a, x)
    in_x, _ = gradients(x, x, f, f, a=weights, b=weights, itself=True, **options)
    return 2.0 * cotangents[0] * in_x, None, None


_value.defvjp(_value_forward, _value_backward)
_self_value.defvjp(_self_value_forward, _self_value_backward)


def streamed_cost(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    epsilon: Float[Array, ""] | float,
    cost: Cost = "sqeuclidean",
    a: Weights = None,
    b: TargetWeights = None,
    tol: float = 1e-3,
    max_iterations: int = 100,
    block: int | None = None,
    coarsest: int = _COARSEST,
) -> SinkhornResult:
    """Return `entropic_cost` for clouds of up to about 10^6 points, in memory that grows with the points only.

    Differentiable in `x` and `y`, at the price of one more sweep over all pairs.

    Parameters
    ----------
    x, y
        Two clouds, one cell a row.
    epsilon
        Entropic regularization, in the unit of the cost (absolute).
    cost
        See `cost_matrix`; the named costs go through matrix products.
    a, b
        Weights summing to 1; None for uniform. Zero weights are padding and change nothing.
    tol, max_iterations
        Stopping rule: L1 violation of the column marginal, checked at every sweep over all pairs; at most so many
        sweeps. The value is exact to second order in the violation, the gradient to first.
    block
        Rows of all pairs at once; None for what suits the machine. Results do not depend on it beyond rounding.
    coarsest
        Clouds up to this size are solved with an array of all pairs; larger ones start from the potentials of a fourth
        of their points.

    Returns
    -------
    SinkhornResult
        As `entropic_cost` returns it; `iterations` counts the sweeps over all pairs, each of them a full iteration,
        and `error` is the violation of the columns: the rows are exact.

    Raises
    ------
    ConfigError
        The cost is unknown, epsilon is a number that is not above 0, or a block has no row.

    Notes
    -----
    Sums are compensated, so single precision holds about 1e-6 of the value. Runs on any device that JAX has; the
    stripes are larger on an accelerator.
    """
    _check(epsilon, cost, block, coarsest)
    problem = _Problem(flat_cost(cost), float(tol), int(max_iterations), block, coarsest)
    x, y = flat_cells(x, a, cost), flat_cells(y, b, cost)
    value, solved = _value(x, y, a, b, jnp.asarray(epsilon, x.dtype), problem)
    return result(value, solved, tol)


def streamed_self_cost(
    x: Float[Array, "n d"],
    *,
    epsilon: Float[Array, ""] | float,
    cost: Cost = "sqeuclidean",
    a: Weights = None,
    tol: float = 1e-3,
    max_iterations: int = 100,
    block: int | None = None,
    coarsest: int = _COARSEST,
) -> SinkhornResult:
    """Return `entropic_self_cost` in memory that grows with the points only; a sweep takes half of the pairs.

    Arguments as in `streamed_cost`; `block` is the side of a tile.
    """
    _check(epsilon, cost, block, coarsest)
    check_symmetric(cost, x.shape[1])
    problem = _Problem(flat_cost(cost), float(tol), int(max_iterations), block, coarsest)
    x = flat_cells(x, a, cost)
    value, solved = _self_value(x, a, jnp.asarray(epsilon, x.dtype), problem)
    return result(value, solved, tol)


def streamed_divergence(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    epsilon: Float[Array, ""] | float,
    cost: Cost = "sqeuclidean",
    a: Weights = None,
    b: TargetWeights = None,
    tol: float = 1e-3,
    max_iterations: int = 100,
    block: int | None = None,
    coarsest: int = _COARSEST,
) -> StreamedDivergence:
    """Return `sinkhorn_divergence` in memory that grows with the points only, with the potentials of its problems.

    The potentials are those that `debiased_entropic_map` takes. Arguments as in `streamed_cost`.
    """
    options = {
        "epsilon": epsilon,
        "cost": cost,
        "tol": tol,
        "max_iterations": max_iterations,
        "block": block,
        "coarsest": coarsest,
    }
    cross = streamed_cost(x, y, a=a, b=b, **options)
    own_x, own_y = streamed_self_cost(x, a=a, **options), streamed_self_cost(y, a=b, **options)
    return StreamedDivergence(cross.value - 0.5 * own_x.value - 0.5 * own_y.value, cross, own_x, own_y)


def _check(epsilon: Array | float, cost: Cost, block: int | None, coarsest: int) -> None:
    check_epsilon(epsilon)
    check_cost(cost)
    if block is not None and block < 1:
        raise ConfigError(f"block must be at least 1 row, found {block}.")
    if coarsest < 1:
        raise ConfigError(f"coarsest must be at least 1 point, found {coarsest}.")

"""Fixed points by Anderson's extrapolation, for steps so dear that each one counts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_MEMORY = 5
_RIDGE = 1e-6
# The error may rise a little on the way; beyond this the extrapolation is dropped.
_RISE = 1.5


class FixedPoint(NamedTuple):
    """Where an iteration ended.

    Parameters
    ----------
    at
        The last point at which the step was taken.
    found
        What the step returned there.
    error, iterations
        The error there, and the steps taken.
    """

    at: Float[Array, " m"]
    found: Any
    error: Float[Array, ""]
    iterations: Int[Array, ""]


class _State(NamedTuple):
    now: FixedPoint
    next: Array
    points: Array
    moves: Array
    kept: Array
    best: Array
    best_next: Array


def fixed_point(
    step: Callable[[Array], tuple[Array, Array, Any]],
    start: Float[Array, " m"],
    weights: Float[Array, " m"],
    *,
    tol: float,
    max_iterations: int,
) -> FixedPoint:
    """Return the point that `step` leaves where it is.

    Parameters
    ----------
    step
        ``move, error, found = step(point)``: where the plain iteration goes from here is ``point + move``.
    start
        Where to begin.
    weights
        Weights of the coordinates in the least squares.
    tol, max_iterations
        Stop at an error of at most `tol`, or after so many steps, at least 1.

    Notes
    -----
    Source: Anderson 1965; Walker and Ni 2011, algorithm AA, with a memory of 5. A step whose error rises goes back to
    the best point, from where the plain iteration goes on.
    """
    size, dtype = start.shape[0], start.dtype

    def proceed(state: _State) -> Array:
        return (state.now.iterations == 0) | (
            (state.now.error > tol) & (state.now.iterations < jnp.maximum(max_iterations, 1))
        )

    def advance(state: _State) -> _State:
        at = state.next
        move, error, found = step(at)
        failed = error > _RISE * state.best
        plain = jnp.where(failed, state.best_next, at + move)
        better = error < state.best
        best, best_next = jnp.where(better, error, state.best), jnp.where(better, plain, state.best_next)
        ahead = jnp.where(failed, plain, plain + _extrapolation(state, at, move, weights))
        slot = state.now.iterations % _MEMORY
        kept = jnp.where(failed, jnp.zeros(_MEMORY, bool), state.kept.at[slot].set(True))
        return _State(
            FixedPoint(at, found, error, state.now.iterations + 1),
            ahead,
            state.points.at[slot].set(at),
            state.moves.at[slot].set(move),
            kept,
            best,
            best_next,
        )

    found = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(step, start)[2])
    infinite = jnp.asarray(jnp.inf, dtype)
    history = jnp.zeros((_MEMORY, size), dtype)
    begin = FixedPoint(start, found, infinite, jnp.int32(0))
    state = _State(begin, start, history, history, jnp.zeros(_MEMORY, bool), infinite, start)
    return jax.lax.while_loop(proceed, advance, state).now


def _extrapolation(state: _State, at: Array, move: Array, weights: Array) -> Array:
    """Return what the least squares over the kept steps adds to the plain step."""
    moved = jnp.where(state.kept[:, None], state.moves - move, 0.0)
    apart = jnp.where(state.kept[:, None], state.points - at, 0.0)
    root = jnp.sqrt(weights)
    length = jnp.linalg.norm(moved * root, axis=1)
    scale = 1.0 / jnp.where(length > 0.0, length, 1.0)
    unit = moved * root * scale[:, None]
    gram = jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST)
    aim = -jnp.matmul(unit, root * move, precision=jax.lax.Precision.HIGHEST)
    factors = jnp.linalg.solve(gram + _RIDGE * jnp.eye(_MEMORY), aim) * scale
    return factors @ (apart + moved)

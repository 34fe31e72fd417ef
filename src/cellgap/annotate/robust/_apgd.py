"""Projected gradient descent that chooses its own step size (Auto-PGD)."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from cellgap.annotate.robust._ascent import Attacked, slope
from cellgap.annotate.robust._ball import Ball, Region
from cellgap.annotate.robust._criteria import Criterion, criterion_of, margin, temperature
from cellgap.errors import ConfigError

_MOMENTUM = 0.75
_ENOUGH = 0.75  # share of the steps since the last checkpoint that have to go up
_FIRST, _SHORTER, _LEAST = 0.22, 0.03, 0.06


def apgd(
    net: Any,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    ball: Ball,
    *,
    steps: int = 50,
    restarts: int = 1,
    loss: str = "cross_entropy",
    key: PRNGKeyArray,
) -> Attacked:
    """Return the worst inputs that Auto-PGD finds.

    Steps begin two radii long and have momentum. At checkpoints that come ever more often, a sample whose loss went up
    in fewer than three quarters of the steps since the last one, or whose step and largest loss are what they were
    there, goes back to its best input with half the step.

    Parameters
    ----------
    net, x, y, ball, steps, restarts, key
        As in `pgd`; another number of steps compiles another program.
    loss
        "cross_entropy", or "dlr" (see `difference_of_logits_ratio`; three classes at least).

    Raises
    ------
    ConfigError
        `loss` is neither, or "dlr" is asked of two classes.

    Source
    ------
    Croce, Hein 2020 (arXiv 2003.01690), algorithm 1. The input kept is that of the smallest margin, the steps are
    guided by the loss.
    """
    criterion = criterion_of(loss, "cross_entropy", "dlr")
    n_classes = jax.eval_shape(net, x).shape[1]
    if loss == "dlr" and n_classes < 3:
        raise ConfigError(f'loss="dlr" compares the three largest scores, found {n_classes} classes: take another.')
    return _apgd(net, x, y, ball.region(), criterion, steps, jnp.int32(restarts), key)


class _State(NamedTuple):
    at: Float[Array, "n d"]
    before: Float[Array, "n d"]
    gradient: Float[Array, "n d"]
    value: Float[Array, " n"]
    top: Float[Array, "n d"]
    top_gradient: Float[Array, "n d"]
    top_value: Float[Array, " n"]
    step: Float[Array, " n"]
    ups: Int[Array, " n"]
    step_then: Float[Array, " n"]
    top_value_then: Float[Array, " n"]
    best: Attacked


def checkpoints(steps: int) -> Int[np.ndarray, " steps"]:
    """Return for each step how many steps passed since the last checkpoint where there is one after it, else 0."""
    since = np.zeros(steps, np.int32)
    last, share, gap, reached = 0.0, _FIRST, _FIRST, 0
    while (place := int(np.ceil(share * steps - 1e-9))) <= steps:
        if place > reached:
            since[place - 1] = place - reached
            reached = place
        gap, last = max(share - last - _SHORTER, _LEAST), share
        share += gap
    return since


@eqx.filter_jit
def _apgd(
    net: Any,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    region: Region,
    criterion: Criterion,
    steps: int,
    restarts: Int[Array, ""],
    key: PRNGKeyArray,
) -> Attacked:
    calm = temperature(net(x))[:, None]
    since = jnp.asarray(checkpoints(steps))

    def evaluated(at: Float[Array, "n d"]):
        gradient, value, scores = slope(net, lambda scores: criterion(scores / calm, y), at)
        return gradient, value, margin(scores, y)

    def begin(i: Int[Array, ""], best: Attacked) -> _State:
        at = region.draw(jr.fold_in(key, i), x)
        gradient, value, found = evaluated(at)
        step = jnp.broadcast_to(2 * region.radius, value.shape).astype(x.dtype)
        none = jnp.zeros(len(x), jnp.int32)
        best = best.worse(at, found)
        return _State(at, at, gradient, value, at, gradient, value, step, none, step, value, best)

    def move(t: Int[Array, ""], s: _State) -> _State:
        alone = region.project(s.at + s.step[:, None] * region.steepest(s.gradient), x)
        # The first step has nothing behind it.
        weight = jnp.where(t == 0, 1.0, _MOMENTUM).astype(x.dtype)
        at = region.project(s.at + weight * (alone - s.at) + (1 - weight) * (s.at - s.before), x)
        gradient, value, found = evaluated(at)
        higher = value > s.top_value
        s = s._replace(
            at=at,
            before=s.at,
            gradient=gradient,
            value=value,
            top=_where(higher, at, s.top),
            top_gradient=_where(higher, gradient, s.top_gradient),
            top_value=jnp.where(higher, value, s.top_value),
            ups=s.ups + (value > s.value),
            best=s.best.worse(at, found),
        )
        return jax.lax.cond(since[t] > 0, lambda s: _checked(s, since[t]), lambda s: s, s)

    def once(i: Int[Array, ""], best: Attacked) -> Attacked:
        return jax.lax.fori_loop(0, steps, move, begin(i, best)).best

    return jax.lax.fori_loop(0, restarts, once, Attacked.clean(net, x, y))


def _checked(s: _State, passed: Int[Array, ""]) -> _State:
    rarely_up = s.ups < _ENOUGH * passed
    stuck = (s.step == s.step_then) & (s.top_value == s.top_value_then)
    back = rarely_up | stuck
    return s._replace(
        at=_where(back, s.top, s.at),
        before=_where(back, s.top, s.before),
        gradient=_where(back, s.top_gradient, s.gradient),
        value=jnp.where(back, s.top_value, s.value),
        step=jnp.where(back, s.step / 2, s.step),
        ups=jnp.zeros_like(s.ups),
        step_then=s.step,
        top_value_then=s.top_value,
    )


def _where(rows: Bool[Array, " n"], yes: Float[Array, "n d"], no: Float[Array, "n d"]) -> Float[Array, "n d"]:
    return jnp.where(rows[:, None], yes, no)

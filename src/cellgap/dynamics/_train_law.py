"""Training of laws: several members (seeds, strengths, a null) side by side in one compiled program."""

import functools
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from pydantic import Field

from cellgap.dynamics._law import Law
from cellgap.dynamics._penalties import AbstractPenalty
from cellgap.dynamics._solve import solve
from cellgap.nn import clamped
from cellgap.settings import settings
from cellgap.train import FitResult, Loop, fit

_Positive = Annotated[float, Field(gt=0)]
_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8
_FAR = 1e6


@settings
class LawTraining:
    """How a law is trained.

    Parameters
    ----------
    loop
        Number of steps and cadence; see `cellgap.train.Loop`.
    batch_size
        Trajectories (windows) a step; None takes all.
    learning_rate, final
        Of Adam: the peak, and the part of it that a cosine ends at.
    clip
        Largest global norm of a gradient.
    warm_up
        Part of the steps over which the penalty grows to its strength; from the start, the law f = 0 would win.
    judge_from, judge_every
        Part of the steps after which states are judged by validation trajectories, and how often; the best one is kept
        for every member by itself.
    start_noise
        Standard deviation of noise that is added to start states, anew at every step, in standardized units: a law
        that is robust to where it starts.
    """

    loop: Loop = Loop(n_steps=1500, chunk=50, valid_every=50)
    batch_size: Annotated[int, Field(ge=1)] | None = None
    learning_rate: _Positive = 1e-2
    final: Annotated[float, Field(gt=0, le=1)] = 0.01
    clip: _Positive = 1.0
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.2
    judge_from: Annotated[float, Field(ge=0, lt=1)] = 0.5
    judge_every: Annotated[int, Field(ge=1)] = 50
    start_noise: Annotated[float, Field(ge=0)] = 0.0


class LawData(eqx.Module):
    """Trajectories in standardized units, on the device.

    Parameters
    ----------
    values
        In variants: as measured, and shuffled for the null.
    times, weights, inputs
        Times of the states, their weights in the error, constants.
    follows
        Whether a window starts where the one before it ends.
    history
        Number of states that are seen before the solution starts, 1 or more.
    """

    values: Float[Array, "variants n t d"]
    times: Float[Array, "n t"]
    weights: Float[Array, "n t"]
    inputs: Float[Array, "n c"]
    follows: Bool[Array, " pairs"]
    history: int = eqx.field(static=True)


class Members(eqx.Module):
    """What differs between the members that are trained side by side, and what does not.

    Parameters
    ----------
    variant
        Which values each is trained on.
    strength
        Of the penalty.
    allowed
        Edges that there may be, of each member.
    factors
        On the penalty of every edge, of each member.
    """

    variant: Int[Array, " m"]
    strength: Float[Array, " m"]
    allowed: Float[Array, "m target source"]
    factors: Float[Array, "m target source"]


class LawState(eqx.Module):
    """Everything that changes during training; members along the first axis of every array."""

    law: Law
    shifts: Float[Array, "m n d"] | None
    moments: Any
    count: Int[Array, ""]
    best: Law
    best_error: Float[Array, " m"]
    error: Float[Array, " m"]


def predicted(
    law: Law,
    values: Float[Array, "n t d"],
    data: LawData,
    rows: Int[Array, " b"] | None,
    method: Any,
    substeps: int,
    shifts: Float[Array, "b d"] | None = None,
) -> Float[Array, "b later d"]:
    """Return the solution from the last state of the history of every trajectory, that state included.

    Parameters
    ----------
    law
        With its gates.
    values
        One variant of the data.
    data
        Times and constants.
    rows
        Which trajectories; None: all.
    method, substeps
        See `solve`.
    shifts
        Added to the states that solutions start from.
    """
    times, inputs = data.times, data.inputs
    if rows is not None:
        values, times, inputs = values[rows], times[rows], inputs[rows]
    k = data.history
    seen = values[:, :k]
    if shifts is not None:
        seen = seen + shifts[:, None]
    start = law.start(seen, times[:, :k])
    states = solve(law, start, times[:, k - 1 :], inputs, method=method, substeps=substeps).states
    return states[..., : values.shape[2]]


def train_law(
    law: Law,
    data: LawData,
    valid: LawData | None,
    members: Members,
    penalty: AbstractPenalty,
    how: LawTraining,
    *,
    key: PRNGKeyArray,
    method: Any = "heun",
    substeps: int = 1,
    learn_starts: bool = False,
    continuity: float = 0.0,
    folder: Path | None = None,
    fingerprint: str = "",
    progress: bool = False,
    title: str = "law",
) -> FitResult[LawState]:
    """Return the trained members; `FitResult.state.best` are their best laws.

    Parameters
    ----------
    law
        At its start, members along the first axis of every array.
    data, valid
        Training and validation trajectories.
    members
        What differs between members.
    penalty, how
        Settings.
    key, folder, fingerprint, progress, title
        As in `cellgap.train.fit`.
    method, substeps
        See `Solver`.
    learn_starts
        Learn the states that solutions start from; the first states then count in the error.
    continuity
        Weight of the squared jump from the end of a window to the start of the next one, where starts are learnt.
    """
    n = data.values.shape[1]
    step, judge = _step_and_judge(penalty, how, n, method, substeps, learn_starts, continuity)
    adam = optax.scale_by_adam(_BETA1, _BETA2, _EPS)
    m = len(members.strength)
    d = data.values.shape[3]
    shifts = jnp.zeros((m, n, d)) if learn_starts else None
    first = jnp.full(m, jnp.inf)
    now = jnp.zeros(m) if valid is None else eqx.filter_jit(judge)(law, valid, members)
    weights: Any = (law, shifts)  # modules are trees, which the annotations of optax do not say
    moments = jax.vmap(adam.init)(weights)
    begin = LawState(law, shifts, moments, jnp.int32(0), jax.tree.map(jnp.array, law), first, now)
    return fit(
        eqx.Partial(step, (data, valid, members)),
        begin,
        key=key,
        loop=how.loop,
        folder=folder,
        fingerprint=fingerprint,
        progress=progress,
        title=title,
    )


@functools.lru_cache(maxsize=16)
def _step_and_judge(
    penalty: AbstractPenalty,
    how: LawTraining,
    n: int,
    method: Any,
    substeps: int,
    learn_starts: bool,
    continuity: float,
):
    """Return the function of a training step and the one that judges laws; alike settings share compiled programs."""
    n_steps = how.loop.n_steps
    schedule = optax.cosine_decay_schedule(how.learning_rate, n_steps, alpha=how.final)
    adam = optax.scale_by_adam(_BETA1, _BETA2, _EPS)
    size = n if how.batch_size is None else min(how.batch_size, n)
    warm = max(1.0, how.warm_up * n_steps)

    def error(law: Law, shifts: Array | None, values: Array, data: LawData, rows: Array | None) -> tuple[Array, Array]:
        found = predicted(law, values, data, rows, method, substeps, None if shifts is None else shifts)
        there = values[:, data.history - 1 :] if rows is None else values[rows, data.history - 1 :]
        weights = data.weights[:, data.history - 1 :]
        weights = weights if rows is None else weights[rows]
        weights = weights if learn_starts and shifts is not None else weights.at[:, 0].set(0.0)
        squared = jnp.mean((found - there) ** 2, 2)
        return jnp.sum(squared * weights) / jnp.maximum(jnp.sum(weights), 1e-9), found

    def update(law, shifts, moments: Any, key, variant, strength, allowed, factors, rows, rate, data):
        values = data.values[variant]

        def loss_of(both):
            law, shifts = both
            own, gates = law.sampled(key, allowed)
            at = None if shifts is None else shifts[rows]
            if how.start_noise > 0:
                noise = how.start_noise * jr.normal(jr.fold_in(key, 1), (size, values.shape[2]))
                at = noise if at is None else at + noise
            fit_error, found = error(own, at, values, data, None if size == n else rows)
            total = fit_error + penalty.loss(law.net, gates, strength, factors)
            if shifts is not None and size == n:
                jump = found[:-1, -1] - (values[1:, data.history - 1] + shifts[1:])
                total = total + continuity * jnp.mean(jnp.where(data.follows[:, None], jump, 0.0) ** 2)
            return total, fit_error

        (_, fit_error), grads = jax.value_and_grad(loss_of, has_aux=True)((law, shifts))
        norm = optax.tree.norm(grads)
        good = jnp.isfinite(norm)
        # A member whose solution ran away does not move; the others do.
        scale = jnp.where(good, jnp.minimum(1.0, how.clip / jnp.maximum(norm, 1e-12)), 0.0)
        grads = jax.tree.map(lambda g: jnp.where(good, g * scale, 0.0), grads)
        directions, moments = adam.update(grads, moments)
        moved_law, moved_shifts = jax.tree.map(lambda p, d: p - rate * d, (law, shifts), directions)
        correction = 1.0 - _BETA2 ** jnp.asarray(moments.count, jnp.float32)
        steps = jax.tree.map(lambda v: rate / (jnp.sqrt(v / correction) + _EPS), moments.nu[0].net)
        net = clamped(penalty.proximal(moved_law.net, steps, strength, factors))
        moved_law = eqx.tree_at(lambda w: w.net, moved_law, net)
        return moved_law, moved_shifts, moments, jnp.where(good, fit_error, _FAR), ~good

    def judge(law: Law, valid: LawData, members: Members) -> Float[Array, " m"]:
        def alone(law, variant, allowed):
            return error(law.settled(allowed), None, valid.values[variant], valid, None)[0]

        return jnp.nan_to_num(jax.vmap(alone)(law, members.variant, members.allowed), nan=_FAR, posinf=_FAR)

    def step(given, state: LawState, key: PRNGKeyArray):
        data, valid, members = given
        key_rows, key_gates = jr.split(key)
        rows = jnp.arange(n) if size == n else jr.randint(key_rows, (size,), 0, n)
        rate = schedule(state.count)
        strength = members.strength * jnp.minimum(1.0, state.count / warm)
        keys = jr.split(key_gates, len(members.strength))
        law, shifts, moments, errors, stuck = jax.vmap(
            update, in_axes=(0, 0, 0, 0, 0, 0, 0, 0, None, None, None)
        )(
            state.law, state.shifts, state.moments, keys, members.variant, strength, members.allowed,
            members.factors, rows, rate, data,
        )  # fmt: skip
        count = state.count + 1
        best, best_error, now = state.best, state.best_error, state.error
        due = (count % how.judge_every == 0) | (count == n_steps)
        if valid is None:
            now = errors
            best = law
        else:
            now = jax.lax.cond(due, lambda: judge(law, valid, members), lambda: now)
            better: Bool[Array, " m"] = due & (count >= how.judge_from * n_steps) & (now < best_error)
            best = jax.tree.map(lambda new, old: jnp.where(_along(better, new), new, old), law, best)
            best_error = jnp.where(better, now, best_error)
        # What learns from shuffled courses is no part of the law.
        own = (members.variant == 0) / jnp.sum(members.variant == 0)
        logs = {
            "loss": jnp.sum(own * errors),
            "valid_loss": jnp.sum(own * now),
            "stuck": jnp.mean(stuck),
            "learning_rate": jnp.asarray(rate),
        }
        return LawState(law, shifts, moments, count, best, best_error, now), logs

    return step, judge


def _along(flags: Bool[Array, " m"], leaf: Array) -> Array:
    return flags.reshape(-1, *(1,) * (leaf.ndim - 1))

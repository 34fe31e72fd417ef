"""Training of a velocity field by flow matching, and the integration of cells along it."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from cellgap.nn import VelocityNet
from cellgap.ot import draw_pairs
from cellgap.train import FitResult, draw_without_replacement, fit, over_devices
from cellgap.transport._affine import affine
from cellgap.transport._held_out import energy_of_folds, fold_count
from cellgap.transport._problem import Problem
from cellgap.transport._train_map import Optimization, optimizer_of, schedule_of, shared_mesh

Solver = Literal["heun", "midpoint", "euler"]
# Validation compares states with one another, for which a few steps are enough.
_VALID_STEPS = 5


class FlowSettings(NamedTuple):
    """Settings of flow matching; static.

    Parameters
    ----------
    epsilon
        Entropic regularization of the pairing, relative to the mean squared distance.
    condition_dropout
        Probability that a cell is not told its condition.
    noise
        Standard deviation of the noise added to the starting points.
    solver, n_ode_steps, guidance_weight
        How validation cells are moved; see `move`.
    """

    epsilon: float
    condition_dropout: float
    noise: float
    solver: Solver
    n_ode_steps: int
    guidance_weight: float


class FlowState(eqx.Module):
    """Everything that changes during training; a tree of arrays."""

    net: VelocityNet
    average: VelocityNet
    optimizer: Any
    count: Int[Array, ""]


class Encoded(NamedTuple):
    """A condition as the network reads it."""

    entities: Float[Array, "m e"]
    mask: Bool[Array, " m"]
    context: Float[Array, " c"]


def encoded(problem: Problem, k: Int[Array, ""]) -> Encoded:
    """Return condition `k` of a problem as the network reads it."""
    return Encoded(problem.entities[k], problem.mask[k], problem.context[k])


def start_of(problem: Problem, x: Float[Array, "n d"], k: Int[Array, ""]) -> Float[Array, "n d"]:
    """Return where the flow of condition `k` starts: the controls after the closed-form map of the condition."""
    linear = None if problem.linears is None else problem.linears[k]
    return affine(x, problem.center, problem.shifts[k], linear)


class FlowBatch(NamedTuple):
    """Cells of one condition: where they start, and treated cells; `weights` are 0 for padding, None without any."""

    x: Float[Array, "n d"]
    y: Float[Array, "n d"]
    weights: Float[Array, " n"] | None


def batch_sizes(problem: Problem) -> Int[Array, " k"]:
    """Return how many pairs can be made of different cells, for every condition."""
    return jnp.minimum(problem.sources.size[problem.source_of], problem.targets.size)


def draw_batch(problem: Problem, k: Int[Array, ""], key: PRNGKeyArray, n: int, *, padded: bool) -> FlowBatch:
    """Return `n` starting points and `n` treated cells of condition `k`, without replacement.

    A population with fewer cells gives a smaller batch, padded with zero weights.
    """
    key_x, key_y = jr.split(key)
    c = problem.source_of[k]
    x = problem.sources.index[c, draw_without_replacement(key_x, n, problem.sources.size[c])]
    y = problem.targets.index[k, draw_without_replacement(key_y, n, problem.targets.size[k])]
    weights = None
    if padded:
        size = jnp.minimum(batch_sizes(problem)[k], n)
        weights = jnp.where(jnp.arange(n) < size, 1.0 / size, 0.0).astype(problem.cells.dtype)
    return FlowBatch(start_of(problem, problem.cells[x], k), problem.cells[y], weights)


def matching_loss(
    net: VelocityNet,
    x0: Float[Array, "n d"],
    x1: Float[Array, "n d"],
    t: Float[Array, " n"],
    condition: Encoded,
    known: Bool[Array, " n"] | None,
    weights: Float[Array, " n"] | None,
) -> Float[Array, ""]:
    """Return the mean over cells of ``|v(x_t, t, c) - (x1 - x0)|^2 / d`` at ``x_t = (1 - t) x0 + t x1``."""
    xt = x0 + t[:, None] * (x1 - x0)
    squared = jnp.mean((net(xt, t, *condition, known) - (x1 - x0)) ** 2, axis=1)
    return jnp.mean(squared) if weights is None else jnp.sum(jnp.where(weights > 0, weights * squared, 0.0))


def integrate(
    velocity: Callable[[Array, Array], Array], x: Float[Array, "n d"], n_steps: int, solver: Solver
) -> Float[Array, "n d"]:
    """Return cells after following a velocity field from time 0 to 1 in equal steps.

    Parameters
    ----------
    velocity
        ``velocity(x, t)`` with `t` of shape (1,).
    x
        Cells at time 0.
    n_steps
        Number of steps.
    solver
        ``"heun"`` and ``"midpoint"``: second order, two evaluations a step; ``"euler"``: first order, one.
    """
    h = 1.0 / n_steps

    def advance(x, i):
        t = (i * h)[None]
        v = velocity(x, t)
        if solver == "heun":
            v = 0.5 * (v + velocity(x + h * v, t + h))
        elif solver == "midpoint":
            v = velocity(x + 0.5 * h * v, t + 0.5 * h)
        return x + h * v, None

    return jax.lax.scan(advance, x, jnp.arange(n_steps, dtype=x.dtype))[0]


def evaluations(n_ode_steps: int, solver: Solver, guidance_weight: float) -> int:
    """Return how often the network is evaluated for one cell on its way."""
    fields = 1 if guidance_weight in (0.0, 1.0) else 2
    return n_ode_steps * (1 if solver == "euler" else 2) * fields


def move(
    net: VelocityNet,
    x: Float[Array, "n d"],
    condition: Encoded,
    *,
    n_ode_steps: int,
    solver: Solver,
    guidance_weight: float,
) -> Float[Array, "n d"]:
    """Return cells after following ``v_null + s (v_c - v_null)`` from time 0 to 1.

    Parameters
    ----------
    net
        The velocity field; `v_null` is the one that is not told the condition.
    x
        Cells at time 0.
    condition
        Where they go.
    n_ode_steps, solver
        See `integrate`.
    guidance_weight
        The weight s: 0 is the field of all conditions together, 1 that of the condition.
    """
    unknown = jnp.zeros(1, bool)

    def velocity(x, t):
        if guidance_weight == 1.0:
            return net(x, t, *condition)
        null = net(x, t, *condition, unknown)
        if guidance_weight == 0.0:
            return null
        return null + guidance_weight * (net(x, t, *condition) - null)

    return integrate(velocity, x, n_ode_steps, solver)


def train_flow(
    net: VelocityNet,
    problem: Problem,
    valid: Problem | None,
    settings: FlowSettings,
    optimization: Optimization,
    *,
    key: PRNGKeyArray,
    folder: Path | None = None,
    fingerprint: str = "",
    progress: bool = False,
) -> FitResult[FlowState]:
    """Return the trained state of a velocity field; `FitResult.best.average` is the field.

    Parameters
    ----------
    net
        Network at its start.
    problem, valid
        Training cells, and held-out cells on which the averaged network is judged (None: no validation).
    settings, optimization
        Flow matching and optimizer.
    key, folder, fingerprint, progress
        As in `cellgap.train.fit`.
    """
    sizes = batch_sizes(problem)
    n = min(optimization.batch_size, int(jnp.max(sizes)))
    padded = bool(jnp.any(sizes < n))
    mesh = shared_mesh(optimization, problem)
    weights: Any = net
    # Buffers are donated step to step, so the average needs its own.
    start = FlowState(net, jax.tree.map(jnp.array, net), optimizer_of(optimization).init(weights), jnp.int32(0))
    return fit(
        eqx.Partial(_step(settings, optimization, n, padded, mesh), problem),
        start,
        key=key,
        loop=optimization.loop,
        devices=optimization.devices,
        validate=None if valid is None else _validation(valid, settings),
        folder=folder,
        fingerprint=fingerprint,
        progress=progress,
        title="flow matching",
    )


@functools.lru_cache(maxsize=16)
def _step(settings: FlowSettings, optimization: Optimization, n: int, padded: bool, mesh: Mesh | None):
    """Return the function ``(problem, state, key) -> (state, logs)``; for the same arguments it is the same."""
    schedule, optimizer = schedule_of(optimization), optimizer_of(optimization)
    b = optimization.conditions_per_step

    def loss_of(net: VelocityNet, problem: Problem, k: Array, key: PRNGKeyArray):
        key_cells, key_pairs, key_time, key_told, key_noise = jr.split(key, 5)
        x, y, weights = draw_batch(problem, k, key_cells, n, padded=padded)
        if settings.noise > 0.0:
            x = x + settings.noise * jr.normal(key_noise, x.shape, x.dtype)
        pairs = draw_pairs(x, y, epsilon=settings.epsilon, a=weights, b=weights, key=key_pairs)
        # One time in each of n equal intervals: less variance than independent times.
        t = (jr.uniform(key_time, (), x.dtype) + jnp.arange(n)) / n
        known = None
        if settings.condition_dropout > 0.0:
            known = jr.bernoulli(key_told, 1.0 - settings.condition_dropout, (n,))
        loss = matching_loss(net, x, y[pairs.partner], t, encoded(problem, k), known, weights)
        return loss, {"loss": loss, "plan_iterations": pairs.iterations.astype(x.dtype), "plan_error": pairs.error}

    gradient = eqx.filter_value_and_grad(loss_of, has_aux=True)

    def step(problem: Problem, state: FlowState, key: PRNGKeyArray):
        key_k, key_cells = jr.split(key)
        # Several conditions a step are distinct ones, as long as there are enough.
        ks = jr.permutation(key_k, problem.n_conditions)[jnp.arange(b) % problem.n_conditions]

        def several(shared, items):
            """Return the sum of the gradients of some conditions, and the logs of each."""
            net, problem = shared

            def one(total, item):
                (_, logs), grads = gradient(net, problem, *item)
                return jax.tree.map(jnp.add, total, grads), logs

            return jax.lax.scan(one, jax.tree.map(jnp.zeros_like, net), items)

        if b == 1:
            (_, logs), grads = gradient(state.net, problem, ks[0], key_cells)
        else:
            summed = several if mesh is None else over_devices(several, mesh)
            grads, logs = summed((state.net, problem), (ks, jr.split(key_cells, b)))
            grads, logs = jax.tree.map(lambda g: g / b, grads), jax.tree.map(jnp.mean, logs)
        params: Any = state.net  # modules are trees, which the annotations of optax do not say
        updates, opt_state = optimizer.update(grads, state.optimizer, params)
        new: Any = optax.apply_updates(params, updates)
        # Early on the average follows the weights closely, or it would remember the start.
        decay = jnp.minimum(optimization.ema, (1.0 + state.count) / (10.0 + state.count))
        average = jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, state.average, new)
        logs["learning_rate"] = jnp.asarray(schedule(state.count))
        return FlowState(new, average, opt_state, state.count + 1), logs

    return step


def _validation(valid: Problem, settings: FlowSettings):
    """Return the function that judges a state on fixed held-out cells; see `energy_of_folds`."""
    return eqx.Partial(_validate(settings, fold_count(valid)), valid)


@functools.lru_cache(maxsize=16)
def _validate(settings: FlowSettings, n_folds: int):
    options: dict[str, Any] = {
        "n_ode_steps": min(settings.n_ode_steps, _VALID_STEPS),
        "solver": settings.solver,
        "guidance_weight": settings.guidance_weight,
    }

    def validate(valid: Problem, state: FlowState):
        def one(k):
            def mapped(x):
                start = start_of(valid, x, k)
                if settings.noise > 0.0:
                    start = start + settings.noise * jr.normal(jr.key(0), x.shape, x.dtype)
                return move(state.average, start, encoded(valid, k), **options)

            return energy_of_folds(mapped, valid, k, n_folds)

        return {"valid": jax.lax.map(one, jnp.arange(valid.n_conditions))}

    return validate

"""Training of a perturbation network on a problem: the step, the validation, the schedule."""

import dataclasses
import functools
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray
from pydantic import Field, model_validator

from cellgap.errors import ConfigError
from cellgap.nn import PerturbationNet
from cellgap.settings import settings
from cellgap.train import FitResult, Loop, fit, mesh_of, over_devices
from cellgap.transport._held_out import energy_of_folds, fold_count
from cellgap.transport._objective import Batch, GapBatch, Objective, Terms, objective
from cellgap.transport._problem import Problem, draw, draw_sources, largest_batch, largest_gap_batch

_Positive = Annotated[float, Field(gt=0)]
GapSchedule = Literal["constant", "warmup", "ramp", "decay"]
_WARMUP = 0.1


@settings
class Optimization:
    """How a map is optimized.

    Parameters
    ----------
    loop
        Number of steps and cadence; see `cellgap.train.Loop`.
    batch_size
        Cells a batch; smaller populations give smaller batches.
    conditions_per_step
        Conditions whose gradients are averaged in one step.
    learning_rate
        Peak of a cosine schedule that ends at 1 % of it, counted in optimizer updates.
    weight_decay
        Of AdamW.
    clip
        Largest global norm of a gradient; None does not clip.
    ema
        Decay of the exponential moving average of the weights, which is the model that predicts; 0 predicts with the
        weights themselves.
    gap_batch_size
        Source cells on which the Monge gap is taken, drawn for it alone; None takes it on the batch of the fit. The gap
        of a map that is not optimal is underestimated by small batches.
    gap_schedule
        How the weight of the gap moves over the steps: ``"constant"``; ``"warmup"``: from 0 to its full value over the
        first tenth, then constant; ``"ramp"``: from 0 to its full value over all of them; ``"decay"``: from its full
        value to 0.
    devices
        Devices that share the conditions of a step, of which there must be a multiple, all different; None is one.
    """

    loop: Loop = Loop()
    batch_size: Annotated[int, Field(ge=2)] = 256
    conditions_per_step: Annotated[int, Field(ge=1)] = 1
    learning_rate: _Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    clip: _Positive | None = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    gap_batch_size: Annotated[int, Field(ge=2)] | None = None
    gap_schedule: GapSchedule = "constant"
    devices: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _shares(self) -> "Optimization":
        if self.devices is not None and self.conditions_per_step % self.devices:
            raise ConfigError(
                f"devices={self.devices} share the conditions of a step: conditions_per_step must be a multiple of it, "
                f"found {self.conditions_per_step}."
            )
        return self


class MapState(eqx.Module):
    """Everything that changes during training; a tree of arrays."""

    net: PerturbationNet
    average: PerturbationNet
    optimizer: Any
    duals: Float[Array, "k width"]
    count: Int[Array, ""]


def train_map(
    net: PerturbationNet,
    problem: Problem,
    valid: Problem | None,
    settings: Objective,
    optimization: Optimization,
    *,
    key: PRNGKeyArray,
    n_steps: int | None = None,
    folder: Path | None = None,
    fingerprint: str = "",
    progress: bool = False,
    title: str = "training",
) -> FitResult[MapState]:
    """Return the trained state of a network; `FitResult.best.average` is the map.

    Parameters
    ----------
    net
        Network at its start.
    problem, valid
        Training cells, and held-out cells on which the averaged network is judged (None: no validation).
    settings, optimization
        Objective and optimizer.
    n_steps
        Steps to take of the schedule; None takes them all.
    key, folder, fingerprint, progress, title
        As in `cellgap.train.fit`.
    """
    n, padded = largest_batch(problem, optimization.batch_size)
    mesh = shared_mesh(optimization, problem)
    size = optimization.gap_batch_size
    gap_rows = None if size is None else largest_gap_batch(problem, size)
    return fit(
        eqx.Partial(map_step(settings, optimization, n, padded=padded, gap_rows=gap_rows, mesh=mesh), problem),
        map_start(net, problem, optimization),
        key=key,
        loop=optimization.loop if n_steps is None else dataclasses.replace(optimization.loop, n_steps=n_steps),
        devices=optimization.devices,
        validate=None if valid is None else validation(valid),
        folder=folder,
        fingerprint=fingerprint,
        progress=progress,
        title=title,
    )


def schedule_of(optimization: Optimization) -> optax.Schedule:
    """Return the learning rate by number of the update: a cosine that ends at 1 %."""
    return optax.cosine_decay_schedule(optimization.learning_rate, optimization.loop.n_steps, alpha=0.01)


def optimizer_of(optimization: Optimization) -> optax.GradientTransformation:
    """Return AdamW with its schedule, after clipping where that is asked for."""
    clip = optax.identity() if optimization.clip is None else optax.clip_by_global_norm(optimization.clip)
    return optax.chain(clip, optax.adamw(schedule_of(optimization), weight_decay=optimization.weight_decay))


def map_start(net: PerturbationNet, problem: Problem, optimization: Optimization) -> MapState:
    """Return the state that training starts from."""
    duals = jnp.zeros((problem.n_conditions, problem.sources.index.shape[1]), problem.cells.dtype)
    # Buffers are donated step to step, so the average needs its own.
    weights: Any = net
    return MapState(net, jax.tree.map(jnp.array, net), optimizer_of(optimization).init(weights), duals, jnp.int32(0))


def shared_mesh(optimization: Optimization, problem: Problem) -> Mesh | None:
    """Return the devices that share the conditions of a step; None where there is one.

    Raises
    ------
    ConfigError
        There are fewer devices, or fewer conditions than a step takes.
    """
    mesh, b = mesh_of(optimization.devices), optimization.conditions_per_step
    if mesh is not None and b > problem.n_conditions:
        raise ConfigError(
            f"devices={optimization.devices} share different conditions: conditions_per_step={b} needs as many "
            f"conditions to train on, found {problem.n_conditions}."
        )
    return mesh


@functools.lru_cache(maxsize=16)
def map_step(
    settings: Objective,
    optimization: Optimization,
    n: int,
    *,
    padded: bool,
    gap_rows: tuple[int, bool] | None = None,
    mesh: Mesh | None = None,
):
    """Return the function ``(problem, state, key) -> (state, logs)``: one update of the weights.

    For the same arguments it is the same function, so fits that differ by seed or data alone share a program.

    Parameters
    ----------
    settings, optimization
        Objective and optimizer.
    n, padded
        Rows of a batch, and whether a condition has fewer cells; see `largest_batch`.
    gap_rows
        The same of the gap's own batch, see `largest_gap_batch`; None takes the gap on the batch of the fit.
    mesh
        Devices that share the conditions; see `shared_mesh`.

    Raises
    ------
    ConfigError
        The settings ask for devices, and this model has nothing to share.
    """
    if mesh is None and optimization.devices not in (None, 1):
        raise ConfigError(f"this model trains on one device: leave devices={optimization.devices} out.")
    b, schedule, optimizer = optimization.conditions_per_step, schedule_of(optimization), optimizer_of(optimization)

    def terms(net: PerturbationNet, problem: Problem, k: Array, key: PRNGKeyArray, duals: Array, factor: Array):
        drawn = draw(problem, k, key, n, padded=padded)
        x, y = problem.cells[drawn.x], problem.cells[drawn.y]
        if settings.fit == "two_batch":
            both = problem.transport(net, jnp.concatenate([x, problem.cells[drawn.x2]]), k)
            t, t2 = both[:n], both[n:]
        else:
            t, t2 = problem.transport(net, x, k), None
        gap_x, gap_t, gap_drawn = x, t, drawn
        if gap_rows is not None and settings.gap_weight > 0:
            gap_drawn = draw_sources(problem, k, jr.fold_in(key, 1), gap_rows[0], padded=gap_rows[1])
            gap_x = problem.cells[gap_drawn.x]
            gap_t = problem.transport(net, gap_x, k)
        dual = duals.at[k, gap_drawn.slot].get(mode="fill", fill_value=0.0)
        gap = GapBatch(gap_x, gap_t, gap_drawn.weights, dual)
        out = objective(Batch(t, t2, y, drawn.weights, gap), settings, factor)
        return out.loss, (out, gap_drawn.slot)

    gradient = eqx.filter_value_and_grad(terms, has_aux=True)

    def step(problem: Problem, state: MapState, key: PRNGKeyArray):
        key_k, key_cells = jr.split(key)
        # Several conditions a step are distinct ones, as long as there are enough.
        ks = jr.permutation(key_k, problem.n_conditions)[jnp.arange(b) % problem.n_conditions]
        factor = gap_factor(optimization.gap_schedule, state.count, optimization.loop.n_steps)

        def one(carry, item):
            total, duals = carry
            k, key = item
            (_, (out, slot)), grads = gradient(state.net, problem, k, key, duals, factor)
            # Padding has a slot beyond the table: it must not overwrite what is remembered of a cell.
            duals = duals.at[k, slot].set(out.dual, mode="drop")
            return (jax.tree.map(jnp.add, total, grads), duals), logs_of(out)

        def several(shared, items):
            """Return the sum of the gradients of some conditions, and what is logged and remembered of each."""
            net, problem, duals, factor = shared

            def one(total, item):
                k, key = item
                (_, (out, slot)), grads = gradient(net, problem, k, key, duals, factor)
                return jax.tree.map(jnp.add, total, grads), (logs_of(out), slot, out.dual)

            return jax.lax.scan(one, jax.tree.map(jnp.zeros_like, net), items)

        zeros = jax.tree.map(jnp.zeros_like, state.net)
        if mesh is not None:
            # The conditions of a step are different here, so none reads what another one remembers.
            shared = (state.net, problem, state.duals, factor)
            total, (logs, slots, new) = over_devices(several, mesh)(shared, (ks, jr.split(key_cells, b)))
            duals = state.duals.at[ks[:, None], slots].set(new, mode="drop")
            grads, logs = jax.tree.map(lambda g: g / b, total), jax.tree.map(jnp.mean, logs)
        elif b == 1:
            (grads, duals), logs = one((zeros, state.duals), (ks[0], key_cells))
        else:
            (grads, duals), logs = jax.lax.scan(one, (zeros, state.duals), (ks, jr.split(key_cells, b)))
            grads, logs = jax.tree.map(lambda g: g / b, grads), jax.tree.map(jnp.mean, logs)
        params: Any = state.net  # modules are trees, which the annotations of optax do not say
        updates, opt_state = optimizer.update(grads, state.optimizer, params)
        net: Any = optax.apply_updates(params, updates)
        # Early on the average follows the weights closely, or it would remember the start.
        decay = jnp.minimum(optimization.ema, (1.0 + state.count) / (10.0 + state.count))
        average = jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, state.average, net)
        logs["learning_rate"] = jnp.asarray(schedule(state.count))
        if optimization.gap_schedule != "constant":
            logs["gap_weight"] = settings.gap_weight * factor
        return MapState(net, average, opt_state, duals, state.count + 1), logs

    return step


def logs_of(out: Terms) -> dict[str, Array]:
    """Return what is logged of one condition."""
    return {"loss": out.loss, "fit": out.fit, "gap": out.gap, "gap_error": out.gap_error}


def gap_factor(schedule: GapSchedule, step: Int[Array, ""], n_steps: int) -> Float[Array, ""]:
    """Return the share of the gap's weight that counts at a step; see `Optimization.gap_schedule`."""
    done = step / max(n_steps - 1, 1)
    if schedule == "constant":
        return jnp.ones(())
    if schedule == "decay":
        return 1.0 - done
    return jnp.minimum(done / (_WARMUP if schedule == "warmup" else 1.0), 1.0)


def validation(valid: Problem):
    """Return the function that judges a state on fixed held-out cells.

    The energy distance of each condition and fold, ``2 E|T(x) - y| - E|T(x) - T(x')| - E|y - y'|``, as an unbiased
    U-statistic (a cell is never compared with itself): 0 in expectation at the truth, whatever the number of cells. The
    cells of few conditions are dealt onto folds, so that the noise of a comparison between two states is known (see
    `criterion` of `cellgap.train.fit`).
    """
    return eqx.Partial(_validate(fold_count(valid)), valid)


@functools.lru_cache(maxsize=16)
def _validate(n_folds: int):
    def validate(valid: Problem, state: MapState):
        ks = jnp.arange(valid.n_conditions)
        return {"valid": jax.lax.map(lambda k: held_out_energy(state.average, valid, k, n_folds), ks)}

    return validate


def held_out_energy(net: PerturbationNet, valid: Problem, k: Int[Array, ""], n_folds: int) -> Float[Array, " folds"]:
    """Return the unbiased energy distance of the mapped and measured cells of condition `k`, for every fold."""
    return energy_of_folds(lambda x: valid.transport(net, x, k), valid, k, n_folds)

"""Training of a latent field by flow matching: batches, times, which attributes are told, the average of weights."""

import functools
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from pydantic import Field, model_validator

from cellgap.errors import ConfigError
from cellgap.generate._network import LatentField
from cellgap.ot import draw_pairs
from cellgap.settings import settings
from cellgap.train import FitResult, Loop, fit

_FOLDS = 8
_TIMES = 8
# Epsilon of the pairing, and the squared distance of other attributes, in units of that of noise and a cell.
_EPSILON, _FAR = 5e-3, 5.0
_Positive = Annotated[float, Field(gt=0)]
_Unit = Annotated[float, Field(ge=0, le=1)]


@settings
class FlowTraining:
    """How a latent field is trained.

    Parameters
    ----------
    loop
        Number of steps and cadence; see `cellgap.train.Loop`.
    batch_size
        Cells a step.
    learning_rate, final
        Peak, and the part of it that a cosine ends at (1 keeps it constant).
    weight_decay, clip
        Of AdamW; largest global norm of a gradient.
    ema
        Decay of the average of weights, which is the model that samples; 0 takes the weights themselves.
    told
        Probabilities that a cell is told none, one, or all of its attributes; None is 0.2, 0.4, 0.4 for several
        attributes and 0.2, 0, 0.8 for one.
    told_by
        ``"cell"`` draws for every cell; ``"batch"`` once a step, as published.
    coupling
        ``"independent"`` noise, or ``"ot"``: noise and cells of a batch are paired by optimal transport within each
        combination of attributes, so that no label changes hands.
    sigma
        Width of the paths' ends (published: 1e-4).
    """

    loop: Loop = Loop(n_steps=6000, chunk=100, valid_every=200, patience=10)
    batch_size: Annotated[int, Field(ge=1)] = 256
    learning_rate: _Positive = 1e-3
    final: _Unit = 0.01
    weight_decay: Annotated[float, Field(ge=0)] = 1e-6
    clip: _Positive = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    told: tuple[_Unit, _Unit, _Unit] | None = None
    told_by: Literal["cell", "batch"] = "cell"
    coupling: Literal["independent", "ot"] = "independent"
    sigma: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _check(self) -> "FlowTraining":
        if self.told is not None and abs(sum(self.told) - 1.0) > 1e-6:
            raise ConfigError(f"FlowTraining(told=...) are probabilities that sum to 1, found {sum(self.told):g}.")
        return self

    def modes(self, n_attributes: int) -> tuple[float, float, float]:
        """Return the probabilities of telling none, one, all attributes."""
        if self.told is not None:
            return self.told
        return (0.2, 0.4, 0.4) if n_attributes > 1 else (0.2, 0.0, 0.8)


class LatentCells(eqx.Module):
    """Cells to train on or to judge with, on the device.

    Parameters
    ----------
    z
        Standardized codes.
    labels
        Attributes, as numbers.
    depth
        Scaled logarithms of totals; None where the field does not read them.
    """

    z: Float[Array, "n d"]
    labels: Int[Array, "n k"]
    depth: Float[Array, " n"] | None


class FieldState(eqx.Module):
    """Everything that changes during training; a tree of arrays."""

    field: LatentField
    average: LatentField
    optimizer: Any
    count: Int[Array, ""]


def matching_errors(
    field: LatentField,
    cells: LatentCells,
    noise: Float[Array, "n d"],
    t: Float[Array, " n"],
    known: Bool[Array, "n k"],
    sigma: float,
) -> Float[Array, " n"]:
    """Return ``|v(z_t, t, y) - u_t|^2 / d`` of every cell, ``u_t = z_1 - (1 - sigma) eps`` (never by dividing).

    Parameters
    ----------
    field
        The velocity field.
    cells
        Where the paths end.
    noise, t
        Where they begin, and the time at which they are looked at.
    known
        Which attributes are told.
    sigma
        Width of the paths' ends.
    """
    zt = t[:, None] * cells.z + (1.0 - (1.0 - sigma) * t)[:, None] * noise
    u = cells.z - (1.0 - sigma) * noise
    return jnp.mean((field(zt, t, cells.labels, known, cells.depth) - u) ** 2, 1)


def told_attributes(
    key: PRNGKeyArray, n: int, n_attributes: int, modes: tuple[float, float, float], *, by: Literal["cell", "batch"]
) -> Bool[Array, "n k"]:
    """Return which attributes every cell is told: none, one at random, or all."""
    key_mode, key_one = jr.split(key)
    rows = n if by == "cell" else 1
    mode = jr.categorical(key_mode, jnp.log(jnp.maximum(jnp.asarray(modes), 1e-30)), shape=(rows, 1))
    one = jr.randint(key_one, (rows, 1), 0, n_attributes) == jnp.arange(n_attributes)
    known = (mode == 2) | ((mode == 1) & one)
    return jnp.broadcast_to(known, (n, n_attributes))


def train_field(
    field: LatentField,
    cells: LatentCells,
    valid: LatentCells | None,
    how: FlowTraining,
    *,
    key: PRNGKeyArray,
    folder: Path | None = None,
    fingerprint: str = "",
    progress: bool = False,
) -> FitResult[FieldState]:
    """Return the trained state; `FitResult.best.average` is the field.

    Parameters
    ----------
    field
        Network at its start.
    cells, valid
        Training cells, and held-out cells (None: no validation).
    how
        Settings.
    key, folder, fingerprint, progress
        As in `cellgap.train.fit`.
    """
    weights: Any = field
    # Buffers are donated step to step, so the average needs its own.
    start = FieldState(field, jax.tree.map(jnp.array, field), _optimizer_of(how).init(weights), jnp.int32(0))
    return fit(
        eqx.Partial(_step(how, field.n_attributes), cells),
        start,
        key=key,
        loop=how.loop,
        validate=None if valid is None else eqx.Partial(held_out_errors(how.sigma), valid),
        folder=folder,
        fingerprint=fingerprint,
        progress=progress,
        title="latent flow",
    )


def _schedule_of(how: FlowTraining) -> optax.Schedule:
    return optax.cosine_decay_schedule(how.learning_rate, how.loop.n_steps, alpha=how.final)


def _optimizer_of(how: FlowTraining) -> optax.GradientTransformation:
    adamw = optax.adamw(_schedule_of(how), weight_decay=how.weight_decay)
    return optax.chain(optax.clip_by_global_norm(how.clip), adamw)


@functools.lru_cache(maxsize=16)
def _step(how: FlowTraining, k: int):
    """Return the function ``(cells, state, key) -> (state, logs)`` of `k` attributes: one update of the weights."""
    schedule, optimizer = _schedule_of(how), _optimizer_of(how)
    n = how.batch_size
    modes = how.modes(k)

    def step(cells: LatentCells, state: FieldState, key: PRNGKeyArray):
        key_rows, key_noise, key_time, key_told, key_pairs = jr.split(key, 5)
        rows = jr.randint(key_rows, (n,), 0, len(cells.z))
        batch = jax.tree.map(lambda leaf: leaf[rows], cells)
        noise = jr.normal(key_noise, batch.z.shape, batch.z.dtype)
        if how.coupling == "ot":
            noise = noise[_partners(noise, batch, key_pairs)]
        # One time in each of n equal intervals: less variance than independent times.
        t = (jr.uniform(key_time) + jnp.arange(n)) / n
        known = told_attributes(key_told, n, k, modes, by=how.told_by)

        def loss_of(field: LatentField):
            return jnp.mean(matching_errors(field, batch, noise, t, known, how.sigma))

        loss, grads = eqx.filter_value_and_grad(loss_of)(state.field)
        params: Any = state.field  # modules are trees, which the annotations of optax do not say
        updates, optimizer_state = optimizer.update(grads, state.optimizer, params)
        new: Any = optax.apply_updates(params, updates)
        # Early on the average follows the weights closely, or it would remember the start.
        decay = jnp.minimum(how.ema, (1.0 + state.count) / (10.0 + state.count))
        average = jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, state.average, new)
        logs = {"loss": loss, "learning_rate": jnp.asarray(schedule(state.count))}
        return FieldState(new, average, optimizer_state, state.count + 1), logs

    return step


@functools.lru_cache(maxsize=16)
def held_out_errors(sigma: float):
    """Return the function that judges a state by its errors on held-out cells: always the same noise and times."""

    def validate(valid: LatentCells, state: FieldState):
        n = len(valid.z)
        known = jnp.ones(valid.labels.shape, bool)

        def at(i):
            noise = jr.normal(jr.fold_in(jr.key(0), i), valid.z.shape, valid.z.dtype)
            t = (i + (jnp.arange(n) * 0.61803399) % 1.0) / _TIMES
            return matching_errors(state.average, valid, noise, t, known, sigma)

        errors = jnp.mean(jax.lax.map(at, jnp.arange(_TIMES)), 0)
        folds = min(_FOLDS, n)
        dealt = (jnp.arange(n)[:, None] % folds == jnp.arange(folds)).astype(errors.dtype)
        return {"valid": (errors @ dealt) / jnp.sum(dealt, 0)}

    return validate


def _partners(noise: Float[Array, "n d"], batch: LatentCells, key: PRNGKeyArray) -> Int[Array, " n"]:
    """Return which noise goes to which cell: optimal transport within every combination of attributes."""
    # Noise takes over the labels of the rows it was drawn for; a distance that no pair can afford keeps them.
    apart = jnp.any(batch.labels[:, None] != batch.labels[None], 2)
    group = jnp.argmin(apart, axis=1)  # the first row with the same attributes
    mark = jnp.sqrt(_FAR * noise.shape[1]) * jax.nn.one_hot(group, len(noise), dtype=noise.dtype)
    x, y = jnp.concatenate([batch.z, mark], 1), jnp.concatenate([noise, mark], 1)
    return draw_pairs(x, y, epsilon=_EPSILON, key=key).partner

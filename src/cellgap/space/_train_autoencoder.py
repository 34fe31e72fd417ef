"""Training of an autoencoder on counts, on the device once or read in batches: step, validation, schedule."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Num, PRNGKeyArray
from scipy.special import gammaln

from cellgap.nn import AutoencoderNet, count_nll, trainable
from cellgap.train import Batches, FitResult, Loop, draw_without_replacement, fit

Inputs = Literal["lognorm", "log1p"]
Likelihood = Literal["nb", "gaussian"]


class Recipe(NamedTuple):
    """What training does with cells; see the settings of the same names in `Autoencoder`."""

    likelihood: Likelihood
    inputs: Inputs
    target_sum: float
    noise: float
    batch_size: int
    learning_rate: float
    warmup: int
    final: float
    weight_decay: float
    clip: float


class Cells(eqx.Module):
    """Cells on the device.

    Parameters
    ----------
    counts
        Of the genes of the space, and where it leaves genes out, the total of these as one more column.
    library
        Total of every cell.
    log_factorials
        Sum of ``log x!`` of every cell.
    """

    counts: Num[Array, "cells features"]
    library: Float[Array, " cells"]
    log_factorials: Float[Array, " cells"]

    @classmethod
    def of(cls, counts: np.ndarray) -> "Cells":
        """Return cells on the device, as 16-bit integers where these hold the counts."""
        small = counts.size == 0 or counts.max() <= np.iinfo(np.int16).max
        _, library, log_factorials = host_arrays(counts)
        return cls(
            jnp.asarray(counts.astype(np.int16) if small else counts),
            jnp.asarray(library),
            jnp.asarray(log_factorials),
        )

    def take(self, rows: Array) -> "Cells":
        """Return some of the cells."""
        return Cells(*(leaf[rows] for leaf in (self.counts, self.library, self.log_factorials)))


def host_arrays(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the arrays that `Cells` are made of, before they are on the device."""
    # A row at a time, or the logarithms would take four times the memory of the counts.
    factorials = np.asarray([gammaln(row[row > 1] + 1.0).sum() for row in counts])
    return counts, counts.sum(axis=1, dtype=np.float64).astype(np.float32), factorials.astype(np.float32)


class AutoencoderState(eqx.Module):
    """Everything that changes during training; a tree of arrays."""

    net: AutoencoderNet
    optimizer: Any
    count: Array


def inputs_of(
    counts: Num[Array, "cells genes"], library: Float[Array, " cells"], inputs: Inputs, target_sum: float
) -> Float[Array, "cells genes"]:
    """Return what the encoder sees: ``log(1 + target_sum * x / library)``, or ``log(1 + x)``."""
    x = counts.astype(library.dtype)
    return jnp.log1p(x * (target_sum / library)[:, None] if inputs == "lognorm" else x)


def losses(out: Float[Array, "n out"], net: AutoencoderNet, cells: Cells, recipe: Recipe) -> Float[Array, " n"]:
    """Return the loss of every cell: negative log-likelihood of its counts, or mean squared error of its inputs."""
    if net.log_theta is not None:
        log_rates = jax.nn.log_softmax(out, axis=-1)
        return count_nll(cells.counts, jnp.log(cells.library), log_rates, net.log_theta, cells.log_factorials)
    x = inputs_of(cells.counts[:, : out.shape[1]], cells.library, recipe.inputs, recipe.target_sum)
    return jnp.mean((out - x) ** 2, axis=-1)


def train_autoencoder(
    net: AutoencoderNet,
    cells: Cells | Batches,
    valid: Cells,
    recipe: Recipe,
    loop: Loop,
    *,
    key: PRNGKeyArray,
    progress: bool = False,
) -> FitResult[AutoencoderState]:
    """Return the trained state; ``best.net`` has the lowest held-out loss.

    Parameters
    ----------
    net
        Network at its start.
    cells, valid
        Cells to train on and held-out cells. Batches, where there are too many cells for the device, hold what
        `host_arrays` returns.
    recipe
        Likelihood, inputs and optimizer.
    loop, key, progress
        As in `cellgap.train.fit`.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0 if recipe.warmup else recipe.learning_rate,
        recipe.learning_rate,
        recipe.warmup,
        max(loop.n_steps, recipe.warmup + 1),
        recipe.final * recipe.learning_rate,
    )
    adamw = optax.adamw(schedule, weight_decay=recipe.weight_decay)
    optimizer = optax.chain(optax.clip_by_global_norm(recipe.clip), adamw) if recipe.clip > 0 else adamw
    parameters = trainable(net)
    n_in = net.encoder.layers[0].weight.shape[0]

    def update(state: AutoencoderState, batch: Cells, key_noise: PRNGKeyArray):
        learnt, kept = eqx.partition(state.net, parameters)

        def loss(learnt: AutoencoderNet):
            net = eqx.combine(learnt, kept)
            x = inputs_of(batch.counts[:, :n_in], batch.library, recipe.inputs, recipe.target_sum)
            out, moved = net.training(x, noise=recipe.noise, key=key_noise)
            return jnp.mean(losses(out, net, batch, recipe)), moved

        (value, moved), grads = eqx.filter_value_and_grad(loss, has_aux=True)(learnt)
        params: Any = learnt  # modules are trees, which the annotations of optax do not say
        updates, optimizer_state = optimizer.update(grads, state.optimizer, params)
        params = optax.apply_updates(params, updates)
        net = eqx.combine(params, eqx.filter(moved, parameters, inverse=True))
        return AutoencoderState(net, optimizer_state, state.count + 1), {"loss": value}

    def drawn(cells: Cells, state: AutoencoderState, key: PRNGKeyArray):
        key_cells, key_noise = jr.split(key)
        n = len(cells.library)
        rows = draw_without_replacement(key_cells, min(recipe.batch_size, n), n)
        return update(state, cells.take(rows), key_noise)

    def streamed(state: AutoencoderState, key: PRNGKeyArray, batch: tuple[Array, Array, Array]):
        return update(state, Cells(*batch), jr.split(key)[1])

    on_device = isinstance(cells, Cells)
    learnt: Any = eqx.filter(net, parameters)
    start = AutoencoderState(net, optimizer.init(learnt), jnp.int32(0))
    return fit(
        eqx.Partial(drawn, cells) if on_device else streamed,
        start,
        key=key,
        loop=loop,
        batches=None if on_device else cells,
        validate=eqx.Partial(held_out_loss(recipe), valid),
        progress=progress,
        title="autoencoder",
    )


def held_out_loss(recipe: Recipe) -> Callable[[Cells, AutoencoderState], dict[str, Array]]:
    """Return the function that gives the mean loss of held-out cells, the network as it will be used."""

    def validate(valid: Cells, state: AutoencoderState) -> dict[str, Array]:
        net = state.net
        n_in = net.encoder.layers[0].weight.shape[0]
        x = inputs_of(valid.counts[:, :n_in], valid.library, recipe.inputs, recipe.target_sum)
        return {"valid": jnp.mean(losses(net.decode(net.encode(x)), net, valid, recipe))}

    return validate

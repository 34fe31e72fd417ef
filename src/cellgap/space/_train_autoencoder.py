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

from cellgap.nn import AutoencoderNet, bernoulli_nll, count_nll, poisson_nll, trainable
from cellgap.train import Batches, FitResult, Loop, draw_without_replacement, fit

Inputs = Literal["lognorm", "log1p", "binary"]
Likelihood = Literal["nb", "gaussian", "bernoulli", "poisson"]


class Recipe(NamedTuple):
    """How a network is trained; see the settings of the same names in `Autoencoder`."""

    noise: float
    batch_size: int
    learning_rate: float
    warmup: int
    final: float
    weight_decay: float
    clip: float


class Reading(NamedTuple):
    """What a likelihood and an encoder make of measured values; see the settings of the same names in `Autoencoder`."""

    likelihood: Likelihood
    inputs: Inputs
    target_sum: float
    log_depth: float | None = None
    """Mean logarithm of the numbers of open peaks: "bernoulli" logits rise with the cell's own; None: they do not."""


class Cells(NamedTuple):
    """Cells of one modality.

    Parameters
    ----------
    counts
        Of the features of the space, and where it leaves genes out, the total of these as one more column.
    library
        Total of every cell, at least 1.
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
        return jax.tree.map(jnp.asarray, host_cells(counts.astype(np.int16) if small else counts))


def host_cells(counts: np.ndarray) -> Cells:
    """Return cells that are not on the device yet."""
    # A row at a time, or the logarithms would take four times the memory of the counts.
    factorials: Any = np.asarray([gammaln(row[row > 1] + 1.0).sum() for row in counts], np.float32)
    library: Any = np.maximum(counts.sum(axis=1, dtype=np.float64), 1.0).astype(np.float32)
    host: Any = counts
    return Cells(host, library, factorials)


class AutoencoderState(eqx.Module):
    """Everything that changes during training; a tree of arrays."""

    net: Any
    optimizer: Any
    count: Array


def inputs_of(cells: Cells, reading: Reading, n_in: int | None = None) -> Float[Array, "cells genes"]:
    """Return what the encoder sees of the first `n_in` features.

    ``log(1 + target_sum * x / library)``, ``log(1 + x)``, or whether there is any.
    """
    x = cells.counts[:, :n_in]
    if reading.inputs == "binary":
        return (x > 0).astype(cells.library.dtype)
    x = x.astype(cells.library.dtype)
    return jnp.log1p(x * (reading.target_sum / cells.library)[:, None] if reading.inputs == "lognorm" else x)


def losses(
    out: Float[Array, "n out"], log_theta: Float[Array, " out"] | None, cells: Cells, reading: Reading
) -> Float[Array, " n"]:
    """Return the loss of every cell: negative log-likelihood of its values, or mean squared error of its inputs."""
    if reading.likelihood == "gaussian":
        return jnp.mean((out - inputs_of(cells, reading, out.shape[1])) ** 2, axis=-1)
    if reading.likelihood == "bernoulli":
        depth = 0.0 if reading.log_depth is None else (jnp.log(cells.library) - reading.log_depth)[:, None]
        return bernoulli_nll(cells.counts, out + depth)
    log_rates, log_library = jax.nn.log_softmax(out, axis=-1), jnp.log(cells.library)
    if log_theta is None:
        return poisson_nll(cells.counts, log_library, log_rates, cells.log_factorials)
    return count_nll(cells.counts, log_library, log_rates, log_theta, cells.log_factorials)


Loss = Callable[[Any, Any, PRNGKeyArray | None], tuple[Float[Array, " n"], Any]]
"""(network, cells, key of the noise) to the loss of every cell and the network with its running averages moved; without
a key, as the network will be used."""


def train_autoencoder(
    net: AutoencoderNet,
    cells: Cells | Batches,
    valid: Cells,
    reading: Reading,
    recipe: Recipe,
    loop: Loop,
    *,
    key: PRNGKeyArray,
    progress: bool = False,
) -> FitResult[AutoencoderState]:
    """Return the trained state of an autoencoder of one modality; see `train_network`."""
    n_in = net.encoder.layers[0].weight.shape[0]

    def loss(net: AutoencoderNet, cells: Cells, key: PRNGKeyArray | None):
        x = inputs_of(cells, reading, n_in)
        if key is None:
            return losses(net.decode(net.encode(x)), net.log_theta, cells, reading), net
        out, moved = net.training(x, noise=recipe.noise, key=key)
        return losses(out, net.log_theta, cells, reading), moved

    on_device = cells if isinstance(cells, Cells) else None
    batches = None if isinstance(cells, Cells) else cells
    return train_network(net, on_device, batches, valid, loss, recipe, loop, key=key, progress=progress)


def train_network(
    net: Any,
    cells: Any,
    batches: Batches | None,
    valid: Any,
    loss: Loss,
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
        Cells to train on and held-out cells: `Cells`, or a tuple of them, one a modality.
    batches
        In place of cells, where there are too many for the device: what they hold is what `cells` would, a batch each.
    loss
        See `Loss`.
    recipe
        Noise and optimizer.
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

    def update(state: AutoencoderState, batch: Any, key_noise: PRNGKeyArray):
        learnt, kept = eqx.partition(state.net, parameters)

        def mean_loss(learnt: Any):
            values, moved = loss(eqx.combine(learnt, kept), batch, key_noise)
            return jnp.mean(values), moved

        (value, moved), grads = eqx.filter_value_and_grad(mean_loss, has_aux=True)(learnt)
        params: Any = learnt  # modules are trees, which the annotations of optax do not say
        updates, optimizer_state = optimizer.update(grads, state.optimizer, params)
        params = optax.apply_updates(params, updates)
        net = eqx.combine(params, eqx.filter(moved, parameters, inverse=True))
        return AutoencoderState(net, optimizer_state, state.count + 1), {"loss": value}

    def drawn(cells: Any, state: AutoencoderState, key: PRNGKeyArray):
        key_cells, key_noise = jr.split(key)
        n = len(jax.tree.leaves(cells)[0])
        rows = draw_without_replacement(key_cells, min(recipe.batch_size, n), n)
        return update(state, jax.tree.map(lambda leaf: leaf[rows], cells), key_noise)

    def streamed(state: AutoencoderState, key: PRNGKeyArray, batch: Any):
        return update(state, batch, jr.split(key)[1])

    def validate(valid: Any, state: AutoencoderState) -> dict[str, Array]:
        return {"valid": jnp.mean(loss(state.net, valid, None)[0])}

    learnt: Any = eqx.filter(net, parameters)
    start = AutoencoderState(net, optimizer.init(learnt), jnp.int32(0))
    return fit(
        eqx.Partial(drawn, cells) if batches is None else streamed,
        start,
        key=key,
        loop=loop,
        batches=batches,
        validate=eqx.Partial(validate, valid),
        progress=progress,
        title="autoencoder",
    )

"""An autoencoder of cells: two towers of dense layers, and the dispersion of a count likelihood."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Num, PRNGKeyArray

from cellgap.errors import DataError
from cellgap.nn._ghost_norm import GhostBatchNorm, GhostNorm
from cellgap.nn._likelihood import nb_log_kernel
from cellgap.nn._mlp import Linear
from cellgap.storage import storable

Norm = Literal["layer", "batch", "none"]
Activation = Literal["elu", "gelu", "relu"]
_EPSILON = 1e-5
_MOMENTUM = 0.1


@storable
class LayerNorm(eqx.Module):
    """Rows with mean 0 and variance 1, times a learnt scale, plus a learnt offset."""

    scale: Float[Array, " width"]
    offset: Float[Array, " width"]

    def __call__(self, x: Float[Array, "n width"]) -> Float[Array, "n width"]:
        """Return normalized rows."""
        centered = x - jnp.mean(x, -1, keepdims=True)
        return centered * jax.lax.rsqrt(jnp.mean(centered**2, -1, keepdims=True) + _EPSILON) * self.scale + self.offset


@storable
class BatchNorm(eqx.Module):
    """Columns with mean 0 and variance 1: those of the batch in training, running averages of them afterwards."""

    scale: Float[Array, " width"]
    offset: Float[Array, " width"]
    mean: Float[Array, " width"]
    variance: Float[Array, " width"]

    def __call__(self, x: Float[Array, "n width"]) -> Float[Array, "n width"]:
        """Return columns normalized by the running averages: a cell's value does not depend on its batch."""
        return (x - self.mean) * jax.lax.rsqrt(self.variance + _EPSILON) * self.scale + self.offset

    def training(self, x: Float[Array, "n width"]) -> tuple[Float[Array, "n width"], "BatchNorm"]:
        """Return columns normalized by the batch's moments, and this layer with these moments averaged in."""
        mean, variance = jnp.mean(x, 0), jnp.var(x, 0)
        y = (x - mean) * jax.lax.rsqrt(variance + _EPSILON) * self.scale + self.offset
        unbiased = variance * x.shape[0] / max(x.shape[0] - 1, 1)
        moved = BatchNorm(
            self.scale,
            self.offset,
            (1 - _MOMENTUM) * self.mean + _MOMENTUM * mean,
            (1 - _MOMENTUM) * self.variance + _MOMENTUM * unbiased,
        )
        return y, moved

    def with_moments(self, mean: Float[Array, " width"], variance: Float[Array, " width"]) -> "BatchNorm":
        """Return this layer with these running averages."""
        return BatchNorm(self.scale, self.offset, mean, variance)


@storable
class Tower(eqx.Module):
    """Dense layers: each hidden one is linear, normalized, activated; the last is linear.

    Parameters
    ----------
    widths
        Sizes of input, hidden layers and output.
    norm
        "layer", "batch", "none", or settings of batch normalization in ghosts.
    activation
        "elu", "gelu" (tanh approximation) or "relu".
    key
        Random key of the weights.
    """

    layers: tuple[Linear, ...]
    norms: tuple[LayerNorm | BatchNorm | GhostNorm | None, ...]
    activation: Activation = eqx.field(static=True)

    def __init__(
        self, widths: Sequence[int], *, norm: Norm | GhostBatchNorm, activation: Activation, key: PRNGKeyArray
    ):
        sizes = list(pairwise(widths))
        self.layers = tuple(Linear(a, b, key=k) for (a, b), k in zip(sizes, jr.split(key, len(sizes)), strict=True))
        self.norms = tuple(_norm(norm, width) for width in widths[1:-1])
        self.activation = activation

    def __call__(self, x: Float[Array, "n n_in"]) -> Float[Array, "n n_out"]:
        """Return the output for every row, with running averages where the norm keeps any."""
        return self.layers[-1](self.hidden(x))

    def hidden(self, x: Float[Array, "n n_in"]) -> Float[Array, "n width"]:
        """Return what the last layer sees of every row."""
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x = layer(x)
            x = self._activated(x if norm is None else norm(x))
        return x

    def normalized_inputs(self, x: Float[Array, "n n_in"]) -> list[Float[Array, "n _"]]:
        """Return what every norm sees of every row, with running averages."""
        seen = []
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            seen.append(layer(x))
            x = self._activated(seen[-1] if norm is None else norm(seen[-1]))
        return seen

    def training(self, x: Float[Array, "n n_in"]) -> tuple[Float[Array, "n n_out"], "Tower"]:
        """Return the output in training, and the tower with its running averages moved."""
        moved = []
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x, norm = layer(x), norm
            if isinstance(norm, BatchNorm | GhostNorm):
                x, norm = norm.training(x)
            elif norm is not None:
                x = norm(x)
            x = self._activated(x)
            moved.append(norm)
        return self.layers[-1](x), eqx.tree_at(lambda t: t.norms, self, tuple(moved), is_leaf=lambda n: n is None)

    def _activated(self, x: Float[Array, "n width"]) -> Float[Array, "n width"]:
        if self.activation == "relu":
            return jax.nn.relu(x)
        return jax.nn.elu(x) if self.activation == "elu" else jax.nn.gelu(x, approximate=True)


@storable
class AutoencoderNet(eqx.Module):
    """Cells to codes and back, deterministic: no sampling of codes.

    Parameters
    ----------
    n_in
        Length of the encoder's input.
    n_out
        Length of the decoder's output.
    n_latent
        Length of a code.
    hidden
        Widths of the encoder's hidden layers; the decoder has them in reverse.
    norm, activation
        See `Tower`.
    log_theta
        Start of the log inverse dispersion of a count likelihood, (n_out,); None where the likelihood has none.
    key
        Random key of the weights.
    """

    encoder: Tower
    decoder: Tower
    log_theta: Float[Array, " n_out"] | None

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_latent: int,
        *,
        hidden: Sequence[int],
        norm: Norm,
        activation: Activation,
        log_theta: Float[Array, " n_out"] | None,
        key: PRNGKeyArray,
    ):
        down, up = jr.split(key)
        self.encoder = Tower((n_in, *hidden, n_latent), norm=norm, activation=activation, key=down)
        self.decoder = Tower((n_latent, *reversed(hidden), n_out), norm=norm, activation=activation, key=up)
        self.log_theta = log_theta

    def encode(self, x: Float[Array, "n n_in"]) -> Float[Array, "n d"]:
        """Return the codes of rows."""
        return self.encoder(x)

    def decode(self, z: Float[Array, "n d"]) -> Float[Array, "n n_out"]:
        """Return the decoder's output: logits of the shares of a count likelihood, or values."""
        return self.decoder(z)

    def log_rates(self, z: Float[Array, "n d"]) -> Float[Array, "n n_out"]:
        """Return the logarithm of the expected share of every gene in a cell's counts."""
        return jax.nn.log_softmax(self.decoder(z), axis=-1)

    def training(
        self, x: Float[Array, "n n_in"], *, noise: float, key: PRNGKeyArray
    ) -> tuple[Float[Array, "n n_out"], "AutoencoderNet"]:
        """Return the decoder's output in training, and the network with its running averages moved.

        Parameters
        ----------
        x
            Input of the encoder.
        noise
            Standard deviation of Gaussian noise added to codes, in units of their spread over the batch.
        key
            Random key of the noise.
        """
        z, encoder = self.encoder.training(x)
        if noise > 0:
            spread = jax.lax.stop_gradient(jnp.std(z, 0))
            z = z + noise * spread * jr.normal(key, z.shape, z.dtype)
        out, decoder = self.decoder.training(z)
        return out, eqx.tree_at(lambda n: (n.encoder, n.decoder), self, (encoder, decoder))


def trainable(net: Any) -> Any:
    """Return a tree of the same structure: True for parameters, False for running averages (no gradient, no decay)."""

    def mark(node: Any) -> Any:
        if isinstance(node, BatchNorm | GhostNorm):
            marks = jax.tree.map(lambda _: False, node)
            return eqx.tree_at(lambda b: (b.scale, b.offset), marks, (True, True))
        return True

    return jax.tree.map(mark, net, is_leaf=lambda node: isinstance(node, BatchNorm | GhostNorm))


def recalibrate(tower: Tower, blocks: Iterable[Any]) -> Tower:
    """Return the tower with the exact mean and variance of all given cells in its norms, for inference.

    Running averages lag behind the weights, and those of ghosts of one domain each hold the variance within domains
    only. Every norm is set after those before it, so cells are read once a norm; the variance is that of a population
    (divided by the number of cells).

    Parameters
    ----------
    tower
        After training; layers with batch statistics ("batch" or ghosts) are set, others are left.
    blocks
        The cells, as blocks of rows (n, n_in) that can be read several times, such as a list; not a generator.

    Raises
    ------
    DataError
        There are no cells, or the blocks cannot be read again.
    """
    for place, norm in enumerate(tower.norms):
        if isinstance(norm, BatchNorm | GhostNorm):
            mean, variance = _population(tower, blocks, place)
            given = norm.with_moments(jnp.asarray(mean, norm.mean.dtype), jnp.asarray(variance, norm.mean.dtype))
            tower = eqx.tree_at(lambda t, place=place: t.norms[place], tower, given)
    return tower


def count_nll(
    counts: Num[Array, "n genes"],
    log_library: Float[Array, " n"],
    log_rates: Float[Array, "n genes"],
    log_theta: Float[Array, " genes"],
    log_factorials: Float[Array, " n"],
) -> Float[Array, " n"]:
    """Return the negative binomial negative log-likelihood of every cell, summed over genes.

    Parameters
    ----------
    counts
        Of the cells.
    log_library
        Logarithm of each cell's total.
    log_rates
        Logarithm of the expected shares.
    log_theta
        Logarithm of the inverse dispersion.
    log_factorials
        Sum over genes of ``log x!``: constant, so computed once a cell and not once a step.
    """
    return log_factorials - jnp.sum(nb_log_kernel(counts, log_library[:, None] + log_rates, log_theta), axis=-1)


def _norm(kind: Norm | GhostBatchNorm, width: int) -> LayerNorm | BatchNorm | GhostNorm | None:
    if isinstance(kind, GhostBatchNorm):
        return kind.build(width)
    one, zero = jnp.ones(width), jnp.zeros(width)
    if kind == "layer":
        return LayerNorm(one, zero)
    return BatchNorm(one, zero, jnp.zeros(width), jnp.ones(width)) if kind == "batch" else None


def _population(
    tower: Tower, blocks: Iterable[Any], place: int
) -> tuple[Float[np.ndarray, " width"], Float[np.ndarray, " width"]]:
    """Return mean and variance over all cells of what one norm sees; blocks are merged in double precision."""
    n, mean, squares = 0, np.zeros(()), np.zeros(())
    for block in blocks:
        center, spread = (np.asarray(part[place], float) for part in _block_moments(tower, jnp.asarray(block)))
        total = n + len(block)
        shift = center - mean
        mean = mean + shift * (len(block) / total)
        squares = squares + spread * len(block) + shift**2 * (n * len(block) / total)
        n = total
    if n == 0:
        raise DataError("Recalibration found no cells: give blocks that can be read several times, such as a list.")
    return mean, squares / n


@eqx.filter_jit
def _block_moments(tower: Tower, x: Float[Array, "n n_in"]) -> tuple[list[Any], list[Any]]:
    """Return mean and variance of what every norm sees of a block."""
    seen = tower.normalized_inputs(x)
    return [jnp.mean(part, 0) for part in seen], [jnp.var(part, 0) for part in seen]

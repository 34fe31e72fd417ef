"""An autoencoder of several modalities of a cell: a tower down and one up for each, and one code for all."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Num, PRNGKeyArray

from cellgap.nn._autoencoder import Activation, Norm, Tower
from cellgap.nn._mlp import Linear
from cellgap.storage import storable

Values = tuple[Float[Array, "n _"], ...]


@storable
class JointAutoencoderNet(eqx.Module):
    """Cells of several modalities to one code and back.

    Each modality goes down to a code of its own; these, side by side, are mapped linearly to the joint code, from which
    each modality goes up again.

    Parameters
    ----------
    n_in
        Features of every modality.
    n_latent
        Length of the joint code.
    hidden, code
        Of every modality: widths of the encoder's hidden layers (the decoder has them in reverse), and length of its
        own code.
    norm, activation
        See `Tower`.
    log_theta
        Start of the log inverse dispersion of every modality; None where its likelihood has none.
    key
        Random key of the weights.

    Notes
    -----
    Source: Palma et al., CFGen (arXiv 2407.11734), the joint variant.
    """

    encoders: tuple[Tower, ...]
    merge: Linear
    decoders: tuple[Tower, ...]
    log_theta: tuple[Float[Array, " _"] | None, ...]

    def __init__(
        self,
        n_in: Sequence[int],
        n_latent: int,
        *,
        hidden: Sequence[Sequence[int]],
        code: Sequence[int],
        norm: Norm,
        activation: Activation,
        log_theta: Sequence[Float[Array, " _"] | None],
        key: PRNGKeyArray,
    ):
        down, up, key_merge = jr.split(key, 3)
        downs, ups = jr.split(down, len(n_in)), jr.split(up, len(n_in))
        sizes = list(zip(n_in, hidden, code, strict=True))
        self.encoders = tuple(
            Tower((n, *widths, own), norm=norm, activation=activation, key=k)
            for (n, widths, own), k in zip(sizes, downs, strict=True)
        )
        self.merge = Linear(sum(code), n_latent, key=key_merge)
        self.decoders = tuple(
            Tower((n_latent, own, *reversed(widths), n), norm=norm, activation=activation, key=k)
            for (n, widths, own), k in zip(sizes, ups, strict=True)
        )
        self.log_theta = tuple(log_theta)

    def encode(self, xs: Values) -> Float[Array, "n d"]:
        """Return the joint codes of cells."""
        return self.merge(jnp.concatenate([tower(x) for tower, x in zip(self.encoders, xs, strict=True)], axis=-1))

    def decode(self, z: Float[Array, "n d"]) -> Values:
        """Return the output of every modality: logits."""
        return tuple(tower(z) for tower in self.decoders)

    def training(self, xs: Values, *, noise: float, key: PRNGKeyArray) -> tuple[Values, "JointAutoencoderNet"]:
        """Return the output in training, and the network with its running averages moved.

        Parameters
        ----------
        xs
            Inputs of every modality.
        noise
            Standard deviation of Gaussian noise added to codes, in units of their spread over the batch.
        key
            Random key of the noise.
        """
        down = [tower.training(x) for tower, x in zip(self.encoders, xs, strict=True)]
        z = self.merge(jnp.concatenate([code for code, _ in down], axis=-1))
        if noise > 0:
            z = z + noise * jax.lax.stop_gradient(jnp.std(z, 0)) * jr.normal(key, z.shape, z.dtype)
        up = [tower.training(z) for tower in self.decoders]
        moved = (tuple(tower for _, tower in down), tuple(tower for _, tower in up))
        return tuple(out for out, _ in up), eqx.tree_at(lambda n: (n.encoders, n.decoders), self, moved)


def bernoulli_nll(x: Num[Array, "n peaks"], logits: Float[Array, "n peaks"]) -> Float[Array, " n"]:
    """Return the negative log-likelihood of every cell's open peaks (values above 0), summed over peaks."""
    is_open = (x > 0).astype(logits.dtype)
    return jnp.sum(jax.nn.softplus(logits) - is_open * logits, axis=-1)


def poisson_nll(
    counts: Num[Array, "n features"],
    log_library: Float[Array, " n"],
    log_rates: Float[Array, "n features"],
    log_factorials: Float[Array, " n"],
) -> Float[Array, " n"]:
    """Return the Poisson negative log-likelihood of every cell, summed over features.

    Parameters
    ----------
    counts
        Of the cells.
    log_library
        Logarithm of each cell's total.
    log_rates
        Logarithm of the expected shares.
    log_factorials
        Sum over features of ``log x!``.
    """
    log_mu = log_library[:, None] + log_rates
    return log_factorials - jnp.sum(counts.astype(log_mu.dtype) * log_mu - jnp.exp(log_mu), axis=-1)

"""Ghost batch normalization: a large batch is normalized in small groups, as if it were many small batches.

Sums over a whole large batch have little noise, and networks trained so generalize less well. Groups ("ghosts") keep
the noise of small batches in the normalization, while gradients are still averaged over all cells.
"""

from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from pydantic import Field

from cellgap.errors import ConfigError
from cellgap.settings import settings
from cellgap.storage import storable

Stat = Literal["ema", "mean"]
Ghosts = Literal["shuffle", "stratified", "per_domain"]
_EPSILON = 1e-5


@settings
class GhostBatchNorm:
    """Batch normalization in ghosts: groups of `size` cells, each normalized by its own mean and variance.

    Training only. Afterwards every cell is normalized by running averages, so that its output does not depend on the
    cells it comes with.

    Parameters
    ----------
    size
        Cells a ghost. None is one ghost, the whole batch: plain batch normalization.
    momentum
        Weight of a new ghost in the running averages (the convention of PyTorch; flax and equinox give the weight of
        the old value).
    stat
        How ghosts of one batch enter the running averages. "ema": one after the other, so that the last one has the
        most weight. "mean": their mean at once, with the weight that all of them have in "ema"; the order of ghosts
        does not matter, and the averages are less noisy.
    ghosts
        Which cells share a ghost; see `ghost_order`, which whoever draws the batch calls. "shuffle": chance decides, as
        in the paper. "stratified": every ghost has the same mix of domains. "per_domain": every ghost is of one domain.
        The last is another method: domains are aligned in training, and not afterwards, when all of them are normalized
        by the same running averages, whose variance is that within domains.

    Notes
    -----
    The algorithm printed in the paper averages standard deviations, and its weights do not sum to 1. Here variances are
    averaged (the unbiased ones), with the weights of a sequential exponential average, as in the authors' code.

    Source
    ------
    Hoffer, Hubara, Soudry 2017, "Train longer, generalize better" (arXiv 1705.08741), algorithm 1; "mean",
    "stratified" and "per_domain" are ours.
    """

    size: Annotated[int, Field(ge=2)] | None = 64
    momentum: Annotated[float, Field(gt=0, lt=1)] = 0.1
    stat: Stat = "ema"
    ghosts: Ghosts = "shuffle"

    def build(self, width: int) -> "GhostNorm":
        """Return the layer for `width` features: scale 1, offset 0, nothing averaged yet."""
        zero = jnp.zeros(width)
        return GhostNorm(jnp.ones(width), zero, zero, zero, jnp.zeros(()), self.size, self.momentum, self.stat)

    def order(self, domain: Int[Array, " n"], key: PRNGKeyArray) -> Int[Array, " n"]:
        """Return the order in which the cells of a batch are given to the network; see `ghost_order`."""
        return ghost_order(domain, self.ghosts, self.size, key)


@storable
class GhostNorm(eqx.Module):
    """Columns with mean 0 and variance 1: within ghosts in training, by running averages afterwards.

    Parameters
    ----------
    scale, offset
        Learnt, shared by all ghosts.
    mean, variance
        Running sums of weighted moments, both started at 0; read them through `moments`.
    weight
        Sum of these weights, ``1 - (1 - momentum)^k`` after k ghosts: 0 at the start, 1 in the long run.
    size, momentum, stat
        See `GhostBatchNorm`.
    """

    scale: Float[Array, " width"]
    offset: Float[Array, " width"]
    mean: Float[Array, " width"]
    variance: Float[Array, " width"]
    weight: Float[Array, ""]
    size: int | None = eqx.field(static=True)
    momentum: float = eqx.field(static=True)
    stat: Stat = eqx.field(static=True)

    @property
    def moments(self) -> tuple[Float[Array, " width"], Float[Array, " width"]]:
        """Mean and variance of inference: running sums over their weight; 0 and 1 before any training."""
        seen = self.weight > 0
        weight = jnp.where(seen, self.weight, 1.0)
        return self.mean / weight, jnp.where(seen, self.variance / weight, 1.0)

    def __call__(self, x: Float[Array, "n width"]) -> Float[Array, "n width"]:
        """Return columns normalized by the running averages: a cell's value does not depend on its batch."""
        mean, variance = self.moments
        return (x - mean) * jax.lax.rsqrt(variance + _EPSILON) * self.scale + self.offset

    def training(self, x: Float[Array, "n width"]) -> tuple[Float[Array, "n width"], "GhostNorm"]:
        """Return columns normalized within ghosts, and this layer with the moments of the ghosts averaged in.

        Ghosts are consecutive rows. Where `size` does not divide their number, the last ghost has the rows that are
        left too; a batch of less than `size` is one ghost. Gradients go through the moments of the ghosts.

        Raises
        ------
        ConfigError
            The batch has one row, which has no variance.
        """
        if len(x) < 2:
            raise ConfigError(f"Batch normalization needs 2 cells or more in a training batch, not {len(x)}.")
        blocks = _blocks(x, self.size)
        parts = [_normalized(block) for block in blocks]
        y = jnp.concatenate([part.reshape(-1, x.shape[1]) for part, _, _ in parts]) * self.scale + self.offset
        means = jnp.concatenate([mean for _, mean, _ in parts])
        variances = jnp.concatenate([variance for _, _, variance in parts])
        kept, weights = ema_weights(len(means), self.momentum)
        if self.stat == "mean":
            weights = np.full_like(weights, (1 - kept) / len(weights))

        def averaged(old: Float[Array, "*width"], new: Float[Array, "ghosts *width"]) -> Float[Array, "*width"]:
            return kept * old + jnp.tensordot(jnp.asarray(weights, new.dtype), jax.lax.stop_gradient(new), 1)

        running = (averaged(self.mean, means), averaged(self.variance, variances), kept * self.weight + (1 - kept))
        return y, eqx.tree_at(lambda layer: (layer.mean, layer.variance, layer.weight), self, running)

    def with_moments(self, mean: Float[Array, " width"], variance: Float[Array, " width"]) -> "GhostNorm":
        """Return this layer with these moments in inference; further training averages into them."""
        given = (mean, variance, jnp.ones_like(self.weight))
        return eqx.tree_at(lambda layer: (layer.mean, layer.variance, layer.weight), self, given)


def ema_weights(n_ghosts: int, momentum: float) -> tuple[float, Float[np.ndarray, " ghosts"]]:
    """Return the weight of the old running average, and of every ghost, after `n_ghosts` of them one by one.

    ``(1 - momentum)^G`` and ``momentum (1 - momentum)^(G - l)`` for l = 1 .. G; together they sum to 1.
    """
    kept = 1 - momentum
    return kept**n_ghosts, momentum * kept ** np.arange(n_ghosts - 1, -1, -1.0)


def n_ghosts(n: int, size: int | None) -> int:
    """Return the number of ghosts of a batch of `n` cells: whole ones, and 1 where there is none."""
    return 1 if size is None else max(n // size, 1)


def ghost_order(domain: Int[Array, " n"], kind: Ghosts, size: int | None, key: PRNGKeyArray) -> Int[Array, " n"]:
    """Return a permutation of a batch's cells after which consecutive ones share a ghost as `kind` says.

    Compiles: `kind` and `size` are fixed, domains may be traced. The order of whole ghosts is random, because the last
    ones have the most weight in the running averages.

    Parameters
    ----------
    domain
        Of every cell, counted from 0.
    kind
        "shuffle": random. "stratified": whole ghosts have as many cells of a domain as one another, up to one cell.
        "per_domain": as many ghosts as can be have cells of one domain only; what is left of the domains, where their
        numbers are no multiples of `size`, shares ghosts. This is another method than ghost batch normalization; see
        `GhostBatchNorm`.
    size
        Cells a ghost; None is one ghost.
    key
        Random key.

    Raises
    ------
    ConfigError
        `kind` is none of these.
    """
    n = len(domain)
    if kind not in ("shuffle", "stratified", "per_domain"):
        raise ConfigError(f'Ghosts are "shuffle", "stratified" or "per_domain", not {kind!r}.')
    shuffled, of_ghosts = jr.split(key)
    order = jr.permutation(shuffled, n)
    if kind == "shuffle" or size is None or n < 2 * size:
        return order
    whole = n // size * size
    if kind == "stratified":
        # Cells beyond the whole ghosts are random ones. The others, sorted by domain, are dealt out like cards.
        dealt, left = order[:whole], order[whole:]
        dealt = dealt[jnp.argsort(domain[dealt], stable=True)].reshape(size, -1).T
    else:
        order = order[jnp.argsort(domain[order], stable=True)]
        ordered = domain[order]
        start = jnp.searchsorted(ordered, ordered, side="left")
        many = jnp.searchsorted(ordered, ordered, side="right") - start
        shares = jnp.arange(n) - start >= many // size * size
        order = order[jnp.argsort(shares, stable=True)]
        dealt, left = order[:whole].reshape(-1, size), order[whole:]
    return jnp.concatenate([jr.permutation(of_ghosts, dealt).ravel(), left])


def _blocks(x: Float[Array, "n width"], size: int | None) -> list[Float[Array, "ghosts size width"]]:
    """Return the ghosts, those of one size as one array."""
    n, width = x.shape
    ghosts = n_ghosts(n, size)
    if size is None or ghosts == 1 or n == ghosts * size:
        return [x.reshape(ghosts, -1, width)]
    split = (ghosts - 1) * size
    return [x[:split].reshape(ghosts - 1, -1, width), x[split:][None]]


def _normalized(x: Float[Array, "ghosts size width"]) -> tuple[Any, Any, Any]:
    """Return ghosts with mean 0 and variance 1, their means and their unbiased variances.

    Two passes: the mean of squares less the square of the mean loses the variance of columns that are far from 0.
    """
    mean = jnp.mean(x, 1, keepdims=True)
    centered = x - mean
    variance = jnp.mean(centered**2, 1, keepdims=True)
    many = x.shape[1]
    return centered * jax.lax.rsqrt(variance + _EPSILON), mean[:, 0], variance[:, 0] * (many / (many - 1))

"""The velocity field of latent cells: a residual network that is told any of a cell's attributes."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from cellgap.generate._field import AbstractField
from cellgap.storage import storable

_TURNS = 1000.0
_SLOWEST = 1e-4
# Cells a combination of attributes from which on it pays to compute what each combination is told once.
_SHARED = 4


@storable
class Dense(eqx.Module):
    """The affine map ``x W + b``; weights truncated normal (two standard deviations) with variance 1 / n_in."""

    weight: Float[Array, "n_in n_out"]
    bias: Float[Array, " n_out"]

    def __init__(self, n_in: int, n_out: int, *, key: PRNGKeyArray, zero: bool = False):
        # A normal cut at two standard deviations has 0.8796 of its spread.
        drawn = jr.truncated_normal(key, -2.0, 2.0, (n_in, n_out)) / (0.87962566 * jnp.sqrt(n_in))
        self.weight = jnp.zeros((n_in, n_out)) if zero else drawn
        self.bias = jnp.zeros(n_out)

    def __call__(self, x: Float[Array, "n n_in"]) -> Float[Array, "n n_out"]:
        """Return ``x W + b``."""
        return x @ self.weight + self.bias


@storable
class Block(eqx.Module):
    """A residual block: ``h + L2(SiLU(L1(SiLU(h)) + Lc(SiLU(e))))``; L2 starts at zero."""

    first: Dense
    told: Dense
    second: Dense

    def __init__(self, width: int, embedding: int, *, key: PRNGKeyArray):
        keys = jr.split(key, 3)
        self.first = Dense(width, width, key=keys[0])
        self.told = Dense(embedding, width, key=keys[1])
        self.second = Dense(width, width, key=keys[2], zero=True)

    def __call__(self, h: Float[Array, "n w"], told: Float[Array, "#n w"]) -> Float[Array, "n w"]:
        """Return the rows after the block; `told` is its layer of the activated embedding of time and attributes."""
        return h + self.second(jax.nn.silu(self.first(jax.nn.silu(h)) + told))


@storable
class Wave(eqx.Module):
    """A number between 0 and 1 as an embedding: sines and cosines of 1000 times it, through two dense layers."""

    first: Dense
    second: Dense

    def __init__(self, embedding: int, *, key: PRNGKeyArray):
        keys = jr.split(key)
        self.first = Dense(2 * (embedding // 2), embedding, key=keys[0])
        self.second = Dense(embedding, embedding, key=keys[1])

    def __call__(self, x: Float[Array, " n"]) -> Float[Array, "n e"]:
        """Return the embeddings."""
        half = self.first.weight.shape[0] // 2
        frequencies = _SLOWEST ** (jnp.arange(half) / max(half - 1, 1))
        angles = _TURNS * x[:, None] * frequencies
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], 1)
        return self.second(jax.nn.silu(self.first(waves)))


@storable
class LatentField(AbstractField):
    """The network of CFGen's second stage.

    Parameters
    ----------
    n_latent
        Dimension of a latent cell.
    sizes
        Number of categories of every attribute.
    width, embedding, n_blocks
        Of the residual blocks, of embeddings, and how many blocks.
    depth
        Whether the field reads the logarithm of the library.
    key
        Random key of the weights.

    Notes
    -----
    Source: Palma et al., CFGen (arXiv 2407.11734), code. An attribute that is not told adds nothing to the embedding;
    there is no vector for "unknown".
    """

    time: Wave
    depth_wave: Wave | None
    tables: tuple[Float[Array, "categories e"], ...]
    inlet: Dense
    blocks: tuple[Block, ...]
    outlet: Dense

    def __init__(
        self,
        n_latent: int,
        sizes: Sequence[int],
        *,
        width: int,
        embedding: int,
        n_blocks: int,
        depth: bool,
        key: PRNGKeyArray,
    ):
        keys = jr.split(key, 4 + n_blocks)
        self.time = Wave(embedding, key=keys[0])
        self.depth_wave = Wave(embedding, key=keys[1]) if depth else None
        tables = jr.split(keys[2], len(sizes))
        self.tables = tuple(jr.normal(k, (n, embedding)) for k, n in zip(tables, sizes, strict=True))
        ends = jr.split(keys[3])
        self.inlet = Dense(n_latent, width, key=ends[0])
        self.outlet = Dense(width, n_latent, key=ends[1])
        self.blocks = tuple(Block(width, embedding, key=k) for k in keys[4:])

    @property
    def n_attributes(self) -> int:
        """Number of attributes."""
        return len(self.tables)

    @property
    def dim(self) -> int:
        """Dimension of a latent cell."""
        return self.inlet.weight.shape[0]

    def __call__(
        self,
        z: Float[Array, "n d"],
        t: Float[Array, "#n"],
        labels: Int[Array, "n k"],
        known: Bool[Array, "n k"],
        depth: Float[Array, " n"] | None = None,
    ) -> Float[Array, "n d"]:
        """Return the velocity of every cell; see `AbstractField`."""
        combinations = math.prod(len(table) + 1 for table in self.tables)
        rows = slice(None)
        if len(t) == 1 and depth is None and combinations * _SHARED <= len(z):
            # All cells have one time: what the network is told depends on their attributes only.
            rows = jnp.zeros(len(z), int)
            for k, table in enumerate(self.tables):
                rows = rows * (len(table) + 1) + jnp.where(known[:, k], labels[:, k] + 1, 0)
            grid = jnp.indices([len(table) + 1 for table in self.tables]).reshape(len(self.tables), -1).T
            labels, known = jnp.maximum(grid - 1, 0), grid > 0
        e = self.time(t)
        for k, table in enumerate(self.tables):
            e = e + known[:, k, None].astype(z.dtype) * table[labels[:, k]]
        if self.depth_wave is not None and depth is not None:
            e = e + self.depth_wave(depth)
        e = jax.nn.silu(e)
        h = self.inlet(z)
        for block in self.blocks:
            h = block(h, block.told(e)[rows])
        return self.outlet(jax.nn.silu(h))

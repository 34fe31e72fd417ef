"""Encoder families: which maps from cells to the sphere are considered at all.

What the loss leaves open is settled by the family, so it is an explicit choice, and where pairs freeze directions
results of two families should be compared.
"""

from abc import ABC, abstractmethod
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field

from cellgap.embed._loss import normalized
from cellgap.nn import Activation, Linear, Norm, Tower
from cellgap.nn._autoencoder import LayerNorm
from cellgap.settings import settings
from cellgap.storage import storable

_Width = Annotated[int, Field(ge=1)]


class AbstractEncoder(ABC):
    """Settings of an encoder family."""

    @property
    @abstractmethod
    def uses_batch(self) -> bool:
        """Whether a cell's output in training depends on the other cells of its batch."""

    @abstractmethod
    def build(self, n_in: int, dim: int, key: PRNGKeyArray) -> "SphereEncoder":
        """Return a network with random weights from `n_in` numbers to the unit sphere in `dim`."""


@settings
class LinearEncoder(AbstractEncoder):
    """One linear map, then the sphere: the smallest family, without folds."""

    @property
    def uses_batch(self) -> bool:
        """Never."""
        return False

    def build(self, n_in: int, dim: int, key: PRNGKeyArray) -> "SphereEncoder":
        """Return the network; see `AbstractEncoder.build`."""
        return SphereEncoder(Tower((n_in, dim), norm="none", activation="gelu", key=key))


@settings
class MLPEncoder(AbstractEncoder):
    """Dense layers, then the sphere.

    Parameters
    ----------
    hidden
        Widths of the hidden layers.
    norm
        "layer", "batch" or "none". Statistics of a batch are those of anchors and partners together; with negatives of
        the same anchor they would tell the anchor, so "batch" goes with ``loss="infonce"`` alone.
    activation
        "gelu" or "elu".
    """

    hidden: Annotated[tuple[_Width, ...], Field(min_length=1)] = (256, 128)
    norm: Norm = "layer"
    activation: Activation = "gelu"

    @property
    def uses_batch(self) -> bool:
        """With batch norm."""
        return self.norm == "batch"

    def build(self, n_in: int, dim: int, key: PRNGKeyArray) -> "SphereEncoder":
        """Return the network; see `AbstractEncoder.build`."""
        return SphereEncoder(Tower((n_in, *self.hidden, dim), norm=self.norm, activation=self.activation, key=key))


@settings
class ResidualEncoder(AbstractEncoder):
    """Residual blocks of two dense layers with layer norm, then the sphere.

    Parameters
    ----------
    width
        Of the blocks.
    n_blocks
        Number of blocks.
    """

    width: _Width = 256
    n_blocks: Annotated[int, Field(ge=1)] = 3

    @property
    def uses_batch(self) -> bool:
        """Never."""
        return False

    def build(self, n_in: int, dim: int, key: PRNGKeyArray) -> "SphereEncoder":
        """Return the network; see `AbstractEncoder.build`."""
        return SphereEncoder(ResidualTower(n_in, dim, self.width, self.n_blocks, key=key))


@storable
class ResidualTower(eqx.Module):
    """See `ResidualEncoder`; normalization comes first in a block, and the last layer is linear."""

    first: Linear
    norms: tuple[LayerNorm, ...]
    ups: tuple[Linear, ...]
    downs: tuple[Linear, ...]
    last: Linear

    def __init__(self, n_in: int, n_out: int, width: int, n_blocks: int, *, key: PRNGKeyArray):
        first, last, *keys = jr.split(key, 2 + 2 * n_blocks)
        self.first, self.last = Linear(n_in, width, key=first), Linear(width, n_out, key=last)
        self.norms = tuple(LayerNorm(jnp.ones(width), jnp.zeros(width)) for _ in range(n_blocks + 1))
        self.ups = tuple(Linear(width, width, key=k) for k in keys[:n_blocks])
        self.downs = tuple(Linear(width, width, key=k, scale=0.5) for k in keys[n_blocks:])

    def __call__(self, x: Float[Array, "n n_in"]) -> Float[Array, "n n_out"]:
        """Return the output for every row."""
        return self.last(self.hidden(x))

    def hidden(self, x: Float[Array, "n n_in"]) -> Float[Array, "n width"]:
        """Return what the last layer sees."""
        x = self.first(x)
        for norm, up, down in zip(self.norms[:-1], self.ups, self.downs, strict=True):
            x = x + down(jax.nn.gelu(up(norm(x)), approximate=True))
        return self.norms[-1](x)

    def training(self, x: Float[Array, "n n_in"]) -> tuple[Float[Array, "n n_out"], "ResidualTower"]:
        """Return the same: nothing depends on the batch."""
        return self(x), self


@storable
class SphereEncoder(eqx.Module):
    """A network whose outputs are divided by their length."""

    tower: Tower | ResidualTower

    @property
    def dim(self) -> int:
        """Dimensions around the sphere."""
        last = self.tower.last if isinstance(self.tower, ResidualTower) else self.tower.layers[-1]
        return last.bias.shape[-1]

    def __call__(self, x: Float[Array, "n n_in"]) -> Float[Array, "n dim"]:
        """Return embeddings of unit length."""
        return normalized(self.tower(x))

    def training(self, x: Float[Array, "n n_in"]) -> tuple[Float[Array, "n dim"], "SphereEncoder"]:
        """Return embeddings in training, and the network with its running averages moved."""
        out, tower = self.tower.training(x)
        return normalized(out), SphereEncoder(tower)

    def hidden(self, x: Float[Array, "n n_in"]) -> Float[Array, "n width"]:
        """Return what the last layer sees: the inputs themselves for a linear map."""
        tower: Any = self.tower
        return tower.hidden(x)

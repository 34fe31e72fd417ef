"""Encoders of the synthetic experiment: a network, which without hidden layers is a matrix."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from cellgap.embed._loss import normalized
from cellgap.nn import Linear, Norm
from cellgap.nn._autoencoder import BatchNorm, LayerNorm
from cellgap.storage import storable

Encoder = Literal["mlp", "inverse"]
_HE = 2.0**0.5  # half of the variance is lost in a ReLU


@storable
class SphereEncoder(eqx.Module):
    """A network from observations to the unit sphere: linear, ReLU, norm in every hidden layer; the last is linear.

    The norm comes after the activation, as published. Without hidden layers this is a linear map onto the sphere.

    Parameters
    ----------
    widths
        Sizes of input, hidden layers and output.
    norm
        ``"batch"`` (published), ``"layer"`` or ``"none"``. Batch statistics are those of anchors, partners and
        negatives together; where negatives are drawn for every anchor the rows of a batch are clusters around anchors,
        of which its statistics then tell something.
    key
        Random key of the weights.

    Source
    ------
    Zaliaduonis et al. 2026 (arXiv 2606.04280), synthetic experiments.
    """

    layers: tuple[Linear, ...]
    norms: tuple[LayerNorm | BatchNorm | None, ...]

    def __init__(self, widths: Sequence[int], *, norm: Norm, key: PRNGKeyArray):
        sizes = list(pairwise(widths))
        scales = [_HE] * (len(sizes) - 1) + [1.0]
        keys = jr.split(key, len(sizes))
        self.layers = tuple(Linear(a, b, key=k, scale=s) for (a, b), k, s in zip(sizes, keys, scales, strict=True))
        self.norms = tuple(_norm(norm, width) for width in widths[1:-1])

    def __call__(self, x: Float[Array, "n p"]) -> Float[Array, "n k"]:
        """Return unit vectors, with running averages where the norm keeps any."""
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x = jax.nn.relu(layer(x))
            x = x if norm is None else norm(x)
        return normalized(self.layers[-1](x))

    def training(self, x: Float[Array, "n p"]) -> tuple[Float[Array, "n k"], "SphereEncoder"]:
        """Return unit vectors in training, and the encoder with its running averages moved."""
        moved = []
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x, kept = jax.nn.relu(layer(x)), norm
            if isinstance(norm, BatchNorm):
                x, kept = norm.training(x)
            elif norm is not None:
                x = norm(x)
            moved.append(kept)
        out = normalized(self.layers[-1](x))
        return out, eqx.tree_at(lambda e: e.norms, self, tuple(moved), is_leaf=lambda n: n is None)


def _norm(norm: Norm, width: int) -> LayerNorm | BatchNorm | None:
    one, zero = jnp.ones(width), jnp.zeros(width)
    if norm == "batch":
        return BatchNorm(one, zero, zero, one)
    return LayerNorm(one, zero) if norm == "layer" else None

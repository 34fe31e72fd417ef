"""A multilayer perceptron on rows."""

from collections.abc import Sequence
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from cellgap.storage import storable


@storable
class Linear(eqx.Module):
    """The affine map ``x -> x W + b`` on rows.

    Weights are LeCun-normal times `scale`, the bias is zero.
    """

    weight: Float[Array, "n_in n_out"]
    bias: Float[Array, " n_out"]

    def __init__(self, n_in: int, n_out: int, *, key: PRNGKeyArray, scale: float = 1.0):
        self.weight = scale * jr.normal(key, (n_in, n_out)) / jnp.sqrt(max(n_in, 1))
        self.bias = jnp.zeros(n_out)

    def __call__(self, x: Float[Array, "*n n_in"]) -> Float[Array, "*n n_out"]:
        """Return ``x W + b``."""
        return x @ self.weight + self.bias


@storable
class MLP(eqx.Module):
    """Linear layers with GELU (tanh approximation) between them.

    Parameters
    ----------
    widths
        Sizes of input, hidden layers and output.
    key
        Random key of the weights.
    last_scale
        Factor on the last layer's weights; near 0 starts the network at the zero function.
    """

    layers: tuple[Linear, ...]

    def __init__(self, widths: Sequence[int], *, key: PRNGKeyArray, last_scale: float = 1.0):
        keys = jr.split(key, len(widths) - 1)
        sizes = list(pairwise(widths))
        scales = [1.0] * (len(sizes) - 1) + [last_scale]
        self.layers = tuple(Linear(a, b, key=k, scale=s) for (a, b), k, s in zip(sizes, keys, scales, strict=True))

    def __call__(self, x: Float[Array, "*n n_in"]) -> Float[Array, "*n n_out"]:
        """Return the network's output for every row."""
        for layer in self.layers[:-1]:
            x = jax.nn.gelu(layer(x), approximate=True)
        return self.layers[-1](x)

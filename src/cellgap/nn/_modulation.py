"""How a condition changes the layers of a network on cells: by scale and shift, or by updates of low rank."""

from collections.abc import Sequence
from itertools import pairwise

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from cellgap.nn._mlp import Linear
from cellgap.storage import storable


@storable
class FiLM(eqx.Module):
    """Feature-wise linear modulation: ``(1 + g(c)) * h + b(c)`` with `g` and `b` affine in the condition.

    Parameters
    ----------
    n_condition
        Length of the condition vector.
    n_features
        Width of what is modulated.
    key
        Random key of the weights.

    Notes
    -----
    Source: Perez et al. 2018 (arXiv 1709.07871), eq. 2, with the scale written as a deviation from 1.
    """

    generate: Linear

    def __init__(self, n_condition: int, n_features: int, *, key: PRNGKeyArray):
        self.generate = Linear(n_condition, 2 * n_features, key=key)

    def __call__(self, h: Float[Array, "n f"], condition: Float[Array, " c"]) -> Float[Array, "n f"]:
        """Return the modulated rows."""
        scale, shift = jnp.split(self.generate(condition), 2)
        return (1.0 + scale) * h + shift


@storable
class LowRankUpdate(eqx.Module):
    """A hypernetwork for one linear layer: adds ``x A(c) B(c) + b(c)``, all affine in the condition.

    `A` has `rank` columns and `B` as many rows, so a condition generates ``rank * (n_in + n_out) + n_out`` numbers and
    not a whole weight matrix.

    Parameters
    ----------
    n_condition
        Length of the condition vector.
    n_in, n_out
        Widths of the layer.
    rank
        Rank of the update.
    key
        Random key of the weights.

    Notes
    -----
    Source: Ha et al. 2016 (arXiv 1609.09106), factored as in Hu et al. 2021 (arXiv 2106.09685).
    """

    generate: Linear
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    rank: int = eqx.field(static=True)

    def __init__(self, n_condition: int, n_in: int, n_out: int, *, rank: int, key: PRNGKeyArray):
        self.n_in, self.n_out, self.rank = n_in, n_out, rank
        self.generate = Linear(n_condition, rank * (n_in + n_out) + n_out, key=key)

    def __call__(self, x: Float[Array, "n n_in"], condition: Float[Array, " c"]) -> Float[Array, "n n_out"]:
        """Return what is added to the layer's output."""
        numbers = self.generate(condition)
        a, b, bias = jnp.split(numbers, [self.rank * self.n_in, self.rank * (self.n_in + self.n_out)])
        # The factors are scaled as the weights of layers, so that the update has the size of the layer.
        left = a.reshape(self.n_in, self.rank) / jnp.sqrt(self.n_in)
        right = b.reshape(self.rank, self.n_out) / jnp.sqrt(self.rank)
        return (x @ left) @ right + bias


def film_layers(n_condition: int, widths: Sequence[int], *, key: PRNGKeyArray) -> tuple[FiLM, ...]:
    """Return one modulation for the output of each layer of a network of these widths (input first)."""
    keys = jr.split(key, len(widths) - 1)
    return tuple(FiLM(n_condition, n, key=k) for n, k in zip(widths[1:], keys, strict=True))


def low_rank_layers(
    n_condition: int, widths: Sequence[int], *, rank: int, key: PRNGKeyArray
) -> tuple[LowRankUpdate, ...]:
    """Return one update for each layer of a network of these widths (input first)."""
    keys = jr.split(key, len(widths) - 1)
    return tuple(
        LowRankUpdate(n_condition, a, b, rank=rank, key=k) for (a, b), k in zip(pairwise(widths), keys, strict=True)
    )

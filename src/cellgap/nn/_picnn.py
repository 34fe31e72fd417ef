"""Functions that are convex in the cells and free in the condition."""

import math
from collections.abc import Sequence
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from cellgap.nn._icnn import ICNN, ConvexActivation, convex_weight, negativity
from cellgap.nn._mlp import Linear
from cellgap.storage import storable


@storable
class PICNN(eqx.Module):
    """A function of cells and condition, convex in the cells: a family of `ICNN`, one for every condition.

    Two streams, `u` of the condition and `z` of the cells:
    ``u_(l+1) = tanh(u_l V_l)`` and ``z_(l+1) = act((z_l * softplus(u_l A_l)) Z_l + (x * (u_l B_l)) W_l + u_l U_l)``,
    each product with a bias, and `Z` non-negative. As the condition is one vector for all cells, its factors go into
    the weights: `at` returns the function of cells.

    Parameters
    ----------
    condition
        Layers ``V`` of the stream `u`.
    z_factor, x_factor, offset
        Affine functions ``A``, ``B`` and ``U`` of `u`, one a layer.
    inputs, hidden
        ``W`` and ``Z``, as in `ICNN`.
    activation
        As in `ICNN`.

    Notes
    -----
    Source: Amos, Xu and Kolter 2017, section 3.2; CondOT (Bunne, Krause and Cuturi 2022).
    """

    condition: tuple[Linear, ...]
    z_factor: tuple[Linear, ...]
    x_factor: tuple[Linear, ...]
    offset: tuple[Linear, ...]
    inputs: tuple[Float[Array, "d _"], ...]
    hidden: tuple[Float[Array, "_ _"], ...]
    activation: ConvexActivation = eqx.field(static=True)

    @classmethod
    def draw(
        cls,
        n_latent: int,
        n_condition: int,
        *,
        widths: Sequence[int],
        embedding: int,
        activation: ConvexActivation,
        key: PRNGKeyArray,
    ) -> "PICNN":
        """Return a network of random weights that starts at the function 0.

        Parameters
        ----------
        n_latent, n_condition
            Dimension of cells, length of the condition's vector.
        widths, embedding
            Widths of the hidden layers of `z`, and of those of `u`.
        activation
            See the class.
        key
            Random key of the weights.
        """
        sizes = [*widths, 1]
        keys = iter(jr.split(key, 6 * len(sizes)))
        # Layer 0 reads the condition itself, later ones the stream.
        u = [n_condition] + [embedding] * len(widths)
        inputs = [jr.normal(next(keys), (n_latent, n)) / jnp.sqrt(n_latent) for n in widths]
        hidden = [convex_weight(next(keys), a, b) for a, b in pairwise(widths)]
        return cls(
            condition=tuple(Linear(a, b, key=next(keys)) for a, b in pairwise(u)),
            # The factors begin near 1: softplus(log(e - 1)) = 1.
            z_factor=tuple(_near(next(keys), p, n, math.log(math.e - 1)) for p, n in zip(u[1:], widths, strict=True)),
            x_factor=tuple(_near(next(keys), p, n_latent, 1.0) for p in u),
            offset=tuple(Linear(p, n, key=next(keys), scale=0.1) for p, n in zip(u, sizes, strict=True)),
            inputs=(*inputs, jnp.zeros((n_latent, 1))),
            hidden=(*hidden, jnp.zeros((widths[-1], 1))),
            activation=activation,
        )

    def at(self, condition: Float[Array, " p"]) -> ICNN:
        """Return the convex function of cells under a condition, given as a vector."""
        stream = [condition]
        for layer in self.condition:
            stream.append(jnp.tanh(layer(stream[-1])))
        inputs = tuple(
            factor(u)[:, None] * weight for u, factor, weight in zip(stream, self.x_factor, self.inputs, strict=True)
        )
        offsets = tuple(offset(u) for u, offset in zip(stream, self.offset, strict=True))
        hidden = tuple(
            jax.nn.softplus(factor(u))[:, None] * weight
            for u, factor, weight in zip(stream[1:], self.z_factor, self.hidden, strict=True)
        )
        return ICNN(inputs, offsets, hidden, self.activation)

    def clamped(self) -> "PICNN":
        """Return the function with negative hidden-to-hidden weights set to 0, so that it is convex in the cells."""
        return eqx.tree_at(lambda net: net.hidden, self, tuple(jnp.maximum(w, 0.0) for w in self.hidden))

    def negativity(self) -> Float[Array, ""]:
        """Return the Frobenius norms of the negative parts of hidden-to-hidden weights, summed: 0 where convex."""
        return negativity(self.hidden)


def _near(key: PRNGKeyArray, n_in: int, n_out: int, value: float) -> Linear:
    """Return an affine layer whose values are near a number."""
    layer = Linear(n_in, n_out, key=key, scale=0.1)
    return eqx.tree_at(lambda layer: layer.bias, layer, jnp.full(n_out, value))

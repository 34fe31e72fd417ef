"""The conditional perturbation network: a displacement of cells that depends on a set of treatments."""

from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from cellgap.nn._mlp import MLP, Linear
from cellgap.storage import storable

Conditioning = Literal["gated", "concat"]


@storable
class PerturbationNet(eqx.Module):
    """Cells and a set of treatments to displaced cells, with ``T(x, no treatment) = x`` exactly.

    Each treatment vector goes through one shared dense layer and GELU; the results are averaged over the set (order is
    irrelevant, the size of the set is a mask and not a shape). Cell, pooled treatments and context enter the trunk.

    - ``"concat"`` is the published network (Conditional Monge Gap, arXiv 2504.08328): the trunk's output is the
      displacement, switched off for the empty set.
    - ``"gated"`` multiplies the trunk's last hidden layer by ``sum_k (1 + G(e_k))``, an affine function of every
      treatment's vector: the effect of a set starts as the sum of its members' effects, grows linearly in the
      descriptor, and vanishes for the empty set.

    Parameters
    ----------
    n_latent
        Dimension of cells.
    n_entity
        Length of a treatment's vector.
    n_context
        Length of the context vector (0 for none).
    hidden
        Widths of the trunk's hidden layers.
    embedding
        Width of the shared dense layer.
    conditioning
        ``"gated"`` or ``"concat"``.
    key
        Random key of the weights.
    """

    shared: Linear
    gate: Linear | None
    trunk: MLP
    readout: Linear

    def __init__(
        self,
        n_latent: int,
        n_entity: int,
        n_context: int,
        *,
        hidden: Sequence[int],
        embedding: int,
        conditioning: Conditioning,
        key: PRNGKeyArray,
    ):
        shared, gate, trunk, readout = jr.split(key, 4)
        self.shared = Linear(n_entity, embedding, key=shared)
        self.gate = Linear(n_entity, hidden[-1], key=gate) if conditioning == "gated" else None
        self.trunk = MLP((n_latent + embedding + n_context, *hidden), key=trunk)
        # Near zero, so that training starts at the identity.
        self.readout = Linear(hidden[-1], n_latent, key=readout, scale=1e-2)

    def __call__(
        self,
        x: Float[Array, "n d"],
        entities: Float[Array, "m e"],
        mask: Bool[Array, " m"],
        context: Float[Array, " c"],
    ) -> Float[Array, "n d"]:
        """Return the displaced cells.

        Parameters
        ----------
        x
            Control cells in the model's space.
        entities, mask
            One row a treatment; rows where `mask` is False are padding and change nothing.
        context
            Context vector.
        """
        present = mask[:, None].astype(x.dtype)
        embedded = jax.nn.gelu(self.shared(entities), approximate=True) * present
        pooled = jnp.sum(embedded, 0) / jnp.maximum(jnp.sum(present), 1.0)
        # The condition is one row: its share of the first layer is computed once, not once a cell.
        first, rest = self.trunk.layers[0], self.trunk.layers[1:]
        d = x.shape[1]
        h = x @ first.weight[:d] + (jnp.concatenate([pooled, context]) @ first.weight[d:] + first.bias)
        for layer in rest:
            h = layer(jax.nn.gelu(h, approximate=True))
        h = jax.nn.gelu(h, approximate=True)
        if self.gate is None:
            return x + self.readout(h) * jnp.any(mask).astype(x.dtype)
        gate = jnp.sum((1.0 + self.gate(entities)) * present, 0)
        bias = self.readout.bias * jnp.sum(present)
        return x + (h * gate) @ self.readout.weight + bias

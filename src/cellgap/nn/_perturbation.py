"""The conditional perturbation network: a displacement of cells that depends on a set of treatments."""

from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from cellgap.errors import ConfigError
from cellgap.nn._mlp import MLP, Linear
from cellgap.nn._modulation import FiLM, LowRankUpdate, film_layers, low_rank_layers
from cellgap.nn._pooling import AttentionPooling, Pooling, mean_pool
from cellgap.storage import storable

Conditioning = Literal["gated", "concat", "film", "lowrank"]


@storable
class PerturbationNet(eqx.Module):
    """Cells and a set of treatments to displaced cells, with ``T(x, no treatment) = x`` exactly.

    Each treatment vector goes through dense layers and GELU; the results are pooled over the set (order is irrelevant,
    the size of the set is a mask and not a shape). Pooled treatments and context are the condition; it changes the
    trunk, which reads cells, in one of four ways.

    - ``"concat"`` is the published network (Conditional Monge Gap, arXiv 2504.08328): the condition is an input of the
      trunk, whose output is the displacement, switched off for the empty set.
    - ``"gated"`` is ``"concat"`` with the trunk's last hidden layer multiplied by ``sum_k (1 + G(e_k))``, an affine
      function of every treatment's vector: the effect of a set starts as the sum of its members' effects, grows
      linearly in the descriptor, and vanishes for the empty set.
    - ``"film"``: the condition scales and shifts the features of every hidden layer; switched off for the empty set.
    - ``"lowrank"``: the condition generates an update of low rank of every hidden layer's weights; switched off for the
      empty set.

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
        Width of the dense layer of treatments.
    conditioning
        ``"gated"``, ``"concat"``, ``"film"`` or ``"lowrank"``.
    pooling
        ``"mean"``, or ``"attention"`` (see `AttentionPooling`).
    parts
        Lengths of the parts of a treatment's vector that are of different kinds (descriptor, dose): each has a dense
        layer of its own (to `embedding`, or to one number where it is one number), the results side by side, as
        published. None: one dense layer for the whole vector.
    rank
        Rank of the updates of ``"lowrank"``.
    key
        Random key of the weights.

    Raises
    ------
    ConfigError
        The parts do not add up to the length of a treatment's vector.
    """

    shared: tuple[Linear, ...]
    attention: AttentionPooling | None
    gate: Linear | None
    modulation: tuple[FiLM, ...] | None
    updates: tuple[LowRankUpdate, ...] | None
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
        pooling: Pooling = "mean",
        parts: Sequence[int] | None = None,
        rank: int = 4,
        key: PRNGKeyArray,
    ):
        sizes = (n_entity,) if parts is None else tuple(size for size in parts if size)
        if sum(sizes) != n_entity:
            raise ConfigError(f"parts {tuple(sizes)} of a treatment's vector must add up to its length {n_entity}.")
        shared, gate, trunk, readout = jr.split(key, 4)
        widths = [embedding if size > 1 or parts is None else 1 for size in sizes]
        keys = [shared] if len(sizes) == 1 else list(jr.split(shared, len(sizes)))
        self.shared = tuple(Linear(n, width, key=k) for n, width, k in zip(sizes, widths, keys, strict=True))
        pooled = sum(widths)
        self.attention = AttentionPooling(pooled, key=jr.fold_in(shared, 1)) if pooling == "attention" else None
        n_condition = pooled + n_context
        on_cells = conditioning in ("film", "lowrank")
        layers = (n_latent if on_cells else n_latent + n_condition, *hidden)
        self.gate = Linear(n_entity, hidden[-1], key=gate) if conditioning == "gated" else None
        self.modulation = film_layers(n_condition, layers, key=gate) if conditioning == "film" else None
        self.updates = low_rank_layers(n_condition, layers, rank=rank, key=gate) if conditioning == "lowrank" else None
        self.trunk = MLP(layers, key=trunk)
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
        entities = jnp.where(mask[:, None], entities, 0.0)
        condition = jnp.concatenate([self._pooled(entities, mask), context])
        h = x
        for i in range(len(self.trunk.layers)):
            h = jax.nn.gelu(self._layer(i, h, condition), approximate=True)
        if self.gate is None:
            return x + self.readout(h) * jnp.any(mask).astype(x.dtype)
        present = mask[:, None].astype(x.dtype)
        gate = jnp.sum((1.0 + self.gate(entities)) * present, 0)
        bias = self.readout.bias * jnp.sum(present)
        return x + (h * gate) @ self.readout.weight + bias

    def _pooled(self, entities: Float[Array, "m e"], mask: Bool[Array, " m"]) -> Float[Array, " h"]:
        ends = np.cumsum([len(layer.weight) for layer in self.shared])[:-1].tolist()
        parts = jnp.split(entities, ends, axis=1)
        dense = [layer(part) for layer, part in zip(self.shared, parts, strict=True)]
        embedded = jax.nn.gelu(jnp.concatenate(dense, axis=1), approximate=True)
        return mean_pool(embedded, mask) if self.attention is None else self.attention(embedded, mask)

    def _layer(self, i: int, h: Float[Array, "n f"], condition: Float[Array, " c"]) -> Float[Array, "n g"]:
        layer = self.trunk.layers[i]
        if self.modulation is not None:
            return self.modulation[i](layer(h), condition)
        if self.updates is not None:
            return layer(h) + self.updates[i](h, condition)
        if i == 0:
            # The condition is one row: its share of the first layer is computed once, not once a cell.
            d = h.shape[1]
            return h @ layer.weight[:d] + (condition @ layer.weight[d:] + layer.bias)
        return layer(h)

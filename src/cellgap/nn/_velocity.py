"""The conditional velocity field of flow matching: how cells move at a time of the flow, given a set of treatments."""

from collections.abc import Callable, Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from cellgap.nn._mlp import MLP, Linear
from cellgap.nn._modulation import FiLM, film_layers
from cellgap.nn._pooling import AttentionPooling, Pooling, mean_pool
from cellgap.nn._time import time_features
from cellgap.storage import storable

Modulation = Literal["film", "concat"]


@storable
class VelocityNet(eqx.Module):
    """The velocity ``v(x, t, c)`` of cells `x` at time `t` of the flow, for a set of treatments in a context.

    Time and cells have encoders of their own; a decoder reads both with the embedding of the condition. The velocity is
    0 for the empty set, so controls stay. Where a condition is not `known`, a learned vector stands for it: the field
    of all conditions together, which guidance starts from.

    - ``"concat"``: the embedding enters the decoder beside the codes of time and cells (as published: CellFlow).
    - ``"film"``: in addition it scales and shifts every hidden layer of the decoder; see `FiLM`.

    Parameters
    ----------
    n_latent
        Dimension of cells.
    n_entity
        Length of a treatment's vector.
    n_context
        Length of the context vector (0 for none).
    time, data, decoder
        Widths of the hidden layers of the three parts.
    embedding
        Width of a treatment's and of a condition's embedding.
    modulation
        ``"film"`` or ``"concat"``.
    pooling
        How the treatments of a set become one vector: ``"mean"`` or ``"attention"``; see `AttentionPooling`.
    frequencies
        Number of frequencies of the time features.
    key
        Random key of the weights.
    """

    shared: Linear
    attention: AttentionPooling | None
    condition: Linear
    null: Float[Array, " embedding"]
    time: MLP
    data: MLP
    film: tuple[FiLM, ...] | None
    decoder: MLP
    readout: Linear

    def __init__(
        self,
        n_latent: int,
        n_entity: int,
        n_context: int,
        *,
        time: Sequence[int],
        data: Sequence[int],
        decoder: Sequence[int],
        embedding: int,
        modulation: Modulation,
        pooling: Pooling,
        frequencies: int,
        key: PRNGKeyArray,
    ):
        keys = jr.split(key, 8)
        widths = (time[-1] + data[-1] + embedding, *decoder)
        self.shared = Linear(n_entity, embedding, key=keys[0])
        self.attention = AttentionPooling(embedding, key=keys[1]) if pooling == "attention" else None
        self.condition = Linear(embedding + n_context, embedding, key=keys[2])
        self.null = jnp.zeros(embedding)
        self.time = MLP((2 * frequencies, *time), key=keys[3])
        self.data = MLP((n_latent, *data), key=keys[4])
        self.film = film_layers(embedding, widths, key=keys[5]) if modulation == "film" else None
        self.decoder = MLP(widths, key=keys[6])
        # Near zero, so that training starts with cells at rest.
        self.readout = Linear(decoder[-1], n_latent, key=keys[7], scale=1e-2)

    def __call__(
        self,
        x: Float[Array, "n d"],
        t: Float[Array, "#n"],
        entities: Float[Array, "m e"],
        mask: Bool[Array, " m"],
        context: Float[Array, " c"],
        known: Bool[Array, "#n"] | None = None,
    ) -> Float[Array, "n d"]:
        """Return the velocity of every cell.

        Parameters
        ----------
        x
            Cells on their way.
        t
            Time of the flow, 0 at the controls and 1 at the treated cells: one for all cells, or one a cell.
        entities, mask
            One row a treatment; rows where `mask` is False are padding and change nothing.
        context
            Context vector.
        known
            Whether the condition is told, for all cells or for each one; None tells it to all.
        """
        embedded = self.embed(entities, mask, context)
        by_time = jax.nn.gelu(self.time(self._features(t)), approximate=True)
        by_cell = jax.nn.gelu(self.data(x), approximate=True)
        first, rest = self.decoder.layers[0], self.decoder.layers[1:]
        n_time, n_data = by_time.shape[1], by_cell.shape[1]
        of_time, of_cell, of_condition = jnp.split(first.weight, [n_time, n_time + n_data])
        # What is the same for all cells, the condition and a shared time, goes through the first layer once.
        told = self._told(lambda e: (e @ of_condition)[None], embedded, known)
        h = by_cell @ of_cell + (by_time @ of_time + told + first.bias)
        h = self._activated(0, h, embedded, known)
        for i, layer in enumerate(rest, 1):
            h = self._activated(i, layer(h), embedded, known)
        return self.readout(h) * jnp.any(mask).astype(x.dtype)

    def embed(
        self, entities: Float[Array, "m e"], mask: Bool[Array, " m"], context: Float[Array, " c"]
    ) -> Float[Array, " embedding"]:
        """Return the embedding of a condition; the order of its treatments is irrelevant."""
        rows = jax.nn.gelu(self.shared(jnp.where(mask[:, None], entities, 0.0)), approximate=True)
        pooled = mean_pool(rows, mask) if self.attention is None else self.attention(rows, mask)
        return jax.nn.gelu(self.condition(jnp.concatenate([pooled, context])), approximate=True)

    def _features(self, t: Float[Array, " k"]) -> Float[Array, "k features"]:
        return time_features(t, self.time.layers[0].weight.shape[0] // 2)

    def _activated(
        self, i: int, h: Float[Array, "n f"], embedded: Float[Array, " e"], known: Bool[Array, " k"] | None
    ) -> Float[Array, "n f"]:
        if self.film is not None:
            film, rows = self.film[i], h
            h = self._told(lambda e: film(rows, e), embedded, known)
        return jax.nn.gelu(h, approximate=True)

    def _told(
        self, layer: Callable[[Array], Array], embedded: Float[Array, " e"], known: Bool[Array, " k"] | None
    ) -> Float[Array, "rows f"]:
        """Return a layer of the embedding where the condition is known, and of the learned vector where it is not."""
        told = layer(embedded)
        if known is None:
            return told
        null = layer(self.null)
        return null + known[:, None].astype(told.dtype) * (told - null)

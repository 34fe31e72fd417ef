"""Pairs and supports of cells that are shown as they were measured."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from cellgap.embed._thinning import WHOLE
from cellgap.embed.pairs._interface import Pairs, Support


def whole_pairs(anchor: Int[Array, " n"], partner: Int[Array, " n"]) -> Pairs:
    """Return pairs of two cells, each as it was measured."""
    shown = jnp.full(anchor.shape, WHOLE, jnp.int32)
    nothing = jnp.zeros(anchor.shape, jnp.int32)
    return Pairs(anchor, partner, shown, shown, jnp.zeros(anchor.shape, bool), nothing, nothing)


def whole_support(rows: Int[Array, "n m"]) -> Support:
    """Return these cells as they were measured."""
    return Support(rows, jnp.full(rows.shape, WHOLE, jnp.int32), jnp.zeros(rows.shape, jnp.int32))

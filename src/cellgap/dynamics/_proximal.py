"""Proximal steps: after a step of the optimizer, what a penalty shrinks to exactly zero."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def soft_threshold(w: Float[Array, "*shape"], threshold: Float[Array, "..."] | float) -> Float[Array, "*shape"]:
    """Return ``sign(w) max(|w| - threshold, 0)``, the proximal map of the absolute value."""
    return jnp.sign(w) * jnp.maximum(jnp.abs(w) - threshold, 0.0)


def group_threshold(w: Float[Array, "*group k"], threshold: Float[Array, "..."] | float) -> Float[Array, "*group k"]:
    """Return ``w max(1 - threshold / |w|_2, 0)`` for every group, the proximal map of its Euclidean norm."""
    norm = jnp.linalg.norm(w, axis=-1)
    factor = jnp.maximum(1.0 - threshold / jnp.maximum(norm, 1e-30), 0.0)
    return w * factor[..., None]


def hierarchical(
    v: Float[Array, "*group k"],
    u: Float[Array, "*group h"],
    threshold: Float[Array, "..."] | float,
    bound: float,
) -> tuple[Float[Array, "*group k"], Float[Array, "*group h"]]:
    """Return the closest weights with ``|u|_inf <= bound |v|_2``, ``|v|_2`` shrunk by `threshold`.

    Minimizes ``|v - b|^2 / 2 + |u - w|^2 / 2 + threshold |b|_2`` over ``(b, w)`` under that bound, for every group.
    Where v is 0, every direction of b is as good; the first one is taken.

    Parameters
    ----------
    v
        Weights of a source on the linear way.
    u
        Its first weights in the network.
    threshold
        Of the penalty, times the step.
    bound
        M of LassoNet.

    Notes
    -----
    Source: Lemhadri, Ruan, Abraham, Tibshirani, JMLR 22 (2021), algorithm 2 (HIER-PROX).
    """
    norm = jnp.linalg.norm(v, axis=-1, keepdims=True)
    sizes = -jnp.sort(-jnp.abs(u), axis=-1)
    h = u.shape[-1]
    counts = jnp.arange(h + 1)
    sums = jnp.concatenate([jnp.zeros_like(norm), jnp.cumsum(sizes, axis=-1)], axis=-1)
    # How long the linear weights become where the largest 0, 1, ... of the others are cut off; in lengths, not in
    # factors on v, as v may be 0.
    lengths = jnp.maximum(norm - jnp.asarray(threshold)[..., None] + bound * sums, 0.0) / (1.0 + counts * bound**2)
    reach = bound * lengths
    below = jnp.concatenate([sizes, jnp.zeros_like(norm)], axis=-1)
    # The first count whose bound is at least the next size: the others stay free.
    chosen = jnp.argmax(reach >= below, axis=-1)[..., None]
    length, limit = (jnp.take_along_axis(part, chosen, axis=-1) for part in (lengths, reach))
    along = jnp.where(norm > 0, v / jnp.maximum(norm, 1e-30), jnp.eye(1, v.shape[-1])[0])
    return length * along, jnp.sign(u) * jnp.minimum(limit, jnp.abs(u))

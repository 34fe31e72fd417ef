"""Random search on blocks of features: an attack that sees scores and no gradient (Square attack)."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from cellgap.annotate.robust._ascent import Attacked
from cellgap.annotate.robust._ball import Ball, Region
from cellgap.annotate.robust._criteria import margin
from cellgap.errors import ConfigError

# Shares of a run of 10,000 queries after which the block is halved.
_HALVED = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def square(
    net: Any,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    ball: Ball,
    *,
    queries: int = 1000,
    share: float = 0.3,
    image: tuple[int, int] | None = None,
    key: PRNGKeyArray,
) -> Attacked:
    """Return the worst inputs of a random search that keeps a change where it makes the margin smaller.

    l_inf: all features lie at the edge of the ball, and a block of them is drawn anew: for images a square of one sign,
    for other features a random block with a sign for each. l_2: a random block takes all that the rest leaves of the
    squared radius, equal parts with random signs, or a square with one sign.

    Parameters
    ----------
    net, x, y, ball
        As in `pgd`; only scores are used.
    queries
        Number of trials; does not compile another program.
    share
        Part of the features in the first blocks; it is halved nine times on the way.
    image
        Height and width where features are the pixels of an image of one channel, row by row.
    key
        Random key.

    Raises
    ------
    ConfigError
        Height times width is not the number of features.

    Source
    ------
    Andriushchenko et al. 2020 (arXiv 1912.00049). Blocks of features without places, and the l_2 search, are ours.
    """
    if image is not None and image[0] * image[1] != x.shape[1]:
        raise ConfigError(f"image={image} has {image[0] * image[1]} pixels, the inputs have {x.shape[1]} features.")
    return _square(net, x, y, ball.region(), image, jnp.int32(queries), jnp.float32(share), key)


@eqx.filter_jit
def _square(
    net: Any,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    region: Region,
    image: tuple[int, int] | None,
    queries: Int[Array, ""],
    share: Float[Array, ""],
    key: PRNGKeyArray,
) -> Attacked:
    def signs_of(key: PRNGKeyArray) -> Float[Array, "n d"]:
        """One sign a feature, or one a sample for the pixels of a square."""
        shape = x.shape if image is None else (len(x), 1)
        return jnp.broadcast_to(jr.rademacher(key, shape, x.dtype), x.shape)

    def at(move: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return region.project(x + move, x)

    def start(key: PRNGKeyArray) -> Float[Array, "n d"]:
        if image is None:
            signs = jr.rademacher(key, x.shape, x.dtype)
        else:  # vertical stripes
            stripes = jr.rademacher(key, (len(x), 1, image[1]), x.dtype)
            signs = jnp.broadcast_to(stripes, (len(x), *image)).reshape(x.shape)
        return signs * (region.radius if region.norm == "linf" else region.radius / x.shape[1] ** 0.5)

    def trial(t: Int[Array, ""], carry: tuple[Float[Array, "n d"], Attacked]) -> tuple[Float[Array, "n d"], Attacked]:
        move, best = carry
        where, which = jr.split(jr.fold_in(key, t + 1))
        passed = t / jnp.maximum(queries, 1)
        part = share / 2.0 ** jnp.sum(passed > jnp.asarray(_HALVED))
        block = _block(where, part, (len(x), x.shape[1]), image)
        if region.norm == "linf":
            size = jnp.broadcast_to(region.radius, (len(x), 1))
        else:
            rest = jnp.sum(jnp.where(block, 0.0, move**2), 1, keepdims=True)
            size = jnp.sqrt(jnp.maximum(region.radius**2 - rest, 0.0) / jnp.sum(block, 1, keepdims=True))
        tried = jnp.where(block, size * signs_of(which), move)
        inputs = at(tried)
        found = margin(net(inputs), y)
        kept = jnp.where((found < best.margin)[:, None], inputs - x, move)
        return kept, best.worse(inputs, found)

    first = start(jr.fold_in(key, 0))
    # The first move is taken even where it is no worse than the clean input: the search needs a place to start.
    begun = Attacked(at(first), margin(net(at(first)), y))
    _, best = jax.lax.fori_loop(0, queries, trial, (at(first) - x, begun))
    clean = Attacked.clean(net, x, y)
    return clean.worse(best.x, best.margin)


def _block(
    key: PRNGKeyArray, part: Float[Array, ""], shape: tuple[int, int], image: tuple[int, int] | None
) -> Bool[Array, "n d"]:
    """Return which features are drawn anew; at least one of every sample."""
    n, d = shape
    a, b = jr.split(key)
    if image is None:
        one = jax.nn.one_hot(jr.randint(a, (n,), 0, d), d, dtype=bool)
        return one | (jr.uniform(b, shape) < part)
    height, width = image
    side = jnp.clip(jnp.round(jnp.sqrt(part * height * width)), 1, min(height, width)).astype(jnp.int32)
    top, left = jr.randint(a, (n, 1), 0, height - side + 1), jr.randint(b, (n, 1), 0, width - side + 1)
    rows, columns = jnp.arange(height), jnp.arange(width)
    inside_rows = (rows >= top) & (rows < top + side)
    inside_columns = (columns >= left) & (columns < left + side)
    return (inside_rows[:, :, None] & inside_columns[:, None, :]).reshape(shape)

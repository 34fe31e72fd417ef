"""The energy distance of two clouds, without bias."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from cellgap.ot._cost import cost_matrix


def energy_distance(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, ""]:
    """Return ``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` as a U-statistic: a point is never compared with itself.

    0 in expectation for two samples of one law, whatever their sizes; values may be negative.

    Parameters
    ----------
    x, y
        Two clouds of two points or more, one a row.

    Source
    ------
    Szekely and Rizzo 2013 (energy statistics).
    """
    return 2.0 * jnp.mean(cost_matrix(x, y)) - _within(x) - _within(y)


def _within(x: Float[Array, "n d"]) -> Float[Array, ""]:
    """Return the mean distance of two different points."""
    n = x.shape[0]
    # Rounding leaves a point apart from itself.
    distances = jnp.where(jnp.eye(n, dtype=bool), 0.0, cost_matrix(x, x))
    return jnp.sum(distances) / (n * (n - 1.0))

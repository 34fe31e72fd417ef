"""Ground costs between clouds of points, through one matrix product."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cellgap.errors import ConfigError

Cost = Literal["euclidean", "sqeuclidean"]
COSTS: tuple[Cost, ...] = ("euclidean", "sqeuclidean")


def check_cost(cost: str) -> None:
    """Raise ConfigError where `cost` names no ground cost of this module."""
    if cost not in COSTS:
        raise ConfigError(f'cost must be "euclidean" or "sqeuclidean", found {cost!r}.')


def dot(a: Float[Array, "n d"], b: Float[Array, "d m"]) -> Float[Array, "n m"]:
    """Return ``a @ b`` in full precision: reduced products stall the iterations on recent accelerators."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def squared_distances(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """Return ``|x_i - y_j|^2`` from one matrix product, clamped at 0.

    Both clouds are first centered by the mean of `x`, because ``|x|^2 + |y|^2 - 2 x.y`` cancels badly far from the
    origin.
    """
    center = jax.lax.stop_gradient(jnp.mean(x, axis=0))
    x, y = x - center, y - center
    squared = jnp.sum(x * x, 1)[:, None] + jnp.sum(y * y, 1)[None, :] - 2.0 * dot(x, y.T)
    # Not jnp.maximum: compiled for CPUs it may turn NaN into 0, and broken cells would look like a perfect fit.
    return jnp.where(squared < 0.0, 0.0, squared)


def cost_matrix(x: Float[Array, "n d"], y: Float[Array, "m d"], cost: Cost = "euclidean") -> Float[Array, "n m"]:
    """Return the ground cost of every pair.

    Parameters
    ----------
    x, y
        Two clouds, one cell a row.
    cost
        ``"euclidean"``: ``|x - y|``, its gradient is 0 where two points coincide; ``"sqeuclidean"``: ``|x - y|^2``
        (no factor 1/2).

    Raises
    ------
    ConfigError
        The cost is neither of the two.
    """
    check_cost(cost)
    squared = squared_distances(x, y)
    return squared if cost == "sqeuclidean" else _root(squared)


def paired_cost(x: Float[Array, "n d"], y: Float[Array, "n d"], cost: Cost = "euclidean") -> Float[Array, " n"]:
    """Return the cost of moving ``x_i`` to ``y_i``; its gradient at ``x_i = y_i`` is 0."""
    check_cost(cost)
    squared = jnp.sum((x - y) ** 2, axis=1)
    return squared if cost == "sqeuclidean" else _root(squared)


def _root(squared: Array) -> Array:
    """Return the square root with the gradient 0 at 0."""
    at_rest = squared <= 0.0
    return jnp.where(at_rest, 0.0, jnp.sqrt(jnp.where(at_rest, 1.0, squared)))

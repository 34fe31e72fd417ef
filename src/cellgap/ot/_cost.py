"""Ground costs between clouds of points: named ones through one matrix product, any other by blocks of pairs."""

import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field, PlainValidator

from cellgap.errors import ConfigError
from cellgap.ot._stripes import over_stripes
from cellgap.settings import settings

CostName = Literal["euclidean", "sqeuclidean", "cosine"]
COSTS: tuple[str, ...] = get_args(CostName)
# Numbers that pairs of whole vectors may take at once.
_ELEMENTS = 4 * 2**20


def check_cost(cost: Any) -> Any:
    """Return `cost`; raise ConfigError where it is neither the name of a cost nor a hashable function of two points."""
    if isinstance(cost, str) and cost in COSTS:
        return cost
    if not callable(cost):
        names = ", ".join(f'"{name}"' for name in COSTS)
        raise ConfigError(f"cost must be one of {names}, or a function of two points, found {cost!r}.")
    try:
        hash(cost)
    except TypeError:
        raise ConfigError(
            f"a cost must be hashable, {type(cost).__name__} is not: keep its parameters as Python numbers or tuples."
        ) from None
    return cost


Cost = Annotated[CostName | Callable[[Any, Any], Any], PlainValidator(check_cost)]
"""The name of a ground cost, or a differentiable function ``(x, y) -> cost`` of two vectors.

A function has to be hashable (a plain function, a frozen dataclass, an Equinox module whose fields are numbers),
because programs are compiled for it, and symmetric where a self term is asked for. Its gradient has to be finite
where ``x = y``.
"""


@settings
class ElasticNet:
    """The cost ``l2 |x - y|^2 + l1 |x - y|_1``, under which optimal displacements are sparse.

    Parameters
    ----------
    l1
        Weight of the absolute values: a coordinate moves only where that gains more than `l1`.
    l2
        Weight of the squares.

    Notes
    -----
    Source: Cuturi, Klein and Ablin 2023 ("Monge, Bregman and Occam"), section 4, whose squares have a factor 1/2.
    """

    l1: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    l2: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def __call__(self, x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, ""]:
        """Return the cost of one pair."""
        apart = x - y
        # Not jnp.abs, whose derivative at 0 is 1: a cell would be pushed by itself.
        return jnp.sum(self.l2 * apart**2 + self.l1 * apart * jnp.sign(apart))

    def slope(self, apart: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the gradient of the cost in the displacement ``x - y``, 0 where a coordinate stays."""
        return 2.0 * self.l2 * apart + self.l1 * jnp.sign(apart)

    def displacement(self, slope: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the displacement ``x - y`` whose cost has this gradient: the soft threshold of its coordinates."""
        return jnp.sign(slope) * jnp.maximum(jnp.abs(slope) - self.l1, 0.0) / (2.0 * self.l2)


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
        (no factor 1/2); ``"cosine"``: ``1 - cos(x, y)``, see `on_sphere`; or a function of two points such as
        `ElasticNet`, evaluated by blocks: no array of all pairs and all coordinates is made.

    Raises
    ------
    ConfigError
        The cost is neither.
    """
    check_cost(cost)
    if cost not in COSTS:
        return _pairs(x, y, cost)
    x, y, cost = on_sphere(x, cost), on_sphere(y, cost), flat_cost(cost)
    squared = squared_distances(x, y)
    return squared if cost == "sqeuclidean" else _root(squared)


def paired_cost(x: Float[Array, "n d"], y: Float[Array, "n d"], cost: Cost = "euclidean") -> Float[Array, " n"]:
    """Return the cost of moving ``x_i`` to ``y_i``; its gradient at ``x_i = y_i`` is 0 for the named costs."""
    check_cost(cost)
    if cost not in COSTS:
        return jax.vmap(_of_points(cost))(x, y)
    x, y, cost = on_sphere(x, cost), on_sphere(y, cost), flat_cost(cost)
    squared = jnp.sum((x - y) ** 2, axis=1)
    return squared if cost == "sqeuclidean" else _root(squared)


def on_sphere(x: Float[Array, "n d"], cost: Cost) -> Float[Array, "n d"]:
    """Return the points whose squared distances are the cosine cost; points as they are for other costs.

    ``1 - cos(x, y) = |x/|x| - y/|y||^2 / 2``, which does not cancel between close directions. A point at the origin
    has no direction: it stays there, at the cost 1/2 from every other.
    """
    if cost != "cosine":
        return x
    length = _root(2.0 * jnp.sum(x * x, axis=1))[:, None]
    return jnp.where(length == 0.0, 0.0, x / jnp.where(length == 0.0, 1.0, length))


def flat_cost(cost: Cost) -> Cost:
    """Return the cost between points that `on_sphere` placed."""
    return "sqeuclidean" if cost == "cosine" else cost


def pair_gradients(
    x: Float[Array, "n d"], y: Float[Array, "m d"], plan: Float[Array, "n m"], cost: Cost
) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
    """Return the gradients in `x` and `y` of ``sum_ij P_ij c(x_i, y_j)`` at a fixed plan, by blocks of rows."""

    def block(total: Array, rows: tuple[Array, Array]) -> tuple[Array, Array]:
        part, p = rows
        # Rows that fill up the last block stand on a cell, where the cost has a gradient.
        part = jnp.where(jnp.any(p != 0, axis=1)[:, None], part, x[:1])
        in_x, in_y = jax.grad(lambda part, y: jnp.sum(p * _all_pairs(part, y, cost)), (0, 1))(part, y)
        return total + in_y, in_x

    in_y, in_x = over_stripes(block, jnp.zeros_like(y), (x, plan), _block_rows(x, y))
    return in_x, in_y


def check_symmetric(cost: Cost, d: int) -> None:
    """Raise ConfigError where a cost of points of `d` coordinates is not a number or differs when they change places.

    One pair is tried; it costs nothing when called again.
    """
    if cost not in COSTS:
        _probe(cost, d)


@functools.lru_cache(maxsize=64)
def _probe(cost: Callable[[Any, Any], Any], d: int) -> None:
    with jax.ensure_compile_time_eval():
        x, y = jnp.linspace(0.2, 1.0, d), jnp.cos(1.0 + 2.0 * jnp.arange(d))
        there, back = cost(x, y), cost(y, x)
        if jnp.shape(there) != ():
            raise ConfigError(f"a cost of two points must be one number, found an array of shape {jnp.shape(there)}.")
        there, back = float(there), float(back)
    if abs(there - back) > 1e-4 * max(abs(there), abs(back)):
        raise ConfigError(
            f"a self term needs a cost with c(x, y) = c(y, x), found {there:.6g} and {back:.6g}: symmetrize it, or "
            "take entropic_cost."
        )


def _block_rows(x: Array, y: Array) -> int:
    return min(max(1, _ELEMENTS // max(1, y.size)), x.shape[0])


def _of_points(cost: Cost) -> Callable[[Any, Any], Any]:
    assert callable(cost)
    return cost


def _all_pairs(x: Array, y: Array, cost: Any) -> Array:
    return jax.vmap(lambda one: jax.vmap(lambda other: cost(one, other))(y))(x)


def _pairs(x: Array, y: Array, cost: Any) -> Array:
    if _block_rows(x, y) >= x.shape[0]:
        return _all_pairs(x, y, cost)
    # Checkpointed, or a derivative would keep every block.
    row = jax.checkpoint(lambda one: jax.vmap(lambda other: cost(one, other))(y))
    return jax.lax.map(row, x, batch_size=_block_rows(x, y))


def _root(squared: Array) -> Array:
    """Return the square root with the gradient 0 at 0."""
    at_rest = squared <= 0.0
    return jnp.where(at_rest, 0.0, jnp.sqrt(jnp.where(at_rest, 1.0, squared)))

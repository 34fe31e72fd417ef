"""Sweeps over all pairs of two clouds that keep a stripe or a tile of them at a time."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cellgap.ot._cost import COSTS, Cost, cost_matrix, dot, pair_gradients, paired_cost
from cellgap.ot._stripes import over_stripes, stripe_rows

# A column that no row reaches keeps a finite sum; the next sweep repairs it.
_TINY = 1e-30
# Beyond this exponent single precision overflows; potentials so far off are lowered, and the next sweep goes on.
_HIGHEST = 60.0
_TILE = {"cpu": 1024}
_TILE_ELSEWHERE = 8192


def sweep(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    g: Float[Array, " m"],
    *,
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    epsilon: Float[Array, ""],
    cost: Cost,
    block: int | None,
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """Return ``f_i = -eps log sum_j b_j exp((g_j - C_ij)/eps)`` and ``sum_i a_i exp((f_i + g_j - C_ij)/eps)``.

    The sums are 1 at the solution. Both come from one evaluation of the costs and one exponential a pair: the kernel of
    a stripe of rows is still at hand when their potentials are known.
    """
    reached = jnp.where(b > 0, g, -jnp.inf)

    def stripe(carry: tuple[Array, Array], rows: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        part, weight = rows
        z = (reached[None, :] - cost_matrix(part, y, cost)) / epsilon
        top = jnp.max(z, axis=1)
        e = jnp.exp(z - top[:, None])
        total = e @ b
        # Compensated: a sum of one addend a stripe, thousands of them.
        sums, lost = carry
        addend = (weight / total) @ e - lost
        new = sums + addend
        return (new, (new - sums) - addend), -epsilon * (top + jnp.log(total))

    rows = stripe_rows(x.shape[0], y.shape[0], x.dtype, block)
    zero = jnp.zeros_like(g)
    (sums, _), f = over_stripes(stripe, (zero, zero), (x, a), rows)
    return f, jnp.where(sums < _TINY, _TINY, sums)


def self_sweep(
    x: Float[Array, "n d"],
    f: Float[Array, " n"],
    *,
    a: Float[Array, " n"],
    epsilon: Float[Array, ""],
    cost: Cost,
    block: int | None,
) -> Float[Array, " n"]:
    """Return ``sum_j a_j exp((f_i + f_j - C_ij)/eps)`` of a cloud against itself: half of the pairs stand for all."""
    n = x.shape[0]
    tile = min(block or _TILE.get(jax.default_backend(), _TILE_ELSEWHERE), n)
    tiles = -(-n // tile)

    def cut(array: Array) -> Array:
        return jnp.pad(array, [(0, tiles * tile - n), *[(0, 0)] * (array.ndim - 1)]).reshape(
            tiles, tile, *array.shape[1:]
        )

    xs, fs, weights = cut(x), cut(jnp.where(a > 0, f, 0.0)), cut(a)
    own = cut(paired_cost(x, x, cost))
    diagonal = jnp.eye(tile, dtype=bool)

    def pair(carry: tuple[Array, Array], place: Array) -> tuple[tuple[Array, Array], None]:
        i, j = place[0], place[1]
        c = cost_matrix(xs[i], xs[j], cost)
        # The matrix product leaves more than a small epsilon where a cell meets itself.
        c = jnp.where(diagonal & (i == j), own[i][:, None], c)
        z = (fs[i][:, None] + fs[j][None, :] - c) / epsilon
        # Not jnp.minimum, which may hide NaN.
        e = jnp.exp(jnp.where(z > _HIGHEST, _HIGHEST, z))
        sums, lost = carry
        for tile_of, part in ((i, e @ weights[j]), (j, jnp.where(i == j, 0.0, weights[i] @ e))):
            addend = part - lost[tile_of]
            new = sums[tile_of] + addend
            lost = lost.at[tile_of].set((new - sums[tile_of]) - addend)
            sums = sums.at[tile_of].set(new)
        return (sums, lost), None

    places = jnp.asarray(np.stack(np.triu_indices(tiles), 1), jnp.int32)
    zero = jnp.zeros((tiles, tile), x.dtype)
    sums = jax.lax.scan(pair, (zero, zero), places)[0][0].reshape(-1)[:n]
    return jnp.where(sums < _TINY, _TINY, sums)


def gradients(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    f: Float[Array, " n"],
    g: Float[Array, " m"],
    *,
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    epsilon: Float[Array, ""],
    cost: Cost,
    block: int | None,
    itself: bool = False,
) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
    """Return the gradients in `x` and `y` of ``sum_ij P_ij c(x_i, y_j)`` at the plan of the potentials, in one sweep.

    Where `itself` is True the clouds are one.
    """
    reached, columns = jnp.where(b > 0, g, -jnp.inf), jnp.arange(y.shape[0])

    def stripe(total: Array, rows: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        part, potential, weight, number = rows
        c = cost_matrix(part, y, cost)
        if itself:
            own = number[:, None] == columns[None, :]
            c = jnp.where(own, paired_cost(part, part, cost)[:, None], c)
        density = jnp.exp((potential[:, None] + reached[None, :] - c) / epsilon)
        p = jnp.where(weight[:, None] > 0, density * weight[:, None], 0.0) * b[None, :]
        if cost not in COSTS:
            in_x, in_y = pair_gradients(part, y, p, cost)
            return total + in_y, in_x
        slope = 2.0 * p if cost == "sqeuclidean" else jnp.where(c == 0, 0.0, p / jnp.where(c == 0, 1.0, c))
        in_x = jnp.sum(slope, 1)[:, None] * part - dot(slope, y)
        return total + jnp.sum(slope, 0)[:, None] * y - dot(slope.T, part), in_x

    rows = stripe_rows(x.shape[0], y.shape[0], x.dtype, block)
    in_y, in_x = over_stripes(stripe, jnp.zeros_like(y), (x, f, a, jnp.arange(x.shape[0])), rows)
    return in_x, in_y

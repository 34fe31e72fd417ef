"""Entropic maps and potentials at points outside of the sample: functions of a potential of the targets."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cellgap.ot._cost import Cost, ElasticNet, check_cost, cost_matrix, dot, flat_cost, on_sphere
from cellgap.ot._solve import TargetWeights
from cellgap.ot._stripes import over_stripes, stripe_rows


def _soft(x: Array, y: Array, g: Array, b: Array | None, epsilon: Array, cost: Cost) -> tuple[Array, Array]:
    """Return ``f_i = -eps log sum_j b_j exp((g_j - C_ij) / eps)`` and the weights ``w_ij``, which sum to 1 over j."""
    z = (g[None, :] - cost_matrix(x, y, cost)) / epsilon
    if b is not None:
        # The potential of padding is arbitrary.
        z = jnp.where(b[None, :] > 0, z, -jnp.inf)
    top = jnp.max(z, axis=1)
    e = jnp.exp(z - top[:, None])
    e = e / e.shape[1] if b is None else e * b[None, :]
    total = jnp.sum(e, axis=1)
    return -epsilon * (top + jnp.log(total)), e / total[:, None]


def entropic_potential(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    g: Float[Array, " m"],
    *,
    epsilon: Float[Array, ""] | float,
    cost: Cost = "sqeuclidean",
    b: TargetWeights = None,
    block: int | None = None,
) -> Float[Array, " n"]:
    """Return the potential ``f(x) = -eps log sum_j b_j exp((g_j - c(x, y_j)) / eps)`` at any points.

    At the cells of a solved problem it is their potential. Arguments as in `entropic_map`.
    """
    check_cost(cost)
    x, y, flat = on_sphere(x, cost), on_sphere(y, cost), flat_cost(cost)
    epsilon = jnp.asarray(epsilon, x.dtype)

    def stripe(carry: None, rows: Array) -> tuple[None, Array]:
        return carry, _soft(rows, y, g, b, epsilon, flat)[0]

    return over_stripes(stripe, None, x, stripe_rows(x.shape[0], y.shape[0], x.dtype, block))[1]


def entropic_map(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    g: Float[Array, " m"],
    *,
    epsilon: Float[Array, ""] | float,
    cost: Cost = "sqeuclidean",
    b: TargetWeights = None,
    block: int | None = None,
) -> Float[Array, "n d"]:
    """Return where the entropic map of a solved problem sends any points, in the sample or not.

    ``T(x) = sum_j w_j(x) y_j`` with ``w_j(x)`` proportional to ``b_j exp((g_j - c(x, y_j)) / eps)``: the barycenter
    of the plan. Under `ElasticNet`, ``T(x) = x - grad h*(sum_j w_j(x) grad h(x - y_j))``, whose displacements are
    sparse; for squares alone the two are the same.

    Parameters
    ----------
    x
        Points to move.
    y
        Targets of the solved problem.
    g
        Their potential, such as `SinkhornResult.g`.
    epsilon, cost, b
        Those of the solved problem.
    block
        Points to move at once; None for what suits the machine. Memory grows with `block` times the targets, results
        do not depend on it.

    Notes
    -----
    Sources: Pooladian and Niles-Weed 2021, eq. 4; Cuturi, Klein and Ablin 2023, eq. 9, for other costs.
    """
    check_cost(cost)
    near, far, flat = on_sphere(x, cost), on_sphere(y, cost), flat_cost(cost)
    epsilon = jnp.asarray(epsilon, x.dtype)

    def stripe(carry: None, rows: tuple[Array, Array]) -> tuple[None, Array]:
        at, place = rows
        w = _soft(place, far, g, b, epsilon, flat)[1]
        if isinstance(cost, ElasticNet):
            slope = 2.0 * cost.l2 * (at - dot(w, y)) + cost.l1 * _signs(at, y, w)
            return carry, at - cost.displacement(slope)
        return carry, dot(w, y)

    return over_stripes(stripe, None, (x, near), stripe_rows(x.shape[0], y.shape[0], x.dtype, block))[1]


def _signs(x: Array, y: Array, w: Array) -> Array:
    """Return ``sum_j w_ij sign(x_i - y_j)``, one coordinate at a time."""

    def coordinate(one: tuple[Array, Array]) -> Array:
        return jnp.sum(w * jnp.sign(one[0][:, None] - one[1][None, :]), axis=1)

    return jax.lax.map(coordinate, (x.T, y.T)).T


def debiased_entropic_map(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    g: Float[Array, " m"],
    x0: Float[Array, "n0 d"],
    f0: Float[Array, " n0"],
    *,
    epsilon: Float[Array, ""] | float,
    cost: Cost = "sqeuclidean",
    a: Float[Array, " n0"] | None = None,
    b: TargetWeights = None,
    block: int | None = None,
) -> Float[Array, "n d"]:
    """Return `entropic_map` less what the same map does to the sources: ``x + T_xy(x) - T_xx(x)``.

    Entropy pulls every image toward the mean; a cloud against itself shows how far.

    Parameters
    ----------
    x, y, g, epsilon, cost, b, block
        As in `entropic_map`.
    x0, f0, a
        Sources of the solved problem, the potential of `entropic_self_cost`, and their weights.

    Notes
    -----
    Source: Pooladian, Cuturi and Niles-Weed 2022, section 4.
    """
    toward = entropic_map(x, y, g, epsilon=epsilon, cost=cost, b=b, block=block)
    return x + toward - entropic_map(x, x0, f0, epsilon=epsilon, cost=cost, b=a, block=block)

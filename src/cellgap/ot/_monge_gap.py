"""The Monge gap: how much more a map costs than optimal transport between the same two clouds."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from cellgap.ot._assignment import assignment_cost
from cellgap.ot._cost import Cost, paired_cost
from cellgap.ot._double import double_paired_cost
from cellgap.ot._sinkhorn import entropic_cost
from cellgap.ot._solve import Weights


class MongeGap(NamedTuple):
    """Entropic Monge gap of a batch.

    Parameters
    ----------
    value
        ``M_eps - eps log n >= 0`` (with gradient): the part of the entropic gap above its floor.
    entropic
        ``M_eps`` itself, as published (entropy form of the transport term); never below ``eps log n``.
    f
        Dual potential of the source cells, a warm start for the next solve.
    error, converged
        Marginal violation of the solve and whether it is within tolerance.
    """

    value: Float[Array, ""]
    entropic: Float[Array, ""]
    f: Float[Array, " n"]
    error: Float[Array, ""]
    converged: Bool[Array, ""]


def monge_gap(
    x: Float[Array, "n d"],
    t: Float[Array, "n d"],
    *,
    epsilon: Float[Array, ""] | float,
    cost: Cost = "euclidean",
    a: Weights = None,
    f0: Float[Array, " n"] | None = None,
    tol: float = 1e-3,
    max_iterations: int = 2000,
) -> MongeGap:
    """Return the entropic Monge gap of the map ``x_i -> t_i``, differentiable in `x` and `t`.

    ``M_eps(T) = mean_i c(x_i, t_i) - OT_ent(x, t) = mean_i c(x_i, t_i) - OT_kl(x, t) + 2 eps log n``.

    Parameters
    ----------
    x, t
        Source cells and where the map sends each of them.
    epsilon
        Entropic regularization in the unit of the cost.
    cost
        See `cost_matrix`.
    a
        Weights of the cells summing to 1; None for uniform. Zero weights are padding.
    f0
        Dual potential of the source cells to start from; zeros are the solution near the identity.
    tol, max_iterations
        Stopping rule of the solve. Far from the identity a small epsilon takes hundreds of iterations; the error says
        so.

    Notes
    -----
    Source: Uscidda and Cuturi 2023, eq. 6 and 8. The published value has the floor ``eps log n`` (the identity plan
    is feasible); `MongeGap.value` is reported above it, which leaves gradients unchanged.
    """
    moved, entropy = paired_cost(x, t, cost), jnp.log(jnp.asarray(x.shape[0], x.dtype))
    if a is None:
        moved = jnp.mean(moved)
    else:
        moved = jnp.sum(jnp.where(a > 0, a * moved, 0.0))
        entropy = -jnp.sum(jnp.where(a > 0, a * jnp.log(jnp.where(a > 0, a, 1.0)), 0.0))
    floor = jnp.asarray(epsilon, x.dtype) * entropy
    solved = entropic_cost(
        x, t, epsilon=epsilon, cost=cost, a=a, b=a, f0=f0, tol=tol, max_iterations=max_iterations, paired=True
    )
    value = moved - solved.value + floor
    return MongeGap(value, value + floor, solved.f, solved.error, solved.converged)


def exact_monge_gap(x: Float[np.ndarray, "n d"], t: Float[np.ndarray, "n d"], *, cost: Cost = "euclidean") -> float:
    """Return ``mean_i c(x_i, t_i) - OT(x, t)`` by exact assignment: 0 if and only if the batch is moved optimally.

    For evaluation, n up to a few thousand. A batch underestimates the gap of a map that is not optimal.
    """
    moved = double_paired_cost(x, t, cost).mean()
    return max(float(moved - assignment_cost(x, t, cost=cost)), 0.0)

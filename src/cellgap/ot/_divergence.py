"""Sinkhorn divergences: debiased distances between populations, from the same cells or from independent batches."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cellgap.ot._cost import Cost, cost_matrix
from cellgap.ot._sinkhorn import entropic_cost, entropic_self_cost
from cellgap.ot._solve import TargetWeights, Weights


def sinkhorn_divergence(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    epsilon: Float[Array, ""] | float,
    cost: Cost = "euclidean",
    a: Weights = None,
    b: TargetWeights = None,
    tol: float = 1e-3,
    max_iterations: int = 2000,
    anneal: bool = False,
) -> Float[Array, ""]:
    """Return ``S(x, y) = OT_kl(x, y) - OT_kl(x, x) / 2 - OT_kl(y, y) / 2``, differentiable in `x` and `y`.

    Non-negative, and 0 for equal clouds. As an estimate from samples it is biased: the self terms contain the zero
    distance of a cell to itself. Train and compare with `two_batch_divergence`. Arguments as in `entropic_cost`.
    Source: Feydy et al. 2019, eq. 3.
    """
    solver = {"epsilon": epsilon, "cost": cost, "tol": tol, "max_iterations": max_iterations}
    cross = entropic_cost(x, y, a=a, b=b, anneal=anneal, **solver).value
    return cross - 0.5 * entropic_self_cost(x, a=a, **solver).value - 0.5 * entropic_self_cost(y, a=b, **solver).value


def two_batch_divergence(
    x: Float[Array, "n d"],
    x2: Float[Array, "n2 d"],
    y: Float[Array, "m d"],
    y2: Float[Array, "m2 d"],
    *,
    epsilon: Float[Array, ""] | float,
    cost: Cost = "euclidean",
    tol: float = 1e-3,
    max_iterations: int = 2000,
    anneal: bool = False,
) -> Float[Array, ""]:
    """Return ``OT(x, y) - OT(x, x2) / 2 - OT(y, y2) / 2``, differentiable in all four clouds.

    `x2` and `y2` are independent draws of the laws of `x` and `y`. All terms carry the same finite-sample bias when the
    batches have one size, so the expectation is 0 for equal laws and a fit does not shrink the population. Single
    values may be negative. Arguments as in `entropic_cost`. Source: Salimans et al. 2018 (mini-batch energy distance).
    """
    solver = {
        "epsilon": epsilon,
        "cost": cost,
        "tol": tol,
        "max_iterations": max_iterations,
        "anneal": anneal,
    }
    cross = entropic_cost(x, y, **solver).value
    return cross - 0.5 * entropic_cost(x, x2, **solver).value - 0.5 * entropic_cost(y, y2, **solver).value


def mean_cost(x: Float[Array, "n d"], y: Float[Array, "m d"], cost: Cost = "euclidean") -> Float[Array, ""]:
    """Return the mean ground cost, the unit in which a relative epsilon is stated; it has no gradient."""
    return jax.lax.stop_gradient(jnp.mean(cost_matrix(x, y, cost)))

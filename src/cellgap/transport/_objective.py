"""The objective of one condition: fit of the mapped cells plus the Monge gap of the map."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from cellgap.ot import Cost, entropic_cost, entropic_self_cost, monge_gap

FitLoss = Literal["two_batch", "same_batch"]


class Objective(NamedTuple):
    """Settings of the objective; static.

    Parameters
    ----------
    fit
        ``"two_batch"`` (unbiased; keeps the spread of the population) or ``"same_batch"`` (as published; shrinks it).
    cost, gap_cost
        Ground costs of fit and gap.
    epsilon, gap_epsilon
        Entropic regularization of fit and gap, in the unit of the cost.
    gap_weight
        Factor of the gap.
    tol, max_iterations, gap_max_iterations
        Stopping rule of the solves.
    """

    fit: FitLoss
    cost: Cost
    epsilon: float
    gap_cost: Cost
    gap_epsilon: float
    gap_weight: float
    tol: float = 1e-3
    max_iterations: int = 200
    gap_max_iterations: int = 100


class GapBatch(NamedTuple):
    """Cells on which the Monge gap is taken.

    Parameters
    ----------
    x, t
        Source cells and their images.
    weights
        Weights of the rows, 0 for padding; None when all rows are cells.
    dual
        Starting potential of the gap problem.
    """

    x: Float[Array, "n d"]
    t: Float[Array, "n d"]
    weights: Float[Array, " n"] | None
    dual: Float[Array, " n"]


class Batch(NamedTuple):
    """Cells of one condition: images of source cells, and measured treated cells.

    Parameters
    ----------
    t
        Images of source cells.
    t2
        Images of independent source cells (None for the same-batch loss).
    y
        Measured cells.
    weights
        Weights of the rows, 0 for padding; None when all rows are cells.
    gap
        The cells of the gap: those of `t`, or a batch of its own.
    """

    t: Float[Array, "n d"]
    t2: Float[Array, "n d"] | None
    y: Float[Array, "n d"]
    weights: Float[Array, " n"] | None
    gap: GapBatch


class Terms(NamedTuple):
    """Value of the objective and its parts."""

    loss: Float[Array, ""]
    fit: Float[Array, ""]
    gap: Float[Array, ""]
    gap_error: Float[Array, ""]
    dual: Float[Array, " n"]


def objective(batch: Batch, settings: Objective, gap_factor: Float[Array, ""] | float = 1.0) -> Terms:
    """Return ``OT(t, y) - OT(t, t') / 2 + factor * weight * gap``, differentiable in the images.

    The self term of the measured cells has no gradient and is left out, so `fit` is a divergence up to a constant.
    `gap_factor` is where the schedule of the weight stands. Sources: Conditional Monge Gap (arXiv 2504.08328, eq. of
    the training loss); two batches: Salimans et al. 2018.
    """
    w = batch.weights
    solve = {
        "epsilon": settings.epsilon,
        "cost": settings.cost,
        "tol": settings.tol,
        "max_iterations": settings.max_iterations,
    }
    cross = entropic_cost(batch.t, batch.y, a=w, b=w, **solve).value
    if batch.t2 is None:
        own = entropic_self_cost(batch.t, a=w, **solve).value
    else:
        own = entropic_cost(batch.t, batch.t2, a=w, b=w, **solve).value
    fit = cross - 0.5 * own
    if settings.gap_weight == 0.0:
        zero = jnp.zeros((), fit.dtype)
        return Terms(fit, fit, zero, zero, batch.gap.dual)
    gap = monge_gap(
        batch.gap.x,
        batch.gap.t,
        epsilon=settings.gap_epsilon,
        cost=settings.gap_cost,
        a=batch.gap.weights,
        f0=batch.gap.dual,
        tol=settings.tol,
        max_iterations=settings.gap_max_iterations,
    )
    return Terms(fit + settings.gap_weight * gap_factor * gap.value, fit, gap.value, gap.error, gap.f)

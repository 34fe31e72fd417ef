"""Adversarial comp-sum losses: the 0-1 loss, its margin surrogate, and the smooth one that is trained.

With ``Delta(x', y') = h_y(x') - h_y'(x')`` and the sup over the inputs in the ball around x,
``Phi_tau(1) * zero_one <= rho_margin loss <= smooth loss`` holds where ``nu >= sqrt(n_classes - 1) / rho``. The sups
are here over inputs that are given: every loss of a subset of the ball is at most that of the ball.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cellgap.annotate._comp_sum import comp_sum, comp_sum_traced, phi
from cellgap.annotate.robust._criteria import margin

_ROUND = 1e-8


def certified_nu(n_classes: int, rho: float) -> float:
    """Return ``sqrt(n_classes - 1) / rho``, from which on the smooth loss bounds the adversarial 0-1 loss.

    Smaller weights train better and bound nothing.
    """
    return math.sqrt(n_classes - 1) / rho


def rho_margin(u: Float[Array, "*n"], rho: float) -> Float[Array, "*n"]:
    """Return ``min(1, max(0, 1 - u / rho))``: 1 where `u` is not positive, 0 from `rho` on."""
    return jnp.clip(1.0 - u / rho, 0.0, 1.0)


def differences(scores: Float[Array, "*n classes"], y: Int[Array, " m"]) -> Float[Array, "*n classes"]:
    """Return the score of the true class less that of every class; the first axis of `scores` is that of `y`.

    The entry of the true class itself is 0.
    """
    places = y.reshape(-1, *[1] * (scores.ndim - 1))
    return jnp.take_along_axis(scores, places, -1) - scores


def adversarial_zero_one(scores: Float[Array, "n inputs classes"], y: Int[Array, " n"]) -> Float[Array, " n"]:
    """Return 1 where the true class does not have the largest score at every one of a sample's inputs, else 0."""
    return jnp.max((jax.vmap(margin, (1, None))(scores, y) <= 0).astype(scores.dtype), 0)


def adversarial_rho_margin(
    scores: Float[Array, "n inputs classes"], y: Int[Array, " n"], tau: float, rho: float
) -> Float[Array, " n"]:
    """Return the largest ``Phi_tau(sum over other classes of rho_margin(Delta))`` over a sample's inputs."""
    all_classes = jnp.sum(rho_margin(differences(scores, y), rho), -1)
    # The true class adds rho_margin(0) = 1.
    return jnp.max(phi(jnp.maximum(all_classes - 1.0, 0.0), tau), 1)


def smooth_adversarial(
    clean: Float[Array, "n classes"],
    scores: Float[Array, "n inputs classes"],
    y: Int[Array, " n"],
    tau: float | Float[Array, ""],
    rho: float,
    nu: float | Float[Array, ""],
) -> Float[Array, " n"]:
    """Return the comp-sum loss of the clean scores over `rho`, plus `nu` times the largest move of the differences.

    ``Phi_tau(sum exp(-Delta(x) / rho)) + nu * max over x' of |Delta(x') - Delta(x)|_2``. The length is
    ``sqrt(|.|^2 + 1e-8)``, which has a gradient where nothing moves.

    Parameters
    ----------
    clean
        Scores of the clean inputs.
    scores
        Scores of each sample's attacked inputs.
    y
        Classes.
    tau
        Of the comp-sum loss.
    rho
        Scale of the scores, positive.
    nu
        Weight of the move; see `certified_nu`.

    Source
    ------
    Mao, Mohri, Zhong 2023 (arXiv 2304.07288), section on adversarial robustness; reconstructed.
    """
    moved = differences(scores, y) - differences(clean, y)[:, None]
    largest = jnp.max(jnp.sum(moved**2, -1), 1)
    return comp_sum_at(clean / rho, y, tau) + nu * jnp.sqrt(largest + _ROUND)


def smooth_adversarial_loss(
    net: Any,
    x: Float[Array, "n d"],
    x_adv: Float[Array, "n d"],
    y: Int[Array, " n"],
    tau: float | Float[Array, ""],
    rho: float,
    nu: float | Float[Array, ""],
) -> Float[Array, " n"]:
    """Return `smooth_adversarial` of a network at inference, with one attacked input a sample."""
    return smooth_adversarial(net(x), net(x_adv)[:, None], y, tau, rho, nu)


def comp_sum_at(
    scores: Float[Array, "n classes"], y: Int[Array, " n"], tau: float | Float[Array, ""]
) -> Float[Array, " n"]:
    """Return the comp-sum loss for a tau that is a number or an array."""
    return comp_sum(scores, y, tau) if isinstance(tau, float | int) else comp_sum_traced(scores, y, tau)

"""Comp-sum losses: sum-exponential, cross-entropy, generalized cross-entropy and MAE as one family in tau.

With ``S`` the softmax of the scores and ``L = -log S_y`` the log loss of the label, the loss is
``expm1((1 - tau) L) / (1 - tau)``, and ``L`` itself at ``tau = 1``. Its gradient in the scores is
``S_y^(tau - 1) (S - e_y)``: below 1 cells that are hard weigh more, above 1 they weigh less, so that wrong labels do.
"""

import math
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import Field, model_validator

from cellgap.errors import ConfigError
from cellgap.settings import settings

_LARGEST_TAU = 2.5
# Within this of 0, ``expm1(z) / z`` is its series to the second order, exact to double precision.
_SERIES = 1e-5


def comp_sum(scores: Float[Array, "n classes"], labels: Int[Array, " n"], tau: float) -> Float[Array, " n"]:
    """Return the comp-sum loss of every cell, ``tau`` being fixed when the program is compiled.

    Parameters
    ----------
    scores
        Logits; a class that a cell cannot have is left out by a score such as -1e9.
    labels
        Classes, counted from 0.
    tau
        0: sum-exponential; 1: cross-entropy; between 1 and 2: generalized cross-entropy with ``q = tau - 1``;
        2: mean absolute error of the probabilities, ``1 - S_y``.

    Source
    ------
    Mao, Mohri, Zhong 2023 (arXiv 2304.07288).
    """
    return comp_sum_of_log_loss(log_loss(scores, labels), tau)


def comp_sum_traced(
    scores: Float[Array, "n classes"], labels: Int[Array, " n"], tau: Float[Array, ""]
) -> Float[Array, " n"]:
    """Return `comp_sum` for a ``tau`` that is an array: one program serves, or maps over, several of them.

    Derivatives in ``tau`` are right as well, at 1 too.
    """
    return comp_sum_of_log_loss_traced(log_loss(scores, labels), tau)


def log_loss(scores: Float[Array, "n classes"], labels: Int[Array, " n"]) -> Float[Array, " n"]:
    """Return ``-log S_y`` of every cell, which rounding never makes negative."""
    return -jnp.take_along_axis(jax.nn.log_softmax(scores, axis=1), labels[:, None], axis=1)[:, 0]


def comp_sum_of_log_loss(loss: Float[Array, "*n"], tau: float) -> Float[Array, "*n"]:
    """Return ``expm1((1 - tau) L) / (1 - tau)`` of log losses ``L``, and ``L`` at ``tau = 1``.

    Below ``tau = 1`` the loss is exponential in ``L``. Where ``(1 - tau) L`` passes a third of the largest exponent of
    the type (about 30 in single precision) it goes on as its tangent: the value stays finite, and so do the squares of
    slopes, which Adam and the clipping of gradients sum, while such a cell still pulls.

    Parameters
    ----------
    loss
        Log losses ``L = -log S_y``, not negative.
    tau
        Not negative.
    """
    rate = 1.0 - tau  # is 0 or at least 1e-16 large, of which expm1 loses nothing
    if rate == 0.0:
        return loss
    if rate < 0.0:
        return jnp.expm1(rate * loss) / rate
    near = jnp.minimum(loss, _largest_exponent(loss) / rate)
    return jnp.expm1(rate * near) / rate + jnp.exp(rate * near) * (loss - near)


def comp_sum_of_log_loss_traced(loss: Float[Array, "*n"], tau: Float[Array, ""]) -> Float[Array, "*n"]:
    """Return `comp_sum_of_log_loss` for a ``tau`` that is an array."""
    rate = 1.0 - tau
    most = _largest_exponent(loss)
    # Where a branch is not taken, its inputs are replaced: the derivative of what is not finite would be NaN.
    near = jnp.where(rate > 0, jnp.minimum(loss, most / jnp.where(rate > 0, rate, 1.0)), loss)
    z = rate * near
    small = jnp.abs(z) < _SERIES
    by_expm1 = jnp.expm1(jnp.where(small, 1.0, z)) / jnp.where(small, 1.0, rate)
    value = jnp.where(small, near * (1.0 + z / 2.0 + z * z / 6.0), by_expm1)
    return value + jnp.exp(z) * (loss - near)


def _largest_exponent(loss: Float[Array, "*n"]) -> float:
    return math.log(float(jnp.finfo(loss.dtype).max)) / 3.0


def phi(u: Float[Array, "*n"], tau: float) -> Float[Array, "*n"]:
    """Return ``Phi_tau(u) = ((1 + u)^(1 - tau) - 1) / (1 - tau)``, and ``log(1 + u)`` at ``tau = 1``.

    The comp-sum loss is ``Phi_tau`` of the sum of ``exp(score - score of the label)`` over the other classes. It
    increases, is concave and 1-Lipschitz for ``u >= 0``, and does not increase in ``tau``.

    Parameters
    ----------
    u
        Not negative.
    tau
        Not negative.
    """
    return comp_sum_of_log_loss(jnp.log1p(u), tau)


@settings
class CompSum:
    """The comp-sum loss of a classifier.

    Parameters
    ----------
    tau
        Which loss, between 0 and 2.5; 1 is cross-entropy, 1.5 to 2 bear wrong labels. "auto": chosen among `taus` by
        cross-validation on the training labels.
    taus
        The candidates of "auto".
    warm_start
        Share of the training over which a tau above 1 rises linearly from 1. From random scores the weight
        ``S_y^(tau - 1)`` is about ``n_classes^(1 - tau)``, and many classes would not train.

    Source
    ------
    Mao, Mohri, Zhong 2023 (arXiv 2304.07288); Zhang, Sabuncu 2018 (arXiv 1805.07836) for noisy labels. The rise of tau
    is ours.
    """

    tau: float | str = 1.0
    taus: tuple[float, ...] = (1.0, 1.5, 1.7, 2.0)
    warm_start: Annotated[float, Field(ge=0, le=1)] = 0.2

    @model_validator(mode="after")
    def _check(self) -> "CompSum":
        if isinstance(self.tau, str):
            if self.tau != "auto":
                raise ConfigError(f'CompSum(tau=...) is a number or "auto", found {self.tau!r}.')
        elif not 0 <= self.tau <= _LARGEST_TAU:
            raise ConfigError(f"CompSum(tau=...) lies between 0 and {_LARGEST_TAU}, found {self.tau}.")
        wrong = [tau for tau in self.taus if not 0 <= tau <= _LARGEST_TAU]
        if wrong:
            raise ConfigError(f"CompSum(taus=...) lie between 0 and {_LARGEST_TAU}, found {wrong[0]}.")
        if not self.taus or len(set(self.taus)) < len(self.taus):
            raise ConfigError(f"CompSum(taus=...) are one or more different numbers, found {self.taus}.")
        return self

    @property
    def candidates(self) -> tuple[float, ...]:
        """The values of tau to train: `taus` where tau is "auto", else the one."""
        return self.taus if isinstance(self.tau, str) else (self.tau,)

    def tau_at(
        self, tau: float | Float[Array, ""], step: int | Int[Array, ""], n_steps: int | Int[Array, ""]
    ) -> Float[Array, ""]:
        """Return tau after so many of `n_steps` updates; arrays may be traced.

        Parameters
        ----------
        tau
            The value of the whole training; at 1 and below nothing is warmed up.
        step
            Updates so far.
        n_steps
            Updates of the whole training.
        """
        tau = jnp.asarray(tau, float)
        if self.warm_start == 0:
            return tau
        progress = jnp.minimum(step / (self.warm_start * n_steps), 1.0)
        return tau - (1.0 - progress) * jnp.maximum(tau - 1.0, 0.0)

"""H-consistency bounds: what an excess of comp-sum risk implies for the error rate.

For a set H of scores that treats classes alike (symmetric) and gives every score every value (complete), with
``Gamma_tau`` the inverse of ``T_tau``,

    R_01(h) - R*_01(H) + M_01(H) <= Gamma_tau(R_tau(h) - R*_tau(H) + M_tau(H)).

The left side is the error rate above that of the best possible classifier. ``M_tau(H)`` is the minimizability gap, see
`cellgap.annotate._minimizability`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from cellgap.annotate._conditional_minimum import check_tau
from cellgap.errors import ConfigError, DataError

_TINY = 1e-300
_LARGE_POWER = 10.0
_HALVINGS = 200


def transform(b: Any, tau: float, n_classes: int) -> Float[np.ndarray, "..."]:
    """Return ``T_tau(b)``: a lower bound of the conditional comp-sum regret where the 0-1 regret is `b`.

    It is attained for ``tau <= 1``. Between 1 and 2 it is too low by a factor of up to ``(n_classes / 2)^(tau - 1)``.

    Parameters
    ----------
    b
        0-1 regrets, from 0 to 1, of any shape.
    tau
        Of the loss, not negative.
    n_classes
        Number of classes; matters above ``tau = 1``.

    Raises
    ------
    DataError
        `b` is not between 0 and 1.
    ConfigError
        `tau` or `n_classes` is out of bounds.

    Source
    ------
    Mao, Mohri, Zhong 2023 (arXiv 2304.07288), Theorem 3.1; written so that nothing cancels near ``tau = 1``.
    """
    _check(tau, n_classes)
    b = np.asarray(b, float)
    if not ((b >= 0) & (b <= 1)).all():
        raise DataError("0-1 regrets lie between 0 and 1.")
    if tau >= 2.0:
        return np.asarray(b / _steepness(tau, n_classes))
    up, down = 1.0 + b, np.maximum(1.0 - b, _TINY)
    if tau == 1.0:
        return np.asarray((up * np.log(up) + down * np.log(down)) / 2.0)
    power = 1.0 / (2.0 - tau)
    if power > _LARGE_POWER:
        log_mean = np.logaddexp(power * np.log(up), power * np.log(down)) - np.log(2.0)
    else:
        # (1 + b) + (1 - b) is 2: what the powers differ by is summed.
        more = (tau - 1.0) / (2.0 - tau)  # power - 1
        change = up * np.expm1(more * np.log1p(b)) + down * np.expm1(more * np.log(down))
        log_mean = np.log1p(change / 2.0)
    bracket = np.expm1((2.0 - tau) * log_mean)
    scale = -(2.0 ** (1.0 - tau)) / (1.0 - tau) if tau < 1.0 else 1.0 / _steepness(tau, n_classes)
    return np.asarray(np.maximum(scale * bracket, 0.0))


def inverse_transform(t: Any, tau: float, n_classes: int) -> Float[np.ndarray, "..."]:
    """Return ``Gamma_tau(t)``, the 0-1 regret at which `transform` is `t`; 1 where it is never as large.

    By bisection, to the last bit of ``b``; upper ends are returned, so that rounding never makes a bound too low.

    Parameters
    ----------
    t
        Comp-sum regrets, not negative, of any shape.
    tau, n_classes
        As in `transform`.

    Raises
    ------
    DataError
        `t` is negative.
    ConfigError
        `tau` or `n_classes` is out of bounds.
    """
    _check(tau, n_classes)
    t = _regrets(t)
    if tau >= 2.0:
        return np.asarray(np.minimum(t * _steepness(tau, n_classes), 1.0))
    low, high = np.zeros_like(t), np.ones_like(t)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        below = transform(middle, tau, n_classes) <= t
        low, high = np.where(below, middle, low), np.where(below, high, middle)
        if (high - low <= np.spacing(high)).all():
            break
    return np.where(t == 0, 0.0, high)


def explicit_bound(t: Any, tau: float, n_classes: int) -> Float[np.ndarray, "..."]:
    """Return an upper bound of ``Gamma_tau(t)`` in closed form; it may pass 1.

    ``sqrt(2^tau (2 - tau) t)`` below 1, ``sqrt(2 n^(tau-1) t)`` from 1 to 2 and ``(tau - 1) n^(tau-1) t`` from 2 on.

    Parameters, Raises
    ------------------
    As `inverse_transform`.

    Source
    ------
    Mao, Mohri, Zhong 2023 (arXiv 2304.07288). A factor ``2 - tau`` under the second root, which the expansion at 0
    suggests, would be wrong above ``tau = 4/3``.
    """
    _check(tau, n_classes)
    t = _regrets(t)
    if tau < 1.0:
        return np.asarray(np.sqrt(2.0**tau * (2.0 - tau) * t))
    if tau < 2.0:
        return np.asarray(np.sqrt(2.0 * n_classes ** (tau - 1.0) * t))
    return np.asarray(_steepness(tau, n_classes) * t)


@dataclass(frozen=True)
class ExcessErrorBound:
    """The error rate above the best possible one that an excess of comp-sum risk allows.

    Parameters
    ----------
    value
        Upper bound, between 0 and 1; 1 says nothing.
    surrogate_excess
        Comp-sum risk above the least one of the hypothesis set.
    minimizability
        The minimizability gap that was added; None where it is not known.
    tau, n_classes
        The loss, and the number of classes.
    conditional_on
        What has to hold for it.
    """

    value: float
    surrogate_excess: float
    minimizability: float | None
    tau: float
    n_classes: int
    conditional_on: str

    def __str__(self) -> str:
        """Return the bound and its conditions as sentences."""
        excess = f"{self.surrogate_excess:.3g}"
        added = "" if self.minimizability is None else f" and a minimizability gap of {self.minimizability:.3g}"
        says = "" if self.value < 1.0 else " (which says nothing)"
        return (
            f"Error rate at most {self.value:.3g} above the best possible one{says}, from an excess comp-sum risk "
            f"(tau {self.tau:g}, {self.n_classes} classes) of {excess}{added}. {self.conditional_on}"
        )


def excess_error_bound(
    surrogate_excess: float, tau: float, n_classes: int, minimizability: float | None = None
) -> ExcessErrorBound:
    """Return what an excess of comp-sum risk implies for the error rate.

    Parameters
    ----------
    surrogate_excess
        ``R_tau(h) - R*_tau(H)``: the risk of the classifier above the least one of its hypothesis set, in expectation
        over cells.
    tau, n_classes
        The loss, and the number of classes.
    minimizability
        ``M_tau(H)``, see `cellgap.annotate._minimizability`; None where it is not known. Excess and gap add up to
        ``R_tau(h)`` less the expected conditional minimum: where both were computed with the same estimate of
        ``R*_tau(H)``, its error cancels.

    Raises
    ------
    DataError
        The excess or the gap is negative or not finite.
    ConfigError
        `tau` or `n_classes` is out of bounds.
    """
    gap = 0.0 if minimizability is None else minimizability
    if not (0 <= surrogate_excess < np.inf and 0 <= gap < np.inf):
        raise DataError(
            f"An excess risk and a minimizability gap are not negative, found {surrogate_excess} and {minimizability}."
        )
    value = float(inverse_transform(surrogate_excess + gap, tau, n_classes))
    free = "for classifiers whose scores can take any value at a cell, all classes alike"
    if minimizability is None:
        conditional = (
            "Conditional on a minimizability gap M of 0, which was not estimated: with M the excess is larger by M. "
            f"Holds {free}."
        )
    else:
        conditional = f"Conditional on that minimizability gap. Holds {free}."
    return ExcessErrorBound(value, float(surrogate_excess), minimizability, tau, n_classes, conditional)


def _steepness(tau: float, n_classes: int) -> float:
    return (tau - 1.0) * n_classes ** (tau - 1.0)


def _regrets(t: Any) -> Float[np.ndarray, "..."]:
    t = np.asarray(t, float)
    if not (t >= 0).all():
        raise DataError("Comp-sum regrets are not negative.")
    return t


def _check(tau: float, n_classes: int) -> None:
    check_tau(tau)
    if n_classes < 2:
        raise ConfigError(f"A classifier has 2 or more classes, found n_classes={n_classes}.")

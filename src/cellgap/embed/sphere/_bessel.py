"""Closed forms of von Mises-Fisher laws in any dimension, in float64: log partition function and mean cosine."""

from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln, ive

from cellgap.errors import ConfigError, DataError

_DEBYE_FROM = 24.0  # order from which the expansion is exact to rounding
_DEBYE_TERMS = 14
_SERIES_UNTIL = 8.0
_SERIES_TERMS = 80
_STEEP = 1e5  # concentration from which the Riccati equation is solved by iteration


def log_partition(k: int, b: Any) -> Float[np.ndarray, "*n"]:
    """Return ``log Z_k(b)``, Z the mean of ``exp(b a.z)`` over uniform z on the unit sphere of R^k.

    The surface measure is normalised, so that the value is 0 at b = 0. Relative error below 1e-11 for k from 2 to 2,048
    and b from 0 to 1e4: a power series for small b, scaled Bessel functions for low order, and the Debye expansion with
    the powers that cancel taken out beforehand for high order.

    Parameters
    ----------
    k
        Dimension of the space around the sphere, at least 2.
    b
        Concentration, or inverse temperature, at least 0.

    Raises
    ------
    ConfigError
        k is below 2.
    DataError
        A concentration is negative or not a number.

    Source
    ------
    ``lgamma(k/2) + nu log(2/b) + log I_nu(b)`` with ``nu = k/2 - 1``; NIST Digital Library of Mathematical Functions
    10.25.2 (series) and 10.41.3 (Debye).
    """
    b = _checked(k, b)
    nu = 0.5 * k - 1.0
    flat, result = b.ravel(), np.empty(b.size)
    small = flat**2 <= 4.0 * (nu + 1.0) * _SERIES_UNTIL
    result[small] = _log_series(nu, flat[small])
    large = flat[~small]
    if nu >= _DEBYE_FROM:
        result[~small] = _log_debye(nu, large)
    else:
        result[~small] = gammaln(nu + 1.0) + nu * np.log(2.0 / large) + np.log(ive(nu, large)) + large
    return result.reshape(b.shape)


def mean_cosine(k: int, b: Any) -> Float[np.ndarray, "*n"]:
    """Return ``A_k(b)``, the mean cosine of a von Mises-Fisher pair of concentration b.

    The derivative of `log_partition`: the ratio ``I_{k/2}(b) / I_{k/2-1}(b)`` by its continued fraction, evaluated from
    a high order downwards, each step of which shrinks errors. Relative error below 1e-12.

    Parameters
    ----------
    k
        Dimension of the space around the sphere, at least 2.
    b
        Concentration, at least 0.

    Raises
    ------
    ConfigError
        k is below 2.
    DataError
        A concentration is negative or not a number.

    Source
    ------
    NIST Digital Library of Mathematical Functions 10.33.1; Amos 1974 (Mathematics of Computation 28) for the start.
    """
    b = _checked(k, b)
    flat, result = b.ravel(), np.empty(b.size)
    steep = flat > _STEEP
    result[steep], result[~steep] = _steep_ratio(k, flat[steep]), _fraction(k, flat[~steep])
    return result.reshape(b.shape)


def concentration(k: int, cosine: Any) -> Float[np.ndarray, "*n"]:
    """Return the concentration at which the mean cosine is `cosine`: the inverse of `mean_cosine`.

    Parameters
    ----------
    k
        Dimension of the space around the sphere, at least 2.
    cosine
        Mean cosine, from 0 to below 1.

    Raises
    ------
    ConfigError
        k is below 2.
    DataError
        A mean cosine is outside [0, 1).

    Source
    ------
    Newton's method on the bounds of Amos 1974; Banerjee et al. 2005 (JMLR 6) for the start.
    """
    r = np.asarray(cosine, np.float64)
    if not ((r >= 0) & (r < 1)).all():
        raise DataError("mean cosines of a von Mises-Fisher law are from 0 to below 1: flip or clip what lies outside.")
    b = np.asarray(r * (k - r**2) / (1.0 - r**2))
    for _ in range(60):
        mean = mean_cosine(k, b)
        slope = np.where(b > 0, 1.0 - mean**2 - (k - 1) * mean / np.where(b > 0, b, 1.0), 1.0 / k)
        step = (mean - r) / slope
        b = np.asarray(np.maximum(b - step, 0.5 * b))
        if (np.abs(step) <= 1e-13 * b).all():
            break
    return b


def _checked(k: int, b: Any) -> Float[np.ndarray, "*n"]:
    if k < 2:
        raise ConfigError(f"closed forms need a sphere of R^2 or more, found k={k}.")
    b = np.asarray(b, np.float64)
    if not (np.isfinite(b) & (b >= 0)).all():
        raise DataError("a concentration is a finite number of at least 0.")
    return b


def _log_series(nu: float, b: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    quarter, term, total = 0.25 * b**2, np.ones_like(b), np.zeros_like(b)
    for j in range(1, _SERIES_TERMS):
        term = term * quarter / (j * (nu + j))
        total += term
    return np.log1p(total)


def _log_debye(nu: float, b: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    square = (b / nu) ** 2
    q = np.sqrt(1.0 + square)
    above = square / (1.0 + q)  # q - 1
    leading = nu * (above - np.log1p(0.5 * above)) - 0.25 * np.log1p(square)
    terms = [np.polynomial.polynomial.polyval(1.0 / q, u) / nu**j for j, u in enumerate(_debye_polynomials())]
    at_one = [u.sum() / nu**j for j, u in enumerate(_debye_polynomials())]
    # At b = 0, where q = 1, the sum is that of Stirling's series for lgamma, so the two cancel.
    return leading + np.log(sum(terms)) - np.log(sum(at_one))


@cache
def _debye_polynomials() -> tuple[np.ndarray, ...]:
    found = [[Fraction(1)]]
    for _ in range(_DEBYE_TERMS):
        u = found[-1]
        nxt = [Fraction(0)] * (len(u) + 3)
        for i, c in enumerate(u):
            # (p^2 - p^4) u' / 2 + (1/8) int (1 - 5 p^2) u
            nxt[i + 1] += c * i / 2 + c / (8 * (i + 1))
            nxt[i + 3] -= c * i / 2 + 5 * c / (8 * (i + 3))
        found.append(nxt)
    return tuple(np.array([float(c) for c in u]) for u in found)


def _fraction(k: int, b: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    nu = 0.5 * k - 1.0
    # Each step multiplies an error by the squared ratio, about exp(-(2 order + 1) / b) at high concentration.
    steps = 40 + int(8.0 * np.sqrt(b.max(initial=0.0)))
    top = nu + steps
    ratio = b / (top + 0.5 + np.sqrt(b**2 + (top + 1.5) ** 2))
    for j in range(steps, 0, -1):
        ratio = b / (2.0 * (nu + j) + b * ratio)
    return ratio


def _steep_ratio(k: int, b: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    # A' = 1 - A^2 - (k - 1) A / b, with A' taken from the solution for A' = 0.
    h = 0.5 * (k - 1) / b
    root = np.sqrt(1.0 + h**2)
    slope = (h / b) * (1.0 - h / root)
    return np.sqrt(1.0 - slope + h**2) - h

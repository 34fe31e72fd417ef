"""From rho (zero-concentrated differential privacy) to epsilon and delta, and back."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from cellgap.errors import ConfigError

_SLACK = 1e-12
"""Doubles in these formulas err by less, relative to 1 + epsilon."""
_MANTISSA = 40


def epsilon_simple(rho: Fraction, delta: float) -> float:
    """Return ``rho + 2 sqrt(rho ln(1 / delta))``, an epsilon at which `rho`-zCDP holds with `delta`.

    Raises
    ------
    ConfigError
        `rho` is negative or `delta` is not between 0 and 1.

    Source
    ------
    Bun & Steinke 2016, proposition 1.3.
    """
    _check(rho, delta)
    return float(rho) + 2.0 * math.sqrt(float(rho) * math.log(1.0 / delta))


def epsilon_tight(rho: Fraction, delta: float) -> float:
    """Return the smallest epsilon that the Rényi divergences of `rho`-zCDP prove at `delta`.

    The infimum over ``a > 1`` of ``a rho + (ln(1/delta) + (a - 1) ln(1 - 1/a) - ln a) / (a - 1)``, not below 0. Every
    order proves its value, so an imprecise minimum is too large, never too small.

    Raises
    ------
    ConfigError
        `rho` is negative or `delta` is not between 0 and 1.

    Source
    ------
    Canonne, Kamath & Steinke 2020, proposition 12.
    """
    _check(rho, delta)
    if rho == 0:
        return 0.0
    r, log = float(rho), math.log(1.0 / delta)

    def proved(x: float) -> float:
        less = math.exp(x)  # the order less 1
        return (1.0 + less) * r + log / less - math.log1p(1.0 / less) - math.log1p(less) / less

    start = 0.5 * math.log(log / r)  # where the simple formula has its minimum
    # A coarse grid first: the function may be flat on one side.
    grid = np.linspace(start - 12.0, start + 12.0, 97)
    best = int(np.argmin([proved(x) for x in grid]))
    found: Any = minimize_scalar(  # its result is an object without attributes to some annotations
        proved, bounds=(grid[max(best - 1, 0)], grid[min(best + 1, 96)]), method="bounded", options={"xatol": 1e-10}
    )
    return max(0.0, min(float(found.fun), proved(float(grid[best])), epsilon_simple(rho, delta)))


def rho_for(epsilon: float, delta: float) -> Fraction:
    """Return the largest rho of 40 binary digits whose `epsilon_tight` is not above `epsilon`.

    Raises
    ------
    ConfigError
        `epsilon` is not positive or `delta` is not between 0 and 1.
    """
    if not (math.isfinite(epsilon) and epsilon > 0.0):
        raise ConfigError(f"A budget needs an epsilon above 0, found {epsilon}.")
    _check(Fraction(0), delta)

    def fits(rho: Fraction) -> bool:
        return epsilon_tight(rho, delta) <= epsilon - _SLACK * (1.0 + epsilon)

    # Within a factor of 2 first, then digit by digit.
    exponent = 0
    while not fits(Fraction(2) ** exponent):
        exponent -= 1
        if exponent < -200:
            raise ConfigError(f"No budget fits epsilon = {epsilon} and delta = {delta}: choose a larger epsilon.")
    while fits(Fraction(2) ** (exponent + 1)):
        exponent += 1
    rho = Fraction(2) ** exponent
    digit = rho
    for _ in range(_MANTISSA - 1):
        digit /= 2
        if fits(rho + digit):
            rho += digit
    return rho


def rho_of_pure(epsilon: Fraction, bounded_range: bool = False) -> Fraction:
    """Return the rho of an `epsilon`-differentially private mechanism: ``epsilon^2 / 2``, exactly.

    Parameters
    ----------
    epsilon
        Of the mechanism.
    bounded_range
        Whether the log-likelihood ratio of two neighbors spans an interval of length epsilon, as it does for the
        exponential mechanism: then ``epsilon^2 / 8``.

    Source
    ------
    Bun & Steinke 2016, proposition 1.4; Cesar & Rogers 2021, lemma 3.
    """
    return epsilon * epsilon / (8 if bounded_range else 2)


def _check(rho: Fraction, delta: float) -> None:
    if rho < 0:
        raise ConfigError(f"A privacy loss is not below 0, found rho = {float(rho)}.")
    if not 0.0 < delta < 1.0:
        raise ConfigError(f"delta is a probability between 0 and 1 (both excluded), found {delta}.")

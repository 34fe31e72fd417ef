"""Discrete Gaussian and Laplace noise whose law is exact: no rounding, no float in any decision that counts."""

import importlib
import importlib.util
import math
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from cellgap.errors import ConfigError, MissingExtraError, UnsafeNoise
from cellgap.stream.release._exact_exponential import BAND, Bits, bernoulli_exp, uniform_below
from cellgap.stream.release._randomness import AbstractRandomness

Backend = Literal["auto", "exact", "bulk", "opendp"]
LARGEST_BULK = 2**40
"""Sigmas and Laplace scales from here on are left to Python integers: 64 bits might not hold them."""


def discrete_gaussian(
    variance: Fraction, size: int, randomness: AbstractRandomness, backend: Backend = "auto"
) -> np.ndarray:
    """Return `size` independent integers with ``P(z)`` proportional to ``exp(-z^2 / (2 variance))``.

    Parameters
    ----------
    variance
        ``sigma^2``, exactly; what the integers vary by is never more.
    size
        Number of draws.
    randomness
        Source of uniform integers.
    backend
        ``"exact"`` is rejection sampling with Python integers, the reference. ``"bulk"`` is the same on arrays.
        ``"opendp"`` is OpenDP's sampler, with sigma rounded up to a double, which draws from the operating system
        itself. ``"auto"`` takes OpenDP where it is installed and `randomness` is safe, else ``"bulk"``. Where sigma
        passes 2^40, all but the first are replaced by ``"exact"``.

    Returns
    -------
    np.ndarray
        int64, (size,); Python integers (dtype object) where sigma passes 2^55.

    Raises
    ------
    ConfigError
        The variance is not positive.
    UnsafeNoise
        OpenDP is asked to be reproducible.
    MissingExtraError
        OpenDP is asked for and not installed.

    Source
    ------
    Canonne, Kamath & Steinke 2020, algorithms 1 to 3.
    """
    if variance <= 0:
        raise ConfigError(f"Noise needs a variance above 0, found {variance}.")
    sigma_below = math.isqrt(variance.numerator // variance.denominator)
    chosen = _backend(backend, randomness, fits=sigma_below < LARGEST_BULK)
    if chosen == "opendp":
        return _opendp("gaussian", _double_above(variance, root=True), size)
    if chosen == "bulk":
        return _bulk_gaussian(variance, size, randomness)
    bits = Bits(randomness)
    return _as_array([_exact_gaussian(variance, sigma_below + 1, bits) for _ in range(size)], sigma_below)


def discrete_laplace(
    scale: Fraction, size: int, randomness: AbstractRandomness, backend: Backend = "auto"
) -> np.ndarray:
    """Return `size` independent integers with ``P(z)`` proportional to ``exp(-|z| / scale)``.

    Parameters, return value, errors and source are those of `discrete_gaussian`; ``"bulk"`` needs a scale below 2^40
    whose numerator is below 2^50, and is replaced by ``"exact"`` elsewhere.
    """
    if scale <= 0:
        raise ConfigError(f"Noise needs a scale above 0, found {scale}.")
    chosen = _backend(backend, randomness, fits=scale < LARGEST_BULK)
    if chosen == "bulk" and not _fits_bulk_laplace(scale):
        chosen = "exact"
    if chosen == "opendp":
        return _opendp("laplace", _double_above(scale, root=False), size)
    if chosen == "bulk":
        return _bulk_laplace(scale, size, randomness)
    bits = Bits(randomness)
    return _as_array([_exact_laplace(scale.numerator, scale.denominator, bits) for _ in range(size)], math.floor(scale))


def _backend(backend: Backend, randomness: AbstractRandomness, fits: bool) -> Literal["exact", "bulk", "opendp"]:
    if backend == "opendp":
        if not randomness.safe:
            raise UnsafeNoise(
                'Noise of OpenDP cannot be seeded: choose backend="bulk" in simulations, or SystemRandomness.'
            )
        if importlib.util.find_spec("opendp") is None:
            raise MissingExtraError('noise of OpenDP needs OpenDP: pip install "cellgap[private]".')
    if backend == "exact" or not fits:
        return "exact"
    if backend == "auto":
        return "opendp" if randomness.safe and importlib.util.find_spec("opendp") is not None else "bulk"
    return backend


def _as_array(drawn: list[int], spread: int) -> np.ndarray:
    # 2^7 standard deviations are passed with a probability below exp(-8000).
    return np.array(drawn, np.int64 if spread < 2**55 else object)


# Python integers


def _exact_bernoulli_exp(numerator: int, denominator: int, bits: Bits) -> bool:
    whole, rest = divmod(numerator, denominator)
    for _ in range(whole):
        if not _exact_bernoulli_exp_below_one(1, 1, bits):
            return False
    return _exact_bernoulli_exp_below_one(rest, denominator, bits)


def _exact_bernoulli_exp_below_one(numerator: int, denominator: int, bits: Bits) -> bool:
    k = 1
    while bits.below(denominator * k) < numerator:
        k += 1
    return k % 2 == 1


def _exact_laplace(numerator: int, denominator: int, bits: Bits) -> int:
    while True:
        rest = bits.below(numerator)
        if not _exact_bernoulli_exp_below_one(rest, numerator, bits):
            continue
        whole = 0
        while _exact_bernoulli_exp_below_one(1, 1, bits):
            whole += 1
        size = (rest + numerator * whole) // denominator
        negative = bits.take(1)
        if not (negative and size == 0):  # zero has one sign only
            return -size if negative else size


def _exact_gaussian(variance: Fraction, scale: int, bits: Bits) -> int:
    p, q = variance.numerator, variance.denominator
    while True:
        drawn = _exact_laplace(scale, 1, bits)
        # (|y| - sigma^2 / t)^2 / (2 sigma^2) with sigma^2 = p / q
        if _exact_bernoulli_exp((abs(drawn) * scale * q - p) ** 2, 2 * p * q * scale * scale, bits):
            return drawn


# Arrays


def _fits_bulk_laplace(scale: Fraction) -> bool:
    return scale < LARGEST_BULK and scale.numerator < 2**50


def _laplace_candidates(scale: Fraction, size: int, randomness: AbstractRandomness, band: float) -> np.ndarray:
    """Return the accepted ones of about `size` tries, in the order of the tries."""
    numerator = scale.numerator
    rest = uniform_below(numerator, size, randomness)
    # Both numbers and their quotient are rounded once: relative error below 2^-51.
    kept = bernoulli_exp(
        rest.astype(np.float64) / float(numerator), lambda i: Fraction(int(rest[i]), numerator), randomness, band
    )
    rest = rest[kept]
    whole = np.zeros(len(rest), np.int64)
    running = np.arange(len(rest))
    one = Fraction(1)
    while len(running):
        running = running[bernoulli_exp(np.ones(len(running)), lambda _: one, randomness, band)]
        whole[running] += 1
    # No overflow: numerator < 2^50, and 2^13 heads in a row have a probability below exp(-8000).
    sizes = (rest + numerator * whole) // scale.denominator
    negative = _signs(len(sizes), randomness)
    sizes, negative = sizes[~(negative & (sizes == 0))], negative[~(negative & (sizes == 0))]
    return np.where(negative, -sizes, sizes)


def _signs(n: int, randomness: AbstractRandomness) -> np.ndarray:
    words = randomness.words(-(-n // 64))
    return np.unpackbits(words.view(np.uint8))[:n].astype(bool)


def _bulk_laplace(scale: Fraction, size: int, randomness: AbstractRandomness, band: float = BAND) -> np.ndarray:
    parts: list[np.ndarray] = []
    missing = size
    while missing > 0:
        parts.append(_laplace_candidates(scale, missing * 7 // 4 + 32, randomness, band)[:missing])
        missing -= len(parts[-1])
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _bulk_gaussian(variance: Fraction, size: int, randomness: AbstractRandomness, band: float = BAND) -> np.ndarray:
    """Return what `_exact_gaussian` returns, on arrays.

    With ``a = |y| / sigma`` and ``c = sigma / t <= 1`` the exponent is ``(a - c)^2 / 2``. In doubles ``a - c`` errs by
    less than ``(a + c) 2^-50``, so the probability errs by less than ``z (z + 2) exp(-z^2 / 2) 2^-50 < 2^-49`` for
    ``z = |a - c|``, whatever sigma is: far inside the band.
    """
    scale = math.isqrt(variance.numerator // variance.denominator) + 1
    sigma = math.sqrt(variance)
    center = sigma / scale
    p, q = variance.numerator, variance.denominator
    denominator = 2 * p * q * scale * scale
    parts: list[np.ndarray] = []
    missing = size
    while missing > 0:
        drawn = _laplace_candidates(Fraction(scale), missing * 5 // 2 + 32, randomness, band)
        sizes = np.abs(drawn)

        def exact(i: int, sizes: np.ndarray = sizes) -> Fraction:
            return Fraction((int(sizes[i]) * scale * q - p) ** 2, denominator)

        kept = bernoulli_exp(0.5 * (sizes / sigma - center) ** 2, exact, randomness, band)
        parts.append(drawn[kept][:missing])
        missing -= len(parts[-1])
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


# OpenDP


def _double_above(value: Fraction, root: bool) -> float:
    """Return a double that is not below `value` (or its square root) and hardly above."""
    found = math.sqrt(value) if root else float(value)
    while (Fraction(found) ** 2 if root else Fraction(found)) < value:
        found = math.nextafter(found, math.inf)
    return found


def _opendp(law: Literal["gaussian", "laplace"], scale: float, size: int) -> np.ndarray:
    dp: Any = importlib.import_module("opendp.prelude")
    # OpenDP wants to be told that parts without a reviewed proof may be used; its samplers are among them.
    dp.enable_features("contrib")
    domain = dp.vector_domain(dp.atom_domain(T=dp.i64))
    if law == "gaussian":
        measurement = dp.m.make_gaussian(domain, dp.l2_distance(T=dp.f64), scale=scale)
    else:
        measurement = dp.m.make_laplace(domain, dp.l1_distance(T=dp.f64), scale=scale)
    return np.array(measurement([0] * size), np.int64).reshape(size)

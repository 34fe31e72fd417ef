"""Noise has the law it claims, whoever draws it."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from cellgap.errors import ConfigError, MissingExtraError, UnsafeNoise
from cellgap.stream.release import _noise
from cellgap.stream.release._exact_exponential import Bits, bernoulli_exp, decide, exponential_bounds, uniform_below
from cellgap.stream.release._exponential_mechanism import exponential_mechanism
from cellgap.stream.release._noise import discrete_gaussian, discrete_laplace
from cellgap.stream.release._noise_scale import gaussian_for, laplace_for
from cellgap.stream.release._randomness import SeededRandomness, SystemRandomness

DRAWS = {"bulk": 200_000, "exact": 5000, "opendp": 50_000}


def chi_square(drawn: np.ndarray, log_weight, spread: float) -> float:
    """Return the p-value of integers against the law with these log weights."""
    reach = int(40 * spread) + 40
    support = np.arange(-reach, reach + 1)
    law = np.exp(log_weight(support.astype(float)))
    law /= law.sum()
    below = np.cumsum(law)
    cuts = np.unique(np.searchsorted(below, np.linspace(0, 1, 61)[1:-1]))
    expected = np.diff(np.concatenate([[0.0], below[cuts], [1.0]]))
    found = np.bincount(np.searchsorted(support[cuts], drawn, side="left"), minlength=len(cuts) + 1)
    kept = expected * len(drawn) > 5
    expected, found = np.append(expected[kept], expected[~kept].sum()), np.append(found[kept], found[~kept].sum())
    if expected[-1] * len(drawn) <= 5:
        expected[0] += expected[-1]
        found[0] += found[-1]
        expected, found = expected[:-1], found[:-1]
    return float(stats.chisquare(found, expected / expected.sum() * len(drawn)).pvalue)


def source(backend: str):
    return SystemRandomness() if backend == "opendp" else SeededRandomness(3)


@pytest.mark.parametrize("backend", ["bulk", "exact", "opendp"])
@pytest.mark.parametrize("sigma", [1, 5, 300, 20_000])
def test_gaussian_law(backend, sigma):
    if backend == "opendp":
        pytest.importorskip("opendp")
    drawn = discrete_gaussian(Fraction(sigma * sigma), DRAWS[backend], source(backend), backend)
    assert drawn.dtype == np.int64
    # Four standard errors; with 200,000 draws less than 1 %.
    assert drawn.std() == pytest.approx(sigma, rel=4 / math.sqrt(2 * DRAWS[backend]))
    assert chi_square(drawn, lambda z: -(z**2) / (2 * sigma**2), sigma) > 1e-4 * (backend != "opendp") + 1e-7


@pytest.mark.parametrize("backend", ["bulk", "exact", "opendp"])
@pytest.mark.parametrize("scale", [Fraction(2, 3), Fraction(7, 2), Fraction(1000)])
def test_laplace_law(backend, scale):
    if backend == "opendp":
        pytest.importorskip("opendp")
    drawn = discrete_laplace(scale, DRAWS[backend], source(backend), backend)
    assert chi_square(drawn, lambda z: -np.abs(z) / float(scale), float(scale)) > 1e-4 * (backend != "opendp") + 1e-7


@pytest.mark.parametrize("variance", [Fraction(1, 7), Fraction(22, 7), Fraction(10**7 + 1, 3)])
def test_rational_variances(variance):
    for backend, size in (("bulk", 40_000), ("exact", 4000)):
        drawn = discrete_gaussian(variance, size, SeededRandomness(8), backend)
        assert chi_square(drawn, lambda z: -(z**2) / (2 * float(variance)), math.sqrt(variance)) > 1e-4


def test_the_system_as_source():
    drawn = discrete_gaussian(Fraction(25), 50_000, SystemRandomness(), "bulk")
    assert chi_square(drawn, lambda z: -(z**2) / 50, 5) > 1e-7


def test_a_wide_band_changes_time_and_not_the_law():
    drawn = _noise._bulk_gaussian(Fraction(25), 12_000, SeededRandomness(4), band=0.05)
    assert chi_square(drawn, lambda z: -(z**2) / 50, 5) > 1e-4
    drawn = _noise._bulk_laplace(Fraction(7, 2), 12_000, SeededRandomness(4), band=0.05)
    assert chi_square(drawn, lambda z: -np.abs(z) / 3.5, 3.5) > 1e-4


def test_a_wide_band_decides_alike():
    # Bits that are read first come first in both runs: decisions differ only where the double was wrong.
    gammas = [Fraction(i, 997) for i in range(997)]
    for i, gamma in enumerate(gammas):
        drawn = (i * 2654435761 * 2**20) % 2**53
        assert decide(gamma, drawn, 53, Bits(SeededRandomness(0))) == (drawn * 2.0**-53 < math.exp(-gamma))


def test_a_probability_that_is_met_to_the_last_bit_is_decided():
    gamma = Fraction(1, 3)
    low, _ = exponential_bounds(gamma, 53)
    heads = [decide(gamma, low, 53, Bits(SeededRandomness(seed))) for seed in range(2000)]
    inside = float(Fraction(exponential_bounds(gamma, 200)[0], 2**147) - low)
    assert np.mean(heads) == pytest.approx(inside, abs=0.05)


def test_a_false_double_is_repaired():
    # The estimate is off by 0.02, the band covers it: the law follows the exact exponent.
    n = 20_000
    heads = bernoulli_exp(np.full(n, 0.72), lambda _: Fraction(7, 10), SeededRandomness(5), band=0.02)
    assert abs(heads.mean() - math.exp(-0.7)) < 4 * math.sqrt(0.25 / n)


@pytest.mark.parametrize("gamma", [Fraction(0), Fraction(1, 10**15), Fraction(1, 3), Fraction(1), Fraction(355, 113)])
def test_bounds_of_the_exponential(gamma):
    from decimal import Decimal, getcontext

    getcontext().prec = 80
    for bits in (10, 64, 200):
        low, high = exponential_bounds(gamma, bits)
        truth = (Decimal(-gamma.numerator) / Decimal(gamma.denominator)).exp() * Decimal(2) ** bits
        assert low <= truth <= high
        assert high - low <= 3
    assert exponential_bounds(Fraction(500), 64) == (0, 1)


@pytest.mark.parametrize("n", [1, 2, 3, 1000, 2**40 + 1])
def test_uniform_integers(n):
    drawn = uniform_below(n, 60_000, SeededRandomness(1))
    assert len(drawn) == 60_000
    assert drawn.min() >= 0
    assert drawn.max() < n
    parts = min(n, 50)
    counts = np.bincount((drawn.astype(object) * parts // n).astype(int), minlength=parts)
    assert n == 1 or stats.chisquare(counts).pvalue > 1e-4 or n % parts
    assert uniform_below(2**63, 10, SeededRandomness(1)).min() >= 0
    assert 0 <= Bits(SeededRandomness(2)).below(n) < n


@pytest.mark.parametrize("band", [2.0**-42, 0.05])
def test_the_exponential_mechanism(band):
    scores, rate = np.array([3, 7, 7, -2, 5]), Fraction(3, 10)
    randomness = SeededRandomness(6)
    n = 1500
    counts = np.bincount([exponential_mechanism(scores, rate, randomness, band) for _ in range(n)], minlength=5)
    law = np.exp(0.3 * scores)
    assert stats.chisquare(counts, law / law.sum() * n).pvalue > 1e-4
    as_objects = scores.astype(object) + 10**30
    assert exponential_mechanism(as_objects, Fraction(1000), randomness) in (1, 2)


def test_large_sigmas_are_not_cut():
    for power in (39, 41, 60):
        drawn = discrete_gaussian(Fraction(4) ** power, 800, SeededRandomness(2), "bulk")
        assert drawn.dtype == (object if power == 60 else np.int64)
        assert np.std(drawn.astype(float)) == pytest.approx(2.0**power, rel=0.12)
    drawn = discrete_laplace(Fraction(2**70, 3), 800, SeededRandomness(2), "bulk")
    assert np.mean(np.abs(drawn.astype(float))) == pytest.approx(2.0**70 / 3, rel=0.15)


def test_auto_takes_the_maintained_library_for_real_noise_only(monkeypatch):
    pytest.importorskip("opendp")
    taken = []
    monkeypatch.setattr(_noise, "_opendp", lambda law, scale, size: taken.append(law) or np.zeros(size, np.int64))
    discrete_gaussian(Fraction(4), 3, SeededRandomness(0))
    assert taken == []
    discrete_gaussian(Fraction(4), 3, SystemRandomness())
    discrete_laplace(Fraction(4), 3, SystemRandomness())
    assert taken == ["gaussian", "laplace"]


def test_refusals(monkeypatch):
    with pytest.raises(UnsafeNoise, match="seeded"):
        discrete_gaussian(Fraction(4), 3, SeededRandomness(0), "opendp")
    with pytest.raises(ConfigError, match="above 0"):
        discrete_gaussian(Fraction(0), 3, SeededRandomness(0))
    with pytest.raises(ConfigError, match="above 0"):
        discrete_laplace(Fraction(-1), 3, SeededRandomness(0))
    with pytest.raises((ConfigError, TypeError), match="numpy"):  # TypeError where types are checked at run time
        gaussian_for(3, Fraction(1), "numpy")  # type: ignore
    monkeypatch.setattr(_noise.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"cellgap\[private\]"):
        discrete_gaussian(Fraction(4), 3, SystemRandomness(), "opendp")
    assert len(discrete_gaussian(Fraction(4), 3, SystemRandomness())) == 3


def test_scales_are_never_rounded_down():
    for value in (Fraction(1, 3), Fraction(2), Fraction(10**20 + 1, 7)):
        assert Fraction(_noise._double_above(value, root=False)) >= value
        assert Fraction(_noise._double_above(value, root=True)) ** 2 >= value
    assert gaussian_for(7, Fraction(1, 3), "bulk").variance == Fraction(21, 2)
    assert Fraction(70) <= laplace_for(7, Fraction(1, 10), "bulk").scale < Fraction(70) + Fraction(1, 1000)
    assert laplace_for(7, Fraction(1, 3), "bulk").sd == pytest.approx(
        discrete_laplace(Fraction(21), 100_000, SeededRandomness(1)).std(), rel=0.02
    )


def test_no_draws():
    for backend in ("bulk", "exact"):
        assert discrete_gaussian(Fraction(4), 0, SeededRandomness(0), backend).shape == (0,)
        assert discrete_laplace(Fraction(4), 0, SeededRandomness(0), backend).shape == (0,)

"""Closed forms of von Mises-Fisher laws: against many digits, quadrature, bounds, and each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellgap.embed.sphere import concentration, log_partition, mean_cosine
from cellgap.errors import ConfigError, DataError

dimensions = st.integers(2, 2048)
strengths = st.floats(1e-3, 1e4)


def test_on_s2_formulas_agree_with_400_point_quadrature():
    b = 1 / 0.3
    x, w = np.polynomial.legendre.leggauss(400)
    mass = 0.5 * w * np.exp(b * x)
    assert log_partition(3, b) == pytest.approx(np.log(mass.sum()), abs=1e-10)
    assert mean_cosine(3, b) == pytest.approx(mass @ x / mass.sum(), abs=1e-10)
    assert log_partition(3, b) == pytest.approx(1.4349399, abs=5e-8)
    assert mean_cosine(3, b) == pytest.approx(0.7025485, abs=5e-8)


def test_reference_values_in_other_dimensions():
    found = [float(mean_cosine(k, b)) for k, b in ((2, 1 / 0.3), (10, 10), (64, 10), (128, 10))]
    assert found == pytest.approx([0.8319, 0.6337, 0.1527, 0.0777], abs=5e-5)


@pytest.mark.parametrize("k", [2, 3, 10, 49, 50, 51, 128, 512, 2048])
def test_against_many_digits_on_both_sides_of_every_change_of_method(k):
    mp = pytest.importorskip("mpmath")
    nu = k / 2 - 1
    turn = float(np.sqrt(32 * (nu + 1)))
    b = np.array([1e-3, 0.1, 1.0, turn * 0.999, turn * 1.001, 137.0, 1e4])
    with mp.workdps(40):
        bessel = [(mp.besseli(nu, x), mp.besseli(nu + 1, x)) for x in map(mp.mpf, b)]
        logs = [
            float(mp.loggamma(nu + 1) + nu * mp.log(2 / mp.mpf(x)) + mp.log(i))
            for x, (i, _) in zip(b, bessel, strict=True)
        ]
        ratios = [float(above / i) for i, above in bessel]
    np.testing.assert_allclose(log_partition(k, b), logs, rtol=1e-13)
    np.testing.assert_allclose(mean_cosine(k, b), ratios, rtol=1e-13)


@settings(deadline=None, max_examples=60)
@given(dimensions, strengths)
def test_the_mean_cosine_is_within_the_bounds_of_amos(k, b):
    nu = k / 2 - 1
    low = b / (nu + 0.5 + np.sqrt(b**2 + (nu + 1.5) ** 2))
    high = b / (nu + np.sqrt(b**2 + (nu + 2) ** 2))
    assert low * (1 - 1e-12) <= mean_cosine(k, b) <= high * (1 + 1e-12)


@settings(deadline=None, max_examples=40)
@given(dimensions, st.floats(1e-2, 1e4))
def test_the_mean_cosine_is_the_slope_of_the_log_partition(k, b):
    step = 1e-3 * b
    above, below = log_partition(k, np.array([b + step, b - step]))
    # The error of the difference is b^2 1e-6 A'' / 6, and A'' is below 2 / b^2; rounding is added.
    assert (above - below) / (2 * step) == pytest.approx(float(mean_cosine(k, b)), rel=1e-5)


@settings(deadline=None, max_examples=40)
@given(dimensions, st.floats(0.0, 1e4))
def test_concentration_inverts_the_mean_cosine(k, b):
    # Digits of b are lost where 1 - A is all that tells, so the cosines are compared.
    r = float(mean_cosine(k, b))
    found = float(concentration(k, r))
    assert float(mean_cosine(k, found)) == pytest.approx(r, rel=1e-13, abs=1e-300)
    assert found == pytest.approx(b, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("k", [2, 3, 128])
def test_the_steep_end_joins_on(k):
    b = np.array([0.999e5, 1.001e5, 1e7])
    # 1 - A = (k - 1)/2b - (k - 1)(k - 3)/8b^2 + ...
    expected = (k - 1) / (2 * b) - (k - 1) * (k - 3) / (8 * b**2)
    np.testing.assert_allclose(1 - mean_cosine(k, b), expected, rtol=1e-6)


def test_values_keep_the_shape_of_what_is_asked():
    b = np.linspace(0, 50, 6).reshape(2, 3)
    for form in (log_partition, mean_cosine):
        assert form(7, b).shape == (2, 3)
        assert form(7, b)[1, 2] == pytest.approx(float(form(7, 50.0)), rel=1e-14)
        assert form(7, 0.0) == 0
    assert concentration(7, mean_cosine(7, b)) == pytest.approx(b, rel=1e-10)


def test_what_is_not_a_law_is_refused():
    with pytest.raises(ConfigError, match="k=1"):
        log_partition(1, 2.0)
    for b in (-1.0, np.nan, np.inf):
        with pytest.raises(DataError, match="at least 0"):
            mean_cosine(3, b)
    for r in (1.0, -0.1):
        with pytest.raises(DataError, match="below 1"):
            concentration(3, r)

"""Losses are converted by the formulas of the literature, and never in the unsafe direction."""

import math
from fractions import Fraction

import numpy as np
import pytest

from cellgap.errors import ConfigError
from cellgap.stream.release._accounting import epsilon_simple, epsilon_tight, rho_for, rho_of_pure

HALF = Fraction(1, 2)


def test_reference_values():
    assert epsilon_simple(HALF, 1e-5) == pytest.approx(5.299, abs=1e-3)
    assert epsilon_tight(HALF, 1e-5) == pytest.approx(4.728, abs=1e-3)
    assert epsilon_tight(Fraction(0), 1e-5) == 0.0


@pytest.mark.parametrize("delta", [1e-10, 1e-5, 0.01, 0.5])
@pytest.mark.parametrize("rho", [Fraction(1, 10**6), Fraction(1, 100), HALF, Fraction(10), Fraction(10**4)])
def test_the_tight_form_is_an_infimum(rho, delta):
    found = epsilon_tight(rho, delta)
    assert found <= epsilon_simple(rho, delta)
    orders = 1.0 + np.geomspace(1e-6, 1e9, 40_001)
    less = orders - 1.0
    curve = orders * float(rho) + (-math.log(delta) + less * np.log1p(-1 / orders) - np.log(orders)) / less
    assert found == pytest.approx(max(0.0, curve.min()), rel=1e-5, abs=1e-9)
    assert found <= max(0.0, curve.min()) + 1e-9


@pytest.mark.parametrize("delta", [1e-9, 1e-5, 0.1])
@pytest.mark.parametrize("epsilon", [0.01, 1.0, 4.728, 50.0])
def test_rho_for_is_the_largest(epsilon, delta):
    rho = rho_for(epsilon, delta)
    assert rho.denominator & (rho.denominator - 1) == 0
    assert epsilon_tight(rho, delta) <= epsilon
    assert epsilon_tight(rho * (1 + Fraction(1, 10**8)), delta) > epsilon


def test_pure():
    assert rho_of_pure(Fraction(3, 2)) == Fraction(9, 8)
    assert rho_of_pure(Fraction(3, 2), bounded_range=True) == Fraction(9, 32)


def test_refusals():
    with pytest.raises(ConfigError, match="delta"):
        epsilon_tight(HALF, 0.0)
    with pytest.raises(ConfigError, match="below 0"):
        epsilon_simple(-HALF, 1e-5)
    with pytest.raises(ConfigError, match="above 0"):
        rho_for(0.0, 1e-5)


def test_against_another_accountant():
    rdp = pytest.importorskip("dp_accounting.rdp")
    import dp_accounting

    for rho in (0.05, 0.5, 3.0):
        accountant = rdp.RdpAccountant(orders=(1.0 + np.geomspace(0.05, 200, 4000)).tolist())
        accountant.compose(dp_accounting.GaussianDpEvent(1.0 / math.sqrt(2.0 * rho)))
        assert epsilon_tight(Fraction(rho), 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-4)

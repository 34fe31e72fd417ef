"""Attacks on mechanisms: right ones pass, every broken one is caught. A pass is no proof, here as elsewhere."""

from fractions import Fraction

import numpy as np
import pytest

from cellgap.errors import ConfigError, UnsafeNoise
from cellgap.stream.release import _tree
from cellgap.stream.release._audit_twins import TWINS
from cellgap.stream.release._bounds import DonorBounds
from cellgap.stream.release._mechanisms import mechanism_of
from cellgap.stream.release._privacy_audit import Audit, _attack_on, _epsilon_low, _worst_steps, audit
from cellgap.stream.release._randomness import SeededRandomness, SystemRandomness
from cellgap.stream.release._running_max import CounterMax, RecomputedMax, ZeroMax
from cellgap.stream.release._running_quantile import KroneckerQuantile
from cellgap.stream.release._running_select import CounterSelect, RecomputedSelect
from cellgap.stream.release._running_sum import FactorSum, TreeSum

HALF = Fraction(1, 2)
ODD = DonorBounds(l2=1.0, l1=1.0, max_donors=1, lattice=1 / 1001)
OFTEN = DonorBounds(l2=1.0, l1=1.0, max_donors=1, max_steps=3, min_separation=2)
BASE = {"name": "s", "features": ("a", "b"), "steps": 16, "bounds": ODD}
BINS = {"name": "q", "features": tuple("abcdef"), "edges": range(7), "steps": 8, "bounds": ODD}


def attacked(mechanism, runs=8000, seed=0) -> Audit:
    return audit(mechanism, runs, randomness=SeededRandomness(seed))


RIGHT = {
    "tree": TreeSum(**BASE, rho=HALF),
    "tree, three steps": TreeSum(**{**BASE, "bounds": OFTEN, "steps": 12}, rho=HALF),
    "factor": FactorSum(**BASE, rho=HALF),
    "factor, three steps": FactorSum(**{**BASE, "bounds": OFTEN}, rho=HALF),
    "factor with donors": FactorSum(**BASE, rho=HALF, count=True),
    "tree with donors": TreeSum(**BASE, rho=HALF, count=True),
    "maximum": RecomputedMax(**BASE, rho=HALF),
    "maximum, three steps": RecomputedMax(**{**BASE, "bounds": OFTEN}, rho=HALF, every=3),
    "quantile": KroneckerQuantile(**BINS, rho=HALF),
    "maximum by counters": CounterMax(sums=FactorSum(**BASE, rho=HALF)),
    "selection by counters": CounterSelect(sums=TreeSum(**BASE, rho=HALF)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_gaussian_mechanisms_hide_a_donor_as_they_claim(name):
    # B13 and B14.
    # Maxima are drawn one number at a time.
    found = attacked(RIGHT[name], 2000 if "maximum" in name else 8000)
    assert found.passed
    assert found.integers
    assert found.shift_range[0] <= found.shift <= found.shift_range[1]
    assert found.shift_range[1] == pytest.approx(1.0 + 4 * found.shift_error)
    assert 0.8 < found.epsilon_low <= found.epsilon
    assert found.epsilon == pytest.approx(4.728, abs=1e-3)
    assert found.delta == 1e-5
    assert "no proof" in str(found)
    assert "FAILED" not in str(found)


@pytest.mark.parametrize(
    ("mechanism", "least"),
    [
        (TreeSum(**BASE, epsilon=Fraction(1)), 0.4),
        (TreeSum(**BASE, epsilon=Fraction(1), count=True), 0.05),
        (RecomputedMax(**BASE, epsilon=Fraction(2)), 1.0),
        (RecomputedSelect(**BASE, epsilon=Fraction(1), every=16, q=2), 0.0),
    ],
)
def test_pure_mechanisms(mechanism, least):
    found = attacked(mechanism, 1000 if mechanism.kind == "recomputed_select" else 3000)
    assert found.passed
    assert found.delta == 0.0
    assert least <= found.epsilon_low <= found.epsilon == float(mechanism.epsilon)
    assert found.shift is found.shift_range is None
    assert "delta" not in str(found)


@pytest.mark.parametrize("signed", [True, False])
def test_selections(signed):
    bounds = DonorBounds(l2=1.0, max_donors=1, signed=signed)
    found = attacked(RecomputedSelect(**{**BASE, "bounds": bounds}, rho=HALF, every=8 if signed else 16), 1000)
    assert found.passed
    assert 0.0 < found.epsilon_low <= found.epsilon


def test_an_answer_that_says_nothing():
    found = attacked(ZeroMax(**BASE), 1000)
    assert found.passed
    assert found.epsilon_low == found.epsilon == 0.0


@pytest.mark.parametrize("name", TWINS)
def test_broken_twins_are_caught(name):
    # B15.
    kind, broken = TWINS[name]
    right = kind(**BASE, rho=HALF)
    twin = broken(right)
    assert twin.public() == right.public()
    found = attacked(twin, 10_000)
    assert not found.passed
    assert "FAILED" in str(found)
    with pytest.raises(UnsafeNoise):
        twin.draw(twin.absorb(twin.start(), 1, np.zeros(2, np.int64)), 1, [], SystemRandomness())


def test_what_catches_which_twin():
    def found(name, runs=10_000, seed=0):
        kind, broken = TWINS[name]
        return attacked(broken(kind(**BASE, rho=HALF)), runs, seed)

    one = found("noise for one level", 40_000)
    assert one.epsilon_low > one.epsilon
    assert one.shift == pytest.approx(5**0.5, abs=0.05)
    first = found("sensitivity of the first coefficient")
    assert first.epsilon_low < first.epsilon  # too weak a test
    assert first.shift > first.shift_range[1]
    forgetful = found("noise forgotten every other step, factorized")
    assert forgetful.epsilon_low > forgetful.epsilon
    for name in ("float noise", "noise on a coarser lattice"):
        silent = found(name)
        assert silent.shifts
        assert silent.epsilon_low <= silent.epsilon
        assert not silent.integers
    assert not found("a node drawn twice").shifts


def test_too_much_noise_is_noticed():
    honest = TreeSum(**BASE, rho=HALF)
    honest.noise = TreeSum(**BASE, rho=Fraction(1, 3)).noise
    found = attacked(honest)
    assert found.epsilon_low <= found.epsilon
    assert found.shift < found.shift_range[0]
    assert not found.passed


def test_copies_of_features_have_the_noise_of_the_mechanism():
    for kind in (TreeSum, FactorSum):
        narrow = kind(**BASE, rho=HALF)
        wide = mechanism_of({**narrow.public(), "features": [f"g{j}" for j in range(500)]})
        assert wide.noise == narrow.noise
    quantile = RIGHT["quantile"]
    attack = _attack_on(quantile)
    once = attack.shape_of(True) - attack.shape_of(False)
    # Copies beside one another do not move each other: with a seed, noise cancels.
    many = [attack.published(quantile, here, 5, SeededRandomness(1)) for here in (True, False)]
    np.testing.assert_array_equal(many[0] - many[1], np.tile(once, (5, 1)))
    assert sum(int(x) ** 2 for x in once) == quantile.noise.variance * 2 * HALF


@pytest.mark.parametrize(("steps", "k", "b"), [(12, 3, 1), (12, 2, 3), (16, 4, 2), (40, 6, 3), (13, 1, 1)])
def test_worst_steps_of_a_tree_move_it_most(steps, k, b):
    bounds = DonorBounds(l2=1.0, max_steps=k, min_separation=b)
    tree = TreeSum(name="s", features=("a",), steps=steps, bounds=bounds, rho=HALF)
    entered, reached = _worst_steps(tree)
    assert len(entered) == k
    assert min(np.diff(entered), default=b) >= b
    attack = _attack_on(tree)
    moved = attack.shape_of(True) - attack.shape_of(False)
    assert (moved**2).sum() == round(reached * _tree.squared_sensitivity(steps, k, b)) * bounds.k2**2
    assert 0.9 < reached <= 1.0


def test_lower_bounds_of_epsilon_hold():
    # Randomized response of epsilon 1: the bound is below, and near.
    rng = np.random.default_rng(0)
    above = 0
    for _ in range(100):
        one, other = (rng.random(4000) < p for p in (1 / (1 + np.e), np.e / (1 + np.e)))
        found = _epsilon_low(one.astype(float), other.astype(float), 0.05, 0.0)
        assert found > 0.7
        above += found > 1.0
    assert above <= 8
    apart = _epsilon_low(np.zeros(4000), np.ones(4000), 0.05, 1e-5)
    assert 5.0 < apart < np.log(4000)
    assert _epsilon_low(np.zeros(4000), np.zeros(4000), 0.05, 0.0) == 0.0


def test_noise_of_the_operating_system_and_python_integers():
    mechanism = FactorSum(**{**BASE, "steps": 4}, rho=HALF, noise="bulk")
    assert audit(mechanism, 2000).passed
    fine = DonorBounds(l2=1.0, lattice=2.0**-48)
    large = TreeSum(name="s", features=("a",), steps=1, bounds=fine, rho=Fraction(1, 10**7))
    assert large.noise.reach > 2**62
    found = attacked(large, 1000)
    assert found.integers
    assert found.shifts


def test_refusals():
    with pytest.raises(ConfigError, match="1,000 runs"):
        audit(RIGHT["tree"], 10)
    with pytest.raises(ConfigError, match="beta"):
        audit(RIGHT["tree"], 1000, beta=2.0)

    class Unknown(type(RIGHT["maximum"]).__mro__[1]):
        bounds, steps, rho, features = ODD, 4, HALF, ("a",)
        public = start = absorb = draw = estimate = bound = None

        def describe(self):
            return "unknown"

    with pytest.raises(ConfigError, match="unknown"):
        audit(Unknown(), 1000)

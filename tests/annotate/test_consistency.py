"""Conditional minima and H-consistency bounds against exact minimization, and the theorems they rest on."""

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from scipy.optimize import minimize

from cellgap.annotate._comp_sum import phi
from cellgap.annotate._conditional_minimum import conditional_minimum, minimizing_distribution
from cellgap.annotate._consistency import excess_error_bound, explicit_bound, inverse_transform, transform
from cellgap.errors import ConfigError, DataError

TAUS = (0.0, 0.3, 0.7, 1.0, 1.3, 1.7, 1.95)


def losses(s: np.ndarray, tau: float) -> np.ndarray:
    """The comp-sum loss as a function of the probability of the label."""
    return -np.log(s) if tau == 1 else (s ** (tau - 1) - 1) / (1 - tau)


def conditional_risk(p: np.ndarray, s: np.ndarray, tau: float) -> float:
    able = p > 0
    return float(np.sum(p[able] * losses(s[able], tau)))


def least_by_search(p: np.ndarray, tau: float) -> float:
    """The least conditional risk over softmax scores, from several starts."""

    def objective(h: np.ndarray) -> tuple[float, np.ndarray]:
        s = np.exp(h - h.max())
        s /= s.sum()
        weight = p * s ** (tau - 1)
        return conditional_risk(p, s, tau), s * weight.sum() - weight

    starts = [np.maximum(scale * np.log(p), -30.0) for scale in (0.5, 1.0, 3.0, 8.0)]
    fine = {"ftol": 1e-15, "gtol": 1e-10}
    bounds = [(-30.0, 30.0)] * len(p)
    runs = [minimize(objective, h, jac=True, method="L-BFGS-B", bounds=bounds, options=fine).fun for h in starts]
    return min(runs)


def least_of_a_prediction(p: np.ndarray, k: int, tau: float) -> float:
    """The least conditional risk over the scores whose largest is that of class k, exactly.

    Below tau = 2 the problem is convex in the softmax: class k and the most probable others tie, as in isotonic
    regression, and share their probability. From 2 on it is concave, and a corner is best: uniform over k and others.
    """
    others = np.sort(np.delete(p, k))[::-1]
    if tau >= 2:
        sums = p[k] + np.concatenate([[0.0], np.cumsum(others)])
        sizes = 1.0 + np.arange(len(p))
        return float(np.min(1 - sums * sizes ** (1 - tau)) / (tau - 1))
    tied, size = p[k], 1
    for other in others:
        if tied >= other:
            break
        tied, size = (tied * size + other) / (size + 1), size + 1
    pooled = np.concatenate([np.full(size, tied), others[size - 1 :]])
    s = pooled ** (1 / (2 - tau))
    return conditional_risk(pooled, s / s.sum(), tau)


def regret_of(p: np.ndarray, k: int, tau: float) -> float:
    return least_of_a_prediction(p, k, tau) - float(conditional_minimum(p[None], tau)[0])


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.3, 1.7, 2.0, 2.4])
def test_conditional_minimum_is_the_least_risk_of_scores(tau):
    p = np.random.default_rng(0).dirichlet(np.ones(4), size=20)
    np.testing.assert_allclose(conditional_minimum(p, tau), [least_by_search(row, tau) for row in p], atol=1e-5)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.3, 1.7, 1.99])
def test_minimizing_distribution_reaches_the_minimum_and_others_do_not(tau):
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(5), size=10)
    best = minimizing_distribution(p, tau)
    np.testing.assert_allclose(best.sum(axis=1), 1.0, rtol=1e-14)
    for row, s, least in zip(p, best, conditional_minimum(p, tau), strict=True):
        assert conditional_risk(row, np.maximum(s, 1e-300), tau) == pytest.approx(least, abs=1e-12)
        other = 0.9 * s + 0.1 * rng.dirichlet(np.ones(5))
        assert conditional_risk(row, other, tau) > least
    if tau == 1.0:
        np.testing.assert_allclose(best, p, rtol=1e-14)


def test_from_two_on_the_most_probable_class_is_best():
    p = np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]])
    np.testing.assert_array_equal(minimizing_distribution(p, 2.0), [[0, 1, 0], [1, 0, 0]])
    np.testing.assert_allclose(conditional_minimum(p, 2.5), np.array([0.5, 0.6]) / 1.5, rtol=1e-14)


def test_conditional_minimum_is_continuous_through_one_and_two():
    p = np.concatenate(
        [np.random.default_rng(2).dirichlet(np.ones(6), size=5), np.eye(6)[:1], [[0.5, 0.5, 0, 0, 0, 0]]]
    )
    at = conditional_minimum(p, 1.0)
    # The slope in tau is minus half the second moment of the log loss, and less than 6 here.
    for e in (1e-3, 1e-6, 1e-9, 1e-12):
        for tau in (1 - e, 1 + e):
            np.testing.assert_allclose(conditional_minimum(p, tau), at, atol=6 * e + 1e-15)
    np.testing.assert_allclose(conditional_minimum(p, 0.9 - 1e-9), conditional_minimum(p, 0.9 + 1e-9), atol=1e-7)
    np.testing.assert_allclose(conditional_minimum(p, 2 - 1e-6), conditional_minimum(p, 2.0), atol=1e-4)
    np.testing.assert_allclose(conditional_minimum(np.eye(6)[:1], 0.5), 0.0, atol=1e-15)


def test_the_exact_regret_of_these_tests_is_what_a_search_finds():
    rng = np.random.default_rng(3)
    for tau in (0.0, 0.5, 1.0, 1.5):
        p = rng.dirichlet(np.ones(4))
        k = int(np.argmin(p))
        ties = [{"type": "ineq", "fun": lambda s, j=j, k=k: s[k] - s[j]} for j in range(4) if j != k]
        found = minimize(
            lambda s, p=p, tau=tau: conditional_risk(p, s, tau), np.full(4, 0.25), method="SLSQP",
            bounds=[(1e-6, 1)] * 4, constraints=[*ties, {"type": "eq", "fun": lambda s: s.sum() - 1}],
            options={"ftol": 1e-13},
        )  # fmt: skip
        assert found.success
        assert found.fun == pytest.approx(least_of_a_prediction(p, k, tau), abs=1e-6)


@pytest.mark.parametrize("tau", [*TAUS, 2.0, 2.4])
@pytest.mark.parametrize("n", [3, 10])
def test_no_regret_is_below_the_transform(tau, n):
    rng = np.random.default_rng(4)
    # From nearly uniform to nearly certain.
    p = np.concatenate([rng.dirichlet(np.full(n, a), size=250) for a in (0.1, 0.5, 2.0, 20.0)])
    p = np.maximum(p, 1e-12) / np.maximum(p, 1e-12).sum(axis=1, keepdims=True)
    k = rng.integers(n, size=len(p))
    b = p.max(axis=1) - p[np.arange(len(p)), k]
    regrets = np.array([regret_of(row, j, tau) for row, j in zip(p, k, strict=True)])
    assert np.count_nonzero(b > 0.01) > 400
    assert (regrets >= transform(b, tau, n) - 1e-9).all()


@pytest.mark.parametrize("n", [2, 3, 10])
def test_up_to_cross_entropy_the_transform_is_attained_by_two_classes(n):
    b = np.array([0.01, 0.1, 0.5, 0.9, 0.999])
    p = np.zeros((len(b), n))
    p[:, 0], p[:, 1] = (1 + b) / 2, (1 - b) / 2
    for tau in (0.0, 0.3, 0.7, 1.0):
        regrets = [regret_of(row, 1, tau) for row in p]
        np.testing.assert_allclose(regrets, transform(b, tau, n), rtol=1e-9)


def test_between_one_and_two_the_slack_on_two_classes_is_a_power_of_half_the_classes():
    b = np.linspace(0.05, 0.95, 7)
    for tau in (1.3, 1.7):
        for n in (3, 10):
            p = np.zeros((len(b), n))
            p[:, 0], p[:, 1] = (1 + b) / 2, (1 - b) / 2
            ratio = np.array([regret_of(row, 1, tau) for row in p]) / transform(b, tau, n)
            np.testing.assert_allclose(ratio, (n / 2) ** (tau - 1), rtol=1e-9)


def test_at_two_the_transform_is_attained_where_the_other_classes_tie():
    n = 5
    for b in (0.01, 0.1, 0.24):
        p = np.full(n, (1 + b) / n)
        p[0] = p[0] - b
        assert p[0] >= 0
        assert regret_of(p, 0, 2.0) == pytest.approx(float(transform(b, 2.0, n)), rel=1e-9)


def test_explicit_bounds_are_above_and_the_sharper_one_is_false():
    b = np.linspace(0.001, 1.0, 400)
    for n in (2, 3, 10):
        for tau in (0.0, 0.3, 0.7, 0.999, 1.0, 1.001, 1.3, 1.5, 1.9, 1.99, 2.0, 2.4):
            assert (explicit_bound(transform(b, tau, n), tau, n) >= b * (1 - 1e-12)).all()

        def sharper(tau: float, n: int = n) -> np.ndarray:
            return np.sqrt(2 - tau) * explicit_bound(transform(b, tau, n), tau, n)

        assert (sharper(1.3) >= b * (1 - 1e-9)).all()
        assert (sharper(1.5) < b).any()


@pytest.mark.parametrize("n", [2, 7])
def test_transform_is_continuous_through_one_and_two_and_starts_as_a_square(n):
    b = np.linspace(0.0, 1.0, 50)
    at = transform(b, 1.0, n)
    for e in (1e-4, 1e-7, 1e-10, 1e-13):
        np.testing.assert_allclose(transform(b, 1 - e, n), at, atol=2 * e + 1e-15)
        np.testing.assert_allclose(transform(b, 1 + e, n), at, atol=(1 + 2 * np.log(n)) * e + 1e-15)
    np.testing.assert_allclose(transform(b, 2 - 1e-5, n), transform(b, 2.0, n), atol=1e-4)
    for tau in TAUS:
        small = np.array([1e-2, 1e-4, 1e-6])
        start = 2.0**tau * (2 - tau) if tau < 1 else 2 * n ** (tau - 1) * (2 - tau)
        np.testing.assert_allclose(transform(small, tau, n) / (small**2 / start), 1.0, rtol=0.02)
        if tau <= 1:  # the largest is that of a certain mistake, which is Phi of one class above
            with jax.enable_x64(True):
                assert float(transform(1.0, tau, n)) == pytest.approx(float(phi(jnp.float64(1.0), tau)), rel=1e-12)


@given(b=st.floats(1e-4, 1), tau=st.floats(0, 2.5), n=st.integers(2, 200))
@examples(max_examples=200, deadline=None)
def test_inverse_returns_the_regret_and_is_below_the_explicit_bound(b, tau, n):
    t = transform(b, tau, n)
    found = float(inverse_transform(t, tau, n))
    assert found == pytest.approx(b, rel=1e-6)
    assert float(transform(found, tau, n)) >= float(t) * (1 - 1e-12)
    assert found <= float(explicit_bound(t, tau, n)) * (1 + 1e-9)


def test_inverse_keeps_shapes_ends_at_one_and_starts_at_zero():
    t = np.array([[0.0, 1e-3], [0.5, 50.0]])
    for tau in (0.0, 1.0, 1.5, 2.0):
        found = inverse_transform(t, tau, 3)
        assert found.shape == (2, 2)
        assert found[0, 0] == 0.0
        assert found[1, 1] == 1.0
        assert 0.0 < found[0, 1] < found[1, 0]


def test_least_ratio_of_adversarial_and_zero_one_regret_is_phi_at_one():
    # Where scores keep an order of the classes, with gaps of rho, on the whole ball, the adversarial comp-rho loss of a
    # class is Phi of the number of classes above it, and the adversarial 0-1 loss is that of the first class.
    rng = np.random.default_rng(5)
    for tau in (0.0, 0.5, 1.0, 1.5, 2.0):
        with jax.enable_x64(True):
            of_rank = np.asarray(phi(jnp.arange(5.0), tau))
        least = np.inf
        for n in (3, 4, 5):
            ranks = np.array(list(permutations(range(n))))  # of each class, 0 is first
            for p in rng.dirichlet(np.ones(n), size=20):
                risk = of_rank[ranks] @ p
                first = p.max() - p[np.argmin(ranks, axis=1)]
                wrong = first > 1e-9
                least = min(least, ((risk - risk.min())[wrong] / first[wrong]).min())
        assert least == pytest.approx(of_rank[1], abs=1e-6)


def test_bound_of_an_excess_says_its_conditions():
    free = excess_error_bound(0.02, 1.0, 5)
    assert free.value == pytest.approx(float(inverse_transform(0.02, 1.0, 5)), rel=1e-12)
    assert free.minimizability is None
    assert "Conditional on a minimizability gap M of 0" in str(free)
    assert f"at most {free.value:.3g}" in str(free)
    known = excess_error_bound(0.02, 1.0, 5, minimizability=0.05)
    assert known.value == pytest.approx(float(inverse_transform(0.07, 1.0, 5)), rel=1e-12)
    assert known.value > free.value
    assert "gap of 0.05" in str(known)
    assert "M of 0" not in str(known)
    assert "says nothing" in str(excess_error_bound(10.0, 1.0, 5))


def test_what_is_out_of_bounds_is_refused():
    for wrong in ([[0.5, 0.6]], [[1.5, -0.5]], [[np.nan, 1.0]], [0.5, 0.5], np.zeros((0, 3)), [[1.0]]):
        with pytest.raises(DataError, match="probabilities"):
            conditional_minimum(wrong, 1.0)
    for tau in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="tau"):
            conditional_minimum([[0.5, 0.5]], tau)
        with pytest.raises(ConfigError, match="tau"):
            transform(0.5, tau, 3)
    with pytest.raises(ConfigError, match="n_classes=1"):
        inverse_transform(0.5, 1.0, 1)
    with pytest.raises(DataError, match="between 0 and 1"):
        transform([0.5, 1.1], 1.0, 3)
    with pytest.raises(DataError, match="not negative"):
        explicit_bound(-0.1, 1.0, 3)
    with pytest.raises(DataError, match="not negative"):
        excess_error_bound(-0.1, 1.0, 3)
    with pytest.raises(DataError, match="not negative"):
        excess_error_bound(0.1, 1.0, 3, minimizability=-0.2)

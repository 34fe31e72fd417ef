"""Minimizability gaps of hypothesis sets on finitely many points, where everything is known."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from cellgap.annotate._conditional_minimum import conditional_minimum
from cellgap.annotate._minimizability import estimated_minimizability_gap, linear_scores, minimizability_gap
from cellgap.errors import ConfigError, DataError

TAUS = (0.0, 0.5, 1.0, 1.5, 2.0)
POINTS, FEATURES, CLASSES = 12, 2, 4


def problem(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(POINTS, FEATURES)),
        rng.dirichlet(np.full(CLASSES, 0.7), size=POINTS),
        rng.dirichlet(np.full(POINTS, 5.0)),
    )


@pytest.fixture(scope="module")
def gaps():
    x, p, weights = problem()
    scores, starts = linear_scores(x, CLASSES, n_starts=3)
    return {tau: minimizability_gap(scores, starts, p, tau, weights=weights) for tau in TAUS}


def test_gap_of_linear_scores_lies_between_zero_and_the_jensen_bound(gaps):
    for tau, gap in gaps.items():
        assert gap.is_upper
        assert 0.02 < gap.value <= gap.jensen + 1e-9, tau
        assert gap.value == pytest.approx(gap.risk - gap.conditional_minimum, abs=1e-12)
    # At tau = 0 Phi is the identity.
    assert gaps[0.0].value == pytest.approx(gaps[0.0].jensen, abs=1e-12)
    for tau in TAUS[1:]:
        assert gaps[tau].value < gaps[tau].jensen - 1e-3


@pytest.mark.parametrize("tau", TAUS)
def test_no_other_search_finds_less(gaps, tau):
    x, p, weights = problem()
    design = np.column_stack([x, np.ones(POINTS)])

    def risk(flat: np.ndarray) -> tuple[float, np.ndarray]:
        h = design @ flat.reshape(-1, CLASSES)
        s = np.exp(h - h.max(axis=1, keepdims=True))
        s = np.maximum(s / s.sum(axis=1, keepdims=True), 1e-250)
        losses = -np.log(s) if tau == 1 else (s ** (tau - 1) - 1) / (1 - tau)
        pull = p * s ** (tau - 1)
        slope = s * pull.sum(axis=1, keepdims=True) - pull
        return float(weights @ (p * losses).sum(axis=1)), (design.T @ (weights[:, None] * slope)).ravel()

    starts = np.random.default_rng(9).normal(size=(4, design.shape[1] * CLASSES))
    found = min(minimize(risk, start, jac=True, method="BFGS", options={"gtol": 1e-8}).fun for start in starts)
    if tau <= 1:  # convex: both are the minimum
        assert gaps[tau].risk == pytest.approx(found, abs=1e-6)
    assert gaps[tau].risk <= found + 1e-3


@pytest.mark.parametrize("tau", TAUS)
def test_free_scores_have_no_gap(tau):
    _, p, weights = problem()

    def free(parameters):
        return parameters.reshape(POINTS, CLASSES)

    starts = np.stack([np.log(p).ravel(), 4 * np.log(p).ravel()])
    gap = minimizability_gap(free, starts, p, tau, weights=weights)
    assert gap.value <= 1e-5
    if tau == 1.0:  # while its Jensen bound stays away from 0
        assert gap.jensen > 0.05


def test_estimate_from_fitted_classifiers_takes_the_best_run():
    _, p, _ = problem()
    least = float(conditional_minimum(p, 1.0).mean())
    gap = estimated_minimizability_gap([least + 0.3, least + 0.1, least + 0.2], p, 1.0)
    assert gap.value == pytest.approx(0.1, abs=1e-12)
    assert (gap.n_runs, gap.jensen, gap.is_upper) == (3, None, True)
    assert "at most 0.1" in str(gap)
    assert "best of 3 runs" in str(gap)
    with_zero = estimated_minimizability_gap(least + 0.1, p, 1.0, sum_exponential_risks=[5.0, 3.0])
    assert with_zero.jensen == pytest.approx(np.log(4.0) - least, rel=1e-9)


def test_a_risk_below_the_conditional_minimum_is_said():
    gap = estimated_minimizability_gap(0.0, [[0.5, 0.5]], 1.0)
    assert not gap.is_upper
    assert gap.value == 0.0
    assert "do not fit" in str(gap)


def test_wrong_inputs_are_refused():
    p = [[0.5, 0.5], [0.9, 0.1]]
    with pytest.raises(DataError, match="Risks"):
        estimated_minimizability_gap([], p, 1.0)
    with pytest.raises(DataError, match="Risks"):
        estimated_minimizability_gap(float("nan"), p, 1.0)
    with pytest.raises(DataError, match="Weights"):
        estimated_minimizability_gap(0.1, p, 1.0, weights=[1.0])
    with pytest.raises(DataError, match="Weights"):
        estimated_minimizability_gap(0.1, p, 1.0, weights=[1.0, -1.0])
    with pytest.raises(ConfigError, match="tau"):
        minimizability_gap(jnp.asarray, np.zeros((1, 4)), p, -1.0)
    with pytest.raises(DataError, match="Starts"):
        minimizability_gap(jnp.asarray, np.zeros(4), p, 1.0)

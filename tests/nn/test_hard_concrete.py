"""Gates: their distribution against quadrature and draws, where they are exactly 0 and 1, and how open they start."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.integrate import quad

from cellgap.nn._hard_concrete import (
    EPS,
    GAMMA,
    LOG_ALPHA_RANGE,
    TEMPERATURE,
    ZETA,
    draw_gates,
    expected_gates,
    initial_log_alpha,
    open_probability,
)

LOG_ALPHA = (-4.0, -1.6, 0.0, 0.7, 3.0)
N = 200_000


def gate(u: float, log_alpha: float, temperature: float) -> float:
    """Return the gate that the uniform number `u` makes."""
    s = 1.0 / (1.0 + np.exp(-(np.log(u / (1.0 - u)) + log_alpha) / temperature))
    return float(np.clip(s * (ZETA - GAMMA) + GAMMA, 0.0, 1.0))


def opening(log_alpha: float, temperature: float) -> float:
    """Return the uniform number from which a gate is open, by bisection."""
    low, high = 1e-12, 1.0 - 1e-12
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if gate(middle, log_alpha, temperature) > 0 else (middle, high)
    return high


@pytest.mark.parametrize("temperature", [TEMPERATURE, 0.4])
@pytest.mark.parametrize("log_alpha", LOG_ALPHA)
def test_the_probability_of_an_open_gate_is_the_share_of_uniform_numbers_that_open_it(log_alpha, temperature):
    found = float(open_probability(jnp.float32(log_alpha), temperature))
    # Single precision of a number in [0, 1].
    assert found == pytest.approx(1.0 - opening(log_alpha, temperature), abs=3e-7)


@pytest.mark.parametrize("log_alpha", LOG_ALPHA)
def test_random_gates_are_open_as_often_and_as_far_as_quadrature_says(log_alpha):
    z = np.asarray(draw_gates(jnp.full(N, log_alpha, jnp.float32), jr.key(0)))
    assert z.min() >= 0 and z.max() <= 1
    # Five standard errors of a share and of a mean.
    p = float(open_probability(jnp.float32(log_alpha)))
    assert (z > 0).mean() == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / N))
    mean = quad(gate, 0, 1, args=(log_alpha, TEMPERATURE), points=[opening(log_alpha, TEMPERATURE)], limit=200)[0]
    assert z.mean() == pytest.approx(mean, abs=5 * z.std() / np.sqrt(N))
    assert len(np.unique(z)) > 100


def test_gates_of_a_key_are_the_same_and_those_of_another_are_not():
    log_alpha = jnp.zeros((3, 4))
    first = draw_gates(log_alpha, jr.key(1))
    np.testing.assert_array_equal(first, draw_gates(log_alpha, jr.key(1)))
    assert (first != draw_gates(log_alpha, jr.key(2))).any()


def test_settled_gates_are_exactly_closed_and_open_outside_log_11():
    edge, near = np.log(11.0), 1e-5
    outside = expected_gates(jnp.array([-edge - near, -3.0, edge + near, 3.0]))
    np.testing.assert_array_equal(outside, [0.0, 0.0, 1.0, 1.0])
    # At the edge itself, but for the rounding of a single precision number.
    np.testing.assert_allclose(expected_gates(jnp.array([-edge, edge])), [0.0, 1.0], atol=1e-7)
    inside = np.asarray(expected_gates(jnp.array([-edge + 1e-3, edge - 1e-3])))
    assert 0 < inside[0] < 1e-3 and 1 - 1e-3 < inside[1] < 1
    assert float(expected_gates(jnp.float32(0.0))) == pytest.approx(0.5)


@pytest.mark.parametrize(("closed", "p"), [(0.2, 0.952), (0.5, 0.832)])
def test_gates_start_open_with_the_published_probabilities(closed, p):
    log_alpha = initial_log_alpha((20, 500), closed, jr.key(0))
    assert float(jnp.mean(open_probability(log_alpha))) == pytest.approx(p, abs=5e-4)
    assert float(jnp.std(log_alpha)) == pytest.approx(0.01, rel=0.05)
    assert float(jnp.mean(log_alpha)) == pytest.approx(np.log((1 - closed) / closed), abs=1e-3)


def test_probabilities_stay_away_from_0_and_1():
    found = np.asarray(open_probability(jnp.array([-50.0, 50.0])))
    np.testing.assert_allclose(found, [EPS, 1 - EPS], rtol=1e-6)


def test_gradients_are_finite_and_point_up_wherever_odds_may_be():
    log_alpha = jnp.linspace(*LOG_ALPHA_RANGE, 101)
    np.testing.assert_allclose(LOG_ALPHA_RANGE, [np.log(0.01), np.log(100)], atol=1e-6)
    for i in range(20):
        slope = np.asarray(jax.grad(lambda a, i=i: jnp.sum(draw_gates(a, jr.key(i))))(log_alpha))
        assert np.isfinite(slope).all() and (slope >= 0).all()
    up = np.asarray(jax.grad(lambda a: jnp.sum(open_probability(a)))(log_alpha))
    p = np.asarray(open_probability(log_alpha), np.float64)
    np.testing.assert_allclose(up, p * (1 - p), rtol=1e-4, atol=1e-6)
    assert (up > 0).all()


def test_extreme_uniform_numbers_and_odds_give_no_nan():
    z = draw_gates(jnp.array([-100.0, -4.6, 4.6, 100.0])[:, None] * jnp.ones(1000), jr.key(3), temperature=1e-3)
    assert bool(jnp.isfinite(z).all())
    np.testing.assert_array_equal(z[0], 0.0)
    np.testing.assert_array_equal(z[3], 1.0)

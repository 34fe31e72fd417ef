"""The negative binomial log-probability against SciPy, its limits and its derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma
from scipy.stats import nbinom, poisson

from cellgap.nn import nb_log_prob
from cellgap.nn._likelihood import nb_log_kernel

THETA = [0.0025, 0.01, 0.3, 1.0, 7.0, 100.0, 3000.0, 8000.0]
COUNTS = np.array([0, 1, 2, 5, 20, 100, 1000, 20000])


def log_prob(x, mu, theta) -> np.ndarray:
    """Return log-probabilities, a row a count and a column a theta."""
    x, theta = np.broadcast_arrays(np.asarray(x)[:, None], np.atleast_1d(theta))
    log_theta = jnp.asarray(np.log(theta[0]), jnp.float32)
    return np.asarray(jax.jit(nb_log_prob)(jnp.asarray(x), jnp.full(x.shape, np.log(mu), jnp.float32), log_theta))


@pytest.mark.parametrize("mu", [1e-6, 1e-2, 1.0, 30.0, 1e3])
def test_agrees_with_scipy_in_single_precision(mu):
    x, theta = COUNTS[:, None], np.asarray(THETA)
    expected = nbinom.logpmf(x, theta, theta / (theta + mu))
    got = log_prob(COUNTS, mu, THETA)
    # Four terms of size x log x cancel, each known to one part in 2^23.
    rounding = 4 * np.finfo(np.float32).eps * x * np.log1p(x)
    assert (np.abs(got - expected) <= 3e-6 + 3e-6 * np.abs(expected) + rounding).all()
    np.testing.assert_allclose(got[COUNTS <= 20], expected[COUNTS <= 20], rtol=3e-6, atol=2e-5)


def test_large_theta_is_the_poisson_limit_without_cancellation():
    x, mu = np.arange(12), 3.0
    # At theta = exp(9) the two differ by at most x^2 / (2 theta).
    got = log_prob(x, mu, np.exp(9.0))[:, 0]
    np.testing.assert_allclose(got, poisson.logpmf(x, mu), atol=0.006)
    np.testing.assert_allclose(got, nbinom.logpmf(x, np.exp(9.0), 1 / (1 + mu / np.exp(9.0))), atol=5e-6)


def test_theta_is_clamped():
    np.testing.assert_array_equal(log_prob([5], 2.0, np.exp(12.0)), log_prob([5], 2.0, np.exp(9.0)))


@settings(max_examples=20, deadline=None)
@given(theta=st.floats(0.01, 1000), mu=st.floats(0.01, 50))
def test_probabilities_sum_to_one(theta, mu):
    far = int(nbinom.isf(1e-9, theta, theta / (theta + mu))) + 2
    x = np.arange(4096)
    if far < len(x):
        assert abs(np.exp(log_prob(x, mu, theta).astype(float)).sum() - 1) < 1e-4


def test_derivative():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.poisson(3, (4, 6)))
        log_mu, log_theta = jnp.asarray(rng.normal(0, 2, (4, 6))), jnp.asarray(rng.normal(0, 2.5, 6))

        def total(log_mu, log_theta):
            return jnp.sum(nb_log_kernel(x, log_mu, log_theta))

        by_mu, by_theta = jax.jit(jax.grad(total, (0, 1)))(log_mu, log_theta)
        theta, mu, counts = np.exp(np.asarray(log_theta)), np.exp(np.asarray(log_mu)), np.asarray(x)
        np.testing.assert_allclose(by_mu, counts - (counts + theta) * mu / (theta + mu), rtol=1e-10)
        per_theta = (
            digamma(counts + theta) - digamma(theta) + np.log(theta / (theta + mu)) + (mu - counts) / (theta + mu)
        )
        np.testing.assert_allclose(by_theta, (theta * per_theta).sum(0), rtol=1e-5, atol=1e-5)


def test_integers_of_any_width_give_the_same():
    mu, theta = jnp.full((3, 4), 0.5), jnp.zeros(4)
    x = np.arange(12).reshape(3, 4)
    first = nb_log_prob(jnp.asarray(x, jnp.int16), mu, theta)
    np.testing.assert_array_equal(first, nb_log_prob(jnp.asarray(x, jnp.float32), mu, theta))

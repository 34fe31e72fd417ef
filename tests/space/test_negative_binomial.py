"""Drawn counts follow the negative binomial: probabilities against SciPy, moments, and the ends of the range."""

import numpy as np
import pytest
from scipy.stats import chisquare, nbinom, poisson

from cellgap.space._count_noise import negative_binomial

N = 200_000


def drawn(mean: float, theta: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = negative_binomial(np.full((N // 4, 4), mean, np.float32), np.full(4, theta, np.float32), rng)
    assert out.dtype == np.int32 and out.shape == (N // 4, 4)
    return out.ravel()


@pytest.mark.parametrize(
    ("mean", "theta"), [(0.01, 0.01), (0.3, 0.2), (2.0, 1e4), (3.0, 1.5), (7.9, 0.05), (8.1, 2.0), (50.0, 1e4)]
)
def test_probabilities_are_those_of_scipy(mean, theta):
    """A chi-squared test over values with enough expected counts, the tail as one."""
    x = drawn(mean, theta)
    law = nbinom(theta, theta / (theta + mean))
    last = int(law.ppf(1 - 20 / N))
    k = np.arange(last + 1)
    expected = np.append(law.pmf(k), law.sf(last)) * N
    seen = np.bincount(np.minimum(x, last + 1), minlength=last + 2)
    enough = expected >= 10
    rest = [seen[~enough].sum()], [expected[~enough].sum()]
    seen, expected = np.append(seen[enough], rest[0]), np.append(expected[enough], rest[1])
    kept = expected > 0
    assert chisquare(seen[kept], expected[kept] * seen[kept].sum() / expected[kept].sum()).pvalue > 1e-4


def test_the_limit_of_large_theta_is_poisson_and_zero_mean_gives_zero():
    x = drawn(4.0, 1e8)
    seen, expected = np.bincount(x, minlength=14)[:14] / N, poisson(4.0).pmf(np.arange(14))
    np.testing.assert_allclose(seen, expected, atol=4e-3)
    assert not drawn(0.0, 1.0).any()


def test_genes_keep_their_own_mean_and_dispersion():
    mean = np.tile(np.asarray([[0.2, 3.0, 40.0]], np.float32), (100_000, 1))
    theta = np.asarray([0.5, 5.0, 2.0], np.float32)
    x = negative_binomial(mean, theta, np.random.default_rng(1))
    np.testing.assert_allclose(x.mean(0), mean[0], rtol=0.02)
    np.testing.assert_allclose(x.var(0), mean[0] + mean[0] ** 2 / theta, rtol=0.04)

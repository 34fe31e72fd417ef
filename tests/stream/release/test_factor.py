"""The factors of summation: their norms, their integer form, and what a donor moves."""

import itertools
import math

import numpy as np
import pytest

from cellgap.stream.release._factor import (
    coefficients,
    integer_coefficients,
    inverse_series,
    kronecker_norm,
    norm2,
    norm2_exact,
    participation_norm,
    prefix_variances,
)


def toeplitz(coefs: np.ndarray) -> np.ndarray:
    n = len(coefs)
    lag = np.subtract.outer(np.arange(n), np.arange(n))
    return np.where(lag >= 0, coefs[np.maximum(lag, 0)], 0)


def test_the_root_of_summation():
    root = toeplitz(coefficients(40))
    np.testing.assert_allclose(root @ root, np.tri(40), atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 64, 256, 1024, 4096])
def test_norm_against_closed_forms(n):
    exact = norm2_exact(n)
    assert norm2(n) == pytest.approx(float(exact), rel=1e-14)
    assert norm2(n) <= 1.0 + math.log(4 * n - 3) / math.pi + 1e-15
    if n >= 64:
        assert norm2(n) == pytest.approx((math.log(n) + np.euler_gamma + math.log(16)) / math.pi, abs=0.002)
    if n >= 2:
        # The constant that is often quoted is too small: noise must never be calibrated with it.
        assert 1.0 + math.log(4 * n / 5) / math.pi < norm2(n)


def test_table_of_norms():
    found = [norm2(n) for n in (16, 64, 256, 1024, 4096, 65_536, 2**20)]
    np.testing.assert_allclose(found, [1.94, 2.39, 2.83, 3.27, 3.71, 4.60, 5.48], atol=0.006)


@pytest.mark.parametrize(
    ("q", "steps", "most"), [(8, 1000, 1.0005), (8, 4096, 1.002), (6, 4096, 1.025), (10, 4096, 1.0001)]
)
def test_what_integers_cost(q, steps, most):
    coefs = integer_coefficients(steps, q)
    assert (np.diff(coefs) <= 0).all()
    assert coefs.min() > 0
    loss = math.sqrt(participation_norm(coefs, steps, 1, 1) * prefix_variances(inverse_series(coefs))[-1])
    assert 1.0 - 1e-9 <= loss / norm2(steps) <= most


def test_the_inverse_recovers_prefix_sums():
    x = np.random.default_rng(0).integers(-5, 6, 200)
    coefs = integer_coefficients(200)
    y = np.convolve(coefs, x)[:200]
    np.testing.assert_allclose(np.convolve(inverse_series(coefs), y)[:200], np.cumsum(x), atol=1e-8)


@pytest.mark.parametrize("steps", [1, 5, 9, 13])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("b", [1, 2, 4])
def test_participation_by_brute_force(steps, k, b):
    coefs = integer_coefficients(steps)
    columns = toeplitz(coefs)
    most = max(
        int((columns[:, list(chosen)].sum(axis=1) ** 2).sum())
        for size in range(1, k + 1)
        for chosen in itertools.combinations(range(steps), size)
        if all(later - sooner >= b for sooner, later in itertools.pairwise(chosen))
    )
    assert participation_norm(coefs, steps, k, b) == most


def test_histograms_move_no_more_than_single_bins():
    time, bins = integer_coefficients(12), integer_coefficients(6)
    most = kronecker_norm(time, bins, 2, 3)
    rng = np.random.default_rng(2)
    for _ in range(300):
        x = np.zeros((12, 6))
        for t in rng.choice([(0, 3), (1, 7), (0, 11)]):
            x[t] = rng.dirichlet(np.full(6, 0.3))
        assert ((toeplitz(time) @ x @ toeplitz(bins).T) ** 2).sum() <= most
    x = np.zeros((12, 6))
    x[[0, 3], 0] = 1
    assert ((toeplitz(time) @ x @ toeplitz(bins).T) ** 2).sum() == most

"""Closed forms between Gaussians: entropic cost, Bures map and distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cellgap import ot


def covariance(d: int, seed: int, rank: int | None = None) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(d, rank or 2 * d))
    return root @ root.T / root.shape[1]


PUBLISHED = {0.5: 2.7776703, 2.0: 3.8175080, 8.0: 5.0960514}


@pytest.mark.parametrize(("epsilon", "value"), PUBLISHED.items())
def test_entropic_cost_of_two_normals_is_the_known_number(epsilon, value):
    """Means 0 and 1, variances 1 and 4."""
    found = ot.gaussian_entropic_cost(np.zeros(1), np.eye(1), np.ones(1), 4 * np.eye(1), epsilon)
    assert found == pytest.approx(value, abs=5e-8)


def test_entropic_cost_of_two_normals_is_the_solver_on_a_grid(x64):
    """The trapezoid rule is exact to rounding for these smooth densities: 1e-6 without samples."""
    x, y = np.linspace(-8, 8, 256), np.linspace(-15, 17, 256)
    a, b = np.exp(-0.5 * x**2), np.exp(-0.5 * (y - 1) ** 2 / 4)
    a, b = jnp.asarray(a / a.sum()), jnp.asarray(b / b.sum())
    solve = jax.jit(
        lambda epsilon: ot.entropic_cost(
            jnp.asarray(x)[:, None],
            jnp.asarray(y)[:, None],
            epsilon=epsilon,
            cost="sqeuclidean",
            a=a,
            b=b,
            tol=1e-10,
            max_iterations=5000,
        )
    )
    for epsilon, value in PUBLISHED.items():
        found = solve(jnp.asarray(epsilon))
        assert bool(found.converged)
        assert float(found.value) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("epsilon", [0.5, 20.0])
def test_entropic_cost_is_that_of_samples(epsilon):
    """Eight samples of 512 cells: the mean is within three standard errors and the small-sample bias, below 2 %."""
    d = 3
    means, covariances = (np.zeros(d), np.ones(d)), (covariance(d, 0), covariance(d, 1) + np.eye(d))
    exact = ot.gaussian_entropic_cost(means[0], covariances[0], means[1], covariances[1], epsilon)
    rng = np.random.default_rng(0)
    found = []
    solve = jax.jit(lambda x, y: ot.entropic_cost(x, y, epsilon=epsilon, cost="sqeuclidean").value)
    for _ in range(8):
        x, y = (rng.multivariate_normal(m, s, size=512) for m, s in zip(means, covariances, strict=True))
        found.append(float(solve(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))))
    error = 3 * np.std(found, ddof=1) / np.sqrt(8)
    assert error < 0.1 * exact
    assert abs(np.mean(found) - exact) < error + 0.02 * exact


def test_entropic_cost_becomes_the_bures_distance_and_the_product_coupling():
    """Epsilon to 0: the squared 2-Wasserstein distance; to infinity: the mean cost of independent pairs."""
    d = 4
    arguments = np.zeros(d), covariance(d, 0), np.ones(d), covariance(d, 1)
    assert ot.gaussian_entropic_cost(*arguments, 1e-7) == pytest.approx(ot.bures_distance2(*arguments), rel=1e-5)
    independent = d + np.trace(arguments[1]) + np.trace(arguments[3])
    assert ot.gaussian_entropic_cost(*arguments, 1e7) == pytest.approx(independent, rel=1e-5)


def test_divergence_of_gaussians_with_one_covariance_is_the_distance_of_means():
    """The debiased closed form of translates is ``|m - l|^2`` at every epsilon."""
    s = covariance(3, 0)
    for epsilon in (0.1, 1.0, 50.0):
        cross = ot.gaussian_entropic_cost(np.zeros(3), s, np.full(3, 2.0), s, epsilon)
        assert cross - ot.gaussian_entropic_cost(np.zeros(3), s, np.zeros(3), s, epsilon) == pytest.approx(12.0)


@pytest.mark.parametrize("d", [1, 5, 50])
def test_bures_map_carries_one_gaussian_to_the_other(d):
    m, s, mean, t = np.random.default_rng(2).normal(size=d), covariance(d, 0), np.full(d, 3.0), covariance(d, 1)
    a, b = ot.bures_map(m, s, mean, t)
    np.testing.assert_array_equal(a, a.T)
    assert np.linalg.eigvalsh(a).min() > 0
    np.testing.assert_allclose(a @ s @ a, t, atol=1e-10 * d)
    np.testing.assert_allclose(a @ m + b, mean, atol=1e-10)
    # Its cost is the distance: a symmetric positive definite matrix is the gradient of a convex function.
    cost = np.sum((m - mean) ** 2) + np.trace(s) + np.trace(t) - 2 * np.trace(a @ s)
    assert ot.bures_distance2(m, s, mean, t) == pytest.approx(cost, rel=1e-9)


def test_bures_map_of_commuting_covariances_is_known():
    s, t = np.diag([1.0, 4.0, 9.0]), np.diag([4.0, 4.0, 1.0])
    a, b = ot.bures_map(np.ones(3), s, np.zeros(3), t)
    np.testing.assert_allclose(a, np.diag([2.0, 1.0, 1 / 3]), atol=1e-12)
    np.testing.assert_allclose(b, [-2.0, -1.0, -1 / 3], atol=1e-12)
    assert ot.bures_distance2(np.ones(3), s, np.zeros(3), t) == pytest.approx(3 + 1 + 0 + 4)


def test_bures_map_and_distance_are_those_of_the_inverse_and_of_translations():
    d = 6
    s, t = covariance(d, 0), covariance(d, 1)
    forward, backward = ot.bures_map(np.zeros(d), s, np.ones(d), t)[0], ot.bures_map(np.ones(d), t, np.zeros(d), s)[0]
    np.testing.assert_allclose(forward @ backward, np.eye(d), atol=1e-9)
    shifted = ot.bures_map(np.zeros(d), s, np.ones(d), s)
    np.testing.assert_allclose(shifted[0], np.eye(d), atol=1e-9)
    assert ot.bures_distance2(np.zeros(d), s, np.ones(d), s) == pytest.approx(d)
    distance = ot.bures_distance2(np.zeros(d), s, np.zeros(d), s)
    assert 0 <= distance < 1e-12


@pytest.mark.parametrize("rank", [2, 5])
def test_singular_target_is_reached(rank):
    d = 8
    s, t = covariance(d, 0), covariance(d, 1, rank)
    a, _ = ot.bures_map(np.zeros(d), s, np.zeros(d), t)
    np.testing.assert_allclose(a @ s @ a, t, atol=1e-7)
    assert np.linalg.eigvalsh(a).min() > -1e-9


def test_singular_source_is_mapped_on_its_range_and_nowhere_else():
    """Fewer cells than genes. Within the range the target is reached; directions without variance are left out."""
    d, rank = 8, 3
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(d, rank)))[0]
    s = basis @ covariance(rank, 0) @ basis.T
    t = basis @ covariance(rank, 1) @ basis.T
    a, _ = ot.bures_map(np.zeros(d), s, np.zeros(d), t)
    np.testing.assert_allclose(a @ s @ a, t, atol=1e-9)
    outside = np.eye(d) - basis @ basis.T
    np.testing.assert_allclose(a @ outside, 0.0, atol=1e-9)
    assert np.isfinite(ot.bures_distance2(np.zeros(d), s, np.zeros(d), t))


def test_degenerate_gaussians_are_points():
    a, b = ot.bures_map(np.zeros(2), np.zeros((2, 2)), np.ones(2), np.eye(2))
    np.testing.assert_array_equal(a, np.zeros((2, 2)))
    np.testing.assert_array_equal(b, np.ones(2))
    assert ot.bures_distance2(np.zeros(2), np.zeros((2, 2)), np.ones(2), np.zeros((2, 2))) == 2.0
    # Against a point the coupling is the product, whatever epsilon is.
    cost = ot.gaussian_entropic_cost(np.zeros(2), np.zeros((2, 2)), np.ones(2), 3 * np.eye(2), 0.7)
    assert cost == pytest.approx(2 + 6)


@pytest.mark.parametrize("power", [0.5, -0.5, 1.0, -1.0])
def test_powers_of_a_singular_matrix_live_on_its_range(power):
    s = covariance(6, 0, 3)
    found = ot.symmetric_root(s, power)
    np.testing.assert_array_equal(np.round(found - found.T, 12), 0)
    assert np.linalg.matrix_rank(found, tol=1e-8) == 3
    values, vectors = np.linalg.eigh(s)
    expected = (vectors[:, 3:] * values[3:] ** power) @ vectors[:, 3:].T
    np.testing.assert_allclose(found, expected, atol=1e-10)
    np.testing.assert_allclose(ot.symmetric_root(s) @ ot.symmetric_root(s), s, atol=1e-12)

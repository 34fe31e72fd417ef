"""Debiased divergences: zero, positivity, limits, published noise floors, and where the minimum of the loss lies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ot_reference import clouds
from scipy.spatial.distance import cdist

from cellgap import ot
from cellgap.study import simulate_latent

COSTS = ("euclidean", "sqeuclidean")


@functools.cache
def divergence(cost: str = "euclidean", tol: float = 1e-3):
    return jax.jit(lambda x, y, epsilon: ot.sinkhorn_divergence(x, y, epsilon=epsilon, cost=cost, tol=tol))


@functools.cache
def two_batch(tol: float = 1e-3):
    return jax.jit(lambda x, x2, y, y2, epsilon: ot.two_batch_divergence(x, x2, y, y2, epsilon=epsilon, tol=tol))


@pytest.mark.parametrize("cost", COSTS)
def test_zero_for_equal_clouds_and_positive_for_others(x64, cost):
    x, y = (jnp.asarray(cloud) for cloud in clouds())
    run = divergence(cost, 1e-9)
    for relative in (0.05, 1.0, 100.0):
        epsilon = np.float64(relative * cdist(x, y, cost).mean())
        apart = float(run(x, y, epsilon))
        assert apart > 0
        # In another order: the two-vector solver does not see that the clouds are one.
        assert abs(float(run(x, x[::-1], epsilon))) < 1e-6 * apart
        assert float(run(y, x, epsilon)) == pytest.approx(apart, rel=1e-6)
        assert float(run(x, x + 1e-3, epsilon)) > -1e-9


def test_equal_clouds_are_equal_in_single_precision_at_the_default_tolerance():
    """Up to rounding: a matrix product leaves about ``3e-4 |x|`` between points that coincide, and |x| is 7 here."""
    x = jnp.asarray(clouds(256, 2, 50)[0], jnp.float32)
    for epsilon in (0.1, 1.0, 10.0):
        assert abs(float(divergence()(x, x[::-1], jnp.float32(epsilon)))) < 2e-3


def test_large_epsilon_compares_the_means(x64):
    """Squared cost: ``|mean x - mean y|^2``. Euclidean cost: half of the energy distance."""
    x, y = (jnp.asarray(cloud) for cloud in clouds())
    shift = float(jnp.sum((x.mean(0) - y.mean(0)) ** 2))
    assert float(divergence("sqeuclidean", 1e-9)(x, y, np.float64(1e7))) == pytest.approx(shift, rel=1e-5)
    energy = cdist(x, y).mean() - 0.5 * cdist(x, x).mean() - 0.5 * cdist(y, y).mean()
    assert float(divergence("euclidean", 1e-9)(x, y, np.float64(1e7))) == pytest.approx(energy, rel=1e-5)


def test_small_epsilon_is_optimal_transport():
    """Annealed: the exact assignment cost, within epsilon log n of each term."""
    x, y = clouds(64, 64, 10)
    single = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    exact, epsilon = ot.assignment_cost(x, y), 1e-3
    found = ot.sinkhorn(*single, epsilon=epsilon, max_iterations=5000)
    assert bool(found.converged)
    assert exact - 1e-5 <= float(found.value) <= exact + epsilon * np.log(64) + 1e-5
    debiased = float(ot.sinkhorn_divergence(*single, epsilon=epsilon, max_iterations=5000, anneal=True))
    assert debiased == pytest.approx(exact, abs=epsilon * np.log(64))


# Two samples of one N(0, I_50), Euclidean cost: what a perfect prediction scores.
FLOORS = {128: (8.6, 8.1, 4.9), 256: (8.5, 7.9, 4.2), 512: (8.3, 7.7, 3.5)}


@pytest.mark.parametrize("n", FLOORS)
def test_published_noise_floors(n):
    """Within 5 %: "Wasserstein" (entropic, epsilon 0.1), divergence at epsilon 0.1, divergence at epsilon 1."""
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(n, 50)), jnp.float32) for _ in range(2))
    plain = [ot.entropic_cost(x, y, epsilon=epsilon) for epsilon in (0.1, 1.0)]
    own = [[ot.entropic_self_cost(cloud, epsilon=epsilon) for cloud in (x, y)] for epsilon in (0.1, 1.0)]
    assert all(bool(solve.converged) for solve in (*plain, *own[0], *own[1]))
    debiased = [float(p.value) - 0.5 * sum(float(s.value) for s in pair) for p, pair in zip(plain, own, strict=True)]
    np.testing.assert_allclose([float(plain[0].value), *debiased], FLOORS[n], rtol=0.05)


def test_two_batch_divergence_of_one_law_is_zero():
    """In units of standard errors, at three values of epsilon, while the same-batch form is far above.

    Three numbers within two standard errors is what one draw in seven misses, so the bound on each is three; 2,000
    draws with n = 128 gave 0.7, 0.7 and -1.0.
    """
    rng = np.random.default_rng(0)
    for epsilon in (0.1, 1.0, 10.0):
        draws = jnp.asarray(rng.normal(size=(60, 4, 64, 50)), jnp.float32)
        found = np.array([float(two_batch()(*batch, jnp.float32(epsilon))) for batch in draws])
        error = found.std(ddof=1) / np.sqrt(60)
        floor = float(divergence()(draws[0, 0], draws[0, 1], jnp.float32(epsilon)))
        assert abs(found.mean()) < 3 * error
        assert floor > 20 * error


SCALES = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1])


@pytest.mark.parametrize("n", [256])
def test_the_two_batch_loss_is_smallest_at_the_truth_and_the_same_batch_loss_is_not(n):
    """The true prediction of the known-answer problem, scaled around its mean (d = 50, Euclidean, epsilon 1).

    Same batch: 1.66 1.43 1.34 1.36 1.47 1.63 1.86 was measured on another draw of such a problem, minimum at 0.7.
    Two batches: 0.76 0.45 0.25 0.13 0.06 0.01 0.00, minimum at 1.
    """
    problem = simulate_latent(drugs=1, doses=(10000.0,), n_train=8000, n_test=0, seed=0)
    condition = "A@10000nM"
    predicted = problem.truth(problem.cells("control", "train"), condition).astype(np.float32)
    measured, center = problem.cells(condition, "train"), predicted.mean(0)
    rng = np.random.default_rng(0)
    same, two = [], []
    for _ in range(15):
        t, t2 = predicted[rng.permutation(8000)[: 2 * n]].reshape(2, n, 50)
        y, y2 = measured[rng.permutation(8000)[: 2 * n]].reshape(2, n, 50)
        scaled = [(center + r * (t - center), center + r * (t2 - center)) for r in SCALES]
        two.append([float(two_batch()(*map(jnp.asarray, (*pair, y, y2)), jnp.float32(1.0))) for pair in scaled])
        same.append([float(divergence()(jnp.asarray(pair[0]), jnp.asarray(y), jnp.float32(1.0))) for pair in scaled])

    def minimum(losses: np.ndarray) -> float:
        """Vertex of the parabola through the five points around the smallest."""
        middle = np.clip(losses.argmin(), 2, len(SCALES) - 3)
        near = slice(middle - 2, middle + 3)
        square, slope, _ = np.polyfit(SCALES[near], losses[near], 2)
        return -slope / (2 * square)

    same_mean, two_mean = np.mean(same, 0), np.mean(two, 0)
    assert 0.6 < minimum(same_mean) < 0.8
    assert same_mean[5] > 1.15 * same_mean.min()
    assert minimum(two_mean) == pytest.approx(1.0, abs=0.05)
    assert abs(two_mean[5]) < 3 * np.std(two, 0, ddof=1)[5] / np.sqrt(15)
    assert two_mean[0] > 10 * abs(two_mean[5])

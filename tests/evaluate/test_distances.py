"""Kernel and energy distances against independent implementations."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import rbf_kernel

from cellgap.errors import DataError
from cellgap.evaluate import metrics as m
from cellgap.evaluate._distances import pair_sums


def pair(seed=0, n=70, k=50, d=8, shift=0.5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), shift + 1.3 * rng.normal(size=(k, d))


def edist_of_scperturb(x, y, metric, sample_correct):
    """E-distance as scPerturb defines it: delta and sigmas from pairwise distances, optionally without the diagonal."""
    delta = cdist(x, y, metric).mean()

    def sigma(z):
        n = len(z)
        return cdist(z, z, metric).sum() / (n * (n - 1) if sample_correct else n * n)

    return 2 * delta - sigma(x) - sigma(y)


@pytest.mark.parametrize("unbiased", [False, True])
def test_energy_is_the_e_distance(unbiased):
    p, q = pair()
    assert m.energy(p, q, unbiased=unbiased) == pytest.approx(edist_of_scperturb(p, q, "euclidean", unbiased), abs=1e-9)
    assert m.energy_squared(p, q, unbiased=unbiased) == pytest.approx(
        edist_of_scperturb(p, q, "sqeuclidean", unbiased), abs=1e-9
    )


def test_energy_with_squared_distances_is_twice_the_squared_mean_difference():
    p, q = pair(1)
    assert m.energy_squared(p, q) == pytest.approx(2 * np.sum((p.mean(0) - q.mean(0)) ** 2), abs=1e-9)


@pytest.mark.parametrize("d", [8, 200])
def test_mmd_agrees_with_scikit_learn_kernels(d):
    p, q = pair(2, d=d, shift=0.1)
    expected = np.mean(
        [rbf_kernel(p, p, g).mean() + rbf_kernel(q, q, g).mean() - 2 * rbf_kernel(p, q, g).mean() for g in m.GAMMAS]
    )
    assert m.mmd(p, q) == pytest.approx(expected, abs=1e-10)
    assert m.GAMMAS == (2, 1, 0.5, 0.1, 0.01, 0.005)


def test_unbiased_mmd_leaves_the_diagonal_out_and_takes_the_median_distance():
    p, q = pair(3)
    both = np.concatenate([p, q])
    sigma = np.median(cdist(both, both)[np.triu_indices(len(both), 1)])
    assert m.median_distance(p, q) == pytest.approx(sigma)
    gamma = 1 / (2 * sigma**2)

    def within(x):
        return np.mean([np.exp(-gamma * np.sum((a - b) ** 2)) for a, b in itertools.permutations(x, 2)])

    assert m.mmd_u(p, q) == pytest.approx(within(p) + within(q) - 2 * rbf_kernel(p, q, gamma).mean(), abs=1e-10)
    assert m.mmd_u(p, q, bandwidth=1.0) != pytest.approx(m.mmd_u(p, q))


def test_unbiased_distances_are_zero_on_average_for_one_law():
    rng = np.random.default_rng(40)
    values = np.array([[m.mmd_u(*x), m.energy(*x, unbiased=True)] for x in rng.normal(size=(200, 2, 40, 5))])
    error = values.std(0) / np.sqrt(200)
    assert (np.abs(values.mean(0)) < 3 * error).all()
    assert (values < 0).any()


def test_equal_populations_are_at_zero():
    p, _ = pair(5, n=200, d=40)
    assert m.mmd(p, p) == pytest.approx(0, abs=1e-12)
    assert m.energy(p, p) == pytest.approx(0, abs=1e-5)
    assert m.energy_squared(p, p) == pytest.approx(0, abs=1e-9)


def test_equal_populations_far_from_the_origin_are_at_zero():
    p = np.random.default_rng(6).normal(size=(150, 30)).astype(np.float32) + 1e3
    assert m.energy(p, p) == pytest.approx(0, abs=1e-5)
    assert m.mmd(p, p) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["energy", "mmd", "mmd_u", "energy_squared"])
def test_capture_of_the_controls_is_exactly_zero(name):
    c, q = pair(7)
    distance = getattr(m, name)
    assert m.capture(distance(c.copy(), q), distance(c, q)) == 0.0
    assert m.capture(0.0, distance(c, q)) == 1.0
    assert m.capture(2 * distance(c, q), distance(c, q)) == pytest.approx(-1)


def test_capture_without_an_effect_is_undefined():
    assert np.isnan(m.capture(0.1, 0.0))
    assert np.isnan(m.capture(0.1, -0.01))


def test_sums_within_a_cloud_count_every_pair_once():
    x = np.random.default_rng(8).normal(size=(301, 3))  # not a multiple of the tile
    inside, across = pair_sums(x, gammas=(0.3, 0.1)), pair_sums(x, x, gammas=(0.3, 0.1))
    assert inside.distance == pytest.approx(across.distance, abs=1e-6 * across.distance)
    assert inside.squared == pytest.approx(across.squared)
    assert inside.kernels == pytest.approx(across.kernels)
    assert np.isnan(pair_sums(x[:1]).mean_distance(unbiased=True))


def test_mean_cost_is_the_mean_over_pairs():
    p, q = pair(9)
    assert m.mean_cost(p, q) == pytest.approx(cdist(p, q, "sqeuclidean").mean())


def test_equal_cells_have_no_bandwidth():
    with pytest.raises(DataError, match="bandwidth above 0"):
        m.mmd_u(np.ones((5, 2)), np.ones((5, 2)))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(30, 20, 3), (25, 25, 40)]))
def test_permuting_cells_or_genes_changes_nothing(seed, shape):
    n, k, d = shape
    p, q = pair(seed, n, k, d)
    rng = np.random.default_rng(seed)
    genes = rng.permutation(d)
    for metric in (m.energy, m.energy_squared, m.mmd, m.mmd_u):
        value = metric(p, q)
        assert metric(rng.permutation(p), rng.permutation(q)) == pytest.approx(value, abs=1e-6)
        assert metric(p[:, genes], q[:, genes]) == pytest.approx(value, abs=1e-6)
        assert metric(q, p) == pytest.approx(value, abs=1e-6)
    assert m.energy(p, q) >= 0
    assert m.mmd(p, q) >= 0

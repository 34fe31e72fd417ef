"""Distances of populations: closed forms, no bias for equal laws, contexts."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm

from cellgap.encode._population_distance import (
    SinkhornDistances,
    gaussian_distances,
    share_no_context,
    sliced_distances,
    squared_distances,
)
from cellgap.ot import bures_distance2

LINE1, LINE2 = (("line", "1"),), (("line", "2"),)
D = 4


def _cells(n: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).normal(size=(n, D)) + shift


def _plain(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(0), np.cov(x, rowvar=False)


def test_gaussian_distance_is_the_bures_distance_without_its_noise():
    groups = [_cells(50, 0), _cells(80, 1, shift=2.0), _cells(60, 2, scale=3.0) @ np.diag([1, 2, 3, 4.0])]
    found = gaussian_distances(groups, None)
    for i in range(3):
        for j in range(3):
            noise = sum(_noise(groups[k]) for k in (i, j))
            expected = bures_distance2(*_plain(groups[i]), *_plain(groups[j])) - noise
            assert found[i, j] == pytest.approx(expected, rel=1e-8)
    (m, a), (_, b) = _plain(groups[1]), _plain(groups[2])
    by_scipy = ((m - groups[2].mean(0)) ** 2).sum() + np.trace(a + b - 2 * np.real(sqrtm(sqrtm(a) @ b @ sqrtm(a))))
    assert found[1, 2] + _noise(groups[1]) + _noise(groups[2]) == pytest.approx(by_scipy, rel=1e-8)
    np.testing.assert_allclose(gaussian_distances(groups[:1], groups[1:]), found[:1, 1:], rtol=1e-9)


def _noise(cells: np.ndarray) -> float:
    values = np.linalg.eigvalsh(np.cov(cells, rowvar=False))
    total = values.sum()
    for k, first in enumerate(values):
        for m, second in enumerate(values):
            total += 0.5 * (1 + (k == m)) * first * second / (first + second)
    return total / len(cells)


# Uncorrected, the means alone of 80 cells would be apart by 2 D / 80 = 0.1; plans of 30 cells cost about 3.
@pytest.mark.parametrize(
    ("between", "n", "bias"),
    [(gaussian_distances, 160, 0.1), (sliced_distances(0), 160, 0.1), (SinkhornDistances(0.8, 30, 0), 40, 1.0)],
)
def test_equal_laws_have_distance_zero_on_average(between, n, bias):
    groups = [_cells(60 + 20 * (k // 2 % 3), 100 + k) for k in range(n)]
    # Pairs that share no population are independent.
    found = between(groups, None)[np.arange(0, n, 2), np.arange(1, n, 2)]
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean()) < 3 * error < 0.5 * bias


@pytest.mark.parametrize(("method", "rtol"), [("gaussian", 0.1), ("sliced", 0.1), ("sinkhorn", 0.15)])
def test_a_displacement_has_its_squared_length(method, rtol):
    between = {
        "gaussian": gaussian_distances,
        "sliced": sliced_distances(0),
        "sinkhorn": SinkhornDistances(0.8, 100, 0),
    }[method]
    found = between([_cells(400, 0), _cells(400, 1, shift=2.0)], None)
    assert found[0, 1] == pytest.approx(4.0 * D, rel=rtol)
    assert found[0, 1] == found[1, 0]


def test_sliced_distances_see_more_than_mean_and_covariance():
    rng = np.random.default_rng(0)
    normal = [rng.normal(size=(20000, 1)) for _ in range(2)]
    two_humps = [rng.choice([-1.0, 1.0], size=(20000, 1)) for _ in range(2)]
    sliced = sliced_distances(0)(normal + two_humps, None)
    # In one dimension: E (|z| - 1)^2 = 2 - 2 sqrt(2 / pi).
    assert sliced[0, 2] == pytest.approx(2 - 2 * np.sqrt(2 / np.pi), rel=0.05)
    assert abs(sliced[0, 1]) < 0.02 > abs(sliced[2, 3])
    assert abs(gaussian_distances(normal + two_humps, None)[0, 2]) < 0.02


def test_sinkhorn_matches_the_two_batch_divergence():
    from cellgap.ot import two_batch_divergence

    groups = [_cells(16, 0), _cells(16, 1, shift=1.0), _cells(16, 2)]
    compare = SinkhornDistances(1.0, 8, 3)
    found = compare(groups, None)
    order = np.random.default_rng([3, 16]).permutation(16)
    halves = [(jnp.asarray(g[order[:8]], jnp.float32), jnp.asarray(g[order[8:]], jnp.float32)) for g in groups]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        expected = two_batch_divergence(*halves[i], *halves[j], epsilon=1.0, cost="sqeuclidean")
        assert found[i, j] == pytest.approx(float(expected), rel=1e-4, abs=1e-4)
    np.testing.assert_allclose(compare(groups[:1], groups[1:]), found[:1, 1:], rtol=1e-5)
    assert compare.unconverged == 0


def test_distances_are_averaged_over_shared_contexts():
    a = {LINE1: _cells(50, 0), LINE2: _cells(50, 1)}
    b = {LINE1: _cells(50, 2, shift=1.0), LINE2: _cells(50, 3, shift=2.0)}
    c = {LINE1: _cells(50, 4)}
    found = squared_distances([a, b, c], None, gaussian_distances)

    def one(x, y):
        return gaussian_distances([x], [y])[0, 0]

    assert found[0, 1] == pytest.approx(0.5 * (one(a[LINE1], b[LINE1]) + one(a[LINE2], b[LINE2])))
    assert found[0, 2] == pytest.approx(one(a[LINE1], c[LINE1]))
    np.testing.assert_array_equal(np.diag(found), 0)
    np.testing.assert_allclose(squared_distances([c], [a, b], gaussian_distances), found[2:, :2])
    assert share_no_context([a, b, c]) == 0


def test_only_where_no_context_is_shared_are_contexts_compared():
    a, b = {LINE1: _cells(50, 0)}, {LINE2: _cells(50, 1, shift=1.0)}
    c = {LINE1: _cells(50, 2, shift=2.0), LINE2: _cells(50, 3)}
    found = squared_distances([a, b, c], None, gaussian_distances)
    assert found[0, 1] == pytest.approx(gaussian_distances([a[LINE1]], [b[LINE2]])[0, 0])
    assert found[0, 2] == pytest.approx(gaussian_distances([a[LINE1]], [c[LINE1]])[0, 0])
    assert found[1, 2] == pytest.approx(gaussian_distances([b[LINE2]], [c[LINE2]])[0, 0])
    assert share_no_context([a, b, c]) == 1


@pytest.mark.parametrize("method", ["gaussian", "sliced", "sinkhorn"])
def test_other_populations_change_no_distance(method):
    def between():
        return {
            "gaussian": gaussian_distances,
            "sliced": sliced_distances(0),
            "sinkhorn": SinkhornDistances(0.8, 10, 0),
        }[method]

    groups = [{LINE1: _cells(30, k, shift=0.5 * k)} for k in range(4)]
    few = squared_distances(groups[:3], None, between())
    many = squared_distances(groups, None, between())
    np.testing.assert_allclose(many[:3, :3], few, rtol=1e-5, atol=1e-5)

"""Multidimensional scaling and placement: exact for points, unmoved by further ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellgap.encode._scaling import classical_scaling, published_scaling


def _squared(x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
    return ((x[:, None] - (x if y is None else y)[None]) ** 2).sum(-1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(4, 12), d=st.integers(1, 3))
def test_distances_of_points_are_reproduced(seed, n, d):
    x = np.random.default_rng(seed).normal(size=(n, d))
    scaling = classical_scaling(_squared(x), 10)
    assert scaling.coordinates.shape == (n, d)
    np.testing.assert_allclose(_squared(scaling.coordinates), _squared(x), atol=1e-9)
    np.testing.assert_allclose(scaling.coordinates.mean(0), 0, atol=1e-9)
    assert scaling.explained == pytest.approx(1.0, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000))
def test_further_points_are_placed_where_they_are(seed):
    rng = np.random.default_rng(seed)
    x, new = rng.normal(size=(9, 3)), rng.normal(size=(4, 3))
    scaling = classical_scaling(_squared(x), 3)
    placed = scaling.place(_squared(new, x))
    np.testing.assert_allclose(_squared(placed, scaling.coordinates), _squared(new, x), atol=1e-8)
    np.testing.assert_allclose(scaling.place(_squared(x)), scaling.coordinates, atol=1e-8)


def test_order_of_points_does_not_matter():
    x = np.random.default_rng(0).normal(size=(8, 3))
    order = np.random.default_rng(1).permutation(8)
    np.testing.assert_allclose(
        classical_scaling(_squared(x[order]), 3).coordinates,
        classical_scaling(_squared(x), 3).coordinates[order],
        atol=1e-9,
    )


def test_axes_are_the_principal_components_of_points():
    from sklearn.decomposition import PCA

    x = np.random.default_rng(3).normal(size=(20, 5)) * [5, 3, 2, 1, 0.5]
    expected = PCA(2).fit_transform(x)
    found = classical_scaling(_squared(x), 2).coordinates
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-9)
    assert (found[np.abs(found).argmax(0), [0, 1]] > 0).all()


def test_equal_points_have_no_coordinates():
    assert classical_scaling(np.zeros((4, 4)), 3).coordinates.shape == (4, 0)


def test_noise_that_all_pairs_share_turns_no_axis():
    x = np.random.default_rng(0).normal(size=(8, 3))
    noisy = _squared(x) + 0.3 * (1 - np.eye(8))
    np.testing.assert_allclose(classical_scaling(noisy, 3).axes, classical_scaling(_squared(x), 3).axes, atol=1e-9)


def test_published_scaling_is_smacof_between_zero_and_one():
    x = np.random.default_rng(0).normal(size=(7, 2))
    distances = np.sqrt(_squared(x))
    found = published_scaling(distances, 2, seed=0)
    assert found.min() == 0 and found.max() == 1
    again = np.sqrt(_squared(found))
    i, j = np.triu_indices(7, 1)
    # Points of the plane have a solution without stress, up to the scale.
    np.testing.assert_allclose(again[i, j] / again[0, 1], distances[i, j] / distances[0, 1], rtol=0.02)
    np.testing.assert_array_equal(found, published_scaling(distances, 2, seed=0))

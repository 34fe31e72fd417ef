"""Proximal maps against minimization by brute force, and what all of them share."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cellgap.dynamics._proximal import group_threshold, hierarchical, soft_threshold

numbers = st.floats(-5, 5, width=32).map(lambda x: 0.0 if abs(x) < 1e-3 else x)
vectors = arrays(np.float32, 4, elements=numbers)
thresholds = st.floats(0, 4, width=32)
bounds = st.sampled_from([0.1, 1.0, 10.0])
QUICK = settings(max_examples=60, deadline=None)


@QUICK
@given(numbers, thresholds)
def test_soft_thresholds_minimize(w, t):
    found = float(soft_threshold(jnp.float32(w), t))

    def value(x):
        return 0.5 * (w - x) ** 2 + t * np.abs(x)

    grid = np.r_[np.linspace(-6, 6, 24_001), 0.0]
    assert value(found) <= value(grid).min() + 1e-5  # rounding of single precision at values of order 10
    assert abs(found) <= abs(w) and found * w >= 0


def norm_minimum(v: np.ndarray, t: float) -> np.ndarray:
    """Return the minimizer of ``|v - x|^2 / 2 + t |x|`` by a grid over lengths: it lies along v."""
    along = np.linspace(0, 1, 20_001)
    size = np.linalg.norm(v)
    return v * along[np.argmin(0.5 * (1 - along) ** 2 * size**2 + t * along * size)]


@QUICK
@given(vectors, thresholds)
def test_group_thresholds_minimize(v, t):
    found = np.asarray(group_threshold(jnp.asarray(v), t), np.float64)
    np.testing.assert_allclose(found, norm_minimum(v.astype(float), t), atol=1e-3)

    def value(x):
        return 0.5 * np.sum((v - x) ** 2, -1) + t * np.linalg.norm(x, axis=-1)

    # No point nearby, in any direction, is better.
    rng = np.random.default_rng(0)
    near = found + rng.normal(size=(500, 4)) * 10.0 ** rng.uniform(-4, 0, (500, 1))
    assert value(found) <= value(near).min() + 1e-5


def test_groups_are_shrunk_each_by_its_own_threshold():
    w = jnp.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    found = group_threshold(w, jnp.array([1.0, 0.6, 0.1]))
    np.testing.assert_allclose(found, [[2.4, 3.2], [0.0, 0.0], [0.0, 0.0]], rtol=1e-6)
    np.testing.assert_array_equal(found[1:], 0.0)


def hierarchical_minimum(v: np.ndarray, u: np.ndarray, t: float, bound: float) -> tuple[float, float]:
    """Return the lowest value, and the length of b at it.

    For every length of b, the best b lies along v, and the best w is u cut off at ``bound |b|``: one number is left,
    over which the value is convex.
    """

    def value(b):
        cut = np.maximum(np.abs(u)[:, None] - bound * b, 0.0)
        return 0.5 * (np.linalg.norm(v) - b) ** 2 + 0.5 * (cut**2).sum(0) + t * b

    low, high = 0.0, np.linalg.norm(v) + np.abs(u).max() / bound + 1.0
    for _ in range(12):
        grid = np.linspace(low, high, 401)
        best = int(np.argmin(value(grid)))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 400)]
    b = 0.5 * (low + high)
    return float(value(np.array([b]))[0]), b


def objective(v, u, b, w, t):
    return 0.5 * np.sum((v - b) ** 2) + 0.5 * np.sum((u - w) ** 2) + t * np.linalg.norm(b)


@settings(max_examples=150, deadline=None)
@given(arrays(np.float32, 2, elements=numbers), vectors, thresholds, bounds)
def test_hierarchical_steps_minimize_under_their_constraint(v, u, t, bound):
    b, w = (np.asarray(a, np.float64) for a in hierarchical(jnp.asarray(v), jnp.asarray(u), t, bound))
    v, u = v.astype(float), u.astype(float)
    assert np.abs(w).max() <= bound * np.linalg.norm(b) * (1 + 1e-5) + 1e-6
    least, length = hierarchical_minimum(v, u, t, bound)
    # Values are of order 50: relative rounding of single precision, some operations deep.
    assert objective(v, u, b, w, t) <= least + 1e-5 * (1 + abs(least))
    assert np.linalg.norm(b) == pytest.approx(length, abs=2e-4 * (1 + np.linalg.norm(v)))
    assert (w * u >= 0).all() and (np.abs(w) <= np.abs(u) + 1e-6).all()


@pytest.mark.parametrize("bound", [0.5, 10.0])
def test_hierarchical_steps_of_one_number_minimize_on_a_fine_grid(bound):
    rng = np.random.default_rng(0)
    for _ in range(10):
        (v,), u, t = rng.normal(size=1), rng.normal(size=1), rng.uniform(0, 1)
        b, w = (
            np.asarray(a, float)
            for a in hierarchical(jnp.array([v], jnp.float32), jnp.asarray(u, jnp.float32), t, bound)
        )
        at, to = np.meshgrid(np.linspace(-3, 3, 1201), np.linspace(-3, 3, 1201), indexing="ij")
        values = 0.5 * (v - at) ** 2 + 0.5 * (u[0] - to) ** 2 + t * np.abs(at)
        values[np.abs(to) > bound * np.abs(at) + 1e-9] = np.inf
        assert objective(np.array([v]), u, b, w, t) <= values.min() + 1e-6
        assert values.min() - objective(np.array([v]), u, b, w, t) < 0.05  # the grid is close: it can tell


def test_a_source_without_a_linear_weight_may_get_one():
    """From v = 0 the step is along no direction in particular; it still minimizes."""
    b, w = hierarchical(jnp.zeros((1, 1)), jnp.array([[2.0, -1.0]]), 0.5, 1.0)
    least, length = hierarchical_minimum(np.zeros(1), np.array([2.0, -1.0]), 0.5, 1.0)
    assert float(jnp.abs(b[0, 0])) == pytest.approx(length, abs=1e-4) and length > 0.1
    assert objective(0, np.array([2.0, -1.0]), np.asarray(b[0]), np.asarray(w[0]), 0.5) <= least + 1e-6


@QUICK
@given(vectors, vectors, vectors, vectors, thresholds)
def test_no_proximal_map_moves_points_apart(v, u, x, y, t):
    for f in (soft_threshold, group_threshold):
        apart = np.linalg.norm(np.asarray(f(jnp.asarray(v), t)) - np.asarray(f(jnp.asarray(u), t)))
        assert apart <= np.linalg.norm(v - u) * (1 + 1e-5) + 1e-5


@QUICK
@given(vectors, vectors, bounds)
def test_large_thresholds_give_zeros_and_none_leaves_what_is_allowed(v, u, bound):
    norm, total = float(np.linalg.norm(v)), float(np.abs(u).sum())
    np.testing.assert_array_equal(soft_threshold(jnp.asarray(v), norm + 1e-3), 0.0)
    np.testing.assert_array_equal(group_threshold(jnp.asarray(v), norm * 1.001 + 1e-3), 0.0)
    large = 1.001 * (norm + bound * total) + 1e-3
    for part in hierarchical(jnp.asarray(v), jnp.asarray(u), large, bound):
        np.testing.assert_array_equal(part, 0.0)
    np.testing.assert_array_equal(soft_threshold(jnp.asarray(v), 0.0), v)
    np.testing.assert_allclose(group_threshold(jnp.asarray(v), 0.0), v, rtol=1e-6)
    inside = jnp.clip(jnp.asarray(u), -bound * norm * 0.999, bound * norm * 0.999)
    b, w = hierarchical(jnp.asarray(v), inside, 0.0, bound)
    np.testing.assert_allclose(b, v, rtol=1e-5)
    np.testing.assert_allclose(w, inside, rtol=1e-5)


def test_many_groups_are_as_each_alone():
    rng = np.random.default_rng(1)
    v, u = (jnp.asarray(rng.normal(size=(3, 5, k)), jnp.float32) for k in (2, 4))
    t = jnp.asarray(rng.uniform(0, 2, (3, 5)), jnp.float32)
    b, w = hierarchical(v, u, t, 0.7)
    shrunk = group_threshold(u, t)
    for i in range(3):
        for j in range(5):
            alone = hierarchical(v[i, j], u[i, j], t[i, j], 0.7)
            np.testing.assert_allclose(b[i, j], alone[0], rtol=1e-6)
            np.testing.assert_allclose(w[i, j], alone[1], rtol=1e-6)
            np.testing.assert_allclose(shrunk[i, j], group_threshold(u[i, j], t[i, j]), rtol=1e-6)

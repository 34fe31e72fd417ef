"""Nodes of the tree: what they hold, how they are combined, and what a donor moves."""

import itertools

import numpy as np
import pytest

from cellgap.stream.release import _tree


def nodes(steps: int) -> list[tuple[int, int]]:
    return [(i << h, (i + 1) << h) for h in range(steps.bit_length()) for i in range(steps >> h)]


def brute_force(steps: int, k: int, b: int) -> int:
    return max(
        sum(sum(low < t <= high for t in chosen) ** 2 for low, high in nodes(steps))
        for size in range(1, k + 1)
        for chosen in itertools.combinations(range(1, steps + 1), size)
        if all(later - sooner >= b for sooner, later in itertools.pairwise(chosen))
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 6, 7, 8, 11, 12, 13, 14])
def test_sensitivity_by_brute_force(steps):
    for k in (1, 2, 3, 4):
        for b in (1, 2, 3, 5, 9):
            assert _tree.squared_sensitivity(steps, k, b) == brute_force(steps, k, b)


def test_sensitivity_of_the_specification():
    assert _tree.squared_sensitivity(12, 3, 1) == 26


@pytest.mark.parametrize("chosen", [(1, 66, 131), (1, 101, 202), (64, 129, 194), (1, 1025, 2049, 3073)])
def test_blocks_bound_from_above(chosen):
    steps = 4000
    b = min(later - sooner for sooner, later in itertools.pairwise(chosen))
    moved = sum(sum(low < t <= high for t in chosen) ** 2 for low, high in nodes(steps))
    found = _tree.squared_sensitivity(steps, len(chosen), b)
    assert moved <= found <= len(chosen) ** 2 * _tree.levels(steps)


def test_many_participations_are_bounded():
    exact = _tree._placed(128, 80, 1)
    assert exact <= _tree.squared_sensitivity(128, 80, 1) <= 80**2 * 8
    assert _tree.squared_sensitivity(16, 100, 1) == 16 * 1 + 8 * 4 + 4 * 16 + 2 * 64 + 256


def test_nodes_and_prefixes_without_noise():
    steps = 37
    x = np.random.default_rng(0).integers(-9, 10, (steps, 3))
    state = np.zeros((_tree.levels(steps), 3), np.int64)
    published = []
    for t in range(1, steps + 1):
        state = _tree.absorb(state, t, x[t - 1])
        closed = state[: _tree.closing(t)]
        for h, node in enumerate(closed):
            assert (node == x[t - (1 << h) : t].sum(axis=0)).all()
        published.append(closed)
    assert sum(map(len, published)) == len(nodes(steps))
    np.testing.assert_allclose(_tree.refined_prefixes(published), np.cumsum(x, axis=0), atol=1e-9)


def test_refined_variances():
    steps, runs = 63, 4000
    rng = np.random.default_rng(1)
    noise = [rng.normal(size=(_tree.closing(t), runs)) for t in range(1, steps + 1)]
    found = _tree.refined_prefixes(noise).var(axis=1)
    expected = np.array([_tree.prefix_variance(t) for t in range(1, steps + 1)])
    np.testing.assert_allclose(found, expected, rtol=0.12)
    assert (found / expected).mean() == pytest.approx(1.0, abs=0.02)
    assert _tree.prefix_variance(63, refined=False) == 6
    assert _tree.prefix_variance(5) == 1.0 + 1.0 / (2.0 - 0.25)
    for horizon in (1, 6, 63, 64, 1000):
        assert _tree.worst_variance(horizon) == pytest.approx(max(map(_tree.prefix_variance, range(1, horizon + 1))))


def test_laplace_bound_covers():
    rng = np.random.default_rng(2)
    sums = rng.laplace(size=(20_000, 10)).sum(axis=1)
    assert (np.abs(sums) > _tree.laplace_bound(1.0, 10.0, 1, 0.05)).mean() < 0.05

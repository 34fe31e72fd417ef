"""Draws without replacement: distinct, in range, and uniform one by one and in pairs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.stats import chisquare

from cellgap.train import draw_without_replacement

# The level of every test of uniformity below; seeds are fixed, so a pass stays a pass.
LEVEL = 1e-3


N, BLOCK = 10, 2000


@eqx.filter_jit
def block(n: int, count: int, size: jax.Array, seed: jax.Array) -> jax.Array:
    keys = jr.split(jr.wrap_key_data(jnp.stack([seed, seed])), count)
    return jax.vmap(lambda key: draw_without_replacement(key, n, size))(keys)


def draws(size: int, blocks: int = 1) -> np.ndarray:
    """Return 2,000 draws a block of ten cells each; `size` is traced, so that all sizes share one program."""
    return np.concatenate([block(N, BLOCK, jnp.int32(size), jnp.uint32(100 * size + b)) for b in range(blocks)])


@pytest.mark.parametrize("size", [1, 2, 3, 9, 10, 11, 255, 256, 257, 1000, 4096, 70_001, 2_000_000])
def test_draws_are_distinct_and_in_range(size):
    found = draws(size)
    assert found.dtype == np.int32 and found.min() >= 0 and found.max() < size
    n = min(N, size)
    assert (np.diff(np.sort(found[:, :n], axis=1), axis=1) > 0).all()


def test_a_draw_of_all_is_a_permutation():
    for size in (40, 300):
        found = np.sort(np.asarray(block(300, 8, jnp.int32(size), jnp.uint32(0)))[:, :size], axis=1)
        np.testing.assert_array_equal(found, np.tile(np.arange(size), (8, 1)))


def test_draws_of_more_than_there_are_wrap_around():
    found = draws(3)
    np.testing.assert_array_equal(found[:, 3:6], found[:, :3])
    np.testing.assert_array_equal(found[:, 9], found[:, 0])
    assert (draws(1) == 0).all()


def test_the_same_key_draws_the_same_and_another_key_other_cells():
    first = draws(2_000_000)
    np.testing.assert_array_equal(first, draws(2_000_000))
    assert len({tuple(row) for row in first.tolist()}) == BLOCK


def test_a_size_given_as_a_number_is_the_size_given_as_an_array():
    key = jr.key(5)
    both = eqx.filter_jit(lambda key, size: [draw_without_replacement(key, N, s) for s in (100, size)])
    np.testing.assert_array_equal(*both(key, jnp.int32(100)))


@pytest.mark.parametrize("size", [5, 23, 256, 300])
def test_every_cell_is_equally_likely_in_every_position(size):
    found = draws(size, blocks=5)
    for position in range(min(N, size)):
        assert chisquare(np.bincount(found[:, position], minlength=size)).pvalue > LEVEL


@pytest.mark.parametrize("size", [5, 23])
def test_every_ordered_pair_is_equally_likely(size):
    found = draws(size, blocks=8)
    for first, second in ((0, 1), (0, 4), (2, 3)):
        counts = np.zeros((size, size))
        np.add.at(counts, (found[:, first], found[:, second]), 1)
        assert np.trace(counts) == 0
        assert chisquare(counts[~np.eye(size, dtype=bool)]).pvalue > LEVEL


def test_neighbors_of_a_large_population_are_as_likely_as_any_pair():
    """A weak mixing would keep the order of the population: differences of two draws are uniform around the circle."""
    size = 4096
    found = draws(size, blocks=8)
    for first, second in ((0, 1), (0, 8), (3, 7)):
        between = (found[:, second] - found[:, first]) % size
        assert chisquare(np.bincount(between // 64, minlength=64)).pvalue > LEVEL

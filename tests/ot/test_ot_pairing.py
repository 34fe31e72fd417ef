"""Pairs drawn from a plan: the law of the draws, padding, and the limits of the regularization."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.stats import chi2

import ot as pot
from cellgap.ot import assignment, draw_columns, draw_pairs


def clouds(n: int = 6, d: int = 2) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(n, d)), jnp.float32), jnp.asarray(rng.normal(size=(n, d)) + 0.7, jnp.float32)


def pairs_of_keys(x: jax.Array, y: jax.Array, epsilon: float, n: int) -> np.ndarray:
    """Return the partners of `n` draws, one after the other in one compiled program."""
    draw = jax.jit(lambda keys: jax.lax.map(lambda key: draw_pairs(x, y, epsilon=epsilon, key=key).partner, keys))
    return np.asarray(draw(jax.vmap(jr.key)(jnp.arange(n))))


@pytest.mark.parametrize("m", [1, 2, 7, 16, 19])
def test_columns_are_those_of_the_inverse_distribution(m):
    rng = np.random.default_rng(m)
    p = rng.random((200, m)) * (rng.random((200, m)) < 0.6)
    p[:, rng.integers(m)] += 0.1  # no row of zeros
    u = rng.random(200)
    u[:2] = 0.0, 1.0 - 2.0**-23
    p, u = p.astype(np.float32), u.astype(np.float32)
    found = np.asarray(jax.jit(draw_columns)(jnp.asarray(p), jnp.asarray(u)))
    sums = np.cumsum(p.astype(np.float64), 1)
    expected = np.array([np.searchsorted(s, x * s[-1], side="right") for s, x in zip(sums, u, strict=True)])
    assert (p[np.arange(200), found] > 0).all(), "a column of probability 0 was drawn"
    # Where u is at the edge of a column, rounding may decide otherwise.
    edge = np.abs(sums - (u * sums[:, -1])[:, None]).min(1) < 1e-5
    np.testing.assert_array_equal(found[~edge], expected[~edge])
    assert edge.mean() < 0.1


def test_the_law_of_pairs_is_the_plan_of_another_library():
    x, y = clouds()
    draws = 4000

    @jax.jit
    def several(keys):
        return jax.lax.map(lambda key: draw_pairs(x, y, epsilon=0.3, key=key, tol=1e-6, max_iterations=1000), keys)

    found = several(jr.split(jr.key(0), draws))
    assert float(found.error.max()) < 1e-5
    cost = pot.dist(np.asarray(x, float), np.asarray(y, float))
    plan = pot.sinkhorn(np.full(6, 1 / 6), np.full(6, 1 / 6), cost / cost.mean(), 0.3, stopThr=1e-12)
    counts = np.zeros((6, 6))
    np.add.at(counts, (np.tile(np.arange(6), draws), np.asarray(found.partner).ravel()), 1)
    expected = plan * 6 * draws
    statistic = ((counts - expected) ** 2 / expected).sum()
    # Rows are paired once each: 6 times 5 degrees of freedom.
    assert statistic < chi2.ppf(0.999, 30), "draws do not follow the plan"
    wrong = np.full((6, 6), draws / 6)
    assert ((counts - wrong) ** 2 / wrong).sum() > chi2.ppf(0.999, 30), "the test would not see independent pairs"
    # Column sums: y is drawn evenly.
    columns = counts.sum(0)
    assert ((columns - draws) ** 2 / draws).sum() < chi2.ppf(0.999, 5)


def test_small_epsilon_pairs_optimally_and_large_epsilon_independently():
    x, y = clouds(16)
    # Far apart compared with the noise of the draw.
    found = draw_pairs(x, y, epsilon=1e-4, key=jr.key(0), max_iterations=5000)
    np.testing.assert_array_equal(found.partner, assignment(np.asarray(x), np.asarray(y), cost="sqeuclidean")[0])
    counts = np.bincount(pairs_of_keys(x, y, 1e4, 60).ravel(), minlength=16)
    assert ((counts - 60) ** 2 / 60).sum() < chi2.ppf(0.999, 15)


def test_the_unit_of_the_cells_is_irrelevant():
    x, y = clouds(16)
    one = draw_pairs(x, y, epsilon=0.05, key=jr.key(3))
    np.testing.assert_array_equal(draw_pairs(64.0 * x, 64.0 * y, epsilon=0.05, key=jr.key(3)).partner, one.partner)


@pytest.mark.parametrize("filler", [0.0, 1e6])
def test_padding_is_never_drawn_and_changes_nothing(filler):
    x, y = clouds(16)
    weights = jnp.where(jnp.arange(16) < 9, 1 / 9, 0.0)
    x, y = (jnp.where(jnp.arange(16)[:, None] < 9, cloud, filler) for cloud in (x, y))
    found = draw_pairs(x, y, epsilon=0.1, a=weights, b=weights, key=jr.key(0))
    assert np.asarray(found.partner)[:9].max() < 9
    assert np.isfinite(float(found.error)) and float(found.error) <= 1e-3
    other, _ = clouds(16)
    x2, y2 = (jnp.concatenate([cloud[:9], other[9:]]) for cloud in (x, y))
    again = draw_pairs(x2, y2, epsilon=0.1, a=weights, b=weights, key=jr.key(0))
    np.testing.assert_array_equal(np.asarray(again.partner)[:9], np.asarray(found.partner)[:9])


def test_cells_at_one_point_are_paired_evenly():
    x = jnp.ones((16, 2))
    counts = np.bincount(pairs_of_keys(x, x, 0.05, 60).ravel(), minlength=16)
    assert ((counts - 60) ** 2 / 60).sum() < chi2.ppf(0.999, 15)

"""Maps and potentials out of sample: the definitions, blocks, padding, Gaussian truth, sparse displacements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ot_reference import clouds, log_domain, plan_of, weights
from scipy.spatial.distance import cdist

from cellgap import ot
from cellgap.errors import ConfigError


def sample(n: int = 24, m: int = 40, d: int = 3) -> tuple[jax.Array, jax.Array]:
    x, y = clouds(n, m, d)
    return jnp.asarray(x), jnp.asarray(y)


@pytest.mark.parametrize("cost", ["euclidean", "sqeuclidean", "cosine"])
def test_map_and_potential_are_those_of_the_plan_at_the_cells(x64, cost):
    """The reference is the plain iteration on scipy's costs; two block sizes, one of which leaves a remainder."""
    x, y = sample()
    a, b = weights(24), weights(40, seed=1)
    c = cdist(x, y, cost)
    f, g = log_domain(c, 0.4, a, b)
    p = plan_of(c, f, g, 0.4, a, b)
    for block in (5, 8, None):
        options = {"epsilon": 0.4, "cost": cost, "b": jnp.asarray(b), "block": block}
        np.testing.assert_allclose(ot.entropic_map(x, y, jnp.asarray(g), **options), (p / a[:, None]) @ y, atol=1e-10)
        np.testing.assert_allclose(ot.entropic_potential(x, y, jnp.asarray(g), **options), f, atol=1e-10)


def test_padding_changes_nothing(x64):
    x, y = sample()
    g = jnp.sin(jnp.arange(40.0))
    padded_y, padded_g = jnp.concatenate([y, 1e6 * y[:3]]), jnp.concatenate([g, jnp.full(3, 1e9)])
    b = jnp.concatenate([jnp.full(40, 1 / 40), jnp.zeros(3)])
    plain = ot.entropic_map(x, y, g, epsilon=0.4)
    np.testing.assert_allclose(ot.entropic_map(x, padded_y, padded_g, epsilon=0.4, b=b), plain, atol=1e-10)


def test_a_large_epsilon_sends_everything_to_the_mean_and_a_small_one_to_the_assigned_cell(x64):
    x, y = sample(40, 40)
    far = ot.entropic_map(x, y, jnp.zeros(40), epsilon=1e8)
    np.testing.assert_allclose(far, jnp.broadcast_to(y.mean(0), x.shape), atol=1e-6)
    solved = ot.sinkhorn(x, y, epsilon=1e-3, cost="sqeuclidean", tol=1e-9, max_iterations=20000)
    columns, _ = ot.assignment(np.asarray(x), np.asarray(y), cost="sqeuclidean")
    np.testing.assert_allclose(ot.entropic_map(x, y, solved.g, epsilon=1e-3), y[columns], atol=1e-2)


def test_the_debiased_map_is_closer_to_the_truth_between_gaussians():
    """``x -> 2 x + 1`` out of sample; the entropic map alone shrinks toward the mean."""
    rng = np.random.default_rng(0)
    x, new = (jnp.asarray(rng.normal(size=(size, 2)), jnp.float32) for size in (600, 200))
    y = jnp.asarray(2 * rng.normal(size=(600, 2)) + 1, jnp.float32)
    options = {"epsilon": 1.0, "cost": "sqeuclidean"}
    g, own = ot.entropic_cost(x, y, **options).g, ot.entropic_self_cost(x, **options).f
    plain = ot.entropic_map(new, y, g, **options)
    debiased = ot.debiased_entropic_map(new, y, g, x, own, **options)
    worse, better = (float(jnp.mean((t - (2 * new + 1)) ** 2)) for t in (plain, debiased))
    assert better < 0.7 * worse
    # Onto its own cloud the debiased map is the identity.
    same = ot.debiased_entropic_map(new, x, own, x, own, **options)
    np.testing.assert_allclose(same, new, atol=1e-5)


def test_elastic_cost_moves_only_the_coordinates_that_changed():
    """Five of six coordinates keep their law: the squared cost moves them all, the elastic cost hardly any."""
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(128, 6)), jnp.float32).at[:, 0].add(shift) for shift in (0.0, 4.0))
    still = {}
    for l1 in (0.0, 6.0):
        cost = ot.ElasticNet(l1=l1)
        g = ot.sinkhorn(x, y, epsilon=5.0, cost=cost).g
        moved = ot.entropic_map(x, y, g, epsilon=5.0, cost=cost) - x
        still[l1] = float(jnp.mean(moved[:, 1:] == 0.0))
        assert float(jnp.mean(moved[:, 0])) == pytest.approx(4.0, abs=0.3)
    assert still[0.0] == 0.0 and still[6.0] > 0.7


def test_without_its_l1_part_the_elastic_map_is_the_barycentric_one(x64):
    x, y = sample()
    g = jnp.sin(jnp.arange(40.0))
    elastic = ot.entropic_map(x, y, g, epsilon=0.8, cost=ot.ElasticNet(l1=0.0, l2=2.0))
    np.testing.assert_allclose(elastic, ot.entropic_map(x, y, g / 2, epsilon=0.4), atol=1e-12)


def test_a_block_below_one_row_is_refused():
    x, y = sample()
    with pytest.raises(ConfigError, match="block"):
        ot.entropic_map(x, y, jnp.zeros(40, x.dtype), epsilon=1.0, block=0)

"""Ground costs: values, cancellation, derivatives at coincidence, NaN, refusals."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ot_reference import clouds
from scipy.spatial.distance import cdist

from cellgap import ot
from cellgap.errors import ConfigError, DataError

COSTS = ("euclidean", "sqeuclidean", "cosine")


@pytest.mark.parametrize("cost", COSTS)
def test_costs_are_those_of_scipy(cost):
    x, y = clouds(48)
    np.testing.assert_allclose(ot.cost_matrix(jnp.float32(x), jnp.float32(y), cost), cdist(x, y, cost), rtol=2e-5)
    paired = ot.paired_cost(jnp.float32(x[:40]), jnp.float32(y), cost)
    np.testing.assert_allclose(paired, np.diagonal(cdist(x[:40], y, cost)), rtol=2e-6)
    assert float(ot.mean_cost(jnp.float32(x), jnp.float32(y), cost)) == pytest.approx(
        cdist(x, y, cost).mean(), rel=1e-6
    )


def test_distances_survive_far_from_the_origin():
    """At |x| = 10^4 the squared norms of float32 are known to about 10; the distances here are about 3."""
    x, y = (np.float32(cloud + 1e4) for cloud in clouds(48))
    exact = cdist(x.astype(float), y.astype(float))
    np.testing.assert_allclose(ot.cost_matrix(jnp.asarray(x), jnp.asarray(y)), exact, rtol=1e-4)


@pytest.mark.parametrize("cost", COSTS)
def test_gradient_is_0_where_points_coincide(cost):
    x = jnp.zeros((3, 2)).at[0].set(1.0)
    same, pulled = jax.jit(
        lambda x: (
            jax.grad(lambda y: ot.paired_cost(x, y, cost).sum())(x),
            jax.grad(lambda y: ot.cost_matrix(x, y, cost)[1:].sum())(x),
        )
    )(x)
    np.testing.assert_array_equal(same, jnp.zeros((3, 2)))
    # The zero rows coincide with each other; all that is left is the pull between the first row and the others.
    assert np.isfinite(pulled).all()
    np.testing.assert_array_equal(pulled[1:], jnp.zeros((2, 2)))


def test_the_unit_of_a_relative_epsilon_has_no_gradient():
    x, y = (jnp.float32(cloud) for cloud in clouds(48))
    np.testing.assert_array_equal(jax.grad(ot.mean_cost)(x, y), jnp.zeros_like(x))


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_broken_cells_stay_visible_when_compiled(cost, broken):
    """A clamp by `maximum` inside a fused kernel may turn NaN into 0, which would look like a perfect fit."""
    x, y = (jnp.float32(cloud) for cloud in clouds(128, 128, 50))
    c = jax.jit(lambda x, y: ot.cost_matrix(x, y, cost))(x.at[3, 2].set(broken), y)
    assert np.isnan(c[3]).all()


def test_unknown_costs_are_refused():
    """Without the shape checker of the tests, which refuses them first."""
    x, y = clouds(8, 8)
    for function in (ot.cost_matrix, ot.paired_cost):
        with pytest.raises(ConfigError, match="manhattan"):
            inspect.unwrap(function)(jnp.float32(x), jnp.float32(y), "manhattan")
    with pytest.raises(ConfigError, match="cityblock"):
        inspect.unwrap(ot.assignment)(x, y, cost="cityblock")


def test_assignment_finds_a_hidden_permutation():
    x = clouds(30, 30)[0]
    order = np.random.default_rng(0).permutation(30)
    columns, value = ot.assignment(x, x[order] + 1e-3)
    np.testing.assert_array_equal(columns, np.argsort(order))
    assert value == pytest.approx(1e-3 * np.sqrt(5), rel=1e-9)
    assert ot.assignment_cost(x, x[order] + 1e-3) == value


@pytest.mark.parametrize("cost", COSTS)
def test_assignment_is_the_best_of_all_permutations(cost):
    from itertools import permutations

    x, y = clouds(6, 6, 2, shift=0.0)
    c = cdist(x, y, cost)
    best = min(np.mean([c[i, j] for i, j in enumerate(order)]) for order in permutations(range(6)))
    assert ot.assignment_cost(x, y, cost=cost) == pytest.approx(best, rel=1e-12)


def test_assignment_errors_say_what_was_found():
    x, y = clouds(8, 8)
    assignment = inspect.unwrap(ot.assignment)
    with pytest.raises(DataError, match="7 and 8"):
        assignment(x[:7], y)
    with pytest.raises(DataError, match="same features"):
        assignment(x[:, :3], y)
    with pytest.raises(DataError, match="same features"):
        assignment(x[:0], y[:0])
    for broken in (np.nan, np.inf):
        with pytest.raises(DataError, match="finite"):
            assignment(np.where(x == x[0, 0], broken, x), y)

"""Large clouds by stripes: the dense solver in double precision, blocks, padding, other costs, gradients, memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ot_reference import clouds, entropic_value, log_domain_self, weights
from scipy.spatial.distance import cdist

from cellgap import ot
from cellgap.errors import ConfigError
from cellgap.ot._anderson import fixed_point
from cellgap.ot._sweeps import self_sweep, sweep

# Two levels: all, and a fourth as a dense problem.
N, M, COARSEST = 90, 70, 32
EPSILON = {"euclidean": 0.3, "sqeuclidean": 0.8, "cosine": 0.1}


def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return *clouds(N, M, 3), weights(N), weights(M, seed=1)


@functools.cache
def streamed(cost="sqeuclidean", tol: float = 1e-10, block: int | None = None, max_iterations: int = 300):
    """Value and gradients of a divergence, compiled."""

    def run(x, y, a, b, epsilon):
        found = ot.streamed_divergence(
            x,
            y,
            a=a,
            b=b,
            epsilon=epsilon,
            cost=cost,
            tol=tol,
            block=block,
            max_iterations=max_iterations,
            coarsest=COARSEST,
        )
        return found.value, found

    return jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize("cost", EPSILON)
def test_values_and_gradients_are_those_of_the_definition(x64, cost):
    """Uneven weights, a block that divides neither cloud; the dense function and the plain iteration agree."""
    x, y, a, b = sample()
    epsilon = EPSILON[cost]
    (value, found), slopes = streamed(cost, block=13)(*map(jnp.asarray, (x, y, a, b)), epsilon)
    assert all(bool(part.converged) for part in found[1:])
    assert float(found.cross.value) == pytest.approx(entropic_value(x, y, epsilon, cost, a, b), rel=1e-9)
    own = 2 * float(a @ log_domain_self(cdist(x, x, cost), epsilon, a))
    assert float(found.own_x.value) == pytest.approx(own, rel=1e-8)

    def dense(x, y):
        return ot.sinkhorn_divergence(
            x, y, a=jnp.asarray(a), b=jnp.asarray(b), epsilon=epsilon, cost=cost, tol=1e-11, max_iterations=5000
        )

    expected, by_dense = jax.jit(jax.value_and_grad(dense, argnums=(0, 1)))(jnp.asarray(x), jnp.asarray(y))
    assert float(value) == pytest.approx(float(expected), rel=1e-8)
    for slope, other in zip(slopes, by_dense, strict=True):
        np.testing.assert_allclose(slope, other, atol=1e-8)


def test_a_function_of_two_points_is_a_cost_here_too(x64):
    x, y, a, b = map(jnp.asarray, sample())

    def squared(one, other):
        return jnp.sum((one - other) ** 2)

    plain, given_as_function = (streamed(cost, block=13)(x, y, a, b, 0.8) for cost in ("sqeuclidean", squared))
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(given_as_function), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-8)


@settings(max_examples=12, deadline=None)
@given(block=st.integers(1, 120), seed=st.integers(0, 5))
def test_sweeps_do_not_depend_on_the_block(block, seed):
    """Single precision; the reference is the definition in double precision."""
    x, y, a, b = sample()
    g = np.random.default_rng(seed).normal(size=M)
    c, epsilon = cdist(x, y, "sqeuclidean"), 0.7
    f = -epsilon * np.log(np.exp((g - c) / epsilon) @ b)
    sums = a @ np.exp((f[:, None] + g - c) / epsilon)
    options = {"epsilon": jnp.float32(epsilon), "cost": "sqeuclidean", "block": block}
    x, y, a, b, g = (jnp.float32(array) for array in (x, y, a, b, g))
    found, columns = sweep(x, y, g, a=a, b=b, **options)
    np.testing.assert_allclose(found, f, atol=2e-5)
    np.testing.assert_allclose(columns, sums, rtol=1e-4)
    own = np.exp((np.asarray(g)[:, None] + np.asarray(g) - cdist(y, y, "sqeuclidean")) / epsilon) @ np.asarray(b)
    np.testing.assert_allclose(self_sweep(y, g, a=b, **options), own, rtol=1e-4)


@pytest.mark.parametrize("blocks", [(7, 1000)])
def test_results_do_not_depend_on_the_block(x64, blocks):
    x, y, a, b = map(jnp.asarray, sample())
    one, other = (streamed(block=block)(x, y, a, b, 0.8) for block in blocks)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-8)


def test_padding_changes_nothing(x64):
    """Rows of weight 0, far away, in the middle and at the end."""
    x, y, a, b = sample()
    (value, _), (in_x, in_y) = streamed(block=13)(*map(jnp.asarray, (x, y, a, b)), 0.8)

    def padded(array, fill):
        return jnp.asarray(np.insert(array, [5, len(array)], fill, axis=0))

    (again, found), (on_x, on_y) = streamed(block=13)(padded(x, 1e5), padded(y, -1e5), padded(a, 0), padded(b, 0), 0.8)
    assert float(again) == pytest.approx(float(value), rel=1e-8)
    np.testing.assert_allclose(on_x, padded(np.asarray(in_x), 0.0), atol=1e-7)
    np.testing.assert_allclose(on_y, padded(np.asarray(in_y), 0.0), atol=1e-7)
    assert bool(found.cross.converged)


def test_single_precision_at_the_default_tolerance():
    """The value is exact to second order in the violation of the marginal; d = 50."""
    x, y = clouds(600, 500, 50)
    with jax.enable_x64(True):
        exact = float(ot.sinkhorn_divergence(jnp.asarray(x), jnp.asarray(y), epsilon=5.0, cost="sqeuclidean", tol=1e-9))
    found = ot.streamed_divergence(jnp.float32(x), jnp.float32(y), epsilon=5.0, coarsest=256)
    assert all(bool(part.converged) and float(part.error) <= 1e-3 for part in found[1:])
    assert float(found.value) == pytest.approx(exact, rel=1e-5)
    assert int(found.cross.iterations) <= 8 and int(found.own_x.iterations) <= 6


def test_the_limit_on_sweeps_is_kept_and_told():
    x, y, a, b = (jnp.float32(array) for array in sample())
    _, found = streamed(tol=1e-5, max_iterations=2)(x, y, a, b, jnp.float32(0.02))[0]
    assert int(found.cross.iterations) == 2 and not bool(found.cross.converged)
    assert float(found.cross.error) > 1e-5 and np.isfinite(float(found.value))


def test_broken_cells_are_never_called_converged():
    x, y, a, b = (jnp.float32(array) for array in sample())
    value, found = streamed(tol=1e-5, max_iterations=2)(x.at[3, 1].set(np.nan), y, a, b, jnp.float32(0.8))[0]
    assert not np.isfinite(float(value))
    assert not bool(found.cross.converged) and not bool(found.own_x.converged)


def test_small_clouds_are_the_dense_problem():
    x, y = (jnp.float32(cloud) for cloud in clouds(40, 40, 3))
    one = ot.streamed_divergence(x, y, epsilon=0.5, cost="euclidean")
    other = ot.sinkhorn_divergence(x, y, epsilon=0.5, cost="euclidean", anneal=True)
    assert float(one.value) == pytest.approx(float(other), abs=1e-6)


def test_extrapolation_needs_far_fewer_steps_than_the_plain_iteration(x64):
    """A linear step whose slowest part shrinks by 0.95: 1e-8 takes the plain iteration about 360 steps."""
    rates = jnp.linspace(0.0, 0.95, 30)
    target = jnp.sin(jnp.arange(30.0))

    def step(point):
        move = (1 - rates) * (target - point)
        return move, jnp.abs(target - point).max(), point

    found = fixed_point(step, jnp.zeros(30), jnp.full(30, 1 / 30), tol=1e-8, max_iterations=1000)
    assert int(found.iterations) < 100
    np.testing.assert_allclose(found.at, target, atol=1e-8)
    np.testing.assert_array_equal(found.at, found.found)


def test_a_step_that_makes_it_worse_is_taken_back(x64):
    """A kinked step, on which extrapolation overshoots: it still ends at the fixed point."""

    def step(point):
        move = jnp.where(point > 1.0, -0.9, -0.05) * point
        return move, jnp.abs(point).max(), point

    found = fixed_point(step, jnp.asarray([3.0, 2.0, -4.0]), jnp.ones(3), tol=1e-6, max_iterations=1000)
    assert float(found.error) <= 1e-6


def test_memory_grows_with_the_points_only():
    """Compiled for 200,000 points in 50 coordinates: an array of all pairs would take 160 GB."""
    cloud = jax.ShapeDtypeStruct((200_000, 50), jnp.float32)

    def everything(x, y):
        return ot.streamed_divergence(x, y, epsilon=4.0).value

    used = jax.jit(jax.value_and_grad(everything)).lower(cloud, cloud).compile().memory_analysis()
    assert used.temp_size_in_bytes < 1.2e9


@pytest.mark.parametrize(
    ("wrong", "named"), [({"block": 0}, "block"), ({"coarsest": 0}, "coarsest"), ({"epsilon": -1.0}, "epsilon")]
)
def test_wrong_settings_are_refused(wrong, named):
    x, y = (jnp.float32(cloud) for cloud in clouds(8, 8))
    with pytest.raises(ConfigError, match=named):
        ot.streamed_cost(x, y, **({"epsilon": 1.0} | wrong))

"""Cells of weight zero are padding: they change nothing, wherever they lie, and receive nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ot_reference import clouds, entropic_value, log_domain, log_domain_self, plan_of, primal_kl, slope_of, weights
from scipy.spatial.distance import cdist

from cellgap import ot

N, M, D, MORE = 32, 24, 6, 16
EPSILON, GAP_EPSILON = 0.3, 2.0


@jax.jit
def everything(x, t, y, a, b, epsilon, gap_epsilon):
    """Values, gradients and plan of all that takes weights."""

    def value(x, t, y):
        cross = ot.entropic_cost(x, y, a=a, b=b, epsilon=epsilon, tol=1e-5)
        own = ot.entropic_self_cost(x, a=a, epsilon=epsilon, tol=1e-5)
        gap = ot.monge_gap(x, t, a=a, epsilon=gap_epsilon, cost="sqeuclidean", tol=1e-5)
        return cross.value + own.value + gap.value, (cross, own, gap)

    (_, found), gradients = jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True)(x, t, y)
    return found, gradients, ot.transport_plan(x, y, found[0], epsilon=epsilon, a=a, b=b)


def expected(x, t, y, a, b):
    """The same without padding, from the definitions in double precision."""
    c_cross, c_own, c_gap = cdist(x, y), cdist(x, x), cdist(x, t, "sqeuclidean")
    f = log_domain_self(c_own, EPSILON, a)
    cross = plan_of(c_cross, *log_domain(c_cross, EPSILON, a, b), EPSILON, a, b)
    own = plan_of(c_own, f, f, EPSILON, a, a)
    gap = plan_of(c_gap, *log_domain(c_gap, GAP_EPSILON, a, a), GAP_EPSILON, a, a)
    entropic_gap = a @ np.diagonal(c_gap) - primal_kl(c_gap, gap, GAP_EPSILON) - GAP_EPSILON * (a * np.log(a)).sum()
    values = primal_kl(c_cross, cross, EPSILON), primal_kl(c_own, own, EPSILON), entropic_gap
    moved = 2 * a[:, None] * (x - t)
    slope_x = slope_of(x, y, cross, "euclidean") + 2 * slope_of(x, x, own, "euclidean")
    slope_x += moved - slope_of(x, t, gap, "sqeuclidean")
    slope_t = -moved - slope_of(t, x, gap.T, "sqeuclidean")
    return values, (slope_x, slope_t, slope_of(y, x, cross.T, "euclidean")), cross


FILLERS = {
    "zeros": 0.0,
    "a real cell": clouds(N, M, D)[0][0],
    "far away": 1e4,
    "beyond single precision": 1e30,
}


@pytest.mark.parametrize("filler", FILLERS)
def test_padding_changes_nothing_and_receives_nothing(filler):
    x, y = (cloud + 20.0 for cloud in clouds(N, M, D))
    t = x + 0.6 * np.sin(3 * x)
    a, b = weights(N), weights(M, seed=1)

    def padded(array: np.ndarray, fill) -> jax.Array:
        return jnp.asarray(np.concatenate([array, np.broadcast_to(fill, (MORE, *array.shape[1:]))]), jnp.float32)

    arguments = *(padded(cells, FILLERS[filler]) for cells in (x, t, y)), padded(a, 0.0), padded(b, 0.0)
    found, gradients, plan = everything(*arguments, jnp.float32(EPSILON), jnp.float32(GAP_EPSILON))
    values, slopes, exact_plan = expected(x, t, y, a, b)
    for one, value in zip(found, values, strict=True):
        assert bool(one.converged) and np.isfinite(one.f).all()
        assert float(one.value) == pytest.approx(value, rel=2e-4)
    steepest = max(np.abs(slope).max() for slope in slopes)
    for cells, one, slope in zip((N, N, M), gradients, slopes, strict=True):
        np.testing.assert_allclose(one[:cells], slope, atol=2e-3 * steepest)
        np.testing.assert_array_equal(one[cells:], np.zeros((MORE, D)))
    np.testing.assert_allclose(plan[:N, :M], exact_plan, atol=1e-5)
    assert not np.asarray(plan)[N:].any() and not np.asarray(plan)[:, M:].any()
    # Padding lies on padding: at a small epsilon its density is beyond single precision, its mass still 0.
    found, gradients, plan = everything(*arguments, jnp.float32(0.002), jnp.float32(0.01))
    assert all(np.isfinite(one.f).all() and np.isfinite(float(one.value)) for one in found)
    for cells, one in zip((N, N, M), gradients, strict=True):
        assert np.isfinite(one).all() and not np.asarray(one)[cells:].any()
    assert np.isfinite(plan).all() and not np.asarray(plan)[N:].any() and not np.asarray(plan)[:, M:].any()


def test_blocks_of_kernel_iterations_are_as_long_with_padding():
    """Scalings of padding stay out of the test for overflow, or every block would end after one iteration."""
    from cellgap.ot._solve import _block

    x, y = clouds(N, N, D)
    c = jnp.asarray(cdist(x, y), jnp.float32)
    a = jnp.full(N, 1 / (N - 8)).at[-8:].set(0.0)
    run = jax.jit(_block)
    found = run(c, jnp.zeros(N), a, a, jnp.float32(0.3), jnp.float32(0.0), jnp.int32(30))
    assert int(found.iterations) == 30


def test_weights_under_annealing():
    """Uneven weights, and a double weight in place of a cell that occurs twice."""
    x, y = clouds(N, M, D)
    run = jax.jit(lambda x, y, a, b: ot.sinkhorn(x, y, a=a, b=b, epsilon=EPSILON, tol=1e-5))

    def single(*arrays):
        return (jnp.asarray(array, jnp.float32) for array in arrays)

    a, b = weights(N), weights(M, seed=1)
    found = run(*single(x, y, a, b))
    assert bool(found.converged)
    assert float(found.value) == pytest.approx(entropic_value(x, y, EPSILON, "euclidean", a, b), rel=1e-5)
    x[1] = x[0]
    twice = np.full(N, 1 / N)
    twice[:2] = 2 / N, 0.0
    exact = entropic_value(x, y, EPSILON, "euclidean")
    assert float(run(*single(x, y, twice, np.full(M, 1 / M))).value) == pytest.approx(exact, rel=1e-5)

"""Cells of weight zero are padding: they change nothing, wherever they lie, and receive nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ot_reference import clouds, weights

from cellgap import ot

N, M, D, MORE = 32, 24, 6, 16


@jax.jit
def everything(x, t, y, a, b):
    """Values, gradients and plan of all that takes weights."""

    def value(x, t, y):
        cross = ot.entropic_cost(x, y, a=a, b=b, epsilon=0.05, tol=1e-4)
        own = ot.entropic_self_cost(x, a=a, epsilon=0.05, tol=1e-4)
        gap = ot.monge_gap(x, t, a=a, epsilon=0.2, cost="sqeuclidean", tol=1e-4)
        return cross.value + own.value + gap.value, (cross, own, gap)

    (_, found), gradients = jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True)(x, t, y)
    return found, gradients, ot.transport_plan(x, y, found[0], epsilon=0.05, a=a, b=b)


FILLERS = {
    "zeros": 0.0,
    "a real cell": clouds(N, M, D)[0][0],
    "far away": 1e4,
    "beyond single precision": 1e30,
}


@pytest.mark.parametrize("filler", FILLERS)
def test_padding_changes_nothing_and_receives_nothing(filler):
    x, y = (cloud + 20.0 for cloud in clouds(N, M, D))
    t = x + 0.3 * np.sin(x)
    a, b = weights(N), weights(M, seed=1)

    def padded(array: np.ndarray, fill) -> jax.Array:
        return jnp.asarray(np.concatenate([array, np.broadcast_to(fill, (MORE, *array.shape[1:]))]), jnp.float32)

    plain = [jnp.asarray(array, jnp.float32) for array in (x, t, y, a, b)]
    longer = [*(padded(cells, FILLERS[filler]) for cells in (x, t, y)), padded(a, 0.0), padded(b, 0.0)]
    before, gradients, plan = everything(*plain)
    after, gradients2, plan2 = everything(*longer)
    scale = float(before[0].value)
    for one, two in zip(before, after, strict=True):
        assert bool(one.converged) and bool(two.converged)
        assert float(two.value) == pytest.approx(float(one.value), abs=1e-5 * scale)
        np.testing.assert_allclose(two.f[:N], one.f, atol=1e-4 * scale)
        assert np.isfinite(two.f).all()
    # Padding must not cut the blocks of kernel iterations short either.
    assert int(before[0].iterations) > 10
    assert abs(int(after[0].iterations) - int(before[0].iterations)) <= 1
    steepest = max(float(jnp.abs(gradient).max()) for gradient in gradients)
    for cells, one, two in zip((N, N, M), gradients, gradients2, strict=True):
        np.testing.assert_allclose(two[:cells], one, atol=2e-4 * steepest)
        np.testing.assert_array_equal(two[cells:], jnp.zeros((MORE, D)))
    np.testing.assert_allclose(plan2[:N, :M], plan, atol=1e-5)
    assert not np.asarray(plan2[N:]).any() and not np.asarray(plan2[:, M:]).any()


@jax.jit
def annealed(x, y, a=None):
    return ot.sinkhorn(x, y, a=a, b=a, epsilon=0.2, tol=1e-5)


def test_uniform_weights_are_no_weights_and_a_double_weight_is_a_cell_counted_twice():
    x, y = (jnp.asarray(cloud, jnp.float32) for cloud in clouds(N, N, D))
    a = jnp.full(N, 1 / N)
    plain, weighted = annealed(x, y), annealed(x, y, a)
    assert bool(plain.converged) and bool(weighted.converged)
    assert float(plain.value) == pytest.approx(float(weighted.value), rel=1e-6)
    np.testing.assert_allclose(plain.f, weighted.f, atol=1e-4)
    x, y = x.at[1].set(x[0]), y.at[1].set(y[0])
    twice = a.at[0].set(2 / N).at[1].set(0.0)
    assert float(annealed(x, y, twice).value) == pytest.approx(float(annealed(x, y).value), rel=1e-5)

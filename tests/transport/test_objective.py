"""The objective against the calls it stands for, and against itself without padding."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cellgap import ot
from cellgap.transport._objective import Batch, GapBatch, Objective, Terms, objective

SIZE, PADDED, D = 5, 8, 3
WEIGHT, EPSILON, GAP = 0.7, 0.4, 0.5
SETTINGS = Objective("two_batch", "euclidean", EPSILON, "sqeuclidean", GAP, WEIGHT, tol=1e-5, gap_max_iterations=500)


class Clouds(NamedTuple):
    x: jax.Array
    t: jax.Array
    t2: jax.Array
    y: jax.Array


def clouds() -> Clouds:
    """Return cells, their images under a rotation of two coordinates, those of another batch, and measured cells."""
    rng = np.random.default_rng(0)
    x, x2, y = (rng.normal(size=(SIZE, D)) for _ in range(3))
    turned = [cells[:, [1, 0, 2]] * [1.0, -1.0, 1.2] for cells in (x, x2)]
    return Clouds(*(jnp.asarray(cloud, jnp.float32) for cloud in (x, *turned, y + 1.0)))


@eqx.filter_jit
def with_gradient(settings: Objective, given: Clouds, weights, dual) -> tuple[Terms, tuple[jax.Array, jax.Array]]:
    """Return the terms and the gradients in the two images."""

    def loss(images):
        t, t2 = images
        second = t2 if settings.fit == "two_batch" else None
        out = objective(Batch(t, second, given.y, weights, GapBatch(given.x, t, weights, dual)), settings)
        return out.loss, out

    (_, out), gradient = eqx.filter_value_and_grad(loss, has_aux=True)((given.t, given.t2))
    return out, gradient


@pytest.fixture(scope="module")
def two() -> tuple[Terms, tuple[jax.Array, jax.Array]]:
    return with_gradient(SETTINGS, clouds(), None, jnp.zeros(SIZE))


@pytest.fixture(scope="module")
def same() -> tuple[Terms, tuple[jax.Array, jax.Array]]:
    return with_gradient(SETTINGS._replace(fit="same_batch"), clouds(), None, jnp.zeros(SIZE))


def test_the_terms_are_the_costs_they_name(two, same):
    @eqx.filter_jit
    def direct(x, t, t2, y):
        cost = {"epsilon": EPSILON, "tol": 1e-5, "max_iterations": 200}
        own = (ot.entropic_cost(t, t2, **cost), ot.entropic_self_cost(t, **cost))
        gap = ot.monge_gap(x, t, epsilon=GAP, cost="sqeuclidean", tol=1e-5, max_iterations=500)
        return ot.entropic_cost(t, y, **cost).value, [one.value for one in own], gap

    cross, own, gap = direct(*clouds())
    assert gap.value > 0.1 and gap.error < 1e-5
    for (terms, _), self_cost in zip((two, same), own, strict=True):
        np.testing.assert_allclose(terms.fit, cross - 0.5 * self_cost, rtol=1e-5)
        np.testing.assert_allclose(terms.gap, gap.value, rtol=1e-5)
        np.testing.assert_allclose(terms.loss, terms.fit + WEIGHT * gap.value, rtol=1e-5)
        np.testing.assert_allclose(terms.dual, gap.f, rtol=1e-5, atol=1e-5)
        assert terms.gap_error < 1e-5
    assert abs(float(two[0].fit - same[0].fit)) > 0.1


def test_the_second_batch_has_a_gradient_too(two, same):
    assert np.abs(two[1][1]).max() > 0.01
    np.testing.assert_array_equal(same[1][1], 0)


def test_padding_changes_neither_values_nor_gradients(two):
    junk = jnp.broadcast_to(jnp.asarray([1e4, 0.0, -3.0])[:, None], (PADDED - SIZE, D))
    padded = Clouds(*(jnp.concatenate([cloud, junk]) for cloud in clouds()))
    weights = jnp.asarray([1 / SIZE] * SIZE + [0.0] * (PADDED - SIZE))
    terms, gradient = with_gradient(SETTINGS, padded, weights, jnp.zeros(PADDED))
    expected, slopes = two
    for name in ("loss", "fit", "gap"):
        np.testing.assert_allclose(getattr(terms, name), getattr(expected, name), rtol=1e-4)
    np.testing.assert_allclose(terms.dual[:SIZE], expected.dual, rtol=1e-3, atol=1e-4)
    for found, slope in zip(gradient, slopes, strict=True):
        np.testing.assert_allclose(found[:SIZE], slope, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(found[SIZE:], 0)


def test_the_remembered_dual_is_a_converged_start_and_no_weight_means_no_gap(two):
    x, t, t2, y = clouds()
    solved, _ = two

    @eqx.filter_jit
    def run(dual):
        once = SETTINGS._replace(gap_max_iterations=1)
        cold, warm = (Batch(t, t2, y, None, GapBatch(x, t, None, start)) for start in (jnp.zeros(SIZE), dual))
        return objective(cold, once), objective(warm, once), objective(warm, SETTINGS._replace(gap_weight=0.0))

    cold, warm, without = run(solved.dual)
    assert cold.gap_error > 1e-2 > 1e-4 > warm.gap_error
    np.testing.assert_allclose(warm.gap, solved.gap, rtol=1e-4)
    assert float(without.gap) == float(without.gap_error) == 0 and float(without.loss) == float(without.fit)
    np.testing.assert_array_equal(without.dual, solved.dual)


def test_the_gap_may_have_a_batch_and_a_factor_of_its_own(two):
    x, t, t2, y = clouds()
    turned = x @ jnp.asarray([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    many, images = jnp.concatenate([x, x + 5.0]), jnp.concatenate([turned, turned + 5.0])

    @eqx.filter_jit
    def run():
        batch = Batch(t, t2, y, None, GapBatch(many, images, None, jnp.zeros(2 * SIZE)))
        gap = ot.monge_gap(many, images, epsilon=GAP, cost="sqeuclidean", tol=1e-5, max_iterations=500)
        return objective(batch, SETTINGS, 0.25), gap

    terms, gap = run()
    np.testing.assert_allclose(terms.fit, two[0].fit, rtol=1e-5)
    np.testing.assert_allclose(terms.gap, gap.value, rtol=1e-5)
    np.testing.assert_allclose(terms.loss, terms.fit + 0.25 * WEIGHT * gap.value, rtol=1e-5)
    assert terms.dual.shape == (2 * SIZE,)

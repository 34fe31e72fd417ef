"""The velocity field: at rest without treatments, blind to order and padding, and what it says when nothing is told."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from cellgap.nn import VelocityNet, time_features

D, E, C = 5, 4, 3
KINDS = [("film", "mean"), ("concat", "mean"), ("film", "attention")]


@functools.cache
def network(modulation: str = "film", pooling: str = "mean") -> VelocityNet:
    """Return a network with weights of one size in every layer: at its start the readout is nearly zero."""
    shapes = eqx.filter_eval_shape(
        VelocityNet, D, E, C, time=(6,), data=(7,), decoder=(8, 9), embedding=6, modulation=modulation,
        pooling=pooling, frequencies=3, key=jr.key(0),
    )  # fmt: skip
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32), shapes)


@eqx.filter_jit
def run(net, x, t, entities, mask, context, known=None):
    return net(x, t, entities, mask, context, known)


def inputs(n: int = 7, m: int = 3) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(1)
    arrays = rng.normal(size=(n, D)), rng.random(n), rng.normal(size=(m, E)), rng.normal(size=C)
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


def some(*which: bool) -> jax.Array:
    return jnp.asarray(which)


def test_time_features_are_cosines_and_sines():
    t = jnp.asarray([0.0, 0.3, 1.0])
    found = np.asarray(time_features(t, 3))
    angles = np.asarray(t, float)[:, None] * [1.0, 10.0, 100.0]
    np.testing.assert_allclose(found, np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=1e-5)


@pytest.mark.parametrize(("modulation", "pooling"), KINDS)
def test_no_treatment_no_movement_whether_told_or_not(modulation, pooling):
    x, t, entities, context = inputs()
    for known in (None, some(True), some(False)):
        v = run(network(modulation, pooling), x, t, entities, some(False, False, False), context, known)
        np.testing.assert_array_equal(v, np.zeros_like(x))


@pytest.mark.parametrize(("modulation", "pooling"), KINDS)
def test_order_of_treatments_and_padding_are_irrelevant(modulation, pooling):
    net = network(modulation, pooling)
    x, t, entities, context = inputs()
    v = run(net, x, t, entities, some(True, True, False), context)
    assert np.abs(v).max() > 0.1
    swapped = run(net, x, t, entities[jnp.asarray([1, 0, 2])], some(True, True, False), context)
    np.testing.assert_allclose(swapped, v, rtol=1e-5, atol=1e-5)
    for filler in (1e3, jnp.nan):
        padded = jnp.stack([entities[0], jnp.full(E, filler), entities[1]])
        np.testing.assert_allclose(run(net, x, t, padded, some(True, False, True), context), v, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("modulation", ["film", "concat"])
def test_a_shared_time_is_that_time_for_each_and_every_input_matters(modulation):
    net = network(modulation)
    x, t, entities, context = inputs()
    both = some(True, True, False)
    one = run(net, x, jnp.full(1, 0.4), entities, both, context)
    np.testing.assert_allclose(run(net, x, jnp.full(7, 0.4), entities, both, context), one, rtol=1e-5, atol=1e-5)
    v = run(net, x, t, entities, both, context)
    for changed in (
        (x + 0.5, t, entities, both, context),
        (x, t + 0.3, entities, both, context),
        (x, t, entities + 0.5, both, context),
        (x, t, entities, both, context + 0.5),
        (x, t, entities, some(True, False, False), context),
    ):
        assert np.abs(np.asarray(run(net, *changed) - v)).max() > 1e-2
    alone = run(net, jnp.zeros_like(x).at[2].set(x[2]), t, entities, both, context)
    np.testing.assert_allclose(alone[2], v[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("modulation", "pooling"), KINDS)
def test_cells_that_are_told_and_those_that_are_not(modulation, pooling):
    net = network(modulation, pooling)
    x, t, entities, context = inputs()
    mask = some(True, True, False)
    told, untold = (run(net, x, t, entities, mask, context, some(k)) for k in (True, False))
    np.testing.assert_allclose(told, run(net, x, t, entities, mask, context), rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(told - untold)).max() > 1e-2
    known = some(True, False, True, True, False, False, True)
    mixed = run(net, x, t, entities, mask, context, known)
    np.testing.assert_allclose(mixed, jnp.where(known[:, None], told, untold), rtol=1e-4, atol=1e-5)
    other = run(net, x, t, entities + 1.0, mask, context + 1.0, some(False))
    np.testing.assert_allclose(other, untold, rtol=1e-5, atol=1e-5)


def test_concatenation_is_one_layer_on_everything():
    net = network("concat")
    x, t, entities, context = inputs()

    @eqx.filter_jit
    def plain(net, x, t, entities, context):
        def gelu(h):
            return jax.nn.gelu(h, approximate=True)

        pooled = gelu(net.shared(entities)).mean(0)
        condition = jnp.tile(gelu(net.condition(jnp.concatenate([pooled, context]))), (len(x), 1))
        h = jnp.concatenate([gelu(net.time(time_features(t, 3))), gelu(net.data(x)), condition], axis=1)
        return net.readout(gelu(net.decoder(h)))

    found = run(net, x, t, entities, some(True, True, True), context)
    np.testing.assert_allclose(found, plain(net, x, t, entities, context), rtol=1e-4, atol=1e-4)


def test_gradients_are_finite_without_treatments_and_reach_every_weight_with_some():
    x, t, entities, context = inputs()

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(net, mask):
        known = some(True, False, True, True, False, False, True)
        return jnp.sum(net(x, t, entities, mask, context, known) ** 2)

    for mask in (some(False, False, False), some(True, True, False)):
        leaves = jax.tree.leaves(gradient(network("film", "attention"), mask))
        assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert all(np.abs(leaf).max() > 0 for leaf in leaves)


def test_the_number_of_treatments_does_not_compile_anew():
    traces = []

    @eqx.filter_jit
    def counted(net, x, t, entities, mask, context):
        traces.append(mask.shape)
        return net(x, t, entities, mask, context)

    x, t, entities, context = inputs()
    for mask in ((True, False, False), (True, True, True), (False, False, False)):
        assert np.isfinite(counted(network(), x, t, entities, some(*mask), context)).all()
    assert traces == [(3,)]


def test_training_starts_near_rest():
    net = eqx.filter_jit(
        lambda key: VelocityNet(
            20, 8, 2, time=(32,), data=(32,), decoder=(32,), embedding=16, modulation="film", pooling="mean",
            frequencies=8, key=key,
        )
    )(jr.key(0))  # fmt: skip
    rng = np.random.default_rng(0)
    x, entities = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((100, 20), (1, 8)))
    v = run(net, x, jnp.full(1, 0.5), entities, some(True), jnp.ones(2))
    assert 0 < np.linalg.norm(v, axis=1).mean() < 0.05 * np.linalg.norm(x, axis=1).mean()

"""Batch normalization in ghosts: what it is in training and in inference, and which cells share a ghost."""

import functools
from dataclasses import replace
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cellgap as cg
from cellgap import storage
from cellgap.errors import ConfigError, DataError
from cellgap.nn import GhostBatchNorm, GhostNorm, Tower, ema_weights, ghost_order, recalibrate, trainable
from cellgap.nn._autoencoder import BatchNorm
from cellgap.settings import from_dict, to_dict
from cellgap.storage import storable

WIDTH = 3


@functools.cache
def values(n: int, width: int = WIDTH) -> jax.Array:
    rng = np.random.default_rng(n)
    return jnp.asarray(rng.normal(rng.normal(0, 3, width), rng.uniform(0.5, 4, width), (n, width)), jnp.float32)


def layer(size: int | None = 4, momentum: float = 0.1, stat: str = "ema", width: int = WIDTH) -> GhostNorm:
    made = GhostBatchNorm(size=size, momentum=momentum, stat=stat).build(width)
    learnt = (jnp.linspace(0.5, 2, width), jnp.linspace(-1, 1, width))
    return eqx.tree_at(lambda n: (n.scale, n.offset), made, learnt)


@eqx.filter_jit
def trained(net, x):
    return net.training(x)


@eqx.filter_jit
def answered(net, x):
    return net(x)


@functools.cache
def tower(size: int | None = 8) -> Tower:
    return eqx.filter_jit(Tower)((WIDTH, 5, 4, 2), norm=GhostBatchNorm(size=size), activation="relu", key=jr.key(0))


@eqx.filter_jit
def gradient(net, x, weights):
    learnt, kept = eqx.partition(net, trainable(net))

    def loss(learnt):
        out, moved = eqx.combine(learnt, kept).training(x)
        return jnp.mean(jnp.sum((out - weights) ** 2, 1)), moved

    (_, moved), grads = eqx.filter_value_and_grad(loss, has_aux=True)(learnt)
    return grads, moved


def assert_trees(a, b, **tolerance):
    leaves = (jax.tree.leaves(eqx.filter(t, eqx.is_array)) for t in (a, b))
    for one, other in zip(*leaves, strict=True):
        np.testing.assert_allclose(one, other, **tolerance)


def test_ghosts_by_hand():
    x, made = np.asarray(values(12), float), layer(4)
    y, moved = trained(made, values(12))
    mean, variance, expected = np.zeros(WIDTH), np.zeros(WIDTH), []
    for ghost in np.split(x, 3):
        expected.append((ghost - ghost.mean(0)) / np.sqrt(ghost.var(0) + 1e-5) * made.scale + made.offset)
        mean = 0.9 * mean + 0.1 * ghost.mean(0)
        variance = 0.9 * variance + 0.1 * ghost.var(0, ddof=1)
    np.testing.assert_allclose(y, np.concatenate(expected), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moved.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(moved.variance, variance, rtol=1e-5)
    np.testing.assert_allclose(moved.weight, 1 - 0.9**3, rtol=1e-6)
    np.testing.assert_allclose(moved.moments[1], variance / (1 - 0.9**3), rtol=1e-5)


@pytest.mark.parametrize("size", [None, 24, 25, 1000])
def test_one_ghost_is_batch_normalization(size):  # G1
    x, made = values(24), layer(size)
    plain = BatchNorm(made.scale, made.offset, jnp.zeros(WIDTH), jnp.zeros(WIDTH))
    (y, moved), (expected, other) = trained(made, x), trained(plain, x)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(moved.mean, other.mean, rtol=1e-6)
    np.testing.assert_allclose(moved.variance, other.variance, rtol=1e-6)


def test_one_ghost_has_the_gradients_of_batch_normalization():  # G1
    x, made = values(24), layer(24)
    plain = BatchNorm(made.scale, made.offset, made.mean, made.variance)
    weights = jr.normal(jr.key(1), x.shape)

    @jax.jit
    def gradients(x):
        def loss(norm, x):
            return jnp.mean(weights * norm.training(x)[0] ** 2)

        return [jax.grad(loss, (0, 1), allow_int=True)(norm, x) for norm in (made, plain)]

    (ghost, to_cells), (batch, expected) = gradients(x)
    np.testing.assert_allclose(to_cells, expected, atol=1e-6)
    np.testing.assert_allclose(ghost.scale, batch.scale, atol=1e-6)
    np.testing.assert_allclose(ghost.offset, batch.offset, atol=1e-6)
    assert np.abs(to_cells).max() > 1e-3


def test_ghosts_are_small_batches_one_after_the_other():  # G2
    x, small = values(20), layer(None)
    y, moved = trained(layer(5), x)
    parts = []
    for part in np.split(np.asarray(x), 4):
        out, small = trained(small, jnp.asarray(part))
        parts.append(out)
    np.testing.assert_allclose(y, np.concatenate(parts), rtol=1e-6, atol=1e-6)
    assert_trees(moved, small, rtol=1e-6)


@settings(deadline=None)
@given(st.integers(1, 3000), st.floats(1e-4, 0.999))
def test_weights_of_an_exponential_average_sum_to_one(ghosts, momentum):  # G3
    kept, weights = ema_weights(ghosts, momentum)
    assert abs(kept + weights.sum() - 1) < 1e-12
    assert weights[-1] == momentum
    assert np.all(np.diff(weights) >= 0)


def test_inference_after_one_step_has_the_moments_of_the_batch():  # G4
    x = values(400) + 100
    _, moved = trained(GhostBatchNorm(size=None, momentum=0.01).build(WIDTH), x)
    out = np.asarray(moved(x), float)
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-2)
    np.testing.assert_allclose(out.std(0), 1, atol=1e-2)


@pytest.mark.optimized
def test_in_inference_a_cell_does_not_depend_on_its_batch():  # G5
    x = values(1000)
    _, moved = trained(layer(7), x)
    together, apart = np.asarray(answered(moved, x)), moved(x[:1])
    np.testing.assert_array_equal(apart[0], np.asarray(moved(x))[0])
    for i in (0, 1, 2, 500, 999):
        np.testing.assert_array_equal(answered(moved, x[i : i + 1])[0], together[i])


def test_gradient_is_the_mean_over_ghosts_as_small_batches():  # G6
    x, target = values(32), jr.normal(jr.key(2), (32, 2))
    whole, _ = gradient(tower(8), x, target)
    parts = [gradient(tower(8), x[i : i + 8], target[i : i + 8])[0] for i in range(0, 32, 8)]
    mean = jax.tree.map(lambda *g: sum(g) / 4, *parts)
    assert_trees(whole, mean, rtol=1e-5, atol=1e-5)
    other, _ = gradient(tower(None), x, target)
    assert np.abs(np.asarray(other.layers[0].weight) - np.asarray(whole.layers[0].weight)).max() > 1e-3


@pytest.mark.parametrize(("n", "bounds"), [(11, (0, 4, 11)), (9, (0, 4, 9)), (3, (0, 3)), (7, (0, 7)), (8, (0, 4, 8))])
def test_batches_that_ghosts_do_not_divide(n, bounds):
    x = np.asarray(values(16), float)[:n]
    made = layer(4)
    y, moved = trained(made, jnp.asarray(x, jnp.float32))
    small = layer(None)
    for start, stop in pairwise(bounds):
        expected, small = small.training(jnp.asarray(x[start:stop], jnp.float32))
        np.testing.assert_allclose(y[start:stop], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(moved.mean, small.mean, rtol=1e-5)
    np.testing.assert_allclose(moved.variance, small.variance, rtol=1e-5)


def test_one_cell_has_no_variance():
    with pytest.raises(ConfigError, match="2 cells or more"):
        layer(4).training(values(16)[:1])


def test_before_training_nothing_is_normalized():
    made, x = layer(), values(6)
    np.testing.assert_allclose(made(x), x / np.sqrt(1 + 1e-5) * made.scale + made.offset, rtol=1e-6)


def test_columns_far_from_zero_keep_their_variance():
    x = values(64) * 1e-2 + 100
    y, moved = trained(GhostBatchNorm(size=16).build(WIDTH), x)
    exact = np.asarray(x, float).reshape(4, 16, WIDTH)
    np.testing.assert_allclose(
        moved.moments[1], exact.var(1, ddof=1).T @ ema_weights(4, 0.1)[1] / (1 - 0.9**4), rtol=1e-3
    )
    expected = (exact - exact.mean(1, keepdims=True)) / np.sqrt(exact.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(np.asarray(y).reshape(expected.shape), expected, atol=5e-3)


def test_mean_of_ghosts_does_not_depend_on_their_order():
    x = np.asarray(values(24)).reshape(4, 6, WIDTH)
    given, turned = (jnp.asarray(x[order].reshape(24, WIDTH)) for order in ([0, 1, 2, 3], [3, 1, 0, 2]))
    first, second = (trained(layer(6, stat="mean"), rows)[1] for rows in (given, turned))
    assert_trees(first, second, rtol=1e-6)
    np.testing.assert_allclose(first.moments[0], x.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(first.moments[1], x.var(1, ddof=1).mean(0), rtol=1e-5)
    one_by_one, other = (trained(layer(6), rows)[1] for rows in (given, turned))
    np.testing.assert_allclose(first.weight, one_by_one.weight, rtol=1e-6)
    assert np.abs(np.asarray(one_by_one.mean) - np.asarray(other.mean)).max() > 1e-3


def test_ghosts_of_one_domain_underestimate_the_variance_and_recalibration_does_not():
    rng = np.random.default_rng(3)
    domain = np.repeat(np.arange(8), 64)
    x = (rng.normal(0, 1, (512, 2)) + 3 * rng.normal(0, 1, (8, 2))[domain]).astype(np.float32)
    net = Tower((2, 2, 1), norm=GhostBatchNorm(size=64, stat="mean"), activation="relu", key=jr.key(0))
    net = eqx.tree_at(lambda t: t.layers[0].weight, net, jnp.eye(2))
    shuffled = x[np.random.default_rng(4).permutation(512)]
    apart, mixed = (np.asarray(trained(net, jnp.asarray(rows))[1].norms[0].moments[1]) for rows in (x, shuffled))
    within = x.reshape(8, 64, 2).var(1, ddof=1).mean(0)
    np.testing.assert_allclose(apart, within, rtol=1e-4)
    assert np.all(apart < 0.5 * x.var(0))
    np.testing.assert_allclose(mixed, x.var(0), rtol=0.1)
    np.testing.assert_allclose(recalibrate(net, [x]).norms[0].moments[1], x.var(0), rtol=1e-5)


@pytest.mark.parametrize("norm", ["ghosts", "batch"])
def test_recalibrated_norms_hold_the_moments_of_all_cells(norm):
    x = np.asarray(values(90))
    net = tower(8) if norm == "ghosts" else Tower((WIDTH, 5, 4, 2), norm="batch", activation="relu", key=jr.key(0))
    _, net = trained(net, jnp.asarray(x[:32] * 2 + 1))
    exact = recalibrate(net, [x[:40], x[40:80], x[80:]])
    rows = x
    for linear, made in zip(exact.layers[:-1], exact.norms, strict=True):
        seen = np.asarray(rows, float) @ np.asarray(linear.weight, float) + np.asarray(linear.bias, float)
        mean, variance = made.moments if norm == "ghosts" else (made.mean, made.variance)
        np.testing.assert_allclose(mean, seen.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(variance, seen.var(0), rtol=1e-4)
        rows = np.maximum((seen - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-5) * made.scale + made.offset, 0)
    again = recalibrate(exact, [x])
    assert_trees(exact, again, rtol=1e-4, atol=1e-5)
    with pytest.raises(DataError, match="read several times"):
        recalibrate(net, (part for part in [x[:40], x[40:]]))


def test_norms_without_statistics_are_left_by_recalibration():
    net = Tower((WIDTH, 4, 2), norm="layer", activation="elu", key=jr.key(0))
    assert_trees(net, recalibrate(net, []))


def test_what_trains_and_what_does_not():
    net = tower()
    marks = trainable(net)
    assert jax.tree.structure(marks) == jax.tree.structure(net)
    norm = marks.norms[0]
    assert (norm.scale, norm.offset, norm.mean, norm.variance, norm.weight) == (True, True, False, False, False)
    assert all(linear.weight is True and linear.bias is True for linear in marks.layers)
    grads, moved = gradient(net, values(32), jnp.ones((32, 2)))
    assert grads.norms[0].mean is None and grads.norms[1].weight is None
    assert np.abs(np.asarray(grads.norms[0].scale)).max() > 0
    assert float(moved.norms[1].weight) == pytest.approx(1 - 0.9**4)


@storable
class Stored(eqx.Module):
    net: Tower


def test_a_saved_network_answers_the_same(tmp_path):
    _, moved = trained(tower(), values(32))
    storage.save(Stored(moved), tmp_path)
    loaded = storage.load(tmp_path).net
    np.testing.assert_array_equal(loaded(values(32)), moved(values(32)))
    assert loaded.norms[0].size == 8 and loaded.norms[0].stat == "ema"
    assert_trees(trained(loaded, values(32))[1], trained(moved, values(32))[1], rtol=0)


DOMAIN = np.repeat([0, 1, 2], [24, 13, 11])


@functools.cache
def ordered(kind: str, size: int | None, n: int = len(DOMAIN)) -> np.ndarray:
    domain = jnp.asarray(np.random.default_rng(0).permutation(DOMAIN)[:n])
    run = jax.jit(lambda keys: jax.vmap(lambda key: ghost_order(domain, kind, size, key))(keys))
    found = np.asarray(run(jr.split(jr.key(0), 16)))
    for order in found:
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
    assert len({tuple(order) for order in found}) == 16
    return np.asarray(domain)[found]


def test_stratified_ghosts_have_the_same_mix():
    for domains in ordered("stratified", 8):
        many = np.stack([np.bincount(ghost, minlength=3) for ghost in domains.reshape(6, 8)])
        assert np.ptp(many, axis=0).max() <= 1
    shuffled = [np.ptp((ghosts.reshape(6, 8) == 0).sum(1)) for ghosts in ordered("shuffle", 8)]
    assert np.mean(shuffled) > 2


def test_whole_ghosts_are_stratified_where_size_does_not_divide():
    for domains in ordered("stratified", 8, 45):
        many = np.stack([np.bincount(ghost, minlength=3) for ghost in domains[:40].reshape(5, 8)])
        assert np.ptp(many, axis=0).max() <= 1


def test_ghosts_of_one_domain_each():
    places = set()
    for domains in ordered("per_domain", 8):
        pure = [len(set(ghost.tolist())) == 1 for ghost in domains.reshape(6, 8)]
        assert sum(pure) == 24 // 8 + 13 // 8 + 11 // 8
        places |= {i for i, one in enumerate(pure) if not one}
    assert len(places) > 2  # no place has the most weight in the running averages every time


@pytest.mark.parametrize("kind", ["shuffle", "stratified", "per_domain"])
def test_one_ghost_has_any_order(kind):
    assert ordered(kind, None).shape == (16, 48)


def test_settings():
    made = cg.nn.GhostBatchNorm(size=None, momentum=0.2, stat="mean", ghosts="stratified")
    assert from_dict(to_dict(made)) == made
    assert made.build(4).size is None
    domain = jnp.asarray(DOMAIN)
    expected = ghost_order(domain, "stratified", 8, jr.key(0))
    np.testing.assert_array_equal(replace(made, size=8).order(domain, jr.key(0)), expected)
    for wrong in (
        {"size": 1},
        {"momentum": 0.0},
        {"momentum": 1.0},
        {"stat": "median"},
        {"ghosts": "donor"},
        {"width": 3},
    ):
        with pytest.raises(ConfigError):
            GhostBatchNorm(**wrong)


def test_relu():
    made = Tower((2, 2, 2), norm="none", activation="relu", key=jr.key(0))
    identity = eqx.tree_at(lambda t: [linear.weight for linear in t.layers], made, [jnp.eye(2), jnp.eye(2)])
    np.testing.assert_array_equal(identity(jnp.asarray([[-1.0, 2.0]])), [[0.0, 2.0]])

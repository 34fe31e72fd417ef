"""The autoencoder's modules: norms, towers, what trains and what does not."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.special import gammaln
from scipy.stats import nbinom

from cellgap.nn import AutoencoderNet, Tower, count_nll, trainable
from cellgap.nn._autoencoder import BatchNorm, LayerNorm


@functools.cache
def net(norm: str = "layer") -> AutoencoderNet:
    return eqx.filter_jit(AutoencoderNet)(
        7, 7, 3, hidden=(6, 5), norm=norm, activation="elu", log_theta=jnp.zeros(7), key=jr.key(0)
    )


def cells() -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(2, 3, (9, 7)), jnp.float32)


@eqx.filter_jit
def trained(made: AutoencoderNet, noise: float):
    return made.training(cells(), noise=noise, key=jr.key(2))


def test_layer_norm_by_hand():
    x = np.array([[1.0, 2.0, 6.0]], np.float32)
    scale, offset = np.array([1.0, 2.0, 3.0], np.float32), np.array([0.0, 1.0, 0.0], np.float32)
    expected = (x - 3) / np.sqrt(14 / 3 + 1e-5) * scale + offset
    np.testing.assert_allclose(LayerNorm(jnp.asarray(scale), jnp.asarray(offset))(jnp.asarray(x)), expected, rtol=1e-5)


def test_batch_norm_uses_the_batch_in_training_and_running_averages_afterwards():
    x = np.random.default_rng(0).normal([1.0, -2.0], [3.0, 0.5], (8, 2)).astype(np.float32)
    start = BatchNorm(jnp.ones(2), jnp.zeros(2), jnp.zeros(2), jnp.ones(2))
    y, moved = start.training(jnp.asarray(x))
    np.testing.assert_allclose(y, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), rtol=1e-4)
    np.testing.assert_allclose(moved.mean, 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moved.variance, 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(moved(jnp.asarray(x[:1])), moved(jnp.asarray(x))[:1], rtol=1e-6)


def test_widths_are_mirrored():
    shapes = [layer.weight.shape for layer in (*net().encoder.layers, *net().decoder.layers)]
    assert shapes == [(7, 6), (6, 5), (5, 3), (3, 5), (5, 6), (6, 7)]


def test_rates_are_shares():
    rates = np.exp(np.asarray(jax.jit(lambda x: net().log_rates(net().encode(x)))(cells())))
    np.testing.assert_allclose(rates.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_without_running_averages_training_computes_the_same(norm):
    made = net(norm)
    out, moved = trained(made, 0.0)
    np.testing.assert_allclose(out, jax.jit(lambda x: made.decode(made.encode(x)))(cells()), rtol=1e-5, atol=1e-6)
    for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(made), strict=True):
        np.testing.assert_array_equal(a, b)


def test_noise_changes_the_output_and_not_the_network():
    made = net()
    (quiet, _), (noisy, moved) = trained(made, 0.0), trained(made, 0.5)
    assert np.abs(np.asarray(noisy) - np.asarray(quiet)).max() > 1e-3
    np.testing.assert_array_equal(moved.encoder.layers[0].weight, made.encoder.layers[0].weight)


def test_running_averages_are_no_parameters():
    made = net("batch")
    marks = trainable(made)
    assert jax.tree.structure(marks) == jax.tree.structure(made)
    first = marks.encoder.norms[0]
    assert (first.scale, first.offset, first.mean, first.variance) == (True, True, False, False)
    assert all(jax.tree.leaves(trainable(net("layer"))))
    _, moved = trained(made, 0.0)
    assert np.abs(np.asarray(moved.encoder.norms[0].mean)).max() > 0
    learnt, kept = eqx.partition(made, marks)

    def loss(learnt):
        return jnp.sum(trained(eqx.combine(learnt, kept), 0.0)[0] ** 2)

    assert eqx.filter_jit(eqx.filter_grad(loss))(learnt).encoder.norms[0].mean is None


def test_activations():
    x = jnp.asarray([[-1.0, 2.0]])
    made = Tower((2, 2, 2), norm="none", activation="gelu", key=jr.key(0))
    identity = eqx.tree_at(lambda t: [layer.weight for layer in t.layers], made, [jnp.eye(2), jnp.eye(2)])
    np.testing.assert_allclose(identity(x), jax.nn.gelu(x), rtol=1e-5)


def test_negative_log_likelihood_of_cells():
    counts = np.array([[0, 3, 5], [2, 0, 0]])
    library, theta, shares = counts.sum(1), np.array([0.5, 2.0, 9.0]), np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    mu = library[:, None] * shares
    expected = -nbinom.logpmf(counts, theta, theta / (theta + mu)).sum(1)
    given = (counts.astype(np.int16), np.log(library), np.log(shares), np.log(theta), gammaln(counts + 1.0).sum(1))
    got = jax.jit(count_nll)(*(jnp.asarray(a, jnp.int16 if a.dtype == np.int16 else jnp.float32) for a in given))
    np.testing.assert_allclose(got, expected, rtol=1e-5)

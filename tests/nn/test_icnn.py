"""Convex networks: convex whatever their weights, zero at a flat start, as published in the published form."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellgap.nn import ICNN, PICNN, Quadratic, potential_gradient
from cellgap.ot import bures_map, symmetric_root

D, P = 3, 4
WIDTHS = (8, 6)
ACTIVATIONS = ("softplus", "leaky_relu")
seeds = st.integers(0, 2**31 - 1)


@eqx.filter_jit
def value_and_gradient(net, x):
    return net(x), potential_gradient(net, x)


@functools.cache
def shapes(kind: str, activation: str):
    """Return a network of zeros."""
    if kind == "ICNN":
        net = ICNN.draw(D, widths=WIDTHS, activation=activation, flat=True, key=jr.key(0))
    else:
        net = PICNN.draw(D, P, widths=WIDTHS, embedding=5, activation=activation, key=jr.key(0))
    return jax.tree.map(jnp.zeros_like, net)


def drawn(kind: str, activation: str, rng: np.random.Generator):
    """Return a network of normal weights."""
    return jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape), jnp.float32), shapes(kind, activation))


def convex(kind: str, activation: str, rng: np.random.Generator) -> ICNN:
    """Return a network of normal weights, the negative ones between hidden layers set to 0, at a random condition."""
    return drawn(kind, activation, rng).clamped().at(jnp.asarray(rng.normal(size=P), jnp.float32))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["ICNN", "PICNN"])
@settings(max_examples=25, deadline=None)
@given(seed=seeds, share=st.floats(0.0, 1.0))
def test_a_chord_is_above_the_function_and_the_gradient_is_monotone(kind, activation, seed, share):
    rng = np.random.default_rng(seed)
    net = convex(kind, activation, rng)
    x, y = (3 * rng.normal(size=(20, D)).astype(np.float32) for _ in range(2))
    between = share * x + (1 - share) * y
    (at_x, grad_x), (at_y, grad_y), (middle, _) = (value_and_gradient(net, jnp.asarray(p)) for p in (x, y, between))
    chord = share * np.asarray(at_x, float) + (1 - share) * np.asarray(at_y, float)
    size = np.maximum(np.abs(at_x), np.abs(at_y)) + 1
    assert (np.asarray(middle) <= chord + 1e-5 * size).all()
    ascent = ((np.asarray(grad_x, float) - np.asarray(grad_y)) * (x - y)).sum(1)
    scale = np.linalg.norm(x - y, axis=1) * (np.linalg.norm(grad_x, axis=1) + np.linalg.norm(grad_y, axis=1)) + 1
    assert (ascent >= -1e-5 * scale).all()


@pytest.mark.parametrize("kind", ["ICNN", "PICNN"])
def test_negative_weights_between_hidden_layers_are_what_breaks_convexity(kind):
    """The same check fails without the clamp, so the one above can fail."""
    broken = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        net = jax.tree.map(
            lambda w, rng=rng: jnp.asarray(rng.normal(size=w.shape), jnp.float32), shapes(kind, "softplus")
        )
        net = net.at(jnp.ones(P))
        x, y = (3 * rng.normal(size=(20, D)).astype(np.float32) for _ in range(2))
        (_, grad_x), (_, grad_y) = (value_and_gradient(net, jnp.asarray(p)) for p in (x, y))
        broken += bool((((grad_x - grad_y) * (x - y)).sum(1) < -0.1).any())
    assert broken >= 5


def test_the_negative_part_is_measured_by_its_norm_and_removed_by_the_clamp():
    rng = np.random.default_rng(0)
    net = drawn("ICNN", "softplus", rng)
    expected = sum(np.linalg.norm(np.minimum(np.asarray(w), 0)) for w in net.hidden)
    np.testing.assert_allclose(net.negativity(), expected, rtol=1e-6)
    clamped = net.clamped()
    assert float(clamped.negativity()) == 0.0
    for before, after in zip(net.hidden, clamped.hidden, strict=True):
        np.testing.assert_array_equal(after, np.maximum(before, 0))
    np.testing.assert_array_equal(clamped.inputs[0], net.inputs[0])
    slope = jax.grad(lambda net: net.negativity())(clamped)
    assert all((np.asarray(w) == 0).all() for w in slope.hidden)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_network_is_its_formula(activation):
    rng = np.random.default_rng(1)
    net = convex("ICNN", activation, rng)
    x = rng.normal(size=(5, D))

    def act(v):
        return np.logaddexp(0, v) if activation == "softplus" else np.where(v > 0, v, 0.2 * v)

    (w0, w1, w2), (b0, b1, b2) = ([np.asarray(v, float) for v in part] for part in (net.inputs, net.offsets))
    z1, z2 = (np.asarray(w, float) for w in net.hidden)
    z = act(act(x @ w0 + b0) ** 2 @ z1 + x @ w1 + b1)
    np.testing.assert_allclose(net(jnp.asarray(x, jnp.float32)), (z @ z2 + x @ w2 + b2)[:, 0], rtol=1e-4)
    assert net.at(jnp.ones(P)) is net


def test_the_partially_convex_network_is_its_formula():
    rng = np.random.default_rng(2)
    net = drawn("PICNN", "softplus", rng)
    x, c = rng.normal(size=(5, D)), rng.normal(size=P)

    def affine(layer, u):
        return u @ np.asarray(layer.weight, float) + np.asarray(layer.bias, float)

    def soft(v):
        return np.logaddexp(0, v)

    u = [c]
    for layer in net.condition:
        u.append(np.tanh(affine(layer, u[-1])))
    w, hidden = ([np.asarray(v, float) for v in part] for part in (net.inputs, net.hidden))

    def skip(i):
        return (x * affine(net.x_factor[i], u[i])) @ w[i] + affine(net.offset[i], u[i])

    z = soft(skip(0)) ** 2
    z = soft((z * soft(affine(net.z_factor[0], u[1]))) @ hidden[0] + skip(1))
    expected = (z * soft(affine(net.z_factor[1], u[2]))) @ hidden[1] + skip(2)
    found = net.at(jnp.asarray(c, jnp.float32))(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, expected[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_flat_start_is_the_function_zero_under_every_condition(activation):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, D)), jnp.float32)
    plain = ICNN.draw(D, widths=WIDTHS, activation=activation, flat=True, key=jr.key(1))
    partial = PICNN.draw(D, P, widths=WIDTHS, embedding=5, activation=activation, key=jr.key(1))
    for net in (plain, *(partial.at(jnp.full(P, c)) for c in (0.0, 2.0))):
        value, gradient = value_and_gradient(net, x)
        np.testing.assert_array_equal(gradient, np.zeros((6, D)))
        assert (value == value[0]).all()
        assert all((w >= 0).all() for w in net.hidden)


def test_the_published_start_draws_all_weights_from_0_to_a_tenth():
    net = ICNN.draw(D, widths=(64, 64), activation="leaky_relu", flat=False, key=jr.key(0))
    for w in (*net.inputs, *net.hidden):
        assert float(w.min()) >= 0 and 0.05 < float(w.max()) <= 0.1
    assert abs(float(net.hidden[0].mean()) - 0.05) < 0.002


def test_the_gradient_of_a_quadratic_function_is_the_gaussian_map():
    rng = np.random.default_rng(3)
    roots = rng.normal(size=(2, D, D))
    mean_x, mean_y = rng.normal(size=(2, D))
    a, b = bures_map(mean_x, roots[0] @ roots[0].T, mean_y, roots[1] @ roots[1].T)
    quadratic = Quadratic(*(jnp.asarray(v, jnp.float32) for v in (mean_x, symmetric_root(a), mean_y)))
    x = rng.normal(size=(10, D))
    found = potential_gradient(quadratic, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, x @ a + b, rtol=1e-4, atol=1e-4)

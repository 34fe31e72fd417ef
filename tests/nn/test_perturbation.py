"""The network: its start, its invariances, and that the size of a set of treatments is not a shape."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from cellgap.nn import MLP, PerturbationNet

D, E, C = 5, 4, 3
KINDS = ("gated", "concat")


@functools.cache
def network(conditioning: str = "gated", *, n_context: int = C, hidden: tuple[int, ...] = (16, 8)) -> PerturbationNet:
    """Return a network with weights of one size in every layer: at its start the readout is nearly zero."""
    shapes = eqx.filter_eval_shape(
        PerturbationNet, D, E, n_context, hidden=hidden, embedding=6, conditioning=conditioning, key=jr.key(0)
    )
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32), shapes)


@eqx.filter_jit
def run(net, x, entities, mask, context):
    return net(x, entities, mask, context)


def inputs(seed: int, n: int = 7, m: int = 3) -> tuple[jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    cells, entities, context = rng.normal(size=(n, D)), rng.normal(size=(m, E)), rng.normal(size=C)
    return jnp.asarray(cells, jnp.float32), jnp.asarray(entities, jnp.float32), jnp.asarray(context, jnp.float32)


def present(*which: bool) -> jax.Array:
    return jnp.asarray(which)


def test_weights_have_the_scale_of_lecun_and_the_bias_is_zero():
    widths = (4, 2000, 50)

    @eqx.filter_jit
    def made():
        return MLP(widths, key=jr.key(0)), MLP(widths, key=jr.key(0), last_scale=0.1)

    net, smaller = made()
    for n_in, n_out, layer in zip(widths[:-1], widths[1:], net.layers, strict=True):
        assert layer.weight.shape == (n_in, n_out) and layer.bias.shape == (n_out,)
        # The relative standard error of the deviation of 8,000 normals or more is below 1 %.
        np.testing.assert_allclose(np.asarray(layer.weight).std(), n_in**-0.5, rtol=0.04)
        np.testing.assert_array_equal(layer.bias, 0)
    np.testing.assert_array_equal(smaller.layers[0].weight, net.layers[0].weight)
    np.testing.assert_allclose(smaller.layers[-1].weight, 0.1 * net.layers[-1].weight, rtol=1e-5)


def test_mlp_is_affine_gelu_affine_on_rows():
    net = network("gated", n_context=0, hidden=(8, 2)).trunk
    x = jnp.asarray(np.random.default_rng(9).normal(size=(4, D + 6)), jnp.float32)
    first, last = net.layers
    hidden = np.asarray(x, np.float64) @ first.weight + first.bias
    gelu = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    out = eqx.filter_jit(net)(x)
    np.testing.assert_allclose(out, gelu @ np.asarray(last.weight) + last.bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("hidden", "n_context"), [((16, 8), C), ((8,), 0)])
def test_shapes(kind, hidden, n_context):
    net = network(kind, n_context=n_context, hidden=hidden)
    assert (net.gate is None) == (kind == "concat")
    x, entities, context = inputs(0)
    out = run(net, x, entities, present(True, True, False), context[:n_context])
    assert out.shape == x.shape and out.dtype == x.dtype


@pytest.mark.parametrize("kind", KINDS)
def test_no_treatment_leaves_every_bit_of_the_cells(kind):
    x, entities, context = inputs(1)
    np.testing.assert_array_equal(run(network(kind), x, entities, present(False, False, False), context), x)
    np.testing.assert_array_equal(network(kind)(x, entities, present(False, False, False), context), x, "not compiled")


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_treatments_and_padding_are_irrelevant(kind):
    net = network(kind)
    x, entities, context = inputs(2)
    out = run(net, x, entities, present(True, True, False), context)
    assert np.abs(out - x).max() > 0.1
    swapped = run(net, x, entities[jnp.asarray([1, 0, 2])], present(True, True, False), context)
    np.testing.assert_allclose(swapped, out, rtol=1e-6, atol=1e-6)
    for filler in (0.0, 1e3, -1e6):
        padded = jnp.stack([entities[0], jnp.full(E, filler), entities[1]])
        moved = run(net, x, padded, present(True, False, True), context)
        np.testing.assert_allclose(moved, out, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(run(net, x, entities[:2], present(True, True), context), out, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_cells_are_mapped_one_by_one_and_every_input_matters(kind):
    net = network(kind)
    x, entities, context = inputs(3)
    both = present(True, True, False)
    out = run(net, x, entities, both, context)
    np.testing.assert_allclose(run(net, x[::-1], entities, both, context)[::-1], out, rtol=1e-5, atol=1e-6)
    alone = run(net, jnp.zeros_like(x).at[2].set(x[2]), entities, both, context)
    np.testing.assert_allclose(alone[2], out[2], rtol=1e-5, atol=1e-6)
    moved = np.asarray(out - x)
    assert np.abs(moved - moved[0]).max() > 1e-2, "cells move differently"
    for changed in (
        (x, entities + 0.5, both, context),
        (x, entities, both, context + 0.5),
        (x, entities, present(True, False, False), context),
    ):
        assert np.abs(np.asarray(run(net, *changed) - out)).max() > 1e-2


def test_the_split_first_layer_is_the_concatenation():
    net = network("concat")
    x, entities, context = inputs(4)

    @eqx.filter_jit
    def plain(net, x, entities, context):
        pooled = jax.nn.gelu(net.shared(entities), approximate=True).mean(0)
        rows = jnp.concatenate([x, jnp.tile(jnp.concatenate([pooled, context]), (len(x), 1))], axis=1)
        return x + net.readout(jax.nn.gelu(net.trunk(rows), approximate=True))

    out = run(net, x, entities, present(True, True, True), context)
    np.testing.assert_allclose(out, plain(net, x, entities, context), rtol=1e-5, atol=1e-5)


def blind() -> PerturbationNet:
    """Return a network whose trunk does not see the treatments, so that the gate alone tells them apart."""
    net = network("gated")
    return eqx.tree_at(lambda n: n.shared.weight, net, jnp.zeros_like(net.shared.weight))


def test_the_gate_of_a_combination_is_the_sum_of_its_members_gates():
    x, entities, context = inputs(5)

    def effect(*which: bool) -> np.ndarray:
        return np.asarray(run(blind(), x, entities, present(*which), context) - x)

    one, two, both = effect(True, False, False), effect(False, True, False), effect(True, True, False)
    assert np.abs(one - two).max() > 0.1
    np.testing.assert_allclose(both, one + two, rtol=1e-4, atol=1e-4)


def test_the_gated_effect_starts_linear_in_the_descriptor():
    x, entities, context = inputs(6)

    def effect(vector: jax.Array) -> np.ndarray:
        rows = jnp.stack([vector, vector, vector])
        return np.asarray(run(blind(), x, rows, present(True, False, False), context) - x)

    middle = effect(0.25 * entities[0] + 0.75 * entities[1])
    np.testing.assert_allclose(middle, 0.25 * effect(entities[0]) + 0.75 * effect(entities[1]), rtol=1e-4, atol=1e-4)


def test_training_starts_near_the_identity():
    @eqx.filter_jit
    def moved(x, entities):
        nets = [
            PerturbationNet(50, 20, 3, hidden=hidden, embedding=20, conditioning=kind, key=jr.key(0))
            for kind, hidden in (("gated", (64, 64)), ("concat", (64,)))
        ]
        return [net(x, entities, present(True), jnp.ones(3)) - x for net in nets]

    rng = np.random.default_rng(0)
    x = 3.0 * jnp.asarray(rng.normal(size=(200, 50)), jnp.float32)
    for displacement in moved(x, jnp.asarray(rng.normal(size=(1, 20)), jnp.float32)):
        distance = np.linalg.norm(displacement, axis=1)
        assert 0 < distance.mean() < 0.02 * np.linalg.norm(x, axis=1).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_treatments_does_not_compile_anew(kind):
    traces = []

    @eqx.filter_jit
    def counted(net, x, entities, mask, context):
        traces.append(mask.shape)
        return net(x, entities, mask, context)

    x, entities, context = inputs(7)
    for mask in ((True, False, False), (True, True, False), (True, True, True), (False, False, False)):
        assert np.isfinite(counted(network(kind), x, entities, present(*mask), context)).all()
    assert traces == [(3,)]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_without_treatments_and_reach_every_weight_with_some(kind):
    x, entities, context = inputs(8)

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(net, mask):
        return jnp.sum(net(x, entities, mask, context) ** 2)

    for mask in (present(False, False, False), present(True, True, False)):
        leaves = jax.tree.leaves(gradient(network(kind), mask))
        assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert all(np.abs(leaf).max() > 0 for leaf in leaves)

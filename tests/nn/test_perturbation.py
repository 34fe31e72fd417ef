"""The network: its start, its invariances, and that the size of a set of treatments is not a shape."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellgap.errors import ConfigError
from cellgap.nn import MLP, AttentionPooling, FiLM, LowRankUpdate, PerturbationNet

D, E, C = 5, 4, 3
KINDS = ("gated", "concat", "film", "lowrank", "gated attention", "concat attention parts")


@functools.cache
def network(kind: str = "gated", *, n_context: int = C, hidden: tuple[int, ...] = (16, 8)) -> PerturbationNet:
    """Return a network with weights of one size in every layer: at its start the readout is nearly zero."""
    conditioning, *options = kind.split()
    shapes = eqx.filter_eval_shape(
        PerturbationNet,
        D,
        E,
        n_context,
        hidden=hidden,
        embedding=6,
        conditioning=conditioning,
        pooling="attention" if "attention" in options else "mean",
        parts=(E - 1, 0, 1) if "parts" in options else None,
        rank=2,
        key=jr.key(0),
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
    assert (net.gate is not None) == kind.startswith("gated")
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
        pooled = jax.nn.gelu(net.shared[0](entities), approximate=True).mean(0)
        rows = jnp.concatenate([x, jnp.tile(jnp.concatenate([pooled, context]), (len(x), 1))], axis=1)
        return x + net.readout(jax.nn.gelu(net.trunk(rows), approximate=True))

    out = run(net, x, entities, present(True, True, True), context)
    np.testing.assert_allclose(out, plain(net, x, entities, context), rtol=1e-5, atol=1e-5)


def blind() -> PerturbationNet:
    """Return a network whose trunk does not see the treatments, so that the gate alone tells them apart."""
    net = network("gated")
    return eqx.tree_at(lambda n: n.shared[0].weight, net, jnp.zeros_like(net.shared[0].weight))


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
            for kind, hidden in (("gated", (64, 64)), ("concat", (64,)), ("film", (64,)), ("lowrank", (64,)))
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


def test_parts_of_different_kinds_have_dense_layers_of_their_own():
    net = network("concat attention parts")
    assert [layer.weight.shape for layer in net.shared] == [(E - 1, 6), (1, 1)]
    x, entities, context = inputs(10)
    plain = eqx.tree_at(lambda n: n.attention, net, None)
    dense = [layer(part) for layer, part in zip(net.shared, (entities[:, :-1], entities[:, -1:]), strict=True)]
    pooled = jax.nn.gelu(jnp.concatenate(dense, axis=1), approximate=True).mean(0)
    rows = jnp.concatenate([x, jnp.tile(jnp.concatenate([pooled, context]), (len(x), 1))], axis=1)
    expected = x + net.readout(jax.nn.gelu(net.trunk(rows), approximate=True))
    np.testing.assert_allclose(
        run(plain, x, entities, present(True, True, True), context), expected, rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ConfigError, match=r"parts \(2, 1\) .* must add up to its length 4"):
        PerturbationNet(D, E, C, hidden=(4,), embedding=2, conditioning="concat", parts=(2, 1), key=jr.key(0))


def test_the_published_network_has_the_published_number_of_weights():
    """Ten numbers for the effect (or 194 for the structure) and a dose, in 50 dimensions: 22.8k and 32.2k weights."""
    for n_effect, expected in ((10, 22_800), (194, 32_200)):
        shapes = eqx.filter_eval_shape(
            PerturbationNet,
            50,
            n_effect + 1,
            0,
            hidden=(64,) * 4,
            embedding=50,
            conditioning="concat",
            parts=(n_effect, 1),
            key=jr.key(0),
        )
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        assert abs(count - expected) < 200


def test_attention_is_a_softmax_over_the_members_that_are_there():
    pool = eqx.filter_jit(lambda k: AttentionPooling(3, heads=2, key=k))(jr.key(0))
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    scores = np.asarray(pool.score(rows), np.float64)[:3]
    weights = np.exp(scores) / np.exp(scores).sum(0)
    expected = (weights.T @ np.asarray(rows)[:3]).ravel() @ np.asarray(pool.project.weight) + pool.project.bias
    np.testing.assert_allclose(pool(rows, present(True, True, True, False)), expected, rtol=1e-5, atol=1e-6)
    # Large scores do not overflow, and equal members are their own mean.
    loud = eqx.tree_at(lambda p: p.score.bias, pool, jnp.full(2, 1e4))
    one = jnp.tile(rows[:1], (4, 1))
    np.testing.assert_allclose(
        loud(one, present(True, True, False, True)), pool(one, present(True, *[False] * 3)), rtol=1e-5
    )
    np.testing.assert_array_equal(pool(rows, present(*[False] * 4)), pool.project.bias)


def test_modulations_are_the_layers_they_describe():
    rng = np.random.default_rng(0)
    h, c = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32), jnp.asarray(rng.normal(size=4), jnp.float32)
    film = FiLM(4, 3, key=jr.key(0))
    scale, shift = np.split(np.asarray(c @ film.generate.weight), 2)
    np.testing.assert_allclose(film(h, c), (1 + scale) * h + shift, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(film(h, jnp.zeros(4)), h)
    update = LowRankUpdate(4, 3, 6, rank=2, key=jr.key(1))
    matrix = np.asarray(update(jnp.eye(3), c) - update(jnp.zeros((3, 3)), c))
    assert np.linalg.matrix_rank(matrix, tol=1e-5) == 2
    np.testing.assert_allclose(update(h, c), np.asarray(h) @ matrix + update(h * 0, c), rtol=1e-4, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(3)), seed=st.integers(0, 2**16), kind=st.sampled_from(KINDS))
def test_any_order_of_any_treatments(order, seed, kind):
    x, entities, context = inputs(seed)
    mask = present(*(bool(seed >> i & 1) for i in range(3)))
    out = run(network(kind), x, entities, mask, context)
    places = jnp.asarray(order)
    np.testing.assert_allclose(
        run(network(kind), x, entities[places], mask[places], context), out, rtol=1e-4, atol=1e-4
    )

"""Penalties against their closed forms on small networks, by loops; what is refused; settings that survive a file."""

import itertools
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from cellgap.dynamics import CNODE, L0, L1, GroupLasso, LassoNet, NeuralLaw, NoPenalty, PathReg
from cellgap.dynamics._proximal import hierarchical
from cellgap.errors import ConfigError
from cellgap.nn import PerTargetNet, SharedNet, drawn
from cellgap.settings import from_dict, to_dict

S, T, H = 4, 3, 2
ONES = jnp.ones((T, S))
FACTORS = jr.uniform(jr.key(8), (T, S))
PENALTIES = (
    NoPenalty(), L1(), L1(proximal_step=True), L0(), CNODE(), PathReg(), PathReg(expected=False), GroupLasso(),
    LassoNet(),
)  # fmt: skip


def net_of(kind: str, penalty) -> PerTargetNet | SharedNet:
    """Return the network that an estimator with this penalty would have."""
    gates = penalty.gates
    if kind == "per target":
        return PerTargetNet(S, T, hidden=H, gated=gates is not None, skip=penalty.skip, key=jr.key(0))
    unit = "weight" if gates == "edge" else gates
    return SharedNet(S, T, hidden=H, gates=unit, skip=penalty.skip, key=jr.key(0))


def moved(net):
    """Return a network with skip and biases that are not zero."""
    leaves, tree = jax.tree.flatten(net)
    keys = jr.split(jr.key(1), len(leaves))
    return jax.tree.unflatten(tree, [a + 0.3 * jr.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)])


def steps_of(net, size: float = 0.1):
    return jax.tree.map(lambda a: jnp.full_like(a, size), net)


def p_open(log_alpha) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-(np.asarray(log_alpha, np.float64) + 1.5986)))


def matrices(net) -> list[np.ndarray]:
    found = (net.first, net.middle, net.last) if isinstance(net, PerTargetNet) else net.weights
    return [np.asarray(w, np.float64) for w in found]


def path_products(net, gates=None) -> np.ndarray:
    """Return the sums over paths, (source, target), of weights or of given gates a layer."""
    out = np.zeros((S, T))
    for j, h, k, i in itertools.product(range(S), range(H), range(H), range(T)):
        if isinstance(net, PerTargetNet):
            w = abs(net.first[i, j, h] * net.middle[i, h, k] * net.last[i, k])
        else:
            layers = [np.asarray(w) for w in net.weights] if gates is None else gates
            w = abs(layers[0][j, h] * layers[1][h, k] * layers[2][k, i])
        out[j, i] += float(w) / H**2
    return out


def loss(penalty, net, strength: float = 1.0, factors=FACTORS, gates=None) -> float:
    return float(penalty.loss(net, gates, jnp.float32(strength), factors))


@pytest.mark.parametrize("kind", ["per target", "shared"])
def test_l1_is_the_mean_absolute_weight_of_layers(kind):
    net = moved(net_of(kind, L1()))
    expected = np.mean([np.abs(w).mean() for w in matrices(net)])
    assert loss(L1(), net, 0.7, ONES) == pytest.approx(0.7 * expected, rel=1e-5)
    assert loss(L1(proximal_step=True), net) == 0.0


@pytest.mark.parametrize("kind", ["per target", "shared"])
def test_the_step_of_l1_goes_as_far_as_its_gradient_would(kind):
    net = moved(net_of(kind, L1()))
    small = 1e-3
    found = L1(proximal_step=True).proximal(net, steps_of(net, small), jnp.float32(1.0), ONES)
    slope = jax.grad(lambda n: L1().loss(n, None, jnp.float32(1.0), ONES))(net)
    for new, old, g in zip(matrices(found), matrices(net), matrices(slope), strict=True):
        np.testing.assert_allclose(new, old - small * g, atol=2e-7)
    far = L1(proximal_step=True).proximal(net, steps_of(net, 1e4), jnp.float32(1.0), ONES)
    assert all((w == 0).all() for w in matrices(far))
    assert L1().proximal(net, steps_of(net), jnp.float32(1.0), ONES) is net


def test_l0_is_the_expected_share_of_open_weights():
    net = moved(net_of("per target", L0()))
    expected = np.mean(p_open(net.log_alpha[0]) * np.asarray(FACTORS))
    assert loss(L0(), net, 0.3) == pytest.approx(0.3 * expected, rel=1e-4)
    for unit in ("weight", "unit"):
        net = moved(net_of("shared", L0(unit=unit)))
        open_, weights = 0.0, 0
        for a, w in zip(net.log_alpha, net.weights, strict=True):
            open_ += np.broadcast_to(p_open(a), w.shape).sum()
            weights += w.size
        assert loss(L0(unit=unit), net, 0.3, ONES) == pytest.approx(0.3 * open_ / weights, rel=1e-4)


@pytest.mark.parametrize("kind", ["per target", "shared"])
def test_cnode_is_the_mean_product_of_weights_along_paths(kind):
    net = moved(net_of(kind, CNODE()))
    products = path_products(net)
    assert loss(CNODE(), net, 2.0, ONES) == pytest.approx(2.0 * products.mean(), rel=1e-5)
    assert loss(CNODE(), net, 2.0) == pytest.approx(2.0 * (products * np.asarray(FACTORS).T).mean(), rel=1e-5)


def gate_products(net, z) -> np.ndarray:
    if isinstance(net, PerTargetNet):
        return np.asarray(z[0]).T
    return path_products(net, [np.broadcast_to(a, w.shape) for a, w in zip(z, net.weights, strict=True)])


@pytest.mark.parametrize("expected", [True, False])
@pytest.mark.parametrize(("kind", "unit"), [("per target", None), ("shared", "weight"), ("shared", "unit")])
def test_pathreg_is_the_mean_product_of_weights_and_of_gates(kind, unit, expected):
    penalty = PathReg(strength=0.4, gate_strength=0.2, unit=unit, expected=expected)
    net = moved(net_of(kind, penalty))
    gates = drawn(net, jr.key(4))
    z = [p_open(a) for a in net.log_alpha] if expected else gates
    f = np.asarray(FACTORS).T
    known = 0.4 * np.mean(path_products(net) * f) + 0.2 * np.mean(gate_products(net, z) * f)
    assert loss(penalty, net, penalty.size, gates=gates) == pytest.approx(known, rel=1e-4)
    # As published, gates weigh a tenth.
    tenth = PathReg(strength=0.4, gate_strength=None, unit=unit, expected=expected)
    known = 0.4 * np.mean(path_products(net) * f) + 0.04 * np.mean(gate_products(net, z) * f)
    assert loss(tenth, net, tenth.size, gates=gates) == pytest.approx(known, rel=1e-4)


def test_pathreg_may_be_of_gates_alone():
    penalty = PathReg(strength=0.0, gate_strength=0.2)
    net = moved(net_of("per target", penalty))
    assert loss(penalty, net, penalty.size) == pytest.approx(
        0.2 * np.mean(p_open(net.log_alpha[0]) * np.asarray(FACTORS)), rel=1e-4
    )
    nothing = PathReg(strength=0.0, gate_strength=None)
    assert loss(nothing, net, nothing.size) == 0.0


def test_the_step_of_the_group_lasso_shrinks_every_edge_as_its_gradient_would():
    net = moved(net_of("per target", GroupLasso()))
    size = 1e-3

    def objective(first):
        norms = jnp.sqrt(jnp.sum(first**2, -1)) * net.gain()[:, None] * FACTORS
        return 0.5 * jnp.mean(jnp.sum(norms, 1))

    slope = jax.grad(objective)(net.first)
    found = GroupLasso().proximal(net, steps_of(net, size), jnp.float32(0.5), FACTORS)
    np.testing.assert_allclose(found.first, net.first - size * slope, atol=2e-7)
    rest = (found.middle, found.last, found.first_bias)
    for new, old in zip(rest, (net.middle, net.last, net.first_bias), strict=True):
        np.testing.assert_array_equal(new, old)


def test_the_step_of_the_group_lasso_shrinks_sources_of_a_shared_network():
    net = moved(net_of("shared", GroupLasso()))
    found = GroupLasso().proximal(net, steps_of(net), jnp.float32(2.0), FACTORS)
    w = np.asarray(net.weights[0], np.float64)
    norm = np.linalg.norm(w, axis=1)
    limit = 0.1 * 2.0 * np.asarray(FACTORS).mean(0)
    expected = w * np.maximum(1 - limit / norm, 0)[:, None]
    np.testing.assert_allclose(found.weights[0], expected, rtol=1e-5, atol=1e-7)


def test_steps_of_unequal_length_make_groups_of_one_typical_length():
    net = moved(net_of("per target", GroupLasso()))
    steps = eqx.tree_at(lambda n: n.first, steps_of(net), jnp.full((T, S, H), 0.1).at[..., 1].set(0.2))
    found = GroupLasso().proximal(net, steps, jnp.float32(1.0), ONES)
    eta = 1 / np.sqrt((1 / 0.1**2 + 1 / 0.2**2) / 2)
    w = np.asarray(net.first, np.float64)
    limit = eta * np.asarray(net.gain())[:, None] / T
    expected = w * np.maximum(1 - limit / np.linalg.norm(w, axis=-1), 0)[..., None]
    np.testing.assert_allclose(found.first, expected, rtol=1e-5, atol=1e-7)


def test_the_step_of_lassonet_is_hierarchical_for_every_edge():
    penalty = LassoNet(bound=0.5)
    net = moved(net_of("per target", penalty))
    found = penalty.proximal(net, steps_of(net), jnp.float32(2.0), FACTORS)
    for i, j in itertools.product(range(T), range(S)):
        v, u = hierarchical(net.skip[j, i][None], net.first[i, j], 0.1 * 2.0 * FACTORS[i, j] / T, 0.5)
        assert float(found.skip[j, i]) == pytest.approx(float(v[0]), abs=1e-6)
        np.testing.assert_allclose(found.first[i, j], u, atol=1e-6)
    assert float((jnp.abs(found.first).max(-1) - 0.5 * jnp.abs(found.skip.T)).max()) <= 1e-6
    net = moved(net_of("shared", penalty))
    found = penalty.proximal(net, steps_of(net), jnp.float32(2.0), FACTORS)
    for j in range(S):
        v, u = hierarchical(net.skip[j], net.weights[0][j], 0.1 * 2.0 * jnp.mean(FACTORS[:, j]), 0.5)
        np.testing.assert_allclose(found.skip[j], v, atol=1e-6)
        np.testing.assert_allclose(found.weights[0][j], u, atol=1e-6)


@pytest.mark.parametrize("kind", ["per target", "shared"])
@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_strength_0_does_nothing(kind, penalty):
    net = moved(net_of(kind, penalty))
    # LassoNet bounds the network by the linear way at any strength.
    net = eqx.tree_at(lambda n: n.skip, net, 100 + net.skip) if penalty.skip else net
    assert loss(penalty, net, 0.0, gates=drawn(net, jr.key(0))) == 0.0
    after = penalty.proximal(net, steps_of(net), jnp.float32(0.0), FACTORS)
    for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(net), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "penalty"),
    [
        *((kind, penalty) for kind in ("per target", "shared") for penalty in (L0(), CNODE(), PathReg())),
        ("shared", L0(unit="unit")),
        ("shared", PathReg(unit="unit", expected=False)),
    ],
    ids=repr,
)
def test_factors_scale_the_penalty_and_0_frees(kind, penalty):
    net = moved(net_of(kind, penalty))
    gates = drawn(net, jr.key(0))
    whole = loss(penalty, net, 1.0, ONES, gates)
    assert whole > 0
    if kind == "shared" and isinstance(penalty, L0):
        first = loss(penalty, net, 1.0, 0.5 * ONES, gates)
        only_later = loss(penalty, net, 1.0, 0.0 * ONES, gates)
        # Later layers belong to no edge: factors act on the first one.
        assert whole - first == pytest.approx(0.5 * (whole - only_later), rel=1e-4) and whole > first
        return
    assert loss(penalty, net, 1.0, 0.5 * ONES, gates) == pytest.approx(0.5 * whole, rel=1e-5)
    assert loss(penalty, net, 1.0, 0.0 * ONES, gates) == 0.0


@pytest.mark.parametrize("penalty", [L1(), L1(proximal_step=True)], ids=repr)
@pytest.mark.parametrize("kind", ["per target", "shared"])
def test_what_is_believed_keeps_its_first_weights_under_l1_too(kind, penalty):
    net = moved(net_of(kind, penalty))
    free = ONES.at[:, 0].set(0.0)
    if penalty.proximal_step:
        after = penalty.proximal(net, steps_of(net, 1e4), jnp.float32(1.0), free)
    else:
        slope = jax.grad(lambda n: penalty.loss(n, None, jnp.float32(1.0), free))(net)
        after = jax.tree.map(lambda a, g: a - g, net, slope)
    kept = (lambda n: n.first[:, 0]) if kind == "per target" else (lambda n: n.weights[0][0])
    others = (lambda n: n.first[:, 1:]) if kind == "per target" else (lambda n: n.weights[0][1:])
    np.testing.assert_array_equal(kept(after), kept(net))
    assert (np.asarray(others(after)) != np.asarray(others(net))).all()


@pytest.mark.parametrize("kind", ["per target", "shared"])
@pytest.mark.parametrize("penalty", [p for p in PENALTIES if p != NoPenalty()], ids=repr)
def test_gradients_are_finite_where_weights_are_zero(kind, penalty):
    net = jax.tree.map(jnp.zeros_like, net_of(kind, penalty))
    gates = drawn(net, jr.key(0))
    slope = jax.grad(lambda n: penalty.loss(n, gates, jnp.float32(1.0), ONES))(net)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(slope))
    after = penalty.proximal(net, steps_of(net), jnp.float32(1.0), ONES)
    assert all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(after))


@pytest.mark.parametrize(
    "law",
    [
        *(NeuralLaw(penalty=p) for p in PENALTIES),
        NeuralLaw(penalty=PathReg(unit="unit", gate_strength=0.3), network="shared", inputs=("donor",), hidden=7),
        NeuralLaw(penalty=L0(unit="weight"), network="shared", regulators=("a", "b"), window=4, order=2, history=3),
        NeuralLaw(penalty=PathReg(gate_strength=None)),
        NeuralLaw(penalty=GroupLasso(adaptive=True), starts="learnt", kept=0.2),
        NeuralLaw.reference(),
    ],
    ids=lambda law: repr(law.penalty),
)
def test_settings_survive_a_file(law):
    plain = json.loads(json.dumps(to_dict(law)))
    assert from_dict(plain) == law


@pytest.mark.parametrize(
    "make",
    [
        lambda: NeuralLaw(penalty=L0(unit="weight")),
        lambda: NeuralLaw(penalty=PathReg(unit="unit")),
        lambda: NeuralLaw(penalty=L0(unit="edge"), network="shared"),
        lambda: NeuralLaw(penalty=PathReg(unit="edge"), network="shared"),
        lambda: NeuralLaw(penalty=GroupLasso(adaptive=True), refit=True),
        lambda: GroupLasso(strength=-1.0),
        lambda: PathReg(gate_strength=-1.0),
        lambda: LassoNet(bound=0.0),
        lambda: LassoNet(bound=1e7),
        lambda: L0(unit="layer"),  # pyright: ignore[reportArgumentType]
        lambda: CNODE(lam=1.0),  # pyright: ignore[reportCallIssue]
        lambda: NeuralLaw(penalty="lasso"),  # pyright: ignore[reportArgumentType]
        lambda: NeuralLaw(hidden=0),
        lambda: NeuralLaw(order=3),  # pyright: ignore[reportArgumentType]
        lambda: NeuralLaw(valid=0.95),
        lambda: NeuralLaw(members=0),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(make):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).count(". ") == 0 and "\n" not in str(caught.value)


def test_the_published_recipe_has_the_published_settings():
    law = NeuralLaw.reference(members=3)
    assert (law.network, law.hidden, law.activations, law.decay, law.members) == ("shared", 100, 1, False, 3)
    # lambda_1 = 0.01 and a tenth, times the widths by which products are divided here.
    assert law.penalty.size == pytest.approx(0.01 * 100**2) and law.penalty.gate_strength == pytest.approx(10.0)
    assert law.penalty.gates == "unit" and not law.penalty.expected
    assert law.training.loop.n_steps == 5000

"""Networks of laws: derivatives, gates, edges that are not allowed, and paths counted one by one."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from cellgap.nn import PerTargetNet, SharedNet, drawn, settled
from cellgap.nn._hard_concrete import LOG_ALPHA_RANGE
from cellgap.nn._law import clamped, elu

N, S, T, H = 7, 4, 3, 2


def moved(net, seed: int = 9):
    """Return a network whose biases and skip are not zero either."""
    leaves, tree = jax.tree.flatten(net)
    keys = jr.split(jr.key(seed), len(leaves))
    return jax.tree.unflatten(tree, [a + 0.3 * jr.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)])


def per_target(**how) -> PerTargetNet:
    return moved(PerTargetNet(S, T, hidden=H, key=jr.key(0), **how))


def shared(**how) -> SharedNet:
    return moved(SharedNet(S, T, hidden=H, key=jr.key(0), **how))


NETS = {
    "per target": per_target(),
    "per target, one activation": per_target(activations=1),
    "per target, skip": per_target(skip=True),
    "per target, gates": per_target(gated=True),
    "shared": shared(),
    "shared, one activation": shared(activations=1),
    "shared, skip": shared(skip=True),
    "shared, unit gates": shared(gates="unit"),
    "shared, weight gates": shared(gates="weight"),
}


@pytest.fixture
def rows():
    return jr.normal(jr.key(5), (N, S))


def by_jax(net, rows):
    """Return the derivatives, (rows, sources, targets), by forward differentiation."""
    return jnp.swapaxes(jax.vmap(jax.jacfwd(lambda row: net(row[None])[0]))(rows), 1, 2)


@pytest.mark.parametrize("name", NETS)
def test_the_jacobian_is_that_of_automatic_differentiation(name, rows):
    net = NETS[name]
    found = net.jacobian(rows)
    assert found.shape == (N, S, T) and float(jnp.abs(found).min(0).max()) > 1e-3
    np.testing.assert_allclose(found, by_jax(net, rows), rtol=1e-5, atol=1e-6)


def test_the_unit_is_the_exponential_linear_one_with_its_slope():
    x = jnp.linspace(-20, 20, 401)
    np.testing.assert_allclose(elu(x), jax.nn.elu(x), atol=1e-7)
    slope = jax.vmap(jax.grad(elu))(x)
    assert bool(jnp.isfinite(slope).all()) and bool(jnp.isfinite(jax.grad(elu)(jnp.float32(1e4))))
    np.testing.assert_allclose(slope, jnp.where(x > 0, 1.0, jnp.exp(jnp.minimum(x, 0))), atol=1e-7)


def by_hand(net: PerTargetNet, row: np.ndarray) -> list[float]:
    """Return the production of every target, unit by unit."""
    out = []
    for i in range(T):
        first = [sum(float(net.first[i, j, h]) * row[j] for j in range(S)) + net.first_bias[i, h] for h in range(H)]
        first = [y if y > 0 else np.expm1(y) for y in map(float, first)]
        y = [sum(first[h] * float(net.middle[i, h, k]) for h in range(H)) + net.middle_bias[i, k] for k in range(H)]
        y = [v if v > 0 or net.activations == 1 else np.expm1(v) for v in map(float, y)]
        total = sum(v * float(net.last[i, k]) for k, v in enumerate(y)) + float(net.last_bias[i])
        linear = 0.0 if net.skip is None else sum(float(net.skip[j, i]) * row[j] for j in range(S))
        out.append(total + linear)
    return out


@pytest.mark.parametrize("how", [{}, {"activations": 1}, {"skip": True}])
def test_a_network_a_target_by_hand(how, rows):
    net = per_target(**how)
    expected = [by_hand(net, row) for row in np.asarray(rows, np.float64)]
    np.testing.assert_allclose(net(rows), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["per target", "per target, skip", "per target, gates"])
def test_edges_that_are_not_allowed_have_no_derivative_and_others_keep_theirs(name, rows):
    net, allowed = NETS[name], np.ones((T, S), np.float32)
    allowed[0, 1] = allowed[2, 3] = allowed[2, 0] = 0
    without = np.asarray(net.masked(None, jnp.asarray(allowed)).jacobian(rows))
    np.testing.assert_array_equal(without[:, allowed.T == 0], 0.0)
    assert np.abs(without[:, allowed.T == 1]).min(0).max() > 1e-3
    # Targets that may read everything are as before.
    np.testing.assert_array_equal(without[:, :, 1], net.jacobian(rows)[:, :, 1])


@pytest.mark.parametrize("name", ["shared", "shared, skip", "shared, weight gates"])
def test_a_source_that_no_target_may_read_leaves_a_shared_network(name, rows):
    net, allowed = NETS[name], np.ones((T, S), np.float32)
    allowed[:, 1] = 0
    without = np.asarray(net.masked(None, jnp.asarray(allowed)).jacobian(rows))
    np.testing.assert_array_equal(without[:, 1], 0.0)
    np.testing.assert_array_equal(np.abs(without[:, [0, 2, 3]]).max(0) > 0, True)
    one = allowed.copy()
    one[2, 1] = 1
    np.testing.assert_array_equal(net.masked(None, jnp.asarray(one)).weights[0], net.weights[0])
    if net.skip is not None:  # the linear way has edges of its own
        np.testing.assert_array_equal(net.masked(None, jnp.asarray(one)).skip[1], [0.0, 0.0, float(net.skip[1, 2])])


def paths_of(matrices, j: int, i: int) -> float:
    """Return the sum over all paths from a source to a target, divided by the widths."""
    total = 0.0
    for h, k in itertools.product(range(H), repeat=2):
        total += abs(matrices[0][j][h]) * abs(matrices[1][h][k]) * abs(matrices[2][k][i])
    return total / H**2


def test_products_of_weights_are_those_of_all_paths_one_by_one():
    net = NETS["shared"]
    weights = [np.asarray(w, np.float64) for w in net.weights]
    expected = [[paths_of(weights, j, i) for i in range(T)] for j in range(S)]
    np.testing.assert_allclose(net.paths(), expected, rtol=1e-5)
    own = NETS["per target"]
    expected = np.zeros((S, T))
    for i in range(T):
        layers = [np.asarray(w, np.float64) for w in (own.first[i], own.middle[i], own.last[i][:, None])]
        expected[:, i] = [paths_of(layers, j, 0) for j in range(S)]
    np.testing.assert_allclose(own.paths(), expected, rtol=1e-5)


@pytest.mark.parametrize("unit", ["unit", "weight"])
def test_open_paths_of_gates_are_counted_one_by_one(unit):
    net = shared(gates=unit)
    shapes = [w.shape for w in net.weights]
    gates = [np.array(z, np.float32)[:, None] for z in ([1, 0, 1, 1], [1, 1], [0, 1])]
    if unit == "weight":
        gates = [(np.random.default_rng(0).random(s) < 0.6).astype(np.float32) for s in shapes]
    full = [np.broadcast_to(z, s) for z, s in zip(gates, shapes, strict=True)]
    open_paths = np.zeros((S, T))
    for j, h, k, i in itertools.product(range(S), range(H), range(H), range(T)):
        open_paths[j, i] += bool(full[0][j, h] and full[1][h, k] and full[2][k, i])
    assert open_paths.max() > 0 and open_paths.min() == 0
    np.testing.assert_allclose(net.paths(gates=tuple(map(jnp.asarray, gates))), open_paths / H**2, rtol=1e-6)


def test_gates_of_edges_are_the_paths_of_a_network_a_target():
    gates = (jr.uniform(jr.key(0), (T, S)),)
    np.testing.assert_array_equal(NETS["per target, gates"].paths(gates=gates), gates[0].T)


def test_gates_of_units_know_sources_but_no_edges():
    """The rank-one trap: whatever such gates are, every target has the same sources."""
    net = NETS["shared, unit gates"]
    for seed in range(3):
        keys = jr.split(jr.key(seed), 3)
        gates = tuple(jr.uniform(k, a.shape) for k, a in zip(keys, net.log_alpha, strict=True))
        counts = np.asarray(net.paths(gates=gates))
        assert np.ptp(counts, axis=0).max() > 1e-3
        np.testing.assert_allclose(counts, counts[:, :1] * np.ones((1, T)), rtol=1e-6)
    finer = NETS["shared, weight gates"]
    gates = tuple(jr.uniform(k, a.shape) for k, a in zip(keys, finer.log_alpha, strict=True))
    counts = np.asarray(finer.paths(gates=gates))
    assert np.ptp(counts, axis=1).max() > 1e-3


@pytest.mark.parametrize("name", ["per target, gates", "shared, unit gates", "shared, weight gates"])
def test_open_gates_change_nothing_and_closed_ones_close(name, rows):
    net = NETS[name]
    ones = jax.tree.map(jnp.ones_like, net.log_alpha)
    np.testing.assert_array_equal(net.masked(ones, None)(rows), net(rows))
    zeros = jax.tree.map(jnp.zeros_like, net.log_alpha)
    closed = net.masked(zeros, None)(rows)
    np.testing.assert_allclose(closed, jnp.broadcast_to(closed[:1], closed.shape), atol=1e-7)
    np.testing.assert_array_equal(net.masked(zeros, None).jacobian(rows), 0.0)
    half = tuple(z.at[0].set(0.0) for z in ones[:1]) + ones[1:]
    lost = np.asarray(net.masked(half, None).jacobian(rows))
    if name.startswith("per target"):
        np.testing.assert_array_equal(lost[:, :, 0], 0.0)
        np.testing.assert_array_equal(lost[:, :, 1:], net.jacobian(rows)[:, :, 1:])
    else:
        np.testing.assert_array_equal(lost[:, 0], 0.0)
        assert np.abs(lost[:, 1:]).min(0).min() > 0


def test_a_gate_of_an_edge_multiplies_its_weights_the_linear_one_included(rows):
    net = moved(PerTargetNet(S, T, hidden=H, gated=True, skip=True, key=jr.key(0)))
    gates = (jnp.ones((T, S)).at[1, 2].set(0.25),)
    own = net.masked(gates, None)
    np.testing.assert_allclose(own.first[1, 2], 0.25 * net.first[1, 2])
    np.testing.assert_allclose(own.skip[2, 1], 0.25 * net.skip[2, 1])
    np.testing.assert_array_equal(own.first[1, 1], net.first[1, 1])
    np.testing.assert_array_equal(net.masked(None, None)(rows), net(rows))


def test_norms_of_groups_are_of_the_first_weights_times_what_comes_after():
    net = NETS["per target"]
    for i, j in itertools.product(range(T), range(S)):
        norm = np.sqrt(sum(float(w) ** 2 for w in net.first[i, j]))
        after = [sum(abs(float(net.middle[i, h, k]) * float(net.last[i, k])) for k in range(H)) for h in range(H)]
        gain = np.sqrt(np.mean(np.square(after)))
        assert float(net.groups()[j, i]) == pytest.approx(norm * gain, rel=1e-5)
    # First weights made small and last ones large at no cost are the same edge.
    other = eqx.tree_at(lambda n: (n.first, n.last), net, (net.first / 8, net.last * 8))
    np.testing.assert_allclose(other.groups(), net.groups(), rtol=1e-5)
    norms = np.linalg.norm(np.asarray(NETS["shared"].weights[0]), axis=1)
    np.testing.assert_allclose(NETS["shared"].groups(), np.tile(norms[:, None], (1, T)), rtol=1e-6)


@pytest.mark.parametrize("name", ["per target, skip", "shared, skip"])
def test_an_edge_that_is_linear_only_is_an_edge(name, rows):
    net = NETS[name]
    if isinstance(net, PerTargetNet):
        dead = eqx.tree_at(lambda n: n.first, net, jnp.zeros_like(net.first))
    else:
        dead = eqx.tree_at(lambda n: n.weights[0], net, jnp.zeros_like(net.weights[0]))
    dead = eqx.tree_at(lambda n: n.skip, dead, jnp.zeros((S, T)).at[2, 1].set(-0.7))
    there = np.zeros((S, T))
    there[2, 1] = 0.7
    np.testing.assert_allclose(jnp.abs(dead.jacobian(rows)[0]), there, rtol=1e-6)
    np.testing.assert_allclose(dead.groups(), there, rtol=1e-6)
    np.testing.assert_allclose(dead.paths(), there, rtol=1e-6)


def test_gates_are_drawn_once_for_all_rows_and_settle_without_chance(rows):
    net = NETS["per target, gates"]
    own = net.masked(drawn(net, jr.key(3)), None)
    np.testing.assert_array_equal(own(rows), own(rows))
    np.testing.assert_allclose(own(rows)[2], own(rows[2:3])[0], rtol=1e-5, atol=1e-6)
    again, other = settled(net), settled(net)
    np.testing.assert_array_equal(again[0], other[0])
    assert drawn(NETS["shared"], jr.key(0)) is None and settled(NETS["shared"]) is None


def test_odds_are_kept_in_their_range():
    net = NETS["shared, weight gates"]
    far = eqx.tree_at(lambda n: n.log_alpha, net, tuple(100.0 * a for a in net.log_alpha))
    odds = np.concatenate([np.asarray(a).ravel() for a in clamped(far).log_alpha])
    assert odds.min() >= LOG_ALPHA_RANGE[0] - 1e-6 and odds.max() == pytest.approx(LOG_ALPHA_RANGE[1])
    assert clamped(NETS["shared"]) is NETS["shared"]


@pytest.mark.parametrize("cls", [PerTargetNet, SharedNet])
def test_the_same_key_gives_the_same_weights_and_a_start_of_order_one(cls):
    one, two = (cls(50, 30, hidden=16, key=jr.key(1)) for _ in range(2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)
    spread = float(jnp.std(one(jr.normal(jr.key(2), (200, 50)))))
    assert 0.05 < spread < 0.6

"""Networks read from scores made by hand: k, frequencies, stability, p values; derivatives; how sparse a law is."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pandas as pd
import pytest

from cellgap.dynamics import LambdaPath, Law, sparsity
from cellgap.dynamics._recovered import edge_scores, network_of
from cellgap.nn import MLP, PerTargetNet, SharedNet

NAMES = ("a", "b", "c")
OFF = ~np.eye(3, dtype=bool)
SCORES = np.array(
    [
        [[0.0, 5.0, 1.0], [4.0, 0.0, 0.5], [0.1, 0.2, 0.0]],
        [[0.0, 7.0, 0.3], [0.2, 0.0, 6.0], [0.1, 0.4, 0.0]],
    ]
)
SIGNS = np.sign(SCORES) * np.array([[0, -1, 1], [1, 0, 1], [1, -1, 0]])
STRENGTH = np.array(
    [
        [[0.0, 0.5, 0.2], [0.3, 0.0, 0.05], [0.0, 0.0, 0.0]],
        [[0.0, 0.6, 0.05], [0.02, 0.0, 0.4], [0.0, 0.0, 0.0]],
    ]
)


def made(null=None, *, k=2, threshold=0.1, members=(0, 1)):
    rows = list(members)
    return network_of(
        (SCORES[rows], SIGNS[rows], STRENGTH[rows]), null, NAMES, k=k, threshold=threshold, score="jacobian"
    )


def test_edges_are_means_over_members_with_names():
    network = made()
    pd.testing.assert_frame_equal(network.scores, pd.DataFrame(SCORES.mean(0), index=NAMES, columns=NAMES))
    assert network.scores.loc["a", "b"] == 6.0 and network.signs.loc["a", "b"] == -1.0
    assert network.strength.loc["b", "a"] == pytest.approx(0.16)
    assert network.score == "jacobian" and network.p_value is None


def test_frequencies_count_members_with_an_edge_among_their_k_best():
    frequency = made(k=2).frequency
    # Best of the first: a-b, b-a; of the second: a-b, b-c.
    expected = pd.DataFrame([[0, 1.0, 0], [0.5, 0, 0.5], [0, 0, 0]], index=NAMES, columns=NAMES)
    pd.testing.assert_frame_equal(frequency, expected)


def test_stability_is_the_mean_pairwise_jaccard_index():
    assert made(k=2).stability == pytest.approx(1 / 3)
    assert made(k=1).stability == 1.0
    # Third member as the first: pairs (1/3, 1, 1/3).
    assert made(k=2, members=(0, 1, 0)).stability == pytest.approx((1 / 3 + 1 + 1 / 3) / 3)
    assert np.isnan(made(members=(0,)).stability)


def test_kept_edges_are_strong_in_half_of_the_members():
    kept = made(threshold=0.1).kept
    expected = pd.DataFrame([[0, 1, 1], [1, 0, 1], [0, 0, 0]], index=NAMES, columns=NAMES).astype(bool)
    pd.testing.assert_frame_equal(kept, expected)
    assert made(threshold=0.1, members=(0, 1, 1)).kept.to_numpy().sum() == 2
    assert made(threshold=0.55).kept.to_numpy().sum() == 1
    assert not np.diag(made(threshold=0.0).kept).any()


def test_k_is_what_is_kept_between_one_a_variable_and_a_quarter_of_all():
    assert made(k=50).k == 6 and made(k=4).k == 4
    assert made(k=None).k == 1  # a quarter of six
    d, names = 9, tuple("abcdefghi")
    off = ~np.eye(d, dtype=bool)
    strength = 0.2 * off[None]
    strength[0].flat[np.flatnonzero(off)[:12]] = 1.0
    found = (np.ones((1, d, d)) * off,) * 2 + (strength,)
    for threshold, k in ((0.5, 12), (2.0, 9), (0.0, 18)):
        assert network_of(found, None, names, k=None, threshold=threshold, score="jacobian").k == k


def test_edges_without_any_score_are_in_nobodys_best():
    found = np.zeros((2, 3, 3))
    found[:, 0, 1] = 1.0
    network = network_of((found, found, found), None, NAMES, k=3, threshold=0.5, score="groups")
    assert network.frequency.to_numpy().sum() == 1.0 and network.stability == 1.0
    empty = np.zeros((2, 3, 3))
    network = network_of((empty, empty, empty), empty[:1], NAMES, k=None, threshold=0.5, score="groups")
    assert network.stability == 0.0 and not network.kept.to_numpy().any()
    assert network.p_value is not None and (network.p_value.to_numpy() == 1.0).all()


def test_p_values_are_shares_of_null_scores_in_units_of_their_targets():
    rng = np.random.default_rng(0)
    scale = np.array([1.0, 10.0, 100.0])
    null = rng.exponential(size=(4, 3, 3)) * OFF * scale
    network = made(null)
    assert network.p_value is not None
    typical = np.array([null[:, OFF[:, j], j].mean() for j in range(3)])
    pool = (null / typical)[:, OFF].ravel()
    for i in range(3):
        for j in range(3):
            above = (pool >= SCORES.mean(0)[i, j] / typical[j]).sum()
            expected = 1.0 if i == j else (1 + above) / (1 + len(pool))
            assert network.p_value.iloc[i, j] == pytest.approx(expected)


def test_p_values_of_the_null_itself_are_uniform():
    rng = np.random.default_rng(1)
    d, names = 12, tuple("abcdefghijkl")
    off = ~np.eye(d, dtype=bool)
    null = rng.exponential(size=(3, d, d)) * off
    own = rng.exponential(size=(1, d, d)) * off
    network = network_of((own, own, own), null, names, k=None, threshold=9.0, score="jacobian")
    assert network.p_value is not None
    p = network.p_value.to_numpy()[off]
    # A mean of 132 uniform numbers: five standard errors.
    assert abs(p.mean() - 0.5) < 5 / np.sqrt(12 * 132) and p.min() >= 1 / (3 * 132 + 1)
    strong = own + 50.0 * off
    network = network_of((strong, strong, strong), null, names, k=None, threshold=9.0, score="jacobian")
    assert network.p_value is not None
    np.testing.assert_allclose(network.p_value.to_numpy()[off], 1 / (3 * 132 + 1))


def test_the_table_of_edges_is_sorted_without_self_edges():
    network = made(np.ones((1, 3, 3)) * OFF)
    table = network.edges()
    assert list(table.columns) == [
        "regulator", "target", "score", "sign", "strength", "frequency", "p_value", "kept",
    ]  # fmt: skip
    assert len(table) == 6 and (table["regulator"] != table["target"]).all()
    assert list(table["score"]) == sorted(table["score"], reverse=True)
    first = table.iloc[0]
    assert (first["regulator"], first["target"], first["score"], first["sign"]) == ("a", "b", 6.0, -1.0)
    assert first["frequency"] == 1.0 and first["kept"] and len(network.edges(2)) == 2
    kept = network.edges(kept=True)
    assert len(kept) == 4 and kept["kept"].all() and len(network.edges(1, kept=True)) == 1
    assert made().edges()["p_value"].isna().all()
    assert repr(network) == "Network(3 variables, 4 edges kept, stability 0.33)"


def members(nets) -> Law:
    return jax.tree.map(lambda *a: jnp.stack(a), *(Law(net, None, None) for net in nets))


@pytest.mark.parametrize("constants", [0, 1, 3, 7])
def test_scores_are_mean_derivatives_of_variables_whatever_constants_there_are(constants):
    """A law that is told three lineages of three variables does not take them for velocities."""
    d = 3
    nets = [PerTargetNet(d + constants, d, hidden=2, key=jr.key(i)) for i in range(2)]
    law, allowed = members(nets), jnp.ones((2, d, d + constants))
    states, inputs = jr.normal(jr.key(5), (40, d)), jr.normal(jr.key(6), (40, constants))
    sources = jnp.concatenate([states, inputs], 1)
    scores, signs, strength = edge_scores(law, allowed, states, inputs, "jacobian")
    for m, net in enumerate(nets):
        derivative = np.asarray(net.jacobian(sources))[:, :d]
        np.testing.assert_allclose(scores[m], np.abs(derivative).mean(0) * OFF, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(signs[m], derivative.mean(0) * OFF, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(strength[m], np.asarray(net.groups())[:d] * OFF, rtol=1e-5)
    for score in ("paths", "groups"):
        found, sign, _ = edge_scores(law, allowed, states, inputs, score)
        expected = [np.asarray(getattr(net, score)())[:d] * OFF for net in nets]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert not sign.any()


def test_positions_and_velocities_of_a_variable_are_one_regulator():
    d = 3
    net = PerTargetNet(2 * d + 1, d, hidden=2, key=jr.key(0))
    one = Law(net, None, MLP((2 * d, 4, d), key=jr.key(0)))
    law = jax.tree.map(lambda a: a[None], one)
    states, inputs = jr.normal(jr.key(5), (10, 2 * d)), jr.normal(jr.key(6), (10, 1))
    scores, _, strength = edge_scores(law, jnp.ones((1, d, 2 * d + 1)), states, inputs, "jacobian")
    derivative = np.abs(np.asarray(net.jacobian(jnp.concatenate([states, inputs], 1)))).mean(0)
    np.testing.assert_allclose(scores[0], (derivative[:d] + derivative[d : 2 * d]) * OFF, rtol=1e-5)
    groups = np.asarray(net.groups())
    np.testing.assert_allclose(strength[0], (groups[:d] + groups[d : 2 * d]) * OFF, rtol=1e-5)


def test_edges_that_are_not_allowed_have_no_score():
    law = members([PerTargetNet(3, 3, hidden=2, key=jr.key(0))])
    allowed = jnp.ones((1, 3, 3)).at[0, 1, 0].set(0.0)
    for score in ("jacobian", "paths", "groups"):
        found, _, strength = edge_scores(law, allowed, jr.normal(jr.key(1), (5, 3)), jnp.zeros((5, 0)), score)
        assert found[0, 0, 1] == strength[0, 0, 1] == 0.0 and (found[0] > 0).sum() == 5


def test_many_states_are_scored_in_blocks_as_few_are(monkeypatch):
    law = members([PerTargetNet(3, 3, hidden=2, key=jr.key(0))])
    states, none = jr.normal(jr.key(1), (50, 3)), jnp.zeros((50, 0))
    whole = edge_scores(law, jnp.ones((1, 3, 3)), states, none, "jacobian")
    monkeypatch.setattr("cellgap.dynamics._recovered._BLOCK", 60)
    parts = edge_scores(law, jnp.ones((1, 3, 3)), states, none, "jacobian")
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_sparsity_counts_weights_paths_gates_and_spurious_inputs():
    net = PerTargetNet(3, 3, hidden=2, gated=True, key=jr.key(0))
    # Gates: a opens everywhere; b is closed for the first target; c for all of them.
    odds = jnp.array([[3.0, -3.0, -3.0], [3.0, 3.0, -3.0], [3.0, 3.0, -3.0]])
    net = eqx.tree_at(lambda n: n.log_alpha, net, (odds,))
    law = members([net, net])
    found = sparsity(law, np.ones((2, 3, 3), np.float32), NAMES, ["a"])
    assert found["gates"] == pytest.approx(4 / 9) and found["paths"] == pytest.approx(4 / 9)
    assert found["spurious"] == pytest.approx(4 / 6)
    assert found["weights"] == pytest.approx(4 * 2 / (18 + 12 + 6))
    assert np.isnan(sparsity(law, np.ones((2, 3, 3), np.float32), NAMES)["spurious"])
    assert np.isnan(sparsity(law, np.ones((2, 3, 3), np.float32), NAMES, NAMES)["spurious"])
    cut = np.ones((2, 3, 3), np.float32)
    cut[1, 0, 0] = 0  # one edge more in the second member; gates know nothing of it
    again = sparsity(law, cut, NAMES, ["b", "c"])
    assert again["paths"] == pytest.approx((4 / 9 + 5 / 9) / 2) and again["gates"] == pytest.approx(4 / 9)
    assert again["spurious"] == pytest.approx((0 + 1 / 3) / 2)


def test_sparsity_of_a_shared_network_without_gates():
    net = SharedNet(3, 3, hidden=4, key=jr.key(0))
    net = eqx.tree_at(lambda n: n.weights[0], net, net.weights[0].at[1].set(1e-7))
    found = sparsity(members([net]), np.ones((1, 3, 3), np.float32), NAMES, ["a", "c"])
    assert found == {
        "weights": pytest.approx(4 / (12 + 16 + 12)), "paths": pytest.approx(1 / 3), "gates": 0.0, "spurious": 1.0,
    }  # fmt: skip


def test_the_best_law_of_a_path_is_the_strongest_whose_error_is_close_to_the_lowest():
    table = pd.DataFrame(
        {
            "strength": [1.0, 0.1, 0.01, 10.0],
            "train": [2.0, 1.05, 1.0, 3.0],
            "valid": [3.25, np.nan, 3.0, 3.5],
            "test": [np.nan] * 4,
        }
    )
    path = LambdaPath(table, ("strong", "middle", "weak", "strongest"))  # pyright: ignore[reportArgumentType]
    assert path.best() == "strong"
    assert path.best(tolerance=0.0) == "weak" and path.best(tolerance=0.2) == "strongest"
    assert path.best("train") == "middle"
    assert path.best("test") == "middle"  # there are no such trajectories: by those of training


def test_an_edge_is_kept_where_it_is_a_tenth_of_the_strongest_of_its_target():
    strength = np.array([[[0.0, 2.0, 0.3], [0.15, 0.0, 0.19], [0.2, 0.19, 0.0]]])  # regulator, target
    found = (strength, strength, strength)
    kept = network_of(found, None, ("a", "b", "c"), k=None, threshold=0.1, score="groups").kept.to_numpy()
    # The strongest edge into b is 2: 0.19 from c is less than its tenth.
    assert kept.tolist() == [[False, True, True], [True, False, True], [True, False, False]]

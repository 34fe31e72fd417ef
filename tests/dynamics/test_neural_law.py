"""Fits of small laws: forecasts, networks, interventions, and every option once; what is refused before training."""

import dataclasses
from contextlib import contextmanager

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import cellgap
import cellgap.train._fit as loop_module
from cellgap.dynamics import (
    CNODE,
    L0,
    L1,
    Bins,
    GroupLasso,
    Intervention,
    LassoNet,
    LawTraining,
    NeuralLaw,
    NoPenalty,
    PathReg,
    Solver,
    Trajectories,
    hill_network,
    prior_weights,
    second_order,
    trajectories_of,
)
from cellgap.dynamics._prepare import Constants, divided, law_data, shuffled, units_of
from cellgap.errors import ConditionError, ConfigError, ConvergenceError, DataError
from cellgap.study import Condition
from cellgap.train import Loop

SYSTEM = hill_network(5, seed=1)
TIMES = np.linspace(0, 3, 9)
DATA = SYSTEM.simulate(30, TIMES, seed=0)
OTHER = SYSTEM.simulate(6, TIMES, seed=1)
OFF = ~np.eye(5, dtype=bool)


def training(n_steps: int = 60, **more) -> LawTraining:
    return LawTraining(loop=Loop(n_steps=n_steps, chunk=20, valid_every=20), judge_every=20, **more)


def small(**how) -> NeuralLaw:
    """Return a small estimator: one member and no null unless it is told otherwise."""
    return NeuralLaw(**{"members": 1, "null": 0, "hidden": 4, "training": training()} | how)


BASE = small(members=2, null=1, training=training(400), penalty=GroupLasso(strength=0.01))


@pytest.fixture(scope="module")
def law():
    return BASE.fit(DATA, key=jr.key(0))


def same(one, two) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


# A forecast


def test_forecasts_beat_the_training_mean_and_held_starts(law):
    error = law.error(OTHER)
    mean = ((OTHER.values[:, 1:] - DATA.states.mean(0)) ** 2).mean()
    held = ((OTHER.values[:, 1:] - OTHER.values[:, :1]) ** 2).mean()
    assert error < 0.3 * mean and error < 0.3 * held
    found = law.forecast(OTHER.starts, TIMES)
    assert found.shape == OTHER.values.shape
    assert ((found[:, 1:] - OTHER.values[:, 1:]) ** 2).mean() == pytest.approx(error, rel=1e-4)
    np.testing.assert_allclose(found[:, 0], OTHER.starts, atol=1e-5)
    np.testing.assert_array_equal(law.follow(OTHER)[:, 0], OTHER.starts)
    assert np.isnan(law.error(None))
    assert "5 variables" in repr(law) and law.members == 2 and law.judged_on == "trajectories"
    assert len(law.history_frame) >= 10 and law.history_frame["stuck"].max() == 0


def test_a_forecast_is_that_of_other_solvers_and_of_any_times(law):
    found = law.forecast(OTHER.starts, TIMES)
    for solver in (Solver(method="tsit5", tolerance=1e-5), Solver(method="rk4", max_step=0.02)):
        np.testing.assert_allclose(law.forecast(OTHER.starts, TIMES, solver=solver), found, atol=2e-4)
    some = law.forecast(OTHER.starts, TIMES[[3, 7]])
    np.testing.assert_allclose(some, found[:, [3, 7]], atol=1e-4)
    np.testing.assert_allclose(law.forecast(OTHER.starts[2], [1.5])[0, 0], found[2, 4], atol=1e-4)


def test_the_spread_is_that_of_members(law):
    mean, spread = law.forecast(OTHER.starts, TIMES, spread=True)
    each = []
    for i in range(2):
        alone = dataclasses.replace(
            law, law=jax.tree.map(lambda a, i=i: a[i : i + 1], law.law), allowed=law.allowed[i : i + 1]
        )
        each.append(alone.forecast(OTHER.starts, TIMES))
    np.testing.assert_allclose(mean, np.mean(each, 0), atol=1e-5)
    np.testing.assert_allclose(spread, np.std(each, 0), atol=1e-5)
    np.testing.assert_allclose(spread[:, 0], 0, atol=1e-6)
    assert spread[:, 1:].max() > 1e-3


@pytest.mark.parametrize(
    "call",
    [
        lambda law: law.forecast(np.zeros((2, 4)), TIMES),
        lambda law: law.forecast(np.full((2, 5), np.nan), TIMES),
        lambda law: law.forecast(DATA.starts, TIMES[::-1]),
        lambda law: law.forecast(DATA.starts, [-1.0, 1.0]),
        lambda law: law.forecast(DATA.starts, []),
        lambda law: law.forecast(DATA.starts, [0.0, np.inf]),
        lambda law: law.forecast(np.zeros((2, 3, 5)), TIMES, start_times=[0.0, 1.0]),
        lambda law: law.forecast(DATA.starts, TIMES, about=pd.DataFrame({"donor": ["a"]})),
        lambda law: law.follow(trajectories_of(DATA.values, TIMES)),
        lambda law: law.follow(OTHER, history=10),
        lambda law: law.forecast(DATA.starts, TIMES, intervention=Intervention(hold={"gX": 0.0})),
        lambda law: law.forecast(DATA.starts, TIMES, intervention=Intervention(hold={"g0": np.nan})),
        lambda law: law.forecast(DATA.starts, TIMES, intervention=Intervention(cut=[("g0", "gX")])),
        lambda law: law.forecast(DATA.starts, TIMES, intervention=Intervention(dose={"g0": -1.0})),
        lambda law: dataclasses.replace(law, law=dataclasses.replace(law.law, rest=None)).forecast(
            DATA.starts, TIMES, intervention=Intervention(dose={"g0": 0.5})
        ),
        lambda law: law.knock_out("gX"),
        lambda law: law.knock_out(["g0", "g0"]),
        lambda law: law.knock_out([]),
        lambda law: law.knock_out(times=[1.0, 0.5]),
        lambda law: law.knock_out(start=np.zeros((2, 4))),
        lambda law: law.forecast_cells(None, TIMES),
    ],
)
def test_a_forecast_that_cannot_be_is_refused_in_one_sentence(law, call, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(DataError) as caught:
        call(law)
    assert str(caught.value).count(". ") == 0


def test_a_law_that_became_stiff_says_so(law):
    wild = eqx.tree_at(lambda w: (w.law.net.last, w.law.rest), law, (-1e4 * law.law.net.last, law.law.rest + 1e5))
    with pytest.raises(ConvergenceError, match=r"has become stiff at time .*kvaerno5"):
        wild.forecast(OTHER.starts, TIMES)
    with pytest.raises(ConvergenceError, match=r"has become stiff.*held.*kvaerno5"):
        wild.knock_out("g0")
    assert next(g for g in cellgap.dynamics._law_gaps.law_gaps(law, DATA, None, ()) if g.name == "stiffness").value < 2


# Bits


def test_the_same_key_gives_the_same_bits_and_another_key_other_ones(law):
    again = BASE.fit(DATA, key=jr.key(0))
    same((again.law, again.null), (law.law, law.null))
    assert again.log == law.log and again.valid_error == law.valid_error
    other = BASE.fit(DATA, key=jr.key(1))
    assert (np.asarray(other.law.net.first) != np.asarray(law.law.net.first)).any()


class Stopped(Exception):
    """Raised in the middle of a run."""


def test_an_interrupted_fit_goes_on_bit_for_bit(law, tmp_path, monkeypatch):
    @contextmanager
    def bar(*args, **kwargs):
        def show(reached, row, seconds):
            if reached >= 100:
                raise Stopped

        yield show

    with monkeypatch.context() as patched:
        patched.setattr(loop_module, "progress_bar", bar)
        with pytest.raises(Stopped):
            BASE.fit(DATA, key=jr.key(0), folder=tmp_path)
    resumed = BASE.fit(DATA, key=jr.key(0), folder=tmp_path)
    same((resumed.law, resumed.null), (law.law, law.null))
    assert resumed.log == law.log and resumed.valid_error == law.valid_error
    with pytest.raises(cellgap.errors.StorageError, match="another run"):
        dataclasses.replace(BASE, kept=0.2, penalty=GroupLasso(strength=0.5)).fit(DATA, key=jr.key(0), folder=tmp_path)


def test_a_saved_law_answers_as_before(law, tmp_path):
    law.save(tmp_path / "law")
    loaded = cellgap.load(tmp_path / "law")
    np.testing.assert_array_equal(loaded.forecast(OTHER.starts, TIMES), law.forecast(OTHER.starts, TIMES))
    one, two = loaded.network(), law.network()
    for name in ("scores", "signs", "strength", "frequency", "p_value", "kept"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(two, name))
    assert (one.k, one.stability, one.threshold) == (two.k, two.stability, two.threshold)
    np.testing.assert_array_equal(loaded.knock_out().X, law.knock_out().X)
    assert [g.name for g in loaded.gaps()] == [g.name for g in law.gaps()]
    assert loaded.variables == law.variables and loaded.strength == law.strength


# Networks


def test_the_network_is_found_and_stands_beside_a_null(law):
    network = law.network()
    truth = SYSTEM.adjacency[OFF]
    # Of 20 pairs; 0.5 is chance, with a standard deviation of 0.14.
    assert roc_auc_score(truth, network.scores.to_numpy()[OFF]) > 0.9
    assert network.p_value is not None and (np.diag(network.p_value) == 1).all()
    p = network.p_value.to_numpy()[OFF]
    assert p[truth].mean() < p[~truth].mean()
    assert not np.diag(network.kept).any() and network.k == 5 and 0 < network.stability <= 1
    for score in ("paths", "groups"):
        other = law.network(score)
        assert other.score == score and (np.diag(other.scores) == 0).all() and other.scores.to_numpy().sum() > 0
    assert law.network(threshold=1e9).kept.to_numpy().sum() == 0 and law.network(k=3).k == 3


def test_gaps_name_what_they_measure(law):
    names = [gap.name for gap in law.gaps()]
    assert names == ["training error", "forecast gap", "edges kept", "seed gap", "identifiability gap", "stiffness"]
    value = {gap.name: gap.value for gap in law.gaps()}
    assert 0 < value["training error"] < 0.3 and value["seed gap"] == pytest.approx(1 - law.network().stability)
    assert value["edges kept"] == pytest.approx(law.network().kept.to_numpy().sum() / 20)
    far = SYSTEM.simulate(6, TIMES, seed=2, starts="out")
    gap = law.gaps(far)[-1]
    assert gap.name == "forecast gap out of distribution"
    spread = (law.units.spread**2).mean()
    assert gap.value == pytest.approx(law.error(far) / spread - value["training error"], rel=1e-6) and gap.value > 0


# Interventions


def test_a_screen_is_the_forecast_with_each_gene_held(law):
    screen = law.knock_out(times=TIMES)
    assert screen.shape == (5 * 9, 5) and list(screen.obs["knocked"].unique()) == list(law.variables)
    starts = law.units.outward(law.visited.starts)
    plain = law.forecast(starts, TIMES).mean(0)
    for g in law.variables:
        held = law.forecast(starts, TIMES, intervention=Intervention(hold={g: 0.0})).mean(0)
        rows = (screen.obs["knocked"] == g).to_numpy()
        np.testing.assert_allclose(screen.layers["course"][rows], held, atol=1e-5)
        np.testing.assert_allclose(screen.layers["unperturbed"][rows], plain, atol=1e-5)
        np.testing.assert_allclose(screen.X[rows], held - plain, atol=1e-5)
        np.testing.assert_allclose(held[:, law.variables.index(g)], 0.0, atol=1e-6)
    table = screen.uns["knocked"]
    assert list(table["effect"]) == sorted(table["effect"], reverse=True)
    one = law.knock_out("g3", times=TIMES)
    np.testing.assert_allclose(one.X, screen[screen.obs["knocked"] == "g3"].X, atol=1e-5)
    g, x = "g3", np.abs(one.X) / law.units.spread
    x[:, 3] = 0
    assert table.loc[g, "effect"] == pytest.approx(x.mean() * 5 / 4, rel=1e-3)
    assert table.loc[g, "reached"] == (x.max(0) >= 0.1).sum()
    moved = x.max(1) >= 0.1
    assert table.loc[g, "time_to_effect"] == (
        TIMES[np.argmax(moved)] if moved.any() else pytest.approx(np.nan, nan_ok=True)
    )
    assert table.loc[g, "direct"] == law.network().kept.loc[g].sum()
    up = law.knock_out("g3", start=OTHER.starts, times=TIMES, value=0.7)
    held = law.forecast(OTHER.starts, TIMES, intervention=Intervention(hold={"g3": 0.7})).mean(0)
    np.testing.assert_allclose(up.layers["course"], held, atol=1e-5)


def test_knock_outs_are_nearer_to_the_truth_than_no_effect(law):
    screen = law.knock_out(start=OTHER.starts, times=TIMES)
    no_effect, predicted = 0.0, 0.0
    plain = SYSTEM.solve(OTHER.starts, TIMES).mean(0)
    for i, g in enumerate(law.variables):
        truth = SYSTEM.knock(g).solve(OTHER.starts, TIMES).mean(0)
        rest = np.arange(5) != i
        no_effect += ((plain - truth)[:, rest] ** 2).sum()
        predicted += ((screen.layers["course"][screen.obs["knocked"] == g] - truth)[:, rest] ** 2).sum()
    assert predicted < 0.6 * no_effect


def test_doses_scale_production_and_cuts_remove_edges(law):
    def at(x, **what):
        """Return how fast each variable changes."""
        moved = law.forecast(x, [1e-3], intervention=Intervention(**what))[:, 0]
        return (moved - x) / 1e-3

    x = OTHER.starts[:3]
    rest = np.log1p(np.exp(np.asarray(law.law.rest, np.float64))).mean(0) / law.units.clock
    # Decay acts towards the center of the units, from which production is measured as well.
    production = at(x) + rest * (x - law.units.center)
    dosed = at(x, dose={"g1": 0.5})
    np.testing.assert_allclose(np.delete(dosed, 1, 1), np.delete(at(x), 1, 1), atol=2e-3)
    np.testing.assert_allclose((dosed - at(x))[:, 1], -0.5 * production[:, 1], atol=2e-2 * np.abs(production).max())
    np.testing.assert_allclose(at(x, dose={"g1": 1.0}), at(x), atol=1e-6)
    # Without the edge, the regulator no longer matters to the target, but to others.
    y = x.copy()
    y[:, 2] += 0.3
    target = int(np.argmax(law.network().scores.loc["g2"]))
    uncut = np.abs(at(y) - at(x))[:, target]
    apart = np.abs(at(y, cut=[("g2", f"g{target}")]) - at(x, cut=[("g2", f"g{target}")]))
    assert uncut.max() > 1e-2 and apart[:, target].max() < 2e-3
    rest_of = [i for i in range(5) if i not in (2, target)]
    np.testing.assert_allclose(apart[:, rest_of], np.abs(at(y) - at(x))[:, rest_of], atol=2e-3)
    apart = np.abs(at(y, cut=[("g2", "*")]) - at(x, cut=[("g2", "*")]))
    assert np.delete(apart, 2, 1).max() < 2e-3 and apart[:, 2].max() > 1e-2  # what it loses is no edge
    both = law.forecast(x, TIMES, intervention=Intervention(hold={"g0": 0.0, "g4": 1.0}, dose={"g1": 2.0}))
    np.testing.assert_allclose(both[:, :, [0, 4]], np.broadcast_to([0.0, 1.0], (3, 9, 2)), atol=1e-6)


def test_conditions_become_knock_outs():
    made = Intervention.of(Condition.parse("g1+g2"), level=0.1)
    assert dict(made.hold) == {"g1": 0.1, "g2": 0.1}
    with pytest.raises(ConditionError, match="has a dose"):
        Intervention.of(Condition.parse("g1@10nM"))


# Options, one fit each


def test_labels_and_numbers_enter_as_constants_at_unequal_lengths_and_irregular_times():
    """Two lineages relax to different levels, at a rate that a number gives; nothing else tells them apart."""
    rng = np.random.default_rng(0)
    values, times, lineages, rates = [], [], [], []
    for i in range(24):
        t = np.sort(rng.uniform(0, 3, rng.integers(4, 12)))
        level, rate = (1.0, -1.0)[i % 2], (0.5, 2.0)[(i // 2) % 2]
        start = rng.normal(size=2) * 0.2
        values.append(level + (start - level) * np.exp(-rate * (t - t[0]))[:, None])
        times.append(t)
        lineages.append("ab"[i % 2])
        rates.append(rate)
    data = trajectories_of(
        values, times, about=pd.DataFrame({"lineage": lineages}), inputs={"rate": rates}, variables=["u", "v"]
    )
    fitted = small(inputs=("lineage",), hidden=8, training=training(300), valid=0.0).fit(data, key=jr.key(0))
    assert fitted.constants.sources == ("lineage=a", "lineage=b", "rate") and fitted.judged_on == "nothing"
    assert fitted.error(data) < 0.1 * data.states.var(0).mean()
    told = {"lineage": ["a", "b"], "rate": 2.0}
    found = fitted.forecast(np.zeros((2, 2)), [2.5], about=told)[:, 0]
    np.testing.assert_allclose(found, [[1.0, 1.0], [-1.0, -1.0]], atol=0.35)
    slow = fitted.forecast(np.zeros((2, 2)), [0.5], about=told | {"rate": 0.5})[:, 0]
    fast = fitted.forecast(np.zeros((2, 2)), [0.5], about=told)[:, 0]
    assert (np.abs(slow) < np.abs(fast)).all()
    assert fitted.network().scores.shape == (2, 2)  # constants are no variables
    for about, match in (
        (None, "rate"),
        ({"rate": 1.0}, "knows lineage a, b; found 'none'"),
        ({"rate": 1.0, "lineage": "c"}, "knows lineage a, b; found 'c'"),
    ):
        with pytest.raises(DataError, match=match):
            fitted.forecast(np.zeros((1, 2)), [1.0], about=about)
    with pytest.raises(DataError, match="told 1 numbers a trajectory, found 0"):
        fitted.follow(dataclasses.replace(data, inputs=np.zeros((24, 0)), input_names=()))


def test_regulators_restrict_edges():
    fitted = dataclasses.replace(BASE, regulators=("g0", "g3")).fit(DATA, key=jr.key(0))
    for score in ("jacobian", "paths", "groups"):
        scores = fitted.network(score).scores
        assert (scores.loc[["g1", "g2", "g4"]] == 0).to_numpy().all()
        assert (scores.loc["g0"].drop("g0") > 0).any()
    allowed = np.asarray(fitted.allowed[0])
    np.testing.assert_array_equal(np.diag(allowed), 1)


def test_regulators_restrict_a_shared_network():
    fitted = small(network="shared", penalty=NoPenalty(), regulators=("g0", "g3"), training=training(20))
    scores = fitted.fit(DATA, key=jr.key(0)).network().scores
    assert (scores.loc[["g1", "g2", "g4"]] == 0).to_numpy().all()


def prior_of(wrong: int) -> pd.DataFrame:
    """Return the true edges as a table, the first `wrong` of them replaced by false ones."""
    truth = np.argwhere(SYSTEM.adjacency)
    false = np.argwhere(~SYSTEM.adjacency & OFF)
    rows = [*truth[wrong:], *false[:: max(1, len(false) // max(wrong, 1))][:wrong]]
    return pd.DataFrame([(f"g{i}", f"g{j}") for i, j in rows], columns=pd.Index(["regulator", "target"]))


def test_a_prior_helps_and_a_tenth_of_wrong_edges_does_not_ruin_it():
    wrong = round(0.1 * SYSTEM.adjacency.sum())
    assert wrong == 1
    how = small(members=2, penalty=GroupLasso(strength=0.1), training=training(200))
    few, truth = DATA.take(range(12)).noisy(0.03, seed=0), SYSTEM.adjacency[OFF]
    fits = [how.fit(few, key=jr.key(1), prior=prior) for prior in (None, prior_of(wrong))]
    for score in ("groups", "jacobian"):
        plain, told = (roc_auc_score(truth, w.network(score).scores.to_numpy()[OFF]) for w in fits)
        assert told > 0.85 and told > plain + 0.1
    # What the prior lacks is not forbidden.
    assert (np.asarray(fits[1].allowed) == 1).all()


def test_priors_are_tables_of_edges_or_of_weights():
    names = tuple("abc")
    listed = pd.DataFrame({"regulator": ["a", "b", "z"], "target": ["b", "c", "a"], "weight": [0.5, 1.0, 1.0]})
    expected = np.zeros((3, 3))
    expected[0, 1], expected[1, 2] = 0.5, 1.0
    np.testing.assert_array_equal(prior_weights(listed, names), expected)
    np.testing.assert_array_equal(prior_weights(listed.drop(columns="weight"), names), expected > 0)
    table = pd.DataFrame(expected, index=list(names), columns=list(names))
    np.testing.assert_array_equal(prior_weights(table, names), expected)
    np.testing.assert_array_equal(prior_weights(table.loc[["b"], ["c"]], names)[1], [0, 0, 1])
    for wrong in (
        listed.assign(weight=2.0),
        listed.assign(weight=-1.0),
        listed.iloc[2:],
        table.rename(index=str.upper),
    ):
        with pytest.raises(DataError, match="a prior names regulators"):
            prior_weights(wrong, names)


def test_a_prior_with_weights_that_are_no_numbers_is_refused():
    with pytest.raises(DataError):
        prior_weights(pd.DataFrame({"regulator": ["a"], "target": ["b"], "weight": [np.nan]}), ("a", "b"))


SWING = second_order(3, damping=0.1)


@pytest.fixture(scope="module")
def swinging():
    data = SWING.simulate(48, np.linspace(0, 4, 17), seed=0)
    how = small(order=2, history=3, training=training(300), penalty=GroupLasso(strength=1e-3))
    return how.fit(data, key=jr.key(0))


@pytest.mark.slow
def test_a_law_of_second_order_follows_what_swings(swinging):
    test = SWING.simulate(6, np.linspace(0, 4, 17), seed=1)
    assert swinging.law.order == 2 and swinging.allowed.shape == (1, 3, 6)
    # A law of first order that sees three states as well is at 0.58.
    assert swinging.error(test) < 0.3 * test.states.var(0).mean()
    found = swinging.forecast(test.values[:, :3], np.linspace(0, 3.5, 15), start_times=[-0.5, -0.25, 0.0])
    np.testing.assert_allclose(found, swinging.follow(test)[:, 2:], atol=1e-3)
    np.testing.assert_array_equal(swinging.follow(test)[:, :3], test.values[:, :3])
    assert swinging.network().scores.shape == (3, 3)
    held = swinging.forecast(test.values[:, :3], [1.0, 2.0], intervention=Intervention(hold={"x1": 0.5}))
    np.testing.assert_allclose(held[:, :, 1], 0.5, atol=1e-6)
    with pytest.raises(DataError, match="needs to see 3"):
        swinging.follow(test.first(2))


@pytest.mark.slow
def test_a_screen_of_second_order_starts_as_a_forecast_does(swinging):
    starts = SWING.simulate(6, np.linspace(0, 4, 17), seed=1).starts
    screen = swinging.knock_out("x1", start=starts, times=[0.5, 1.0])
    plain = swinging.forecast(starts, [0.5, 1.0]).mean(0)
    np.testing.assert_allclose(screen.layers["unperturbed"], plain, atol=1e-4)


@pytest.mark.slow
def test_windows_learnt_starts_and_batches():
    noisy = SYSTEM.simulate(6, np.linspace(0, 6, 25), seed=0, noise=0.02)
    how = small(window=4, stride=4, starts="learnt", training=training(160, batch_size=16))
    fitted = how.fit(noisy, key=jr.key(0))
    assert fitted.error(noisy) < 0.5 * noisy.states.var(0).mean()
    assert fitted.horizon == 6.0


def test_jumps_between_windows_are_penalized():
    data = SYSTEM.simulate(4, np.linspace(0, 6, 13), seed=0, noise=0.1)
    weak, strong = (
        small(window=3, stride=3, starts="learnt", continuity=c, training=training(20), valid=0.0).fit(
            data, key=jr.key(0)
        )
        for c in (0.0, 100.0)
    )
    assert (np.asarray(weak.law.net.first) != np.asarray(strong.law.net.first)).any()


@pytest.mark.slow
def test_a_refit_takes_the_penalty_away_on_the_edges_that_are_kept():
    how = small(penalty=GroupLasso(strength=0.3), refit=True, training=training(100), members=2)
    fitted = how.fit(DATA, key=jr.key(0))
    assert fitted.first_error is not None and np.isfinite(fitted.first_error)
    assert fitted.valid_error < fitted.first_error
    allowed = np.asarray(fitted.allowed)
    assert 0 < allowed.mean() < 1
    scores = np.asarray(jax.vmap(lambda w, a: w.settled(a).net.groups())(fitted.law, fitted.allowed))
    np.testing.assert_array_equal(np.swapaxes(scores, 1, 2)[allowed == 0], 0.0)
    jacobian = fitted.network().scores.to_numpy()
    np.testing.assert_array_equal(jacobian[(allowed.sum(0) == 0).T], 0.0)


@pytest.mark.slow
def test_the_adaptive_group_lasso_fits_twice_and_is_sparser():
    plain, adaptive = (
        small(penalty=GroupLasso(strength=0.1, adaptive=a), training=training(200)).fit(DATA, key=jr.key(0))
        for a in (False, True)
    )
    assert plain.first_error is None and adaptive.first_error == pytest.approx(plain.valid_error, rel=1e-5)
    assert adaptive.sparsity()["paths"] > plain.sparsity()["paths"]


@pytest.mark.slow
def test_a_refit_without_validation_reports_its_first_error():
    fitted = small(refit=True, valid=0.0, training=training(20)).fit(DATA, key=jr.key(0))
    assert fitted.first_error is not None and np.isfinite(fitted.first_error)


PENALTIES = {
    "L1": (L1(strength=1.0, proximal_step=True), "per_target"),
    "L0": (L0(), "per_target"),
    "CNODE": (CNODE(), "per_target"),
    "LassoNet": (LassoNet(strength=5.0), "per_target"),
    "shared PathReg of units": (PathReg(unit="unit"), "shared"),
    "shared PathReg of weights": (PathReg(), "shared"),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_every_penalty_trains(name):
    penalty, network = PENALTIES[name]
    how = small(penalty=penalty, network=network, hidden=4 if network == "per_target" else 16, valid=0.0)
    fitted = dataclasses.replace(how, training=training(100)).fit(DATA, key=jr.key(0))
    # Half of what a constant has, after a hundred steps and with gates that settle.
    assert fitted.error(OTHER) < 0.5 * OTHER.states.var(0).mean()
    shares = fitted.sparsity(["g0"])
    assert set(shares) == {"weights", "paths", "gates", "spurious"} and all(0 <= s <= 1 for s in shares.values())
    if name in ("L1", "LassoNet"):
        assert shares["weights"] > 0
    if isinstance(penalty, LassoNet):
        skip = np.abs(np.asarray(fitted.law.net.skip[0]))
        assert (np.abs(np.asarray(fitted.law.net.first[0])).max(-1) <= penalty.bound * skip.T + 1e-5).all()
    assert fitted.strength == pytest.approx(penalty.size)


@pytest.mark.slow
def test_a_path_has_a_row_a_strength_and_more_penalty_is_sparser():
    strengths = (1e-3, 0.05, 1.0)
    how = small(members=2, null=1, training=training(200))
    path = how.fit_path(DATA, strengths, key=jr.key(0), test=OTHER, regulators=["g0", "g1"])
    table = path.table
    assert list(table.columns) == [
        "strength", "train", "valid", "test", "weights", "paths", "gates", "spurious", "edges", "stability",
    ]  # fmt: skip
    np.testing.assert_allclose(table["strength"], strengths)
    assert len(path.laws) == 3 and [w.members for w in path.laws] == [2, 2, 2]
    assert table["paths"].is_monotonic_increasing and table["paths"].iloc[-1] > table["paths"].iloc[0]
    assert table["edges"].iloc[0] > table["edges"].iloc[-1]
    assert table["train"].iloc[-1] > table["train"].iloc[0]
    for row, fitted in zip(table.itertuples(), path.laws, strict=True):
        assert row.test == pytest.approx(fitted.error(OTHER)) and row.train > 0
        assert fitted.strength == pytest.approx(row.strength)
    for column in ("valid", "test"):
        assert path.best(column, tolerance=0.0) is path.laws[int(table[column].argmin())]
    for wrong in ((), (-1.0,)):
        with pytest.raises(ConfigError, match="a path needs strengths"):
            how.fit_path(DATA, wrong, key=jr.key(0))
    with pytest.raises(ConfigError, match="NoPenalty has no strength"):
        small(penalty=NoPenalty()).fit_path(DATA, key=jr.key(0))


# Before training


CONSTANT = trajectories_of(np.ones((6, 4, 2)), np.arange(4.0))


@pytest.mark.parametrize(
    ("how", "data", "match"),
    [
        ({}, CONSTANT, "no variable changes"),
        ({"history": 9}, DATA, "needs more"),
        ({"inputs": ("donor",)}, DATA, "no label 'donor'"),
        ({"regulators": ("g0", "tf9")}, DATA, "'tf9' is not among the variables"),
    ],
)
def test_what_cannot_be_learnt_is_refused_before_training(how, data, match, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("training started")

    monkeypatch.setattr("cellgap.dynamics._neural_law.train_law", never)
    with pytest.raises(DataError, match=match) as caught:
        small(**how).fit(data, key=jr.key(0))
    assert str(caught.value).count(". ") == 0
    with pytest.raises(DataError, match="other variables"):
        small().fit(DATA, key=jr.key(0), valid=CONSTANT)


# Preparation


def test_units_have_mean_0_and_spread_1_and_a_clock_of_the_data():
    units = units_of(DATA, "each")
    z = units.inward(DATA.states)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(0), 1, atol=1e-5)
    common = units_of(DATA, "all")
    assert len(set(common.spread)) == 1 and (common.inward(DATA.states) ** 2).mean() == pytest.approx(1.0, rel=1e-5)
    raw = units_of(DATA, "none")
    np.testing.assert_array_equal(raw.inward(DATA.states), DATA.states.astype(np.float32))
    assert 0.2 < units.clock < 3.0
    hours = dataclasses.replace(DATA, times=DATA.times * 60)
    assert units_of(hours, "each").clock == pytest.approx(60 * units.clock)
    flat = dataclasses.replace(DATA, values=DATA.values * np.array([1, 1, 1, 1, 0]))
    assert units_of(flat, "each").spread[4] == pytest.approx(0.01 * units_of(flat, "each").spread.max())


@pytest.mark.parametrize("n", [5, 10])
def test_whole_trajectories_are_held_out_where_there_are_five(n):
    data = DATA.take(np.arange(n))
    train, held, how = divided(data, 0.2, np.random.default_rng(0))
    assert how == "trajectories" and len(held) == n // 5 and len(train) == n - n // 5
    assert set(train.names) | set(held.names) == set(data.names) and not set(train.names) & set(held.names)
    assert divided(data, 0.0, np.random.default_rng(0)) == (data, None, "nothing")


def test_else_the_last_states_are_held_out_where_there_are_ten():
    data = trajectories_of(np.arange(60.0).reshape(3, 20, 1), np.arange(20.0))
    train, held, how = divided(data, 0.2, np.random.default_rng(0))
    assert how == "the last states"
    np.testing.assert_array_equal(train.lengths, 16)
    np.testing.assert_array_equal(held.times[0], [15, 16, 17, 18, 19])  # from the last state that is known
    short = data.first(9)
    assert divided(short, 0.2, np.random.default_rng(0)) == (short, None, "nothing")


def test_parts_that_are_shorter_than_they_need_to_be_are_not_held_out():
    data = trajectories_of(np.arange(36.0).reshape(3, 12, 1), np.arange(12.0))
    train, held, how = divided(data, 0.2, np.random.default_rng(0), history=2)
    assert how == "the last states"
    assert train.lengths.tolist() == [10, 10, 10]
    # What a forecast sees before it is what training saw last.
    assert held.values[0, :, 0].tolist() == [8.0, 9.0, 10.0, 11.0]
    assert divided(data, 0.2, np.random.default_rng(0), history=10) == (data, None, "nothing")
    assert divided(data, 0.85, np.random.default_rng(0), history=2)[2] == "nothing"


def test_a_history_longer_than_the_last_states_leaves_nothing_to_judge(monkeypatch):
    monkeypatch.setattr("cellgap.dynamics._neural_law.train_law", None)
    data = trajectories_of(np.random.default_rng(0).normal(size=(3, 12, 2)), np.arange(12.0))
    with pytest.raises(TypeError, match="not callable"):  # it gets as far as training
        small(history=5).fit(data, key=jr.key(0))


def test_shuffled_courses_are_the_same_courses_of_each_variable_apart():
    for data in (DATA, DATA.take([0, 1, 2])):
        mixed = shuffled(data, np.random.default_rng(0))
        for j in range(5):
            np.testing.assert_allclose(np.sort(mixed.values[..., j].ravel()), np.sort(data.values[..., j].ravel()))
        assert (mixed.values != data.values).any((0, 1)).all()
    courses = {tuple(c) for c in DATA.values[:, :, 2]}
    assert {tuple(c) for c in shuffled(DATA, np.random.default_rng(0)).values[:, :, 2]} == courses
    ragged = trajectories_of([np.arange(5.0)[:, None], np.arange(3.0)[:, None]], [np.arange(5.0), np.arange(3.0)])
    mixed = shuffled(ragged, np.random.default_rng(0))
    np.testing.assert_array_equal(mixed.values[1, 3:], np.broadcast_to(mixed.values[1, 2], (2, 1)))


def test_windows_start_at_time_0_and_weigh_what_is_measured():
    data = trajectories_of(
        [np.arange(6.0)[:, None], np.arange(4.0)[:, None]], [10 + 2 * np.arange(6.0), np.arange(4.0)]
    )
    units, constants = units_of(data, "none"), Constants.of(data, ())
    made = law_data([data], units, constants, window=None, stride=1, history=2)
    np.testing.assert_allclose(made.times[0] * units.clock, [-2, 0, 2, 4, 6, 8], atol=1e-5)
    np.testing.assert_array_equal(made.weights[1], [1, 1, 1, 1, 0, 0])
    cut = law_data([data], units, constants, window=2, stride=2, history=2)
    assert cut.values.shape[:3] == (1, 3, 4)
    np.testing.assert_allclose(np.asarray(cut.times)[:, 1], 0)


def test_constants_are_labels_as_0_and_1_and_standardized_numbers():
    about = pd.DataFrame({"line": ["b", "a", "b"]})
    data = trajectories_of(np.arange(12.0).reshape(3, 2, 2), [0, 1], about=about, inputs={"dose": [1, 2, 3], "one": 1})
    constants = Constants.of(data, ("line",))
    assert constants.sources == ("line=a", "line=b", "dose", "one")
    found = constants.numbers(data.about, data.inputs)
    s = np.sqrt(1.5)
    np.testing.assert_allclose(found, [[0, 1, -s, 0], [1, 0, 0, 0], [0, 1, s, 0]], atol=1e-6)


def test_data_and_settings_are_not_changed_by_a_fit(law):
    before = SYSTEM.simulate(30, TIMES, seed=0)
    np.testing.assert_array_equal(DATA.values, before.values)
    assert isinstance(DATA, Trajectories) and law.cells == Bins()


def test_a_shared_network_is_cut_from_a_source_and_not_from_one_edge():
    fitted = small(network="shared", penalty=NoPenalty(), training=training(20)).fit(DATA, key=jr.key(0))
    whole = Intervention(cut=[("g0", "*")])
    apart = DATA.starts.copy()
    apart[:, 0] += 0.5
    same, other = (fitted.forecast(x, TIMES, intervention=whole)[..., 1:] for x in (DATA.starts, apart))
    np.testing.assert_allclose(same, other, atol=1e-6)
    assert np.abs(fitted.forecast(DATA.starts, TIMES) - fitted.forecast(apart, TIMES))[..., 1:].max() > 1e-4
    for cut, said in (("g1", "no edges of its own"), ("g0", "from itself")):
        with pytest.raises(DataError, match=said):
            fitted.forecast(DATA.starts, TIMES, intervention=Intervention(cut=[("g0", cut)]))


def test_trust_in_a_prior_is_a_share():
    prior = pd.DataFrame({"regulator": ["g0"], "target": ["g1"]})
    with pytest.raises(ConfigError, match="between 0 and 1"):
        small().fit(DATA, key=jr.key(0), prior=prior, trust=1.5)

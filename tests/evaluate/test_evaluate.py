"""Whole evaluations, of predictors whose score is known."""

import numpy as np
import pandas as pd
import pytest
from dummies import CHEAP, MEANS, Dummy

import cellgap as cg
from cellgap.encode import Dose, Table
from cellgap.errors import ConfigError, MissingExtraError, SplitError
from cellgap.evaluate import Evaluation, evaluate, scale
from cellgap.space import PCA, Genes
from cellgap.study import Role
from cellgap.study import split as splits
from cellgap.transport import Gaussian, MeanShift

COLUMNS = ["predictor", "condition", "space", "metric", "value", "scaled", "n_pred", "n_true", "seed", "note"]


@pytest.fixture(scope="module")
def found(oracle, mean_effect, space, latent, split) -> Evaluation:
    study = latent.study()
    return evaluate(
        {"oracle": oracle, "narrow": Dummy("narrow", space, lambda z, c: 0.5 * latent.truth(z, c))},
        split,
        baselines={"mean effect": mean_effect, "identity": Dummy("identity", space, lambda z, c: z)},
        truth=lambda condition, rows: latent.truth(np.asarray(study.adata.X)[rows], condition),
        progress=False,
    )


def test_the_table_is_tidy_and_complete(found, split):
    table = found.table
    assert list(table.columns) == COLUMNS
    assert not table.duplicated(["predictor", "condition", "space", "metric", "seed"]).any()
    everyone = {"oracle", "narrow", "mean effect", "identity", "random pairing", "replicate", "control"}
    assert set(table["predictor"]) == everyone | {"replicate, decoded"}
    assert set(table["condition"]) == {str(c) for c in split.test_conditions}
    assert set(table["space"]) == {"latent", "genes"}
    assert set(table["seed"]) == {0, 1, 2, 3, 4}
    assert (table["n_pred"] == table["n_true"]).all()
    assert set(table["n_pred"]) == {50}  # a quarter of 200 controls are SOURCE
    assert set(table.loc[table["metric"] == "divergence2", "seed"]) == {0, 1}
    assert found.kinds["oracle"] == "model"
    assert found.kinds["identity"] == "baseline"
    assert found.kinds["replicate"] == "anchor"


def test_the_true_map_is_as_good_as_a_replicate(found):
    summary = found.summary().query("predictor == 'oracle'").set_index(["space", "metric"])
    for metric in ("energy", "mmd_u", "divergence2", "drug_signature", "r2_delta", "variance_ratio", "mmd", "sinkhorn"):
        for space in ("latent", "genes"):
            row = summary.loc[(space, metric)]
            assert row["scaled"] == pytest.approx(1, abs=0.15), (space, metric)
            if metric in ("energy", "mmd_u", "divergence2"):
                assert row["scaled_low"] <= 1 <= row["scaled_high"], (space, metric)
    assert summary.loc[("genes", "l2_uvp"), "mean"] == pytest.approx(0, abs=1e-6)
    for metric in ("capture_mmd", "capture_divergence2"):  # of distances whose floor is 0
        assert summary.loc[("genes", metric), "mean"] == pytest.approx(1, abs=0.1)
    assert summary.loc[("genes", "discrimination"), "mean"] > 0.8  # doses of one drug point the same way
    assert found.compare("oracle", "mean effect", "energy").beats
    assert not found.compare("mean effect", "oracle", "energy").beats
    assert not found.compare("oracle", "replicate", "energy").beats


def test_the_replicate_is_one_and_the_mean_effect_zero(found):
    table = found.table
    for name, value in (("replicate", 1.0), ("mean effect", 0.0)):
        by_condition = table[table["predictor"] == name].groupby(["condition", "space", "metric"])["scaled"].mean()
        known = by_condition.dropna()
        assert len(known) > 100
        np.testing.assert_allclose(known, value, atol=1e-9)
        scaled = found.summary().query("predictor == @name")["scaled"].dropna()
        np.testing.assert_allclose(scaled, value, atol=1e-9)


def test_the_scale_is_not_clipped_and_follows_its_formula(found):
    table = found.table
    energy = table[(table["metric"] == "energy") & (table["space"] == "genes")]
    assert energy["scaled"].min() < 0  # the identity is worse than the mean effect
    condition = energy["condition"].iloc[0]
    here = energy[energy["condition"] == condition]
    mean = here.groupby("predictor")["value"].mean()
    row = here[here["predictor"] == "oracle"].iloc[0]
    assert row["scaled"] == pytest.approx(scale(row["value"], mean["mean effect"], mean["replicate"]))
    ratio = table[(table["metric"] == "variance_ratio") & (table["space"] == "genes")]
    here = ratio[ratio["condition"] == condition]
    distance = here.assign(turned=-np.abs(np.log(here["value"]))).groupby("predictor")["turned"].mean()
    row = here[here["predictor"] == "narrow"].iloc[0]
    expected = scale(-abs(np.log(row["value"])), distance["mean effect"], distance["replicate"])
    assert row["scaled"] == pytest.approx(expected)
    again = found.rescaled("identity", "replicate")
    assert again[again["predictor"] == "identity"].groupby(["condition", "metric"])["scaled"].mean().abs().max() < 1e-6


def test_the_controls_capture_exactly_nothing_and_have_no_effect(found):
    control = found.table[found.table["predictor"] == "control"]
    captured = control[control["metric"].isin(["capture_energy", "capture_mmd", "capture_divergence2"])]
    assert len(captured) > 50
    assert (captured["value"] == 0.0).all()
    assert control.loc[control["metric"] == "r2_delta", "value"].isna().all()
    assert control.loc[control["metric"] == "discrimination", "value"].isna().all()
    row = found.summary().query("predictor == 'control' and metric == 'r2_delta' and space == 'genes'").iloc[0]
    assert np.isnan(row["mean"])
    assert row["n_conditions"] == 0


def test_a_narrow_prediction_is_seen(found):
    summary = found.summary().query("space == 'genes' and metric == 'variance_ratio'").set_index("predictor")
    assert summary.loc["narrow", "mean"] == pytest.approx(0.25, rel=0.1)
    assert summary.loc["replicate", "mean"] == pytest.approx(1, rel=0.1)
    assert found.compare("oracle", "narrow", "divergence2").beats


def test_the_mean_of_a_captured_share_is_the_share_of_the_means(found):
    values = {name: found.values(name, "energy").to_numpy() for name in ("narrow", "control")}
    row = found.summary().query("predictor == 'narrow' and metric == 'capture_energy' and space == 'genes'").iloc[0]
    assert row["mean"] == pytest.approx(1 - values["narrow"].mean() / values["control"].mean())


def test_comparisons_hold_every_model_against_all_others(found):
    pairs = found.comparisons
    assert set(pairs["a"]) == {"oracle", "narrow"}
    assert {"mean effect", "identity", "replicate", "narrow"} <= set(pairs.loc[pairs["a"] == "oracle", "b"])
    one = pairs.query("a == 'oracle' and b == 'mean effect' and metric == 'energy' and space == 'genes'").iloc[0]
    same = found.compare("oracle", "mean effect", "energy", "genes")
    assert one["difference"] == same.difference
    assert one["n_conditions"] == 6
    assert one["beats"]
    assert one["share"] == 1
    summary = found.summary().query("metric == 'energy' and space == 'genes'").set_index("predictor")
    assert same.difference == pytest.approx(summary.loc["oracle", "scaled"])  # the mean effect is 0
    assert same.gain.difference == pytest.approx(summary.loc["mean effect", "mean"] - summary.loc["oracle", "mean"])
    assert "oracle beats mean effect on energy" in str(same)
    with pytest.raises(ConfigError, match="no predictor 'nobody'"):
        found.compare("nobody", "oracle", "energy")
    with pytest.raises(ConfigError, match="no metric 'elo'"):
        found.values("oracle", "elo")


def test_it_prints_predictors_by_metrics(found):
    text = str(found)[120:]  # below the title
    assert text.index("replicate") < text.index("oracle") < text.index("mean effect") < text.index("control")
    assert "r2_delta" in text
    assert "(1.00)" in text
    assert repr(found) == f"Evaluation of oracle, narrow on 6 conditions ({len(found.table):,} scores)"


def test_it_is_written_as_csv(found, tmp_path):
    found.to_csv(tmp_path / "table.csv")
    back = pd.read_csv(tmp_path / "table.csv", keep_default_na=True)
    assert list(back.columns) == COLUMNS
    np.testing.assert_allclose(back["value"], found.table["value"])


def test_parquet_says_what_it_needs(found, tmp_path, monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("no engine")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", missing)
    with pytest.raises(MissingExtraError, match="pip install pyarrow"):
        found.to_parquet(tmp_path / "table.parquet")


def test_populations_are_arrays_in_gene_space(found, split, latent):
    condition = split.test_conditions[0]
    cells = found.populations[condition]
    assert len(found.populations) == 6
    assert cells.control.shape == (50, 14)
    assert cells.measured.shape == (200, 14)
    assert set(cells.predicted) == {"oracle", "narrow", "mean effect"}
    np.testing.assert_allclose(cells.predicted["oracle"], latent.truth(cells.control, condition), rtol=1e-5, atol=1e-5)
    assert len(cells.genes) == 14
    assert found.populations[str(condition)].condition == condition
    with pytest.raises(KeyError):
        found.populations[split.train_conditions[0]]


def run(predictor, split, mean_effect, **options):
    options = {"metrics": CHEAP, "progress": False, "baselines": {"mean effect": mean_effect}, **options}
    return evaluate(predictor, split, **options)


def test_no_answer_is_left_out_with_the_reason(oracle, latent, space, split, mean_effect):
    silent = str(split.test_conditions[0])
    shy = Dummy("shy", space, lambda z, c: latent.truth(z, c), silent=(silent,))
    got = run({"oracle": oracle, "shy": shy}, split, mean_effect)
    rows = got.table[(got.table["predictor"] == "shy") & (got.table["condition"] == silent)]
    assert len(rows) > 0
    assert rows["value"].isna().all()
    assert (rows["n_pred"] == 0).all()
    assert set(rows["note"]) == {"it never learnt this one"}
    summary = got.summary().query("space == 'genes' and metric == 'energy'").set_index("predictor")
    assert summary.loc["shy", "n_conditions"] == 5
    assert summary.loc["oracle", "n_conditions"] == 6
    compared = got.compare("oracle", "shy", "energy")
    assert compared.n_conditions == 5
    assert compared.share == 0.5  # the same cells through the same map
    assert "no answer for 1 of 6 conditions (it never learnt this one)" in str(got)


def test_predictions_that_are_not_finite_have_no_score(space, split, mean_effect, latent):
    def broken(z, condition):
        moved = latent.truth(z, condition)
        if condition == split.test_conditions[1]:
            moved[:, 0] = np.nan
        return moved

    got = run(Dummy("broken", space, broken), split, mean_effect)
    rows = got.table[(got.table["predictor"] == "broken") & (got.table["condition"] == str(split.test_conditions[1]))]
    assert rows["value"].isna().all()
    assert rows["note"].str.contains("50 of 50 predicted cells are not finite").all()
    assert got.summary().query("predictor == 'broken' and metric == 'energy'")["n_conditions"].tolist() == [5, 5]


def test_the_same_seed_gives_the_same_table(oracle, split, mean_effect, space):
    first, second = (run(oracle, split, mean_effect, metrics=MEANS, n_draws=2) for _ in range(2))
    pd.testing.assert_frame_equal(first.table, second.table)
    keys = first.table[["predictor", "condition"]].drop_duplicates()
    assert list(dict.fromkeys(keys["predictor"])) == list(first.kinds)
    other = run(oracle, split, mean_effect, metrics=MEANS, n_draws=2, seed=10)
    assert set(other.table["seed"]) == {10, 11}
    assert not np.allclose(other.table["value"], first.table["value"], equal_nan=True)
    # Who else is in the table changes nothing.
    more = run(
        {"oracle": oracle, "still": Dummy("still", space, lambda z, c: z)}, split, mean_effect, metrics=MEANS, n_draws=2
    )
    both = [
        t[t["predictor"] == "oracle"].drop(columns="note").reset_index(drop=True) for t in (first.table, more.table)
    ]
    pd.testing.assert_frame_equal(*both)


def test_permuting_the_genes_of_the_study_changes_nothing(latent, split, oracle, mean_effect):
    order = np.random.default_rng(0).permutation(14)
    back = np.argsort(order)
    adata = latent.adata[:, order].copy()
    study = cg.Study(adata, latent.design)
    turned = splits.unseen_treatment(study, ["A", "B"], seed=0)
    new = Genes(transform="none").fit(turned)

    def turn(predictor):
        return Dummy(predictor.name, new, lambda z, c: predictor.move(np.asarray(z)[:, back], c)[:, order])

    metrics = [m for m in CHEAP if m not in ("top_overlap",)]
    before = run(oracle, split, mean_effect, metrics=metrics, n_draws=1)
    after = run(turn(oracle), turned, turn(mean_effect), metrics=metrics, n_draws=1)
    np.testing.assert_allclose(after.table["value"], before.table["value"], atol=1e-5)


def test_wells_are_compared_by_mean_profile_only(latent):
    keep = np.concatenate([latent.rows(c, "train")[:6] for c in latent.study().conditions])
    controls = latent.rows("control", "train")[:80]
    study = cg.Study(latent.adata[np.concatenate([controls, keep])].copy(), latent.design)
    split = splits.unseen_treatment(study, ["A"], seed=0, min_cells=1)
    space = Genes(transform="none").fit(split)
    got = evaluate(
        Dummy("oracle", space, lambda z, c: latent.truth(z, c)),
        split,
        baselines={"mean effect": Dummy("mean effect", space, lambda z, c: z + 0.1)},
        progress=False,
    )
    assert set(got.table["n_pred"]) == {3}
    of_cells = got.table[got.table["metric"].isin(["energy", "mmd_u", "divergence2", "sinkhorn", "r2_var"])]
    assert of_cells["value"].isna().all()
    assert of_cells["note"].str.contains("at least 10 cells a side, here 3").all()
    oracle = got.table[(got.table["predictor"] == "oracle") & (got.table["metric"] == "r2_delta")]
    assert oracle["value"].notna().all()
    assert "not computed in 3 of 3 conditions" in str(got)


def test_control_noise_that_both_sides_share_does_not_look_like_skill(latent):
    """With three rows a population, effects against the same three controls would rank right by their noise alone."""
    keep = [latent.rows(c, "train")[:6] for c in latent.study().conditions]
    rows = np.concatenate([latent.rows("control", "train"), *keep])
    study = cg.Study(latent.adata[rows].copy(), latent.design)
    split = splits.unseen_treatment(study, ["A", "B", "C"], seed=0, min_cells=1)
    space = Genes(transform="none").fit(split)
    still = Dummy("still", space, lambda z, c: z)
    got = evaluate(still, split, baselines={}, metrics=("discrimination", "r2_delta"), n_draws=20, progress=False)
    summary = got.summary().query("space == 'genes' and predictor == 'still'").set_index("metric")
    assert summary.loc["discrimination", "n_conditions"] == 9
    assert summary.loc["discrimination", "mean"] == pytest.approx(0.5, abs=0.1)


def test_conditions_with_too_few_cells_are_listed(latent, oracle):
    few = latent.rows("A@10nM", "train")
    study = cg.Study(latent.adata[np.setdiff1d(np.arange(latent.adata.n_obs), few[20:])].copy(), latent.design)
    split = splits.unseen_treatment(study, ["A"], seed=0)
    space = Genes(transform="none").fit(split)
    got = run(Dummy("oracle", space, oracle.move), split, Dummy("mean effect", space, lambda z, c: z), metrics=MEANS)
    assert list(got.unscored) == ["A@10nM"]
    assert "20 test cells, fewer than 50" in got.unscored["A@10nM"]
    assert "A@10nM" not in set(got.table["condition"])
    assert "not scored: A@10nM" in str(got)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metrics": ("r2",)}, "no metric 'r2': choose from r2_mean"),
        ({"metrics": ("l2_uvp",)}, "needs the true map"),
        ({"metrics": ()}, "at least one metric"),
        ({"spaces": ("pca",)}, "some of latent, genes"),
        ({"n_cells": 0}, "n_cells must be a whole number of at least 1"),
        ({"n_draws": 1.5}, "n_draws must be a whole number"),
        ({"baselines": None}, "pass baselines="),
        ({"baselines": {"replicate": None}}, "a baseline cannot be called 'replicate'"),
        ({"spaces": ("latent",), "truth": lambda c, rows: rows}, "add 'genes' to spaces"),
    ],
)
def test_wrong_settings_are_refused(oracle, split, mean_effect, options, said):
    with pytest.raises(ConfigError, match=said):
        run(oracle, split, mean_effect, **options)


def test_nothing_to_evaluate_is_refused(split, mean_effect):
    with pytest.raises(ConfigError, match="at least one fitted model"):
        run({}, split, mean_effect)


@pytest.fixture(scope="module")
def screen():
    sim = cg.simulate(
        n_drugs=3, n_combinations=1, cell_lines=("line1",), n_genes=40, n_cells=80, n_controls=240, seed=2
    )
    return sim.study(), Table(sim.descriptors) | Dose()


def test_standard_baselines_of_an_unseen_combination(screen):
    study, encoder = screen
    pair = next(c.names for c in study.conditions if len(c.names) == 2)
    split = splits.unseen_combination(study, [pair], seed=0)
    model = Gaussian(space=PCA(dim=8), encoder=encoder).fit(split)
    got = cg.evaluate(model, split, metrics=CHEAP, n_draws=2, progress=False)
    names = {"identity", "mean effect", "nearest condition", "ridge mean shift", "dose interpolation", "additive"}
    assert names | {"random pairing", "replicate", "replicate, decoded", "control", model.name} == set(got.kinds)
    answered = got.table[got.table["predictor"] == "additive"]
    assert answered["value"].notna().any()
    silent = got.table[got.table["predictor"] == "dose interpolation"]
    assert silent["value"].isna().all()
    assert silent["note"].str.contains("not one treatment with a dose").all()
    assert "dose interpolation: no answer for 1 of 1 conditions" in str(got)
    assert np.isnan(got.compare(model.name, "mean effect", "energy").low)  # one condition has no interval
    decoded = got.summary().query("metric == 'variance_ratio' and space == 'genes'").set_index("predictor")["mean"]
    assert decoded["replicate, decoded"] < 0.9 * decoded["replicate"]  # eight components keep less than all variance


def test_a_model_of_another_split_is_refused(screen):
    study, encoder = screen
    here = splits.unseen_treatment(study, ["A1"], seed=0)
    there = splits.unseen_treatment(study, ["B1"], seed=0)
    model = MeanShift(space=PCA(dim=4), encoder=encoder).fit(there)
    with pytest.raises(SplitError, match=r"was trained on .*A1.*which this split holds out"):
        cg.evaluate(model, here, progress=False)


def test_models_of_different_spaces_are_compared_in_gene_space_only(screen):
    study, encoder = screen
    split = splits.unseen_dose(study, [1000.0], treatments=["A1", "B1"], seed=0)
    models = {f"pca{d}": MeanShift(space=PCA(dim=d), encoder=encoder, rule="dose").fit(split) for d in (4, 8)}
    with pytest.raises(ConfigError, match="different spaces"):
        cg.evaluate(models, split, metrics=MEANS, progress=False)
    got = cg.evaluate(models, split, metrics=MEANS, spaces=("genes",), n_draws=2, progress=False)
    assert got.models == ("pca4", "pca8")
    same = got.summary().query("metric == 'r2_delta'").set_index("predictor")["mean"]
    # The baseline lives in the space of the first model and is the same rule.
    assert same["dose interpolation"] == pytest.approx(same["pca4"])
    assert not np.isclose(same["pca4"], same["pca8"])


def test_a_baseline_can_itself_be_evaluated(screen):
    study, encoder = screen
    split = splits.unseen_treatment(study, ["A1"], seed=0)
    got = cg.evaluate(
        MeanShift(space=PCA(dim=4), encoder=encoder, rule="all").fit(split),
        split,
        metrics=MEANS,
        n_draws=1,
        progress=False,
    )
    assert got.models == ("mean effect (fitted)",)
    np.testing.assert_allclose(
        got.summary().query("predictor == 'mean effect (fitted)'")["scaled"].dropna(), 0, atol=1e-9
    )


def test_the_package_can_be_called():
    import cellgap.evaluate

    assert cg.evaluate is cellgap.evaluate
    assert cg.evaluate.metrics.r2_mean(np.eye(3) + 1, np.eye(3) + 1) is not None
    with pytest.raises(ConfigError):
        cg.evaluate({}, None)


def test_roles_are_respected(split):
    from cellgap.evaluate._plan import make_plans

    plans, unscored = make_plans(split, n_cells=30, seeds=(0, 1, 2))
    assert not unscored
    for plan in plans:
        test = set(split.rows(plan.condition, Role.TEST))
        reference = set(split.rows(plan.condition.control, Role.REFERENCE))
        source = set(split.rows(plan.condition.control, Role.SOURCE))
        assert plan.n == 30
        for draw in range(3):
            measured, replicate = set(plan.measured[draw]), set(plan.replicate[draw])
            assert len(measured) == len(replicate) == 30  # without replacement
            assert not measured & replicate
            assert measured | replicate <= test
            assert len(set(plan.control[draw])) == 30
            assert set(plan.control[draw]) <= reference
            assert len(set(plan.source[draw])) == 30
            assert set(plan.pool[plan.source[draw]]) <= source
    assert all(plan.pool is plans[0].pool for plan in plans)  # one context, one shape for a compiled map

"""The annotator from a study to labels, on small counts with known types and donors."""

import dataclasses
import re
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import cellgap as cg
from cellgap.annotate._annotator import Annotator
from cellgap.annotate._choice import Mixture
from cellgap.annotate._comp_sum import CompSum
from cellgap.annotate._fitted_annotator import UNASSIGNED, FittedAnnotator
from cellgap.annotate._source import Source
from cellgap.annotate._under_attack import GeneScores, accuracy_under_attack
from cellgap.annotate.drm import Guarded
from cellgap.annotate.robust import Ball, PGDTraining
from cellgap.errors import CellgapError, ConfigError, DataError, SplitError
from cellgap.nn import GhostBatchNorm
from cellgap.space import Genes
from cellgap.study import Role
from cellgap.train import Loop

DESIGN = cg.Design(treatment="drug", control="none", donor="donor", counts="X")
SETTINGS = Annotator(
    domains="donor",
    hidden=(16,),
    n_members=1,
    n_views=2,
    loop=Loop(n_steps=60, chunk=30, checkpoint_every=30),
    learning_rate=1e-2,
    warmup=5,
    n_axes=(5,),
    linear_axes=10,
    strengths=(0.1, 1.0),
)
TABLE = ["label", "best", "probability", "second", "second_probability", "novelty", "reason"]


def small_cells(n: int = 400, seed: int = 0) -> AnnData:
    """Counts of 60 genes: eight markers of every type, five of every donor."""
    rng = np.random.default_rng(seed)
    kind, donor = rng.integers(4, size=n), rng.integers(4, size=n)
    level = np.full((n, 60), 0.6)
    for j, name in enumerate("abcd"):
        start = 8 * "abcd".index(name)
        level[kind == j, start : start + 8] += 2.5
    for j in range(4):
        level[donor == j, 40 + 5 * j : 45 + 5 * j] += 1.5
    counts = rng.poisson(level * rng.gamma(8, 1 / 8, size=(n, 1)) * 0.6)
    obs = pd.DataFrame(
        {
            "cell_type": np.array(list("abcd"))[kind],
            "donor": np.array(["d0", "d1", "d2", "d3"])[donor],
            "drug": np.array(["none", "x"])[rng.integers(2, size=n)],
        },
        index=[f"cell{i}" for i in range(n)],
    )
    var = pd.DataFrame(index=[f"g{i}" for i in range(60)])
    return AnnData(sp.csr_matrix(counts.astype(np.int32)), obs=obs, var=var)


def changed(adata: AnnData, **columns: Any) -> AnnData:
    out = adata.copy()
    for name, values in columns.items():
        out.obs[name] = values
    return out


def without_d3(adata: AnnData) -> cg.Split:
    return cg.split.leave_one_domain_out(cg.Study(adata, DESIGN), "donor", "d3", min_cells=5)


def probabilities(fitted: FittedAnnotator, adata: AnnData) -> np.ndarray:
    return fitted.predict_proba(adata).to_numpy()


def fit(given: Any, key: int = 0, **settings: Any) -> FittedAnnotator:
    study = cg.Study(given, DESIGN) if isinstance(given, AnnData) else given
    return dataclasses.replace(SETTINGS, **settings).fit(study, "cell_type", key=jr.key(key))


@pytest.fixture(scope="module")
def adata() -> AnnData:
    return small_cells()


@pytest.fixture(scope="module")
def new_donor(adata: AnnData) -> AnnData:
    return adata[adata.obs["donor"] == "d3"].copy()


@pytest.fixture(scope="module")
def fitted(adata: AnnData) -> FittedAnnotator:
    return fit(without_d3(adata))


@pytest.fixture(scope="module")
def half(fitted: FittedAnnotator) -> FittedAnnotator:
    """The same, mixed of both kinds with temperatures."""
    return dataclasses.replace(fitted, mixture=Mixture(0.4, 1.5, 0.7, 1.2))


@pytest.fixture(scope="module")
def hardened(adata: AnnData) -> FittedAnnotator:
    return fit(without_d3(adata), robust=PGDTraining(Ball("linf", 0.1, low=0.0), steps=2))


def accuracy(fitted: FittedAnnotator, adata: AnnData) -> float:
    return float((fitted.predict(adata)["best"] == adata.obs["cell_type"].to_numpy()).mean())


def test_a_donor_that_was_never_seen(fitted: FittedAnnotator, new_donor: AnnData) -> None:
    table = fitted.predict(new_donor)
    assert list(table.columns) == TABLE and list(table.index) == list(new_donor.obs_names)
    assert accuracy(fitted, new_donor) > 0.95
    assert (table["label"] == UNASSIGNED).mean() < 0.1
    assert set(table["label"]) <= {*"abcd", UNASSIGNED}
    assert ((table["label"] == UNASSIGNED) == (table["novelty"] > 1)).all()
    assert (table["reason"].str.startswith("unassigned") == (table["novelty"] > 1)).all()
    p = fitted.predict_proba(new_donor)
    assert list(p.columns) == list("abcd") and list(p.index) == list(new_donor.obs_names)
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-9)
    ordered = np.sort(p.to_numpy(), axis=1)
    np.testing.assert_array_equal(table["probability"], ordered[:, -1])
    np.testing.assert_array_equal(table["second_probability"], ordered[:, -2])
    assert (p.idxmax(axis=1) == table["best"]).all()
    assert fitted.predict(new_donor[:0]).shape == (0, 7) and fitted.predict_proba(new_donor[:0]).shape == (0, 4)


def test_what_the_trials_say_is_true_of_the_new_donor(fitted: FittedAnnotator, new_donor: AnnData) -> None:
    trials = fitted.trials
    columns = ["candidate", "domain", "log_loss", "balanced_log_loss", "accuracy", "macro_f1", "chosen"]
    assert list(trials.columns) == columns
    assert sorted(trials["domain"].unique()) == ["d0", "d1", "d2"] == sorted(fitted.domains)
    (name,) = trials.loc[trials["chosen"], "candidate"].unique()
    chosen = trials[trials["chosen"]]
    assert chosen["accuracy"].mean() == pytest.approx(fitted.accuracies.outside)
    mixtures = trials[trials["candidate"].str.contains("%")].groupby("candidate")
    assert mixtures[SETTINGS.criterion].mean().idxmin() == name
    y = np.searchsorted(fitted.classes, new_donor.obs["cell_type"].to_numpy().astype(str))
    own = probabilities(fitted, new_donor)[np.arange(len(y)), y]
    assert -np.log(own).mean() == pytest.approx(chosen["log_loss"].mean(), abs=0.08)
    assert accuracy(fitted, new_donor) == pytest.approx(fitted.accuracies.outside, abs=0.05)
    names = [gap.name for gap in fitted.gaps()]
    assert names == ["generalisation gap", "adaptivity gap", "minimizability gap"]
    generalisation, adaptivity, minimizability = fitted.gaps()
    assert generalisation.value == fitted.accuracies.train - fitted.accuracies.inside
    assert adaptivity.value == fitted.accuracies.inside - fitted.accuracies.outside
    linear, network, least = fitted.minimizability
    assert minimizability.value == max(min(linear, network), 0.0)
    # The trials: losses of families at tau 1 are the log losses of their rows; the mixture is calibrated, so that its
    # own loss is about the entropy that it claims.
    means = trials.groupby("candidate")["log_loss"].mean()
    best = means[means.index.str.startswith("linear")].min()
    assert linear + least == pytest.approx(best, abs=0.02)
    assert least == pytest.approx(chosen["log_loss"].mean(), abs=0.05) and 0 < least < 0.5
    moved = fitted.weight_distance
    assert moved.t[-1] == 60 and (np.diff(moved.t) > 0).all() and 0 < moved.d[1] < moved.d[-1]
    assert [row["step"] for row in fitted.history] == [30, 60]
    assert fitted.history[1]["loss"] < fitted.history[0]["loss"]
    assert "4 classes of 'cell_type', 3 domains" in str(fitted)


@pytest.fixture(scope="module")
def without_type_d(adata: AnnData) -> FittedAnnotator:
    return fit(without_d3(adata[adata.obs["cell_type"] != "d"].copy()))


def test_a_type_that_was_never_there_is_more_novel(without_type_d: FittedAnnotator, adata: AnnData) -> None:
    new = (adata.obs["cell_type"] == "d").to_numpy()
    known = (adata.obs["donor"] == "d3").to_numpy() & ~new
    novelty = without_type_d.predict(adata)["novelty"].to_numpy()
    order = np.argsort(np.argsort(novelty[known | new])) + 1.0
    ranks = order[new[known | new]]
    auroc = (ranks.sum() - len(ranks) * (len(ranks) + 1) / 2) / (len(ranks) * known.sum())
    assert auroc > 0.8
    unassigned = without_type_d.predict(adata)["label"].to_numpy() == UNASSIGNED
    assert unassigned[known].mean() < 0.1 and unassigned[new].mean() > unassigned[known].mean() + 0.1


def test_types_left_out_in_the_trials_are_treated_as_ones_that_were_never_there(
    fitted: FittedAnnotator, without_type_d: FittedAnnotator, adata: AnnData
) -> None:
    new = adata[adata.obs["cell_type"] == "d"].copy()
    labelled = float((without_type_d.predict(new)["label"] != UNASSIGNED).mean())
    assert labelled == pytest.approx(fitted.unseen.set_index("class")["labelled"]["d"], abs=0.2)


def test_the_table_of_unseen_types_is_what_thresholds_were_chosen_by(fitted: FittedAnnotator) -> None:
    unseen = fitted.unseen
    assert list(unseen["class"]) == list("abcd") and (unseen["auroc"] > 0.8).all()
    assert unseen["labelled"].mean() == pytest.approx(fitted.thresholds.false_assignment)
    assert fitted.thresholds.reached == (fitted.thresholds.false_assignment <= SETTINGS.false_assignment)
    assert f"{fitted.thresholds.false_assignment:.0%} are given one all the same" in str(fitted)


def test_genes_are_found_by_name(half: FittedAnnotator, new_donor: AnnData) -> None:
    expected = probabilities(half, new_donor)
    order = np.random.default_rng(0).permutation(60)
    np.testing.assert_allclose(probabilities(half, new_donor[:, order].copy()), expected, atol=1e-5)
    more = AnnData(
        sp.csr_matrix(sp.hstack([new_donor.X, 50 * np.ones((new_donor.n_obs, 7), np.int32)])),
        obs=new_donor.obs,
        var=pd.DataFrame(index=[*new_donor.var_names, *(f"more{i}" for i in range(7))]),
    )
    np.testing.assert_allclose(probabilities(half, more), expected, atol=1e-6)
    dense = AnnData(new_donor.X.toarray(), obs=new_donor.obs, var=new_donor.var)
    np.testing.assert_allclose(probabilities(half, dense), expected, atol=1e-5)
    with pytest.raises(DataError, match=r"2 of the 60 genes .* are missing"):
        half.predict(new_donor[:, 2:].copy())


def test_a_cell_does_not_know_those_it_comes_with(half: FittedAnnotator, new_donor: AnnData) -> None:
    expected = probabilities(half, new_donor)
    table = half.predict(new_donor)
    for i in (0, 3, 17):
        alone = new_donor[i : i + 1].copy()
        np.testing.assert_allclose(probabilities(half, alone), expected[i : i + 1], atol=1e-6)
        assert half.predict(alone)["novelty"].iloc[0] == pytest.approx(table["novelty"].iloc[i], rel=1e-4)
    some = half.predict_proba(new_donor, rows=[5, 2])
    np.testing.assert_allclose(some.to_numpy(), expected[[5, 2]], atol=1e-6)
    assert list(some.index) == [new_donor.obs_names[5], new_donor.obs_names[2]]


def test_saved_and_loaded_it_is_the_same(half: FittedAnnotator, new_donor: AnnData, tmp_path) -> None:
    half.save(tmp_path / "model", header={"note": "n"})
    again = cg.load(tmp_path / "model")
    assert isinstance(again, FittedAnnotator)
    pd.testing.assert_frame_equal(again.predict(new_donor), half.predict(new_donor))
    pd.testing.assert_frame_equal(again.trials, half.trials)
    pd.testing.assert_frame_equal(again.unseen, half.unseen)
    assert str(again) == str(half) and again.gaps() == half.gaps() and again.history == half.history


def test_the_key_decides_and_held_out_cells_do_not(fitted: FittedAnnotator, adata: AnnData) -> None:
    """One fit of the same key on data whose held-out cells are others in labels and values."""
    out = (adata.obs["donor"] == "d3").to_numpy()
    spoiled = changed(adata, cell_type=np.where(out, "z", adata.obs["cell_type"]))
    values = adata.X.toarray()
    values[out] = np.random.default_rng(1).poisson(9.0, values[out].shape)
    spoiled.X = sp.csr_matrix(values)
    again = fit(without_d3(spoiled))
    assert again.classes == tuple("abcd")
    whole = adata[:100].copy()
    np.testing.assert_array_equal(probabilities(again, whole), probabilities(fitted, whole))
    pd.testing.assert_frame_equal(again.trials, fitted.trials)
    assert again.thresholds == fitted.thresholds and again.history == fitted.history
    assert [gap.value for gap in again.gaps()] == [gap.value for gap in fitted.gaps()]


def test_cells_without_a_label_are_passed_over(fitted: FittedAnnotator, adata: AnnData) -> None:
    """Without labels of the held-out donor the whole study is what the split trains on; another key is not."""
    out = (adata.obs["donor"] == "d3").to_numpy()
    unlabelled = changed(adata, cell_type=np.where(out, None, adata.obs["cell_type"]))
    unlabelled.obs["donor"] = np.where(out, None, adata.obs["donor"])
    study = cg.Study(unlabelled, cg.Design(counts="X"))
    found = fit(study)
    assert found.n_unlabelled == out.sum() and "without a label were passed over" in str(found)
    np.testing.assert_array_equal(probabilities(found, adata), probabilities(fitted, adata))
    assert found.history == fitted.history
    other = fit(study, key=1)
    assert other.history != found.history
    nets = [dataclasses.replace(one, mixture=Mixture(1.0, 1.0, 1.0, 1.0)) for one in (found, other)]
    assert np.abs(probabilities(nets[0], adata) - probabilities(nets[1], adata)).max() > 1e-3


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_gene_scores_are_the_annotator(fitted: FittedAnnotator, new_donor: AnnData, share: float) -> None:
    mixed = dataclasses.replace(fitted, mixture=Mixture(share, 1.5, 0.7, 1.2))
    values = np.concatenate([b.toarray() for b in mixed.axes.genes.transformed(new_donor, np.arange(30))])
    found = np.exp(np.asarray(GeneScores.of(mixed)(jnp.asarray(values))))
    np.testing.assert_allclose(found, probabilities(mixed, new_donor)[:30], atol=2e-5)


def test_accuracy_falls_under_attack(fitted: FittedAnnotator, hardened: FittedAnnotator, new_donor: AnnData) -> None:
    options: dict[str, Any] = {"radii": (0.0, 0.3, 3.0), "counts": (20,), "steps": 4, "most_cells": 24}
    table = fitted.robust_accuracy(new_donor, new_donor.obs["cell_type"], **options)
    assert list(table.columns) == ["attack", "strength", "accuracy"]
    assert list(table["attack"]) == ["l_inf"] * 4 + ["counts"] * 2
    assert list(table["strength"]) == [0.0, 0.0, 0.3, 3.0, 0.0, 20.0]
    for _, part in table.groupby("attack"):
        assert (np.diff(part["accuracy"]) <= 0).all() and part["accuracy"].iloc[-1] < part["accuracy"].iloc[0]
    ball = table[table["attack"] == "l_inf"]["accuracy"].to_list()
    assert ball[0] == ball[1] > 0.9 and ball[3] < 0.1, "a ball of radius 0 has one cell; a large one has every class"
    trained = hardened.robust_accuracy(new_donor, new_donor.obs["cell_type"], **options | {"counts": ()})
    assert list(trained["attack"]) == ["l_inf"] * 4 and trained["accuracy"][0] > 0.8
    with pytest.raises(ConfigError, match="None of the cells has a class"):
        fitted.robust_accuracy(new_donor, np.repeat("z", new_donor.n_obs))
    with pytest.raises(ConfigError, match="one class for each of"):
        accuracy_under_attack(fitted, new_donor, ["a", "b"])


def test_robust_training_is_of_networks_alone(hardened: FittedAnnotator, new_donor: AnnData) -> None:
    assert hardened.mixture.share == 1.0 and accuracy(hardened, new_donor) > 0.8
    assert set(hardened.trials["candidate"].str[:7]) == {"linear,", "network", "100% ne"}


@pytest.mark.parametrize(
    "settings",
    [
        {"norm": GhostBatchNorm(size=16, ghosts="stratified"), "batch_size": 64, "balance": "domains"},
        {"norm": "batch", "balance": "domains"},
    ],
    ids=["ghosts", "batch"],
)
def test_norms_whose_cells_are_normalized_together(adata: AnnData, new_donor: AnnData, settings: Any) -> None:
    found = fit(without_d3(adata), **settings)
    alone = dataclasses.replace(found, mixture=Mixture(1.0, 1.0, 1.0, 1.0))
    assert accuracy(alone, new_donor) > 0.8
    expected = probabilities(alone, new_donor)
    np.testing.assert_allclose(probabilities(alone, new_donor[4:5].copy()), expected[4:5], atol=1e-6)


def test_wrong_labels_and_an_automatic_tau(adata: AnnData, new_donor: AnnData) -> None:
    rng = np.random.default_rng(0)
    wrong = rng.random(adata.n_obs) < 0.3
    noisy = np.where(wrong, np.array(list("abcd"))[rng.integers(4, size=adata.n_obs)], adata.obs["cell_type"])
    found = fit(without_d3(changed(adata, cell_type=noisy)), loss=CompSum(tau="auto", taus=(1.0, 1.7)))
    assert found.tau in (1.0, 1.7) and f"tau {found.tau:g}" in str(found)
    assert "held-out folds" in found.tau_sentence
    assert accuracy(found, new_donor) > 0.85, "of the true labels"
    strict = fit(without_d3(changed(adata, cell_type=noisy)), loss=CompSum(tau=1.7))
    assert strict.tau == 1.7 and accuracy(strict, new_donor) > 0.85


def test_domain_heads_are_tried(adata: AnnData, new_donor: AnnData, tmp_path) -> None:
    quick = Guarded(hidden=(16,), loop=Loop(n_steps=40, chunk=40), per_domain=16, learning_rate=1e-2)
    found = fit(without_d3(adata), guarded=quick)
    assert found.guarded is not None and found.guarded.sentence in str(found)
    assert len(found.guarded.choices) == len(quick.rules)
    assert accuracy(found, new_donor) > 0.9
    found.save(tmp_path)
    again = cg.load(tmp_path)
    np.testing.assert_array_equal(probabilities(again, new_donor), probabilities(found, new_donor))


def test_measurements_that_are_no_counts(adata: AnnData, new_donor: AnnData) -> None:
    design = cg.Design(treatment="drug", control="none", donor="donor")

    def measured(of: AnnData) -> AnnData:
        return AnnData(np.log1p(of.X.toarray()).astype(np.float32), obs=of.obs, var=of.var)

    split = cg.split.leave_one_domain_out(cg.Study(measured(adata), design), "donor", "d3", min_cells=5)
    found = fit(split)
    assert found.axes.genes.transform == "none" and np.ptp(found.axes.genes.sd) > 0
    assert accuracy(found, measured(new_donor)) > 0.9
    with pytest.raises(DataError, match="needs raw counts"):
        fit(split, genes=Genes())


def test_without_domains_cells_are_held_out(adata: AnnData, tmp_path) -> None:
    found = fit(adata, domains=(), n_folds=3)
    assert found.domains == ("all cells",) and sorted(found.trials["domain"].unique()) == ["fold 1", "fold 2", "fold 3"]
    assert np.isnan(found.accuracies.inside)
    assert [gap.name for gap in found.gaps()] == ["generalisation gap", "minimizability gap"]
    found.save(tmp_path)
    again = cg.load(tmp_path)
    assert np.isnan(again.accuracies.inside) and str(again) == str(found)


def test_choices_may_be_made_with_some_of_the_cells(adata: AnnData, new_donor: AnnData) -> None:
    rare = adata.obs["cell_type"].to_numpy().astype(object)
    rare[np.flatnonzero(rare == "d")[6:]] = "c"
    given = changed(adata, cell_type=rare)
    found = fit(without_d3(given), trial_cells=100, genes=Genes(n_top=45), n_axes=(3, 5))
    assert found.n_axes in (3, 5) and {"network, 3 axes", "network, 5 axes"} <= set(found.trials["candidate"])
    assert accuracy(found, new_donor[new_donor.obs["cell_type"].isin(["a", "b"])].copy()) > 0.9
    kept = (rare == "d") & (adata.obs["donor"] != "d3").to_numpy()
    counted = dict(zip(found.unseen["class"], found.unseen["n_cells"], strict=True))
    assert sum(counted.values()) <= 100 + kept.sum() and counted.get("d", 0) in (0, kept.sum()), "rare types stay"


def test_domains_of_two_columns(adata: AnnData) -> None:
    source = Source.of(cg.Study(adata, DESIGN), "cell_type", ("donor", "drug"))
    assert len(source.domains) == 8 and source.domains[:2] == ("d0 | none", "d0 | x")
    names = np.asarray(source.domains)[source.domain]
    assert (names == adata.obs["donor"].to_numpy() + " | " + adata.obs["drug"].to_numpy()).all()
    np.testing.assert_array_equal(np.asarray(source.classes)[source.y], adata.obs["cell_type"])


def refused(error: type[CellgapError], match: str, given: Any, label: str = "cell_type", **settings: Any) -> None:
    """Check the error, that it is one sentence, and that nothing was trained before it."""
    study = given if isinstance(given, cg.Study | cg.Split) else cg.Study(given, cg.Design(counts="X"))
    with pytest.raises(error, match=match) as found:
        dataclasses.replace(SETTINGS, **settings).fit(study, label, key=jr.key(0))
    assert re.fullmatch(r"[^\n]+[.?]", str(found.value)), str(found.value)


def test_mistakes_in_the_data_are_named_before_any_work(adata: AnnData, monkeypatch) -> None:
    for name in ("train_networks", "ridge_path", "fit_guarded"):
        monkeypatch.setattr(f"cellgap.annotate._fit_annotator.{name}", None)
    refused(DataError, r"obs has no column 'cell_typ': .*'cell_type'", adata, "cell_typ")
    refused(DataError, r"obs has no column 'patient'", adata, domains="patient")
    refused(DataError, r"'donor' is the label: it cannot be a domain too", adata, "donor")
    refused(DataError, r"one class only, 'a'", changed(adata, cell_type="a"))
    score = np.random.default_rng(0).normal(size=adata.n_obs)
    refused(DataError, r"hold(s)? numbers that hardly repeat", changed(adata, score=score), "score")
    mostly_missing = np.where(np.arange(adata.n_obs) < 300, np.nan, score)
    refused(DataError, r"numbers that hardly repeat", changed(adata, score=mostly_missing), "score")
    holes = adata.obs["donor"].to_numpy().astype(object)
    holes[:3] = None
    refused(DataError, r"obs\['donor'\] is missing for 3 labelled cells", changed(adata, donor=holes))
    few = np.where(np.arange(adata.n_obs) < 6, adata.obs["cell_type"], None)
    refused(DataError, r"has 6 labelled cells to train on: at least 10", changed(adata, cell_type=few))
    own = changed(adata, donor=adata.obs["cell_type"].map({"a": "d0", "b": "d1", "c": "d2", "d": "d3"}))
    refused(DataError, r"Classes and domains are confounded", own)
    named = np.where(adata.obs["cell_type"] == "a", UNASSIGNED, adata.obs["cell_type"])
    refused(DataError, r"class named 'unassigned'", changed(adata, cell_type=named))
    leaking = without_d3(adata)
    roles = leaking.roles.copy()
    roles[(adata.obs["donor"] == "d3").to_numpy()] = int(Role.TRAIN)
    refused(SplitError, "leak|make the split anew", dataclasses.replace(leaking, roles=roles))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"n_axes": (5, 20)}, r"linear_axes=10: raise the latter"),
        ({"n_axes": ()}, "at least one number of axes"),
        ({"strengths": ()}, "one strength to choose from"),
        ({"strengths": (0.0,)}, "strengths"),
        ({"norm": "batch", "robust": PGDTraining(Ball("linf", 0.1))}, 'takes norm="layer" or "none"'),
        ({"norm": GhostBatchNorm(), "robust": PGDTraining(Ball("linf", 0.1))}, 'takes norm="layer" or "none"'),
        ({"guarded": Guarded(), "robust": PGDTraining(Ball("linf", 0.1))}, "cannot be combined"),
        ({"thin": 0.0}, "thin"),
        ({"n_folds": 1}, "n_folds"),
        ({"hiden": (3,)}, "hiden"),
    ],
)
def test_mistakes_in_the_settings_are_named(settings: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as found:
        Annotator(**{"domains": "donor", "linear_axes": 10, "n_axes": (5,)} | settings)
    assert "\n" not in str(found.value)


def test_without_domains_the_text_promises_nothing_about_new_ones(adata: AnnData) -> None:
    study = cg.Study(adata[(adata.obs["donor"] == "d0").to_numpy()].copy(), cg.Design(donor="donor", counts="X"))
    text = str(dataclasses.replace(SETTINGS, domains=()).fit(study, "cell_type", key=jr.key(0)))
    assert "one domain, so nothing is known about a new one" in text and "Accuracy on held-out cells" in text

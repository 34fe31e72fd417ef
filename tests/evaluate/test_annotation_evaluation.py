"""Annotators and baselines on domains left out: what is fitted on, what is scored, what is kept and continued."""

from types import SimpleNamespace

import anndata as ad
import jax.random as jr
import numpy as np
import pandas as pd
import pytest

from cellgap.errors import ConfigError, DataError, StorageError
from cellgap.evaluate import (
    AnnotationEvaluation,
    LogisticBaseline,
    accuracy,
    annotation,
    coverage_at,
    expected_calibration_error,
    macro_f1,
)
from cellgap.evaluate._annotation_baselines import _folds, _spanned
from cellgap.evaluate._annotation_targets import without
from cellgap.gap import Gap
from cellgap.settings import settings
from cellgap.study import Design, Role, Study, split

KEY = jr.key(0)
N_GENES = 60


def cells(n: int = 40, donors: int = 3, shift: float = 0.7) -> ad.AnnData:
    """Counts of three donors and four types; the last donor alone has the type "E", and a few cells have no label."""
    rng = np.random.default_rng(0)
    types = rng.normal(0.0, 0.6, (5, N_GENES))
    rows, obs = [], []
    for d in range(donors):
        own = shift * rng.normal(size=N_GENES)
        for t, name in enumerate("ABCDE" if d == donors - 1 else "ABCD"):
            size = n // 4 if name in "DE" else n
            rate = np.exp(types[t] + own)
            rows.append(rng.poisson(300 * rate / rate.sum(), (size, N_GENES)))
            obs += [(f"d{d}", name)] * size
    frame = pd.DataFrame(obs, columns=["donor", "type"], dtype=object)
    frame.index = pd.Index([f"c{i}" for i in range(len(frame))])
    frame.loc[frame.index[::29], "type"] = None
    adata = ad.AnnData(np.concatenate(rows).astype(np.float32), obs=frame)
    adata.var_names = [f"g{j}" for j in range(N_GENES)]
    return adata


@settings
class Centroids:
    """The nearest mean of training cells, with the interface of an annotator."""

    domains: tuple[str, ...] = ()
    sharpness: float = 0.05

    def fit(self, split, label, *, key):
        rows = split.cells(Role.TRAIN)
        SEEN.append(rows)
        y = split.study.obs[label].to_numpy()[rows].astype(str)
        x = np.log1p(np.asarray(split.study.values(rows)))
        classes = np.unique(y)
        means = np.stack([x[y == c].mean(axis=0) for c in classes])
        return FittedCentroids(classes, means, self.sharpness, self.domains)


SEEN: list[np.ndarray] = []


class FittedCentroids(SimpleNamespace):
    def __init__(self, classes, means, sharpness, domains):
        super().__init__(classes=classes, means=means, sharpness=sharpness, domains=domains)

    def predict_proba(self, adata, rows=None):
        x = np.log1p(np.asarray(adata.X))[np.arange(adata.n_obs) if rows is None else rows]
        score = -self.sharpness * ((x[:, None] - self.means) ** 2).sum(axis=2)
        p = np.exp(score - score.max(axis=1, keepdims=True))
        index = adata.obs_names if rows is None else adata.obs_names[rows]
        return pd.DataFrame(p / p.sum(axis=1, keepdims=True), index=index, columns=self.classes)

    def predict(self, adata, rows=None):
        p = self.predict_proba(adata, rows)
        best, first = p.columns.to_numpy()[p.to_numpy().argmax(axis=1)], p.to_numpy().max(axis=1)
        novelty = (1 - first) / 0.4
        label = np.where(novelty > 1, "unassigned", best)
        return pd.DataFrame(
            {"label": label, "best": best, "probability": first, "novelty": novelty, "reason": "unsure"}
        )

    def gaps(self):
        return (Gap("adaptivity gap", 0.25, "0 = none", "m", "r"),)

    def robust_accuracy(self, adata, truth, *, radii, counts):
        assert adata.n_obs == len(truth)
        rows = [("l_inf", r, 1.0 - r) for r in radii] + [("counts", float(c), 0.5) for c in counts]
        return pd.DataFrame(rows, columns=["attack", "strength", "accuracy"])


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(cells(), Design(context=("donor",), counts="X"))


@pytest.fixture(scope="module")
def found(study) -> AnnotationEvaluation:
    return annotation({"centroids": Centroids()}, study, "type", n_seeds=2, radii=(0.1,), counts=(2,), key=KEY)


def test_every_domain_is_the_target_once_and_never_trained_on(study, found):
    SEEN.clear()
    annotation(Centroids(), study, "type", baselines=(), key=KEY)
    donors, known = study.obs["donor"].to_numpy(), study.obs["type"].notna().to_numpy()
    assert len(SEEN) == 3 and known.sum() < len(known)
    for target, rows in zip(("d0", "d1", "d2"), SEEN, strict=True):
        assert set(rows) == set(np.flatnonzero((donors != target) & known))
        scored = found.predictions.query("method == 'logistic' and target == @target")["cell"]
        assert set(scored) == set(study.adata.obs_names[(donors == target) & known])
    assert set(found.table["target"]) == {"d0", "d1", "d2"} and found.targets == ("d0", "d1", "d2")


def test_the_table_is_what_its_cells_say(found):
    table = found.table.set_index(["method", "target", "seed"])
    for which, cells in found.predictions.groupby(["method", "target", "seed"]):
        row = table.loc[which]
        known = cells[~cells["unseen"]]
        assert row["accuracy"] == pytest.approx(accuracy(known["truth"], known["best"]))
        assert row["macro_f1"] == pytest.approx(macro_f1(known["truth"], known["best"]))
        assert row["n_cells"] == len(known) and row["n_unseen"] == (cells["truth"] == "E").sum()
        assert known[["log_loss", "brier"]].notna().all(axis=None)
        assert cells.loc[cells["unseen"], ["log_loss", "brier"]].isna().all(axis=None)
    own = found.table[found.table["method"] == "centroids"]
    assert (own["accuracy"] > 0.8).all() and (found.table["accuracy"] > 0.6).all()
    assert np.isfinite(own["unseen_auroc"]).sum() == 2, "two seeds of the one donor with a type of its own"
    reasons = found.predictions.query("label == 'unassigned'")["reason"]
    assert len(reasons) and set(reasons) == {"unsure"}
    assert set(found.predictions.query("label != 'unassigned'")["reason"]) == {""}


def test_the_seed_is_told_where_it_matters_only(found):
    fits = found.table.groupby("method")["seed"].nunique().to_dict()
    assert fits == {"centroids": 2, "logistic": 1, "knn": 1, "mlp": 2}
    assert found.by_target()["target"].tolist() == ["d0", "d1", "d2"] * 4


def test_the_summary_means_targets_and_pools_cells(found):
    summary = found.summary().set_index("method")
    own = found.by_target().query("method == 'centroids'")
    assert summary.loc["centroids", "accuracy"] == pytest.approx(own["accuracy"].mean())
    assert summary.loc["centroids", "accuracy_se"] == pytest.approx(own["accuracy"].std() / np.sqrt(3))
    worst = own.loc[own["accuracy"].idxmin()]
    assert summary.loc["centroids", "worst_target"] == worst["target"]
    assert summary.loc["centroids", "accuracy_worst"] == worst["accuracy"]
    cells = found.predictions.query("method == 'knn' and not unseen")
    right = (cells["truth"] == cells["best"]).to_numpy()
    pooled = expected_calibration_error(cells["probability"].to_numpy(), right)
    assert summary.loc["knn", "ece_pooled"] == pooled != summary.loc["knn", "ece"]
    assert summary.loc["knn", "coverage_95_pooled"] == coverage_at(cells["probability"].to_numpy(), right)
    mean, se, n = found.difference("centroids", "knn")
    assert (
        n == 3
        and se > 0
        and mean == pytest.approx(summary.loc["centroids", "accuracy"] - summary.loc["knn", "accuracy"])
    )
    text = str(found)
    for said in (
        "centroids against logistic: accuracy",
        "points over 3 targets",
        "only their own target has (E)",
        "worst",
    ):
        assert said in text, said
    table = found.confusion("centroids")
    assert table.to_numpy().sum() == (found.predictions["method"] == "centroids").sum()
    assert table.loc["E", "E"] == 0 and table.loc["E"].sum() > 0


def test_gaps_and_attacks_are_kept(found):
    assert (
        len(found.gaps) == 6 and set(found.gaps["name"]) == {"adaptivity gap"} and (found.gaps["value"] == 0.25).all()
    )
    assert set(found.robust["attack"]) == {"l_inf", "counts"} and len(found.robust) == 12
    assert found.robust.query("attack == 'l_inf'")["accuracy"].tolist() == [0.9] * 6


def test_an_annotator_without_domains_is_given_those_of_the_evaluation(study):
    got = []

    @settings
    class Spy(Centroids):
        def fit(self, split, label, *, key):
            got.append(self.domains)
            return super().fit(split, label, key=key)

    annotation(Spy(), study, "type", targets=["d0"], baselines=(), key=KEY)
    annotation(Spy(domains=("plate",)), study, "type", targets=["d0"], baselines=(), key=KEY)
    assert got == [("donor",), ("plate",)]


def test_genes_and_strength_come_from_training_domains(study):
    held = without(study, "type", "donor", "d1")
    before = LogisticBaseline("donor", n_top=20).fit(held, "type", key=KEY)
    changed = study.adata.copy()
    target = (changed.obs["donor"] == "d1").to_numpy()
    changed.X[target] = changed.X[target][:, ::-1] * 3
    other = Study(changed, study.design)
    after = LogisticBaseline("donor", n_top=20).fit(without(other, "type", "donor", "d1"), "type", key=KEY)
    assert (before.genes.columns == after.genes.columns).all()
    rows = held.cells(Role.TRAIN)
    pd.testing.assert_frame_equal(before.predict_proba(study.adata, rows), after.predict_proba(changed, rows))
    pd.testing.assert_frame_equal(before.trials, after.trials)
    assert set(before.trials["domain"]) == {"d0", "d2"} and before.trials.query("chosen")["candidate"].nunique() == 1
    assert not np.allclose(
        before.predict_proba(study.adata, [0]), before.predict_proba(changed, np.flatnonzero(target)[:1])
    )


def test_the_strength_of_least_loss_on_left_out_domains_is_chosen(study):
    chosen = LogisticBaseline("donor").fit(without(study, "type", "donor", "d0"), "type", key=KEY).trials
    means = chosen.groupby("candidate")["log_loss"].mean()
    assert set(chosen.loc[chosen["chosen"], "candidate"]) == {means.idxmin()} and len(means) == 5


def test_a_ridge_penalty_is_the_same_on_the_span_of_the_cells():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 80)), np.arange(30) % 3
    inside, axes = _spanned(x - x.mean(axis=0))
    assert axes is not None and axes.shape == (80, 29)
    p, q = (
        LogisticRegression(max_iter=5000, tol=1e-10).fit(z, y).predict_proba(z) for z in (inside, x - x.mean(axis=0))
    )
    np.testing.assert_allclose(p, q, atol=1e-5)
    assert _spanned(x.T)[1] is None


def test_folds_are_domains_groups_of_them_or_stratified():
    y = np.array(["a"] * 12 + ["b"] * 12)
    names = [name for name, _ in _folds(y, np.repeat(["x", "y", "z"], 8), KEY)]
    assert names == ["x", "y", "z"]
    groups = np.repeat([f"g{i}" for i in range(8)], 3)
    many = _folds(y, groups, KEY)
    assert len(many) == 5 and sum(held.sum() for _, held in many) == 24
    for _, held in many:
        assert not set(groups[held]) & set(groups[~held])
    one = _folds(y, np.repeat("x", 24), KEY)
    assert len(one) == 5 and all(2 <= (y[held] == "a").sum() <= 3 for _, held in one)


def test_an_evaluation_that_was_stopped_is_continued(study, tmp_path):
    class Stops(Centroids):
        def fit(self, split, label, *, key):
            if split.params["held_out"] == ["d1"] and stop:
                raise KeyboardInterrupt
            return super().fit(split, label, key=key)

    stop, folder = True, tmp_path / "kept"
    arguments = {"label": "type", "baselines": ("knn",), "key": KEY, "folder": folder}
    with pytest.raises(KeyboardInterrupt):
        annotation({"c": Stops()}, study, **arguments)
    part = AnnotationEvaluation.read(folder)
    assert part.targets == ("d0",) and set(part.methods) == {"c", "knn"}
    stop = False
    SEEN.clear()
    whole = annotation({"c": Stops()}, study, **arguments)
    assert len(SEEN) == 2, "what was done is not fitted again"
    alone = annotation({"c": Stops()}, study, "type", baselines=("knn",), key=KEY)
    pd.testing.assert_frame_equal(whole.table, alone.table)
    read = AnnotationEvaluation.read(folder)
    for name in ("table", "predictions", "gaps"):
        pd.testing.assert_frame_equal(getattr(read, name), getattr(alone, name), check_dtype=name != "predictions")
    assert read.annotators == ("c",) and read.label == "type"
    SEEN.clear()
    annotation({"c": Stops(sharpness=0.1)}, study, **arguments)
    assert len(SEEN) == 3, "other settings are other fits"
    names = sorted(path.name for path in folder.iterdir())
    assert not [name for name in names if name.startswith(".")]
    (folder / next(name for name in names if name.endswith(".npz"))).write_bytes(b"no")
    with pytest.raises(StorageError, match="is damaged"):
        annotation({"c": Stops()}, study, **arguments)
        annotation({"c": Stops(sharpness=0.1)}, study, **arguments)
    with pytest.raises(StorageError, match="holds no evaluation"):
        AnnotationEvaluation.read(tmp_path)


def test_cells_with_treatments_are_divided_too():
    adata = cells(12)
    adata.obs["drug"] = np.where(np.arange(adata.n_obs) % 3 == 0, "vehicle", "X1")
    design = Design(treatment="drug", control="vehicle", context=("donor",), counts="X")
    study = Study(adata, design)
    held = without(study, "type", "donor", "d0")
    donor, known = adata.obs["donor"].to_numpy(), adata.obs["type"].notna().to_numpy()
    assert set(held.cells(Role.TEST, Role.SOURCE)) == set(np.flatnonzero((donor == "d0") & known))
    assert len(held.cells(Role.TEST)) and len(held.cells(Role.SOURCE))
    result = annotation({}, study, "type", baselines=("knn",), targets=["d0"], key=KEY)
    assert len(result.table) == 1 and result.table["accuracy"].item() > 0.5


def test_one_source_domain_and_other_measurements():
    """Folds of cells choose the strength, and values that are no counts are taken as they are."""
    adata = cells(16, donors=2)
    adata.X = np.log1p(adata.X)
    study = Study(adata, Design(context=("donor",)))
    fitted = LogisticBaseline("donor").fit(without(study, "type", "donor", "d1"), "type", key=KEY)
    assert set(fitted.trials["domain"]) == {f"fold {i}" for i in range(1, 6)} and fitted.genes.transform == "none"
    whole = LogisticBaseline().fit(split.everything(study), "type", key=KEY)
    assert whole.classes == ("A", "B", "C", "D", "E")


def _one_class(adata):
    adata.obs["type"] = "A"


def _one_donor(adata):
    adata.obs["donor"] = "d0"


def _no_donor(adata):
    adata.obs.loc[adata.obs_names[3], "site"] = None


@pytest.mark.parametrize(
    ("change", "arguments", "error", "says"),
    [
        (None, {"label": "age"}, ConfigError, "no column 'age' for the label"),
        (None, {"domains": "doner"}, ConfigError, "no column 'doner' for the domains: did you mean 'donor'"),
        (None, {"targets": ["d9"]}, ConfigError, "has no value 'd9'"),
        (None, {"baselines": ("svm",)}, ConfigError, "Unknown baseline 'svm'"),
        (None, {"annotators": {"knn": Centroids()}}, ConfigError, "Two methods are called 'knn'"),
        (None, {"annotators": 3}, ConfigError, "is no annotator"),
        (None, {"n_seeds": 0}, ConfigError, "n_seeds=0"),
        (_no_donor, {"domains": "site"}, DataError, "no value in 1 of"),
        (_one_class, {}, DataError, "Without 'd0', knn: A classifier needs two classes"),
        (_one_donor, {}, DataError, "leaves nothing to train on"),
    ],
)
def test_mistakes_are_one_sentence(change, arguments, error, says):
    adata = cells(8)
    adata.obs["site"] = adata.obs["donor"]
    if change is not None:
        change(adata)
    study = Study(adata, Design(counts="X"))
    given = {"annotators": {}, "label": "type", "baselines": ("knn",), "key": KEY} | arguments
    with pytest.raises(error, match=says):
        annotation(study=study, **given)

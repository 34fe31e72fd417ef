"""The parts of the annotator, each against another way to the same numbers."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from scipy.optimize import minimize
from scipy.spatial.distance import mahalanobis
from scipy.special import log_softmax, logsumexp
from scipy.stats import chi2
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import cellgap as cg
from cellgap.annotate._axes import Axes
from cellgap.annotate._choice import Judged, Mixture, choose, mixed, tempered
from cellgap.annotate._comp_sum import comp_sum_of_log_loss
from cellgap.annotate._folds import folds_of
from cellgap.annotate._linear import ridge_path
from cellgap.annotate._networks import built, log_probabilities, said_by, schedule_of
from cellgap.annotate._reasons import reasons
from cellgap.annotate._thinned import ThinnedCounts
from cellgap.annotate._unseen import Prototypes, Seen, Thresholds, thresholds_of
from cellgap.annotate._views import Projected, Views
from cellgap.errors import DataError
from cellgap.nn import Tower
from cellgap.space import Genes


def study_of(x: Any, counts: str | None = None) -> cg.Study:
    names = pd.Index([f"g{i}" for i in range(x.shape[1])])
    obs = pd.DataFrame({"label": np.resize(["a", "b"], x.shape[0])}, index=[f"c{i}" for i in range(x.shape[0])])
    return cg.Study(AnnData(x, obs=obs, var=pd.DataFrame(index=names)), cg.Design(counts=counts))


def measured(n: int, genes: int) -> np.ndarray:
    rng = np.random.default_rng(n)
    mixing = rng.normal(size=(genes, genes)) * np.geomspace(5.0, 0.1, genes)
    return (rng.normal(size=(n, genes)) @ mixing.T + rng.uniform(1, 9, genes)).astype(np.float32)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize(("n", "genes"), [(150, 20), (30, 90)], ids=["tall", "wide"])
def test_axes_are_those_of_principal_component_analysis(n: int, genes: int, scale: bool) -> None:
    x = measured(n + 10, genes)
    study, rows = study_of(x), np.arange(n)
    axes = Axes.fit(study, rows, Genes(transform="none", scale=scale), 12)
    sd = x[:n].std(axis=0, ddof=1) if scale else np.ones(genes)
    pca = PCA(12, svd_solver="full").fit(x[:n].astype(np.float64) / sd)
    np.testing.assert_allclose(axes.variance, pca.explained_variance_ * (n - 1) / n, rtol=1e-3)
    sign = np.sign((axes.components * pca.components_.T).sum(axis=0))
    spread = np.sqrt(pca.explained_variance_)
    # The ten last cells were not among those of the fit.
    expected = pca.transform(x / sd) * sign
    assert np.abs(axes.encode(study.adata) - expected).max() < 2e-3 * spread[0]
    np.testing.assert_allclose(axes.components.T @ axes.components, np.eye(12), atol=1e-5)
    largest = np.abs(axes.components).argmax(axis=0)
    assert (axes.components[largest, np.arange(12)] > 0).all(), "the sign is no matter of chance"


def test_axes_of_counts_are_the_same_however_counts_are_stored() -> None:
    counts = np.random.default_rng(0).poisson(3.0, (60, 25)).astype(np.float32)
    genes = Genes(n_top=15)
    sparse, dense = (study_of(x, "X") for x in (sp.csr_matrix(counts), counts))
    one, two = (Axes.fit(s, np.arange(40), genes, 8) for s in (sparse, dense))
    np.testing.assert_array_equal(one.genes.columns, two.genes.columns)
    np.testing.assert_allclose(one.encode(sparse.adata), two.encode(dense.adata), atol=1e-4)
    values = next(iter(one.genes.transformed(sparse.adata, np.arange(60))))
    assert sp.issparse(values)
    codes = one.encode(sparse.adata)
    np.testing.assert_allclose(one.project(values), codes, atol=1e-5)
    np.testing.assert_allclose(one.project(values.toarray(), 3), codes[:, :3], atol=1e-5)
    np.testing.assert_allclose(one.encode(sparse.adata, [7, 3]), codes[[7, 3]], atol=1e-5)
    assert one.encode(sparse.adata, []).shape == (0, 8)


def test_axes_are_no_more_than_the_cells_span() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(40, 300)) + 5).astype(np.float32)
    assert Axes.fit(study_of(x), np.arange(40), Genes(transform="none"), 100).dim == 39
    flat = (rng.normal(size=(200, 3)) @ rng.normal(size=(3, 30))).astype(np.float32)
    assert Axes.fit(study_of(flat), np.arange(200), Genes(transform="none"), 100).dim == 3
    with pytest.raises(DataError, match="same values in all genes"):
        Axes.fit(study_of(np.ones((20, 5), np.float32)), np.arange(20), Genes(transform="none"), 3)


@pytest.fixture(scope="module")
def counted() -> cg.Study:
    counts = np.random.default_rng(1).poisson(4.0, (24, 40))
    counts[:, 5] = 0
    return study_of(sp.csr_matrix(counts.astype(np.int32)), "X")


def test_thinned_counts_are_binomial_parts(counted: cg.Study) -> None:
    rows, columns = np.arange(3, 23), np.arange(0, 40, 3)
    views = ThinnedCounts.of(
        counted, rows, columns, n_views=400, least=0.2, rng=np.random.default_rng(0)
    )  # fmt: skip
    whole = counted.adata.X[rows].toarray()
    np.testing.assert_array_equal(views.counts[0].toarray(), whole[:, columns])
    np.testing.assert_array_equal(views.totals[0], whole.sum(axis=1))
    counts = np.stack([c.toarray() for c in views.counts[1:]])
    totals = np.stack(views.totals[1:])
    assert (counts >= 0).all() and (counts <= whole[:, columns]).all()
    assert (totals - counts.sum(axis=2) >= 0).all()
    assert (totals - counts.sum(axis=2) <= whole.sum(axis=1) - whole[:, columns].sum(axis=1)).all()
    # A part of log-uniform size, of mean (1 - 0.2) / log(5) and mean square (1 - 0.04) / (2 log 5).
    mean = 0.8 / np.log(5)
    spread = np.sqrt(0.96 / (2 * np.log(5)) - mean**2)
    part = totals / whole.sum(axis=1)
    assert abs(part.mean() - mean) < 5 * spread / np.sqrt(part.size)
    assert part.std() == pytest.approx(spread, rel=0.1)
    # Given how many molecules are left, those of the chosen genes are a draw without replacement.
    n, inside = whole.sum(axis=1), whole[:, columns].sum(axis=1)
    expected = totals * inside / n
    variance = totals * (inside / n) * (1 - inside / n) * (n - totals) / (n - 1)
    thinner = totals < n
    z = (counts.sum(axis=2) - expected)[thinner] / np.sqrt(variance[thinner])
    assert abs(z.mean()) < 5 / np.sqrt(z.size) and z.var() == pytest.approx(1.0, abs=0.08)


def test_thinned_counts_in_gene_space(counted: cg.Study) -> None:
    rows = np.arange(3, 23)
    few = Axes.fit(counted, rows, Genes(n_top=10), 4)
    other = Axes.fit(counted, rows[:12], Genes(n_top=10), 4)
    columns = np.union1d(few.genes.columns, other.genes.columns)
    assert len(columns) > 10
    views = ThinnedCounts.of(counted, rows, columns, n_views=3, least=0.5, rng=np.random.default_rng(0))
    places = np.array([4, 0, 9])
    for axes in (few, other):
        values = views.genes(axes, places)
        whole = next(iter(axes.genes.transformed(counted.adata, rows[places])))
        np.testing.assert_allclose(values[0].toarray(), whole.toarray(), rtol=1e-5)
        chosen = np.searchsorted(columns, axes.genes.columns)
        for value, counts, totals in zip(values, views.counts, views.totals, strict=True):
            share = counts[places].toarray()[:, chosen] / totals[places, None]
            np.testing.assert_allclose(value.toarray(), np.log1p(1e4 * share), rtol=1e-5)
        codes = views.codes(axes, places, 2)
        assert codes.shape == (3, 3, 2)
        np.testing.assert_allclose(codes[0], axes.encode(counted.adata, rows[places])[:, :2], atol=1e-4)
        assert np.abs(codes[1] - codes[0]).max() > 1e-3


def overlapping(n: int = 300, dim: int = 6, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    y = np.r_[np.arange(classes), rng.integers(classes, size=n - classes)]
    centers = rng.normal(size=(classes, dim))
    x = (centers[y] + rng.normal(size=(n, dim))) * np.geomspace(3.0, 0.3, dim)
    return x.astype(np.float32), y


@pytest.fixture(scope="module")
def cloud() -> tuple[np.ndarray, np.ndarray]:
    return overlapping()


def test_ridge_is_logistic_regression_for_every_strength_in_the_order_given(cloud) -> None:
    x, y = cloud
    strengths = (1.0, 0.01, 10.0, 0.1)
    path = ridge_path(x, y, 4, strengths)
    assert len(path) == 4
    for strength, line in zip(strengths, path, strict=True):
        model = LogisticRegression(C=strength, tol=1e-9, max_iter=5000).fit(x.astype(np.float64), y)
        found = np.exp(log_softmax(line.scores(x), axis=1))
        # Descent stops where the mean loss falls by less than a ten-millionth: flat minima of weak penalties show it.
        np.testing.assert_allclose(found, model.predict_proba(x), atol=1e-3 if strength <= 1 else 3e-3)
    sizes = [float(np.linalg.norm(line.weight)) for line in path]
    assert sorted(sizes) == [sizes[1], sizes[3], sizes[0], sizes[2]]
    (alone,) = ridge_path(x, y, 4, (10.0,))
    found, expected = (np.exp(log_softmax(line.scores(x), axis=1)) for line in (alone, path[2]))
    np.testing.assert_allclose(found, expected, atol=3e-3)


def criterion(flat: np.ndarray, x: np.ndarray, y: np.ndarray, strength: float, tau: float) -> float:
    """Return ``C sum l_tau + |W|^2 / 2`` over C n, by the losses that networks have."""
    u = flat.reshape(x.shape[1] + 1, -1)
    own = -log_softmax(x @ u[:-1] + u[-1], axis=1)[np.arange(len(y)), y]
    loss = own if tau == 1 else np.expm1((1 - tau) * own) / (1 - tau)
    return float(loss.mean() + (u[:-1] ** 2).sum() / (2 * strength * len(y)))


@pytest.mark.parametrize("tau", [0.5, 1.5, 2.0])
def test_ridge_descends_any_comp_sum_loss(cloud, tau: float) -> None:
    x, y = cloud
    strength = 0.3
    plain, found = (ridge_path(x, y, 4, (strength,), tau=t)[0] for t in (1.0, tau))
    flat, start = (np.concatenate([line.weight, line.bias[None]]).ravel() for line in (found, plain))
    given = (x.astype(np.float64), y, strength, tau)
    np.testing.assert_allclose(
        np.mean(np.asarray(comp_sum_of_log_loss(jnp.asarray([0.1, 3.0]), tau))),
        np.mean(np.expm1((1 - tau) * np.array([0.1, 3.0])) / (1 - tau)),
        rtol=1e-5,
    )
    reached = criterion(flat, *given)
    assert reached < criterion(start, *given) - 1e-4, "cross-entropy has another minimizer"
    # From there another optimizer, with gradients by differences, gains next to nothing.
    further = minimize(criterion, flat, args=given, method="BFGS", options={"gtol": 1e-6})
    assert reached - further.fun < 2e-5
    numerical = np.array([
        (criterion(flat + step, *given) - criterion(flat - step, *given)) / 2e-4 for step in 1e-4 * np.eye(flat.size)
    ])  # fmt: skip
    numerical_at_start = np.array([
        (criterion(start + step, *given) - criterion(start - step, *given)) / 2e-4 for step in 1e-4 * np.eye(flat.size)
    ])  # fmt: skip
    assert np.abs(numerical).max() < 0.05 * np.abs(numerical_at_start).max()


def test_ridge_without_cells_of_a_class(cloud) -> None:
    x, y = cloud
    kept = y != 1
    (with_hole,) = ridge_path(x[kept], y[kept], 4, (1.0,))
    (dense,) = ridge_path(x[kept], np.searchsorted([0, 2, 3], y[kept]), 3, (1.0,))
    p = np.exp(log_softmax(with_hole.scores(x), axis=1))
    assert p[:, 1].max() < 1e-6
    np.testing.assert_allclose(p[:, [0, 2, 3]], np.exp(log_softmax(dense.scores(x), axis=1)), atol=1e-6)


@pytest.mark.parametrize("n_folds", [8, 3])
def test_folds_leave_every_domain_out_once(n_folds: int) -> None:
    rng = np.random.default_rng(0)
    domain = rng.choice(5, size=600, p=[0.4, 0.3, 0.1, 0.1, 0.1])
    y = rng.integers(3, size=600)
    names = tuple("ABCDE")
    folds = folds_of(y, domain, names, n_folds=n_folds, inside=0.1, seed=0)
    assert len(folds) == min(n_folds, 5)
    together = np.concatenate([f.outside for f in folds])
    np.testing.assert_array_equal(np.sort(together), np.arange(600))
    for fold in folds:
        np.testing.assert_array_equal(np.sort(np.r_[fold.train, fold.inside, fold.outside]), np.arange(600))
        left = {names[d] for d in np.unique(domain[fold.outside])}
        assert left.isdisjoint({names[d] for d in domain[np.r_[fold.train, fold.inside]]})
        assert set(fold.name.split(" + ")) == left
        assert len(fold.inside) == round(0.1 * (600 - len(fold.outside)))
    if n_folds == 3:
        sizes = sorted(len(f.outside) for f in folds)
        assert folds[0].name == "A" and sizes[0] > 140, "groups are of about equal size"
    again = folds_of(y, domain, names, n_folds=n_folds, inside=0.1, seed=0)
    other = folds_of(y, domain, names, n_folds=n_folds, inside=0.1, seed=1)
    assert all((a.inside == b.inside).all() for a, b in zip(folds, again, strict=True))
    assert any((a.inside != b.inside).any() for a, b in zip(folds, other, strict=True))


def test_folds_of_one_domain_are_of_cells_with_their_share_of_every_class() -> None:
    y = np.repeat([0, 1, 2], [40, 20, 12])
    folds = folds_of(y, np.zeros(72, int), ("all cells",), n_folds=4, inside=0.3, seed=0)
    assert [f.name for f in folds] == ["fold 1", "fold 2", "fold 3", "fold 4"]
    np.testing.assert_array_equal(np.sort(np.concatenate([f.outside for f in folds])), np.arange(72))
    for fold in folds:
        assert len(fold.inside) == 0 and len(fold.train) == 54
        np.testing.assert_array_equal(np.bincount(y[fold.outside]), [10, 5, 3])


def test_folds_set_nothing_aside_where_that_would_be_a_handful() -> None:
    folds = folds_of(np.arange(90) % 3, np.arange(90) // 30, ("A", "B", "C"), n_folds=8, inside=0.1, seed=0)
    assert [len(f.inside) for f in folds] == [0, 0, 0] and [len(f.train) for f in folds] == [60, 60, 60]


def test_folds_refuse_classes_that_are_in_one_domain_alone() -> None:
    domain = np.repeat([0, 1], 30)
    with pytest.raises(DataError, match=r"confounded: .*\(A, B\)"):
        folds_of(domain, domain, ("A", "B"), n_folds=8, inside=0.1, seed=0)


def drawn(n: int, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return log-probabilities, and classes drawn by them."""
    rng = np.random.default_rng(seed)
    log_p = log_softmax(2 * rng.normal(size=(n, classes)), axis=1)
    y = (rng.random((n, 1)) > np.cumsum(np.exp(log_p), axis=1)).sum(axis=1)
    return log_p, np.minimum(y, classes - 1)


@pytest.mark.parametrize("hidden", [0.4, 1.0, 3.0])
def test_judged_find_the_temperature(hidden: float) -> None:
    log_p, y = drawn(6000)
    known = np.arange(6000) % 3 > 0
    spoiled = np.where(known, y, 2 - log_p.argmax(axis=1))
    judged = Judged(("one",), np.zeros(6000, int), spoiled, known)
    assert judged.temperature(hidden * log_p) == pytest.approx(hidden, rel=0.08)


def test_judged_mean_over_divisions_of_known_cells() -> None:
    log_p = np.log(np.array([[0.5, 0.5], [0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]]))
    judged = Judged(
        ("one", "none", "two"), np.array([0, 0, 0, 2, 2]), np.array([0, 0, 1, 1, 0]), np.arange(5) < 4
    )  # fmt: skip
    first = -np.log([0.5, 0.9, 0.4])
    assert judged.loss(log_p, "log_loss") == pytest.approx((first.mean() - np.log(0.8)) / 2)
    balanced = (first[:2].mean() + first[2]) / 2
    assert judged.loss(log_p, "balanced_log_loss") == pytest.approx((balanced - np.log(0.8)) / 2)
    rows = judged.rows(log_p, "name")
    assert [row["domain"] for row in rows] == ["one", "two"]
    assert rows[1] == {
        "candidate": "name", "domain": "two", "log_loss": pytest.approx(-np.log(0.8)),
        "balanced_log_loss": pytest.approx(-np.log(0.8)), "accuracy": 1.0, "macro_f1": 1.0,
    }  # fmt: skip


def test_mixtures() -> None:
    (line, _), (net, _) = drawn(50, seed=1), drawn(50, seed=2)
    np.testing.assert_array_equal(Mixture(0.0, 2.0, 3.0, 1.5)(line, net * np.nan), tempered(tempered(line, 2.0), 1.5))
    np.testing.assert_array_equal(Mixture(1.0, 2.0, 3.0, 1.5)(line * np.nan, net), tempered(tempered(net, 3.0), 1.5))
    both = Mixture(0.25, 2.0, 3.0, 1.0)(line, net)
    parts = [np.exp(p / t) / np.exp(p / t).sum(axis=1, keepdims=True) for p, t in ((line, 2.0), (net, 3.0))]
    np.testing.assert_allclose(np.exp(both), 0.75 * parts[0] + 0.25 * parts[1], rtol=1e-10)
    np.testing.assert_allclose(np.exp(mixed(line, net, 0.5)), (np.exp(line) + np.exp(net)) / 2, rtol=1e-10)


CRITERIA = ("log_loss", "balanced_log_loss")


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_choice_is_the_least_loss_on_domains_that_were_left_out(criterion: Any) -> None:
    truth, y = drawn(2000)
    rng = np.random.default_rng(5)

    def noisy(size: float) -> np.ndarray:
        return log_softmax(truth + size * rng.normal(size=truth.shape), axis=1)

    judged = Judged(("A", "B"), np.repeat([0, 1], [1500, 500]), y, np.ones(2000, bool))
    linear = {0.1: noisy(2.0), 1.0: noisy(0.8), 10.0: 3 * noisy(3.0)}
    network = {10: noisy(2.5), 20: noisy(1.0)}
    choice = choose(judged, linear, network, criterion=criterion)
    assert (choice.strength, choice.n_axes) == (1.0, 20)
    table = choice.trials
    assert {"candidate", "domain", "accuracy", "macro_f1", "chosen", *CRITERIA} == set(table.columns)
    assert len(table) == 2 * (3 + 2 + 5)
    means = table.groupby("candidate")[criterion].mean()
    mixtures = means[[c for c in means.index if "%" in c]]
    (name,) = table.loc[table["chosen"], "candidate"].unique()
    assert name == mixtures.idxmin() and 0 < choice.mixture.share < 1, "errors of both are independent: mixed they win"
    assert mixtures.min() == pytest.approx(judged.loss(choice.mixture(linear[1.0], network[20]), criterion))
    assert choose(judged, linear, network, (1.0,), criterion).mixture.share == 1.0
    certain = choose(judged, {1.0: truth}, {20: noisy(20.0)}, criterion=criterion)
    assert certain.mixture.share == 0.0 and certain.mixture.linear == pytest.approx(1.0, abs=0.1)


def test_rare_classes_count_as_much_as_frequent_ones_where_the_loss_is_balanced() -> None:
    y = np.repeat([0, 1], [950, 50])
    judged = Judged(("A",), np.zeros(1000, int), y, np.ones(1000, bool))
    rng = np.random.default_rng(0)

    def saying(wrong: tuple[float, float]) -> np.ndarray:
        """Return log-probabilities that are as sure everywhere, and wrong in a share of each class."""
        own = np.where(rng.random(1000) < np.asarray(wrong)[y], 0.1, 0.9)
        return np.log(np.where(y[:, None] == np.arange(2), own[:, None], 1 - own[:, None]))

    linear = {0.1: saying((0.01, 0.4)), 1.0: saying((0.05, 0.1))}
    network = {5: np.log(np.full((1000, 2), 0.5))}
    found = [choose(judged, linear, network, (0.0,), criterion).strength for criterion in CRITERIA]
    assert found == [0.1, 1.0]


def test_thresholds_bring_false_assignments_down_to_what_is_asked() -> None:
    rng = np.random.default_rng(0)
    known = Seen(1 - 0.3 * rng.random(4000) ** 2, 0.5 + rng.random(4000))
    unseen = {
        "far": Seen(0.7 + 0.3 * rng.random(300), 1.3 + 0.4 * rng.random(300)),
        "unsure": Seen(0.62 + 0.4 * rng.random(200), 0.5 + rng.random(200)),
    }
    found, table = thresholds_of(known, unseen, false_assignment=0.6, most_unassigned=0.2)

    def rates(t: Thresholds) -> tuple[float, float, dict[str, float]]:
        out = float(((known.probability < t.probability) | (known.distance > t.distance)).mean())
        each = {
            name: float(((u.probability >= t.probability) & (u.distance <= t.distance)).mean())
            for name, u in unseen.items()
        }
        return out, float(np.mean(list(each.values()))), each

    out, rate, each = rates(found)
    assert found.reached and rate <= 0.6 and out <= 0.2
    assert (found.unassigned, found.false_assignment) == (pytest.approx(out), pytest.approx(rate))
    assert dict(zip(table["class"], table["labelled"], strict=True)) == pytest.approx(each)
    assert list(table["n_cells"]) == [300, 200]
    novelty = found.novelty(known.probability, known.distance)
    assert float((novelty > 1).mean()) == pytest.approx(out)
    far = found.novelty(unseen["far"].probability, unseen["far"].distance)
    auroc = roc_auc_score(np.r_[np.zeros(4000), np.ones(300)], np.r_[novelty, far])
    assert table["auroc"][0] == pytest.approx(auroc)
    # Asking for less takes fewer known cells away.
    lenient, _ = thresholds_of(known, unseen, false_assignment=0.85, most_unassigned=0.2)
    assert lenient.unassigned < found.unassigned and lenient.reached


def test_thresholds_stop_at_the_most_known_cells_that_may_be_lost() -> None:
    rng = np.random.default_rng(0)
    known = Seen(rng.random(2000), rng.random(2000))
    alike, table = thresholds_of(known, {"same": known}, false_assignment=0.1, most_unassigned=0.05)
    assert not alike.reached and 0.04 < alike.unassigned <= 0.05 and alike.false_assignment > 0.9
    assert table["auroc"][0] == pytest.approx(0.5, abs=0.02)
    nothing, table = thresholds_of(known, {}, false_assignment=0.1, most_unassigned=0.05)
    assert np.isnan(nothing.false_assignment) and not nothing.reached and len(table) == 0
    assert list(table.columns) == ["class", "n_cells", "labelled", "auroc"]
    assert 0 < nothing.unassigned < 0.01


def test_sure_cells_are_not_unassigned_because_all_known_ones_are_sure() -> None:
    known = Seen(np.ones(500), np.linspace(0.5, 1.5, 500))
    found, _ = thresholds_of(known, {}, false_assignment=0.1, most_unassigned=0.05)
    sure, near = np.array([1.0, 1 - 1e-12, 0.9]), np.full(3, 0.7)
    assert (found.novelty(sure, near) > 1).tolist() == [False, False, True]
    names = np.array(["a"] * 3, dtype=object)
    said = reasons(names, sure, names, 1 - sure, near, found)
    assert [text.startswith("unassigned") for text in said] == [False, False, True]


def test_prototypes_measure_the_distance_of_mahalanobis(cloud) -> None:
    x, y = cloud
    prototypes = Prototypes.of(x, y, 5)
    means = np.stack([x[y == c].mean(axis=0, dtype=np.float64) for c in range(4)])
    np.testing.assert_allclose(prototypes.means[:4], means, rtol=1e-6)
    assert np.isnan(prototypes.means[4]).all()
    covariance, _ = ledoit_wolf(x - means[y], assume_centered=True)
    inverse = np.linalg.inv(covariance)
    dim = x.shape[1]

    def expected(left: list[int]) -> list[float]:
        return [min(mahalanobis(cell, means[c], inverse) for c in left) / np.sqrt(dim) for cell in x[:40]]

    np.testing.assert_allclose(prototypes.distance(x[:40]), expected([0, 1, 2, 3]), rtol=1e-6)
    # With many cells the covariance is hardly shrunk, and 1 is the distance of a typical cell to its own mean.
    x, y = overlapping(5000)
    many = Prototypes.of(x, y, 4)
    own = np.concatenate([Prototypes(many.means[c : c + 1], many.whitening).distance(x[y == c]) for c in range(4)])
    assert np.mean(own**2) == pytest.approx(1.0, abs=0.02)


def views(weight: np.ndarray, length: int | None = None) -> Views:
    n = len(weight)
    return Views.of(np.arange(2.0 * n).reshape(n, 2), np.arange(n), np.arange(n) % 2, weight, length)


def drawn_rows(of: Views, n: int = 20_000) -> np.ndarray:
    return np.asarray(of.draw(jr.key(0), n))


def test_views_are_drawn_by_their_weights_and_never_where_they_only_fill_up() -> None:
    weight = np.array([1.0, 0.0, 3.0, 2.0, 0.0, 4.0])
    for given in (views(weight), views(weight, 64)):
        count = np.bincount(drawn_rows(given), minlength=6)
        assert len(count) == 6 and count[1] == count[4] == 0
        kept = weight > 0
        expected = 20_000 * weight[kept] / weight.sum()
        assert ((count[kept] - expected) ** 2 / expected).sum() < chi2(3).ppf(1 - 1e-6)
    filled = views(weight, 64)
    assert filled.x.shape == (64, 2) and filled.y.shape == filled.domain.shape == filled.cumulative.shape == (64,)
    np.testing.assert_array_equal(filled.x[:6], views(weight).x)
    ends = views(np.array([0.0, 1.0, 0.0]), 8)
    assert set(drawn_rows(ends, 1000)) == {1}


def test_a_network_on_coordinates_is_one_on_genes(cloud) -> None:
    x, _ = cloud
    tower = Tower((3, 8, 4), norm="layer", activation="gelu", key=jr.key(0))
    components = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)
    center = jnp.arange(6.0)
    whole = Projected(components, center, tower)
    codes = (jnp.asarray(x) - center) @ components
    np.testing.assert_allclose(whole(jnp.asarray(x)), tower(codes), atol=1e-5)
    scores, moved = whole.training(jnp.asarray(x))
    np.testing.assert_allclose(scores, tower.training(codes)[0], atol=1e-5)
    assert jax.tree.structure(moved) == jax.tree.structure(whole)


def test_networks_are_built_alike_and_their_probabilities_are_averaged(cloud) -> None:
    x, _ = cloud
    keys = jr.split(jr.key(0), 3)
    nets = built((6, 8, 4), "layer", "gelu", keys)
    singles = [Tower((6, 8, 4), norm="layer", activation="gelu", key=key) for key in keys]
    for leaf, parts in zip(
        jax.tree.leaves(nets), zip(*map(jax.tree.leaves, singles), strict=True), strict=True
    ):  # fmt: skip
        np.testing.assert_allclose(leaf, np.stack(parts), atol=1e-6)
    each = np.stack([np.asarray(jax.nn.log_softmax(net(jnp.asarray(x)), axis=1)) for net in singles])
    found = log_probabilities(nets, np.stack([x, x[::-1], x]))
    np.testing.assert_allclose(found, np.stack([each[0], each[1][::-1], each[2]]), atol=1e-5)
    mean = logsumexp(each, axis=0) - np.log(3)
    # Blocks of cells are filled up to a power of two, which must not be seen.
    for n in (1, 63, 65, 300):
        np.testing.assert_allclose(said_by(nets, x[:n]), mean[:n], atol=1e-5)
    two = eqx.filter_jit(lambda nets: jax.tree.map(lambda leaf: leaf[:2], nets))(nets)
    assert np.abs(said_by(two, x) - mean).max() > 1e-3


def test_learning_rates_rise_and_fall() -> None:
    rate = schedule_of(0.1, 10, 100)
    steps = np.array([float(rate(i)) for i in range(101)])
    np.testing.assert_allclose(steps[:11], np.linspace(0, 0.1, 11), rtol=1e-5)
    assert (np.diff(steps[10:]) <= 1e-9).all() and steps[100] == pytest.approx(1e-3, rel=1e-4)
    assert float(schedule_of(0.1, 0, 50)(0)) == pytest.approx(0.1)
    assert np.isfinite(float(schedule_of(0.1, 30, 1)(0))), "fewer steps than the warm-up"


def test_reasons_say_which_of_the_thresholds_was_passed() -> None:
    best = np.array(["a", "a", "a", "a", "a"], dtype=object)
    second = np.array(["b", "b", "c", "b", "d"], dtype=object)
    first = np.array([0.95, 0.8, 0.4, 0.95, 0.4])
    runner_up = np.array([0.04, 0.15, 0.3, 0.04, 0.3])
    distance = np.array([1.0, 1.0, 1.0, 2.0, 2.0])
    thresholds = Thresholds(0.5, 1.5, 0.01, 0.1, True)
    assert reasons(best, first, second, runner_up, distance, thresholds).tolist() == [
        "clear",
        "most probable, but a or b",
        "unassigned: unsure, a or c",
        "unassigned: far from all types, nearest a",
        "unassigned: far from all types, and unsure: a or d",
    ]
    # What is on a threshold has not passed it.
    edge = dataclasses.replace(thresholds, probability=0.8, distance=1.0)
    assert reasons(best[:2], first[:2], second[:2], runner_up[:2], distance[:2], edge)[1].startswith("most probable")

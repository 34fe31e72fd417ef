"""Embeddings side by side: what is kept, what is mixed, and by how much chance would do."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import silhouette_score

from cellgap.embed import knn_probe, linear_probe, ridge_probe
from cellgap.errors import ConfigError, DataError
from cellgap.evaluate import embedding_scores

N = 240


@pytest.fixture(scope="module")
def cells():
    """Return a table of cells of three types in two batches and four donors, with an age that lies on axis 4."""
    rng = np.random.default_rng(0)
    types, donors = rng.integers(0, 3, N), np.arange(N) % 4
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(types, ["B", "NK", "T"]),
            "donor": pd.Categorical(np.array(list("abcd"))[donors]),
            "batch": np.where(donors < 2, 1, 2),
            "age": rng.normal(size=N),
        }
    )
    h = np.c_[6.0 * np.eye(3)[types], np.zeros(N), obs["age"]] + 0.5 * rng.normal(size=(N, 5))
    return obs, h


@pytest.fixture(scope="module")
def scores(cells):
    obs, h = cells
    apart = h + 40.0 * np.eye(5)[3] * (obs["batch"].to_numpy()[:, None] - 1)
    noise = np.random.default_rng(1).normal(size=(N, 2))
    found = embedding_scores(
        {"mixed": h, "apart": apart, "noise": noise}, obs, labels=["cell_type", "age"], batch="batch", donors="donor"
    )
    return found.set_index(["embedding", "kind", "factor", "metric"]).sort_index()


def test_one_row_an_embedding_factor_and_metric(scores):
    assert scores.index.is_unique and len(scores) == 3 * (7 + 1 + 5)
    assert list(scores.columns) == ["value", "chance", "p_value"]


def test_values_are_those_of_the_probes_that_leave_donors_out(cells, scores):
    obs, h = cells
    kept = scores.loc[("mixed", "bio")]
    donors = obs["donor"].to_numpy()
    linear, knn = (p(h, obs["cell_type"].astype(str), groups=donors) for p in (linear_probe, knn_probe))
    for name, found in (("linear", linear), ("knn", knn)):
        for metric in ("accuracy", "balanced_accuracy", "macro_f1"):
            row = kept.loc[("cell_type", f"{name}_{metric}")]
            assert row["value"] == pytest.approx(getattr(found, metric))
            assert row["p_value"] == pytest.approx(found.p_value)
    assert kept.loc[("cell_type", "knn_accuracy"), "chance"] == pytest.approx(knn.chance)
    assert kept.loc[("cell_type", "knn_balanced_accuracy"), "chance"] == pytest.approx(1 / 3)
    assert kept.loc[("age", "ridge_r2"), "value"] == pytest.approx(ridge_probe(h, obs["age"], groups=donors).r2)
    assert kept.loc[("cell_type", "silhouette"), "value"] == pytest.approx(silhouette_score(h, obs["cell_type"]))


def test_chance_of_macro_f1_is_that_of_always_saying_one_class(cells):
    obs, _ = cells
    # Nothing to tell classes by: neighbors of all are alike, the majority wins wherever cells are.
    labels = np.where(np.arange(N) < 200, "often", "rare")
    h = np.random.default_rng(0).permutation(np.linspace(0, 1, N))[:, None]
    found = embedding_scores({"line": h}, obs.assign(label=labels), labels="label", k=100).set_index("metric")
    assert found.loc["knn_macro_f1", "value"] == pytest.approx(found.loc["knn_macro_f1", "chance"])
    assert found.loc["knn_accuracy", "value"] == pytest.approx(found.loc["knn_accuracy", "chance"])
    assert found.loc["knn_accuracy", "p_value"] == 1


def test_noise_keeps_nothing_and_mixes(scores):
    noise = scores.loc["noise"]
    assert (noise.loc["bio", "p_value"].dropna() > 0.05).all()
    assert abs(noise.loc[("bio", "cell_type", "silhouette"), "value"]) < 0.05
    assert noise.loc[("batch", "batch", "mixing"), "value"] > 0.85
    assert noise.loc[("batch", "batch", "knn_accuracy"), "p_value"] > 0.05


def test_batches_that_lie_apart(scores):
    apart, mixed = scores.loc[("apart", "batch")], scores.loc[("mixed", "batch")]
    assert apart.loc[("batch", "mixing"), "value"] == 0
    assert apart.loc[("batch", "knn_accuracy"), "value"] == 1
    assert apart.loc[("batch", "silhouette"), "value"] > 0.5
    assert mixed.loc[("batch", "mixing"), "value"] > 0.85
    # Every type falls into two islands, one a batch, of about half of its cells.
    assert 0.5 <= apart.loc[("cell_type", "graph_connectivity"), "value"] < 0.6
    assert mixed.loc[("cell_type", "graph_connectivity"), "value"] == 1


def test_graph_connectivity_by_hand():
    # Islands of 4 and of 2 cells of one class; the other class hangs together only through the first one's cells.
    line = np.array([0.0, 1, 2, 3, 50, 51, 52, 53, 100, 101])[:, None]
    labels = ["a", "a", "a", "a", "b", "a", "a", "b", "b", "b"]
    obs = pd.DataFrame({"label": labels, "batch": list("xy") * 5})
    found = embedding_scores({"line": line}, obs, labels="label", batch="batch", k=1, n_folds=2)
    value = found.set_index("metric").loc["graph_connectivity", "value"]
    assert value == pytest.approx((4 / 6 + 2 / 4) / 2)


def test_cells_without_a_label_are_left_out(cells):
    obs, h = cells
    some = np.arange(N) % 3 > 0
    gappy = obs.assign(cell_type=obs["cell_type"].where(some), age=obs["age"].where(some))
    found = embedding_scores({"h": h}, gappy, labels=["cell_type", "age"], donors="donor")
    alone = embedding_scores({"h": h[some]}, gappy[some], labels=["cell_type", "age"], donors="donor")
    pd.testing.assert_frame_equal(found, alone)


def test_a_silhouette_of_some_cells(cells):
    obs, h = cells
    wanted = {"labels": "cell_type", "donors": "donor"}
    few, all_ = (embedding_scores({"h": h}, obs, most_cells=n, **wanted).set_index("metric") for n in (100, N))
    assert few.loc["silhouette", "value"] != all_.loc["silhouette", "value"]
    assert few.loc["silhouette", "value"] == pytest.approx(all_.loc["silhouette", "value"], abs=0.05)


def test_refused(cells):
    obs, h = cells
    with pytest.raises(ConfigError, match="no column 'tissue'"):
        embedding_scores({"h": h}, obs, labels="tissue")
    with pytest.raises(ConfigError, match="column of labels"):
        embedding_scores({"h": h}, obs, labels=[])
    with pytest.raises(ConfigError, match="most_cells=2"):
        embedding_scores({"h": h}, obs, labels="cell_type", most_cells=2)
    with pytest.raises(DataError, match="needs an embedding"):
        embedding_scores({}, obs, labels="cell_type")
    with pytest.raises(DataError, match="'short' has 239 cells, but obs has 240"):
        embedding_scores({"short": h[1:]}, obs, labels="cell_type")
    with pytest.raises(DataError, match="two labels") as caught:
        embedding_scores({"mine": h}, obs.assign(one="a"), labels="one")
    assert caught.value.__notes__ == ["in the scores of embedding 'mine'"]
    bad = np.where(np.arange(N)[:, None] == 3, np.nan, h)
    with pytest.raises(DataError, match="embedding 'bad' must be finite"):
        embedding_scores({"bad": bad}, obs, labels="cell_type")

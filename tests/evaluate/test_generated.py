"""Scores of generated cells: against other libraries, on populations whose difference is known, and on bad input."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.spatial.distance import cdist

from cellgap.errors import ConfigError, DataError
from cellgap.evaluate import GENERATED_METRICS, generated_scores
from cellgap.evaluate._generated import _forest, _mmd, _twins, _w2

GENES = 30


def cells(n: int, seed: int, *, spread: float = 1.0, sparse: bool = False) -> AnnData:
    """Return two types of counts; `spread` scales how much cells of a type differ."""
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(99).gamma(1.0, size=(2, GENES)) + 0.1
    labels = np.repeat([0, 1], n)
    factor = np.exp(spread * 0.5 * rng.normal(size=(2 * n, 3)) @ np.random.default_rng(98).normal(size=(3, GENES)))
    share = base[labels] * factor
    mean = share / share.sum(1, keepdims=True) * rng.lognormal(6.0, 0.2, (2 * n, 1))
    obs = pd.DataFrame({"type": np.asarray(["a", "b"])[labels]}, index=[f"c{i}" for i in range(2 * n)])
    x = rng.poisson(mean).astype(np.float32)
    import scipy.sparse as sp

    return AnnData(sp.csr_matrix(x) if sparse else x, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(GENES)]))


@pytest.fixture(scope="module")
def real() -> AnnData:
    return cells(80, 0)


@pytest.fixture(scope="module")
def train() -> AnnData:
    return cells(120, 1)


def test_cells_of_the_same_law_are_at_the_floor(real, train):
    table = generated_scores(cells(80, 2, sparse=True), real, train, by="type")
    assert tuple(table.index) == GENERATED_METRICS and list(table) == ["generated", "floor", "excess"]
    for metric in ("energy", "energy_type", "zeros_w1", "library_w1"):
        assert abs(table.loc[metric, "excess"]) < 0.15, metric
    assert abs(table.loc["rf_auc", "generated"] - 0.5) < 0.12
    np.testing.assert_allclose(table["excess"], table["generated"] - table["floor"])


def test_a_narrow_population_looks_better_by_w2_and_worse_by_the_energy_distance(real, train):
    """What the biased distances reward, and why they do not rank."""
    narrow, fair = (generated_scores(cells(80, 2, spread=s), real, train, by="type")["generated"] for s in (0.7, 1.0))
    assert narrow["w2_type"] < fair["w2_type"]
    assert narrow["energy_type"] > fair["energy_type"] + 0.02


def test_order_does_not_matter_and_genes_are_found_by_name(real, train):
    made = cells(80, 2)
    order = np.random.default_rng(0).permutation(made.n_obs)
    one = generated_scores(made, real, train, by="type")["generated"]
    two = generated_scores(made[order], real[:, ::-1].copy(), train, by="type")["generated"]
    for metric in ("energy", "energy_type", "w2_type", "zeros_w1", "mean_rmse"):
        assert two[metric] == pytest.approx(one[metric], rel=1e-3, abs=1e-4)


def test_published_distances_equal_those_of_other_libraries():
    from sklearn.metrics.pairwise import rbf_kernel

    import ot

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20, 4)), rng.normal(size=(20, 4)) + 0.5
    expected = np.sqrt(ot.emd2([], [], cdist(a, b, "sqeuclidean")))
    assert _w2(a, b) == pytest.approx(expected, rel=1e-6)
    gammas = [1 / (2 * s**2) for s in (0.01, 0.1, 1.0, 10.0, 100.0)]
    total = sum(
        rbf_kernel(a, a, gamma=g).mean() + rbf_kernel(b, b, gamma=g).mean() - 2 * rbf_kernel(a, b, gamma=g).mean()
        for g in gammas
    )
    assert _mmd(a, b) == pytest.approx(total, rel=1e-6)


def test_a_forest_tells_different_cells_apart():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(60, 5)), rng.normal(size=(60, 5))
    assert abs(_forest(a, b, 0) - 0.5) < 0.15 and _forest(a, b + 2, 0) > 0.95


def test_no_training_cell_stands_in_twice_where_there_are_enough():
    labels, known = np.asarray(["a"] * 5 + ["b"] * 3), np.asarray(["b"] * 2 + ["a"] * 9)
    rows = _twins(labels, known, np.random.default_rng(0))
    assert (known[rows] == labels).all() and len(set(rows[:5])) == 5


def test_what_cannot_be_compared_is_refused(real, train):
    made = cells(80, 2)
    with pytest.raises(DataError, match="159 generated and 160 real"):
        generated_scores(made[:-1], real, train, by="type")
    with pytest.raises(DataError, match="no gene 'g0'"):
        generated_scores(made, real[:, 1:], train, by="type")
    with pytest.raises(DataError, match="'b' has no training cells"):
        generated_scores(made, real, train[:120], by="type")


def test_axes_of_cells_that_are_compared_follow_their_noise():
    """Few cells, many genes, no structure but types: new draws of the law look worse than training cells, unless the
    axes are new to both."""
    rng = np.random.default_rng(0)
    share = rng.gamma(1.0, size=(2, 300)) + 0.1

    def drawn(n: int) -> AnnData:
        x = rng.poisson(np.repeat(share / share.sum(1, keepdims=True), n, 0) * 500).astype(np.float32)
        obs = pd.DataFrame({"type": np.repeat(["a", "b"], n)}, index=[f"c{i}" for i in range(2 * n)])
        return AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(300)]))

    held, train, new = drawn(30), drawn(60), drawn(30)
    excess = {
        axes: generated_scores(new, held, train, by="type", axes=axes).loc["energy_type", "excess"]
        for axes in ("fresh", "all", "held_out")
    }
    floor = generated_scores(new, held, train, by="type", axes="held_out").loc["energy_type", "floor"]
    assert abs(excess["fresh"]) < 0.1
    assert excess["all"] > 0.2
    assert floor > 0.5


def test_unknown_axes_are_refused(real, train):
    with pytest.raises(ConfigError, match='"fresh", "all" or "held_out"'):
        generated_scores(cells(80, 2), real, train, by="type", axes="mine")

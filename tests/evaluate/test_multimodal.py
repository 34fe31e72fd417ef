"""Scores of two modalities on cells whose programs are known."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from cellgap.errors import DataError
from cellgap.evaluate import ACCESSIBILITY_METRICS, PAIRED_METRICS, accessibility_scores, paired_scores

GENES, PEAKS, TYPES = 40, 60, ("a", "b", "c")


def cells(n: int, seed: int, *, shared: bool = True, rate: float = 0.0) -> tuple[AnnData, AnnData]:
    """Return counts and open peaks: half of each follow programs, the same ones where `shared`."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    kind = np.repeat(np.arange(3), n)
    loadings = fixed.normal(size=(3, GENES // 2)), fixed.normal(size=(3, PEAKS // 2))
    by_type = fixed.normal(size=(3, GENES)), fixed.normal(size=(3, PEAKS))
    programs = [rng.normal(size=(3 * n, 3)) for _ in range(2)]
    if shared:
        programs[1] = programs[0]
    logs, logits = 0.5 * by_type[0][kind], by_type[1][kind] - 1.0 + rate
    logs[:, : GENES // 2] += 0.7 * programs[0] @ loadings[0]
    logits[:, : PEAKS // 2] += 1.5 * programs[1] @ loadings[1]
    share = np.exp(logs)
    x = rng.poisson(share / share.sum(1, keepdims=True) * 800).astype(np.float32)
    y = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    obs = pd.DataFrame({"type": np.asarray(TYPES)[kind]}, index=[f"c{i}" for i in range(3 * n)])
    names = [pd.DataFrame(index=[f"{k}{i}" for i in range(m)]) for k, m in (("g", GENES), ("p", PEAKS))]
    return AnnData(x, obs=obs, var=names[0]), AnnData(y, obs=obs.copy(), var=names[1])


@pytest.fixture(scope="module")
def held():
    return cells(100, 0)


@pytest.fixture(scope="module")
def train():
    return cells(150, 1)


def test_new_cells_of_the_same_law_are_at_the_floor(held, train):
    new = cells(100, 2)
    table = accessibility_scores(new[1], held[1], train[1], by="type")
    assert tuple(table.index) == ACCESSIBILITY_METRICS and list(table) == ["generated", "floor", "excess"]
    assert abs(table.loc["energy_type", "excess"]) < 0.1 and abs(table.loc["energy", "excess"]) < 0.05
    assert table.loc["open_rate_correlation", "excess"] > -0.05
    paired = paired_scores(new, held, train, by="type")
    assert tuple(paired.index) == PAIRED_METRICS
    assert paired.loc["cross_correlation", "generated"] > 0.8
    assert paired.loc["cross_correlation", "generated"] == pytest.approx(
        paired.loc["cross_correlation", "floor"], abs=0.1
    )
    assert paired.loc["pair_slope", "generated"] == pytest.approx(1.0, abs=0.15)
    assert paired.loc["category_correlation", "generated"] > 0.9


def test_peaks_that_are_open_too_often_are_seen(held, train):
    table = accessibility_scores(cells(100, 2, rate=1.0)[1], held[1], train[1], by="type")
    assert table.loc["open_rate_rmse", "excess"] > 0.1 and table.loc["open_w1", "excess"] > 0.2
    assert table.loc["energy_type", "excess"] > 0.3


def test_modalities_that_were_drawn_apart_are_seen(held, train):
    """Each modality alone is right, and they are not of one cell; means of types say nothing of it."""
    apart = cells(100, 2, shared=False)
    assert abs(accessibility_scores(apart[1], held[1], train[1], by="type").loc["energy_type", "excess"]) < 0.1
    paired = paired_scores(apart, held, train, by="type")
    for metric in ("cross_correlation", "pair_slope"):
        assert abs(paired.loc[metric, "generated"]) < 0.25, metric
        assert abs(paired.loc[metric, "apart"]) < 0.25, metric
    assert paired.loc["category_correlation", "generated"] > 0.9


def test_wrong_cells_are_refused(held, train):
    with pytest.raises(DataError, match="the same cells, found 300 and 10"):
        paired_scores((held[0], held[1][:10]), held, train, by="type")
    with pytest.raises(DataError, match="no feature 'p0'"):
        accessibility_scores(held[1], held[1][:, 1:], train[1], by="type")
    with pytest.raises(DataError, match="no gene 'g0'"):
        paired_scores(held, (held[0][:, 1:], held[1]), train, by="type")
    with pytest.raises(DataError, match="type 'c' has no training cells"):
        accessibility_scores(held[1], held[1], train[1][:300], by="type")

"""From cells with a time to trajectories: bins of equal size, clocks, labels, spaces, and back to populations."""

import dataclasses

import jax.random as jr
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from cellgap.dynamics import Bins, LawTraining, NeuralLaw, bin_cells
from cellgap.errors import ConfigError, DataError, DesignError
from cellgap.settings import from_dict, to_dict
from cellgap.space import PCA, Genes
from cellgap.study import Design, Split, Study, split
from cellgap.train import Loop

D = 4
RAW = Genes(transform="none")
SIZES = {("d1", "ery"): 40, ("d1", "mono"): 23, ("d2", "ery"): 31}


def cells(seed: int = 0) -> AnnData:
    """Return cells of two donors and two lineages along a pseudotime, in no order."""
    rng = np.random.default_rng(seed)
    labels = pd.DataFrame([k for k, n in SIZES.items() for _ in range(n)], columns=pd.Index(["donor", "lineage"]))
    time = rng.uniform(0, 2, len(labels)) + 10 * (labels["donor"] == "d2")
    base = np.exp(-np.outer(time % 10, np.arange(1, D + 1) / 3)) + 0.05 * rng.normal(size=(len(labels), D))
    obs = labels.assign(dpt=np.asarray(time), drug="none").sample(frac=1.0, random_state=seed)
    x = base[obs.index].astype(np.float32)
    obs.index = pd.Index([f"c{i}" for i in range(len(obs))])
    return AnnData(x, obs=obs, var=pd.DataFrame(index=pd.Index([f"g{i}" for i in range(D)])))


def study(**more) -> Study:
    return Study(cells(), Design(**{"context": ("donor", "lineage"), "time": "dpt"} | more))


def all_of(made: Study) -> Split:
    return split.everything(made, valid=0.0)


def of(who: Study, *labels: str) -> np.ndarray:
    obs = who.obs
    return np.flatnonzero((obs["donor"] == labels[0]) & (obs["lineage"] == labels[1]))


def test_bins_hold_equal_numbers_of_cells_in_the_order_of_time():
    made = study()
    found, space = bin_cells(all_of(made), Bins(n_bins=6, space=RAW))
    assert found.names == ("d1/ery", "d1/mono", "d2/ery") and found.variables == ("g0", "g1", "g2", "g3")
    assert list(found.about["donor"]) == ["d1", "d1", "d2"] and list(found.about["lineage"]) == ["ery", "mono", "ery"]
    x, time = np.asarray(made.adata.X), made.obs["dpt"].to_numpy(float)
    for i, labels in enumerate(SIZES):
        rows = of(made, *labels)
        rows = rows[np.argsort(time[rows], kind="stable")]
        parts = np.array_split(rows, 6)
        assert {len(p) for p in parts} <= {len(rows) // 6, len(rows) // 6 + 1}
        np.testing.assert_allclose(found.values[i], [x[p].mean(0) for p in parts], rtol=1e-5)
        np.testing.assert_allclose(found.times[i], [time[p].mean() for p in parts], rtol=1e-6)
        assert found.cells is not None
        np.testing.assert_allclose(found.cells[i][0], time[rows])
        np.testing.assert_allclose(found.cells[i][1], x[rows], rtol=1e-6)
    assert space.dim == D


def test_small_groups_get_fewer_bins():
    found, _ = bin_cells(all_of(study()), Bins(n_bins=6, least=7, space=RAW))
    np.testing.assert_array_equal(found.lengths, [5, 3, 4])
    with pytest.raises(DataError, match=r"d1/mono has 23 cells: too few for two bins of 12"):
        bin_cells(all_of(study()), Bins(least=12, space=RAW))


def test_clocks_are_given_rescaled_or_shares_of_cells():
    made = all_of(study())
    given, rescaled, shares = (
        bin_cells(made, Bins(n_bins=5, clock=clock, space=RAW))[0] for clock in ("as given", "rescaled", "quantiles")
    )
    assert given.times[2].min() > 10 and given.times[0].max() < 2
    for i in range(3):
        low, high = given.cells[i][0][[0, -1]]
        np.testing.assert_allclose(rescaled.times[i], (given.times[i] - low) / (high - low), rtol=1e-6)
        assert rescaled.cells[i][0][0] == 0 and rescaled.cells[i][0][-1] == pytest.approx(1.0)
        np.testing.assert_array_equal(given.values[i], rescaled.values[i])
    np.testing.assert_allclose(shares.times[0], [0.1, 0.3, 0.5, 0.7, 0.9], atol=1e-12)
    assert (np.diff(shares.times, axis=1) > 0).all()


def test_trajectories_are_told_apart_by_chosen_columns_or_by_all_contexts():
    made = all_of(study())
    assert bin_cells(made, Bins(by=("lineage",), space=RAW))[0].names == ("ery", "mono")
    assert bin_cells(made, Bins(by=("lineage", "donor"), space=RAW))[0].names[0] == "ery/d1"
    nothing = study(context=(), treatment="drug", control="none")  # no columns: one trajectory
    alone, _ = bin_cells(all_of(nothing), Bins(space=RAW))
    assert alone.names == ("all",) and alone.lengths[0] == 10 and set(alone.about["all"]) == {"all"}
    with pytest.raises(DesignError, match="obs has no column 'batch'"):
        bin_cells(made, Bins(by=("batch",)))


def test_chosen_cells_and_a_space_of_before_are_used():
    made = study()
    whole, space = bin_cells(all_of(made), Bins(n_bins=4, space=PCA(dim=2, genes=RAW)))
    assert whole.dim == 2 and whole.variables == ("code0", "code1")
    rows = of(made, "d2", "ery")
    other, same = bin_cells(all_of(made), Bins(n_bins=4), space=space, rows=rows)
    assert same is space and other.names == ("d2/ery",)
    np.testing.assert_allclose(other.values[0], whole.values[2], rtol=1e-5, atol=1e-6)
    codes = np.asarray(space.encode(made.adata, rows))
    np.testing.assert_allclose(other.states.mean(0), codes.mean(0), atol=0.05 * codes.std())


def test_counts_become_logarithms_of_normalized_counts_and_others_stay():
    adata = cells()
    adata.X = np.random.default_rng(0).poisson(5.0, adata.shape).astype(np.float32)
    made = Study(adata, Design(context=("donor", "lineage"), time="dpt", counts="X"))
    found, space = bin_cells(all_of(made))
    np.testing.assert_allclose(
        found.values[0].mean(0), np.asarray(space.encode(made.adata, of(made, "d1", "ery"))).mean(0), rtol=1e-4
    )
    assert found.values.max() > 5  # log of ten thousand by four genes
    plain, _ = bin_cells(all_of(study()))
    assert plain.values.max() < 1.2


def test_times_are_needed_and_finite():
    with pytest.raises(DesignError, match="a law needs times"):
        bin_cells(all_of(study(time=None)))
    late = study()
    late.obs.loc[late.obs.index[:3], "dpt"] = np.nan
    with pytest.raises(DataError, match="3 cells have no finite dpt"):
        bin_cells(all_of(late), Bins(space=RAW))
    with pytest.raises(DesignError, match="a law needs times"):
        NeuralLaw().fit(study(time=None), key=jr.key(0))


def test_settings_of_bins_survive_a_file_and_nonsense_is_refused():
    how = Bins(by=("donor",), n_bins=7, clock="rescaled", space=PCA(dim=3))
    assert from_dict(to_dict(how)) == how
    for wrong in ({"n_bins": 1}, {"least": 0}, {"clock": "days"}):
        with pytest.raises(ConfigError):
            Bins(**wrong)


def test_a_law_of_cells_moves_populations_and_decodes_them():
    made = study()
    law = NeuralLaw(
        members=1, null=0, hidden=4, valid=0.0, cells=Bins(n_bins=6, clock="rescaled", space=PCA(dim=2, genes=RAW)),
        training=LawTraining(loop=Loop(n_steps=40, chunk=20)), inputs=("lineage",),
    ).fit(made, key=jr.key(0))  # fmt: skip
    assert law.space is not None and law.space.dim == 2 and law.cells.clock == "rescaled"
    start = made.adata[of(made, "d1", "mono")[:7]].copy()
    found = law.forecast(start, [0.0, 0.5, 1.0])
    assert isinstance(found, AnnData) and found.shape == (3 * 7, D)
    assert list(found.obs["time"]) == [0.0] * 7 + [0.5] * 7 + [1.0] * 7 and set(found.obs["donor"]) == {"d1"}
    assert list(found.var_names) == ["g0", "g1", "g2", "g3"] and found.obs_names.is_unique
    codes = np.asarray(law.space.encode(start))
    np.testing.assert_allclose(found.obsm["X_cellgap"][:7], codes, atol=1e-5)
    told = pd.DataFrame({"lineage": ["mono"] * 7})
    direct = law.forecast(codes, [0.0, 0.5, 1.0], about=told)
    np.testing.assert_allclose(found.obsm["X_cellgap"][7:14], direct[:, 1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.X[14:], law.space.decode(direct[:, 2].astype(np.float32)), rtol=1e-4, atol=1e-5)
    raw = law.forecast_cells(start, [1.0], decode=False)
    np.testing.assert_allclose(raw.X, direct[:, 2], atol=1e-4)  # other steps of the solver, on one interval
    assert list(raw.var_names) == ["code0", "code1"]
    assert found.obsm["X_cellgap"][14:].std() > 0.1 * codes.std()  # a population, and not one mean
    strange = start.copy()
    strange.obs["lineage"] = "b"
    with pytest.raises(DataError, match="the law knows lineage ery, mono; found 'b'"):
        law.forecast(strange, [1.0])
    with pytest.raises(DataError, match="not from cells"):
        dataclasses.replace(law, space=None).forecast(start, [1.0])


def test_cells_with_nothing_but_a_time_are_one_trajectory():
    obs = pd.DataFrame({"dpt": np.linspace(0, 1, 60)}, index=[f"c{i}" for i in range(60)])
    adata = AnnData(np.random.default_rng(0).random((60, 3)).astype(np.float32), obs=obs)
    study = Study(adata, Design(time="dpt"))
    made, _ = bin_cells(split.everything(study), Bins(n_bins=6), rows=np.arange(60))
    assert made.names == ("all",)
    assert made.lengths.tolist() == [6]

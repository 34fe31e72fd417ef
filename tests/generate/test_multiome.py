"""Two modalities of a cell: what is drawn is of one cell, in MuData and out, and what is refused."""

import dataclasses

import anndata
import jax.random as jr
import mudata
import numpy as np
import pytest
import scipy.sparse as sp
from small_multiome import DESIGN, GENES, MODEL, PEAKS, SPACE, multiome

import cellgap as cg
from cellgap.errors import ConfigError, DataError
from cellgap.evaluate import paired_scores
from cellgap.generate import augment, calibrate_guidance
from cellgap.space import Modality
from cellgap.study import Role, parted
from cellgap.train import Loop


@pytest.fixture(scope="module")
def split():
    return cg.split.in_distribution(cg.Study(multiome(n=250), DESIGN), test=0.3, valid=0.15)


@pytest.fixture(scope="module")
def fitted(split):
    return MODEL.fit(split, key=jr.key(0))


def dense(x) -> np.ndarray:
    return x.toarray() if sp.issparse(x) else np.asarray(x)


def pair(mdata, by="type"):
    rna, atac = mdata["rna"].copy(), mdata["atac"].copy()
    for table in (rna, atac):
        table.obs[by] = np.asarray(mdata.obs[by].astype(str))
    return rna, atac


def test_a_sample_is_a_mudata_of_counts_and_open_peaks(fitted):
    made = fitted.sample(60, key=jr.key(1), type="b")
    assert isinstance(made, mudata.MuData) and list(made.mod) == ["rna", "atac"]
    assert made["rna"].shape == (60, GENES) and made["atac"].shape == (60, PEAKS)
    assert made["rna"].X.dtype == np.int32 and set(np.unique(dense(made["atac"].X))) == {0, 1}
    assert (made.obs["type"] == "b").all() and made.obs["seen"].all()
    assert (made.obs[["library_rna", "library_atac"]] >= 1).all(axis=None)
    assert made.obsm["X_cellgap"].shape == (60, 4)
    again = fitted.sample(60, key=jr.key(1), type="b")
    for name in made.mod:
        np.testing.assert_array_equal(dense(made[name].X), dense(again[name].X))


def test_types_differ_in_both_modalities_as_they_should(fitted, split):
    study = split.study
    for kind in "ab":
        made = fitted.sample(400, key=jr.key(2), type=kind)
        there = parted(study.adata[(study.obs["type"] == kind).to_numpy()])
        for name in made.mod:
            x, y = dense(made[name].X), dense(there[name].X)
            if name == "atac":
                y = (y > 0).astype(float)
                assert np.abs(x.mean(0) - y.mean(0)).max() < 0.15
            else:
                assert np.abs(x.sum(0) / x.sum() - y.sum(0) / y.sum()).max() < 0.02


def test_both_modalities_are_of_one_cell(fitted, split):
    """The program that genes and peaks share within a type is shared in generated cells, and lost by shuffling."""
    study = split.study
    held, train = split.cells(Role.SOURCE, Role.REFERENCE), split.cells(Role.TRAIN, Role.VALID)
    labels = study.obs["type"].iloc[held].astype(str).tolist()
    made = fitted.sample(len(held), key=jr.key(3), type=labels)
    found = paired_scores(pair(made), *(pair(parted(study.adata[rows])) for rows in (held, train)), by="type")
    assert found.loc["cross_correlation", "generated"] > 0.6 * found.loc["cross_correlation", "floor"]
    assert found.loc["pair_correlation", "generated"] > 0.8
    assert 0.7 < found.loc["pair_slope", "generated"] < 1.4
    assert abs(found.loc["cross_correlation", "apart"]) < 0.3
    assert abs(found.loc["pair_slope", "apart"]) < 0.3
    assert found.loc["pair_slope", "floor"] == pytest.approx(1.0, abs=0.5)


def test_translation_calibration_and_augmentation_take_and_give_mudata(fitted, split):
    mdata = parted(split.study.adata[:80])
    same = fitted.translate(mdata, key=jr.key(0), type=np.asarray(mdata.obs["type"].astype(str)))
    scale = np.abs(same.obsm["X_cellgap_source"]).max()
    assert np.abs(same.obsm["X_cellgap"] - same.obsm["X_cellgap_source"]).max() < 0.1 * scale
    moved = fitted.translate(mdata, key=jr.key(0), type="b")
    assert isinstance(moved, mudata.MuData) and list(moved.obs_names) == list(mdata.obs_names)
    assert set(calibrate_guidance(fitted, mdata, key=jr.key(0), weights=(2.0,)).table["weight"]) == {1.0, 2.0}
    more = augment(fitted, mdata, label="type", per_class=60, key=jr.key(0))
    assert isinstance(more, mudata.MuData)
    assert more.obs["type"].value_counts().min() >= 60
    own = ~more.obs["generated"].to_numpy(bool)
    np.testing.assert_array_equal(dense(more["rna"].X)[own], dense(mdata["rna"].X))


def test_saved_and_loaded_it_draws_the_same(fitted, tmp_path):
    other = cg.load(fitted.save(tmp_path / "model"))
    made, again = (f.sample(30, key=jr.key(4)) for f in (fitted, other))
    for name in made.mod:
        np.testing.assert_array_equal(dense(made[name].X), dense(again[name].X))


def test_codes_of_a_mudata_are_those_of_its_table_and_features_are_found_by_name(fitted, split):
    table = split.study.adata[:40]
    codes = fitted.encode(table)
    np.testing.assert_allclose(fitted.encode(parted(table)), codes, atol=1e-5)
    order = np.random.default_rng(0).permutation(table.n_vars)
    np.testing.assert_allclose(fitted.encode(table[:, order].copy()), codes, atol=1e-5)


def test_two_modalities_with_totals_are_drawn_together(split):
    """Totals of RNA and fragments that go together in cells go together in what is drawn."""
    rng = np.random.default_rng(0)
    depth = rng.normal(size=400)
    labels = np.zeros(400, int)
    logs = np.stack([6 + 0.3 * depth, 5 + 0.4 * depth + 0.1 * rng.normal(size=400)], 1)
    model = cg.generate.LibraryModel.of(np.exp(logs), labels, 1, 0, ("library_rna", "library_atac"))
    drawn = np.log(model.draw(np.zeros((4000, 1), int), rng))
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(np.corrcoef(logs.T)[0, 1], abs=0.02)
    np.testing.assert_allclose(drawn.mean(0), logs.mean(0), atol=0.03)
    np.testing.assert_allclose(drawn.std(0), logs.std(0), rtol=0.05)


def test_open_peaks_follow_the_depth_that_is_asked_for(fitted, split):
    """Twice as many open peaks for cells twice as deep, and as many as there are in cells for their own depth."""
    few, many = (fitted.sample(200, key=jr.key(1), library=[400.0, depth]) for depth in (8.0, 16.0))
    opened = [dense(m["atac"].X).sum(1).mean() for m in (few, many)]
    assert opened == pytest.approx([8.0, 16.0], rel=0.05)
    made, there = fitted.sample(400, key=jr.key(1)), dense(parted(split.study.adata)["atac"].X) > 0
    assert dense(made["atac"].X).sum(1).mean() == pytest.approx(there.sum(1).mean(), rel=0.1)
    # As published: no depth, so that codes carry it.
    modalities = (SPACE.modalities[0], dataclasses.replace(SPACE.modalities[1], depth=False))
    space = dataclasses.replace(SPACE, modalities=modalities).fit(split)
    assert space.libraries == ("library",) and space.parts[1].inputs == "binary"
    drawn = space.counts(np.zeros((300, 4)), np.full(300, 400.0), seed=0)
    assert drawn[:, GENES:].sum() > 0 and drawn[:, GENES:].max() == 1


def test_peaks_as_counts_have_a_library_of_their_own(split):
    modalities = (SPACE.modalities[0], dataclasses.replace(SPACE.modalities[1], likelihood="poisson"))
    space = dataclasses.replace(SPACE, modalities=modalities)
    quick = dataclasses.replace(MODEL, space=space)
    fitted = quick.fit(split, key=jr.key(0))
    made = fitted.sample(300, key=jr.key(1))
    assert fitted.space.libraries == ("library_rna", "library_atac")
    assert {"library_rna", "library_atac"} <= set(made.obs.columns)
    x, there = dense(made["atac"].X), dense(parted(split.study.adata)["atac"].X)
    assert x.max() > 1
    assert x.sum(1).mean() == pytest.approx(there.sum(1).mean(), rel=0.1)
    both = fitted.sample(5, key=jr.key(1), library=[300, 20])
    assert (both.obs["library_rna"] == 300).all() and (both.obs["library_atac"] == 20).all()
    with pytest.raises(ConfigError, match="library_rna, library_atac"):
        fitted.sample(5, key=jr.key(1), library=np.ones((4, 2)))


def test_dispersions_by_category():
    """Cells of one type are noisier: a dispersion of its own says so."""
    rng = np.random.default_rng(0)
    kind = np.repeat(["calm", "noisy"], 200)
    share = rng.gamma(2.0, size=20) + 1.0
    mean = np.tile(share / share.sum() * 600, (400, 1))
    theta = np.where(kind == "calm", 50.0, 1.0)[:, None]
    x = rng.poisson(rng.gamma(theta, mean / theta)).astype(np.float32)
    adata = anndata.AnnData(x, obs={"type": kind})
    adata.var_names = [f"g{i}" for i in range(20)]
    study = cg.Study(adata, cg.Design(context=("type",), counts="X"))
    parts = cg.split.in_distribution(study, test=0.1, valid=0.1)
    model = dataclasses.replace(MODEL, space=cg.space.PCA(dim=2), theta_by="type")
    fitted = model.fit(parts, key=jr.key(0))
    assert fitted.noises is not None
    calm, noisy = (np.median(np.asarray(n.theta)) for n in fitted.noises[1])
    assert calm > 5 * noisy
    spread = {}
    for name in ("calm", "noisy"):
        made = fitted.sample(400, key=jr.key(1), type=name, library=600.0)
        spread[name] = dense(made.X).std(0).mean()
    assert spread["noisy"] > 1.5 * spread["calm"]
    plain = dataclasses.replace(fitted, noises=None)
    made = [dense(f.sample(50, key=jr.key(1), type="calm").X) for f in (plain, fitted)]
    assert not np.array_equal(*made)
    with pytest.raises(ConfigError, match="theta_by='donor'"):
        dataclasses.replace(MODEL, theta_by="donor")


def test_cells_beyond_the_limit_are_read_while_it_trains(split, monkeypatch):
    """What is read from the study gives a network as good as what is kept on the device."""
    from cellgap.train import Streamed

    read: list[int] = []
    of = Streamed.read
    monkeypatch.setattr(Streamed, "read", lambda self, a, b: read.append(b - a) or of(self, a, b))
    whole, parts = SPACE.fit(split), dataclasses.replace(SPACE, most_bytes=1000).fit(split)
    assert sum(read) >= 400
    for name in ("nll_rna", "nll_atac"):
        assert parts.reconstruction[name] == pytest.approx(whole.reconstruction[name], rel=0.05)


def test_readings_of_the_gap_rise_with_guidance(fitted, split):
    """G2 is G1 without guidance; the fields are apart; stronger guidance leaves the training data (G4, energy)."""
    held = split.study.adata[split.cells(Role.SOURCE, Role.REFERENCE)]
    table = cg.generate.gap_readings(fitted, parted(held), key=jr.key(0), weights=(1.0, 2.0, 6.0)).set_index("weight")
    assert table.loc[1.0, "G1"] == pytest.approx(table.loc[1.0, "G2"], rel=1e-5)
    assert (table["G1"].diff().dropna() > 0).all() and (table["G3"] > 0).all()
    assert table.loc[6.0, "G4"] > table.loc[1.0, "G4"] and table.loc[6.0, "energy"] > table.loc[1.0, "energy"]
    with pytest.raises(DataError, match="at least 10 real cells, found 4"):
        cg.generate.gap_readings(fitted, held[:4], key=jr.key(0))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"modalities": (Modality("rna"), Modality("atak", "bernoulli"))}, "no modality 'atak'.*atac"),
        ({"column": "kind"}, "no column 'kind'"),
    ],
)
def test_wrong_modalities_are_refused_before_training(split, change, says):
    with pytest.raises(DataError, match=says):
        dataclasses.replace(SPACE, **change).fit(split)


def test_settings_are_checked_and_go_through_toml():
    from cellgap.settings import from_dict, to_dict

    assert from_dict(to_dict(SPACE)) == SPACE
    assert cg.space.JointAutoencoder.reference().dim == 100
    with pytest.raises(ConfigError, match="different names"):
        cg.space.JointAutoencoder((Modality("rna"), Modality("rna")))
    with pytest.raises(ConfigError, match="needs as many training cells"):
        small = cg.split.in_distribution(cg.Study(multiome(n=20), DESIGN), test=0.2)
        dataclasses.replace(SPACE, dim=500).fit(small)


def test_dispersions_by_category_of_several_modalities_are_refused_at_once():
    with pytest.raises(ConfigError, match="takes a space of one modality"):
        dataclasses.replace(MODEL, theta_by="type")


def test_other_cells_are_refused(fitted):
    with pytest.raises(DataError, match="AnnData or a MuData, found list"):
        fitted.encode([1, 2])
    mdata = multiome(n=20)
    for name, value, says in (
        ("rna", np.nan, "NaN"),
        ("atac", np.nan, "NaN"),
        ("atac", -1.0, "-1"),
        ("rna", 0.5, "0.5"),
    ):
        bad = multiome(n=20)
        bad[name].X[2, 3] = value
        with pytest.raises(DataError, match=says):
            fitted.encode(bad)
    with mudata.set_options(pull_on_update=False):
        short = mudata.MuData({"rna": mdata["rna"], "atac": mdata["atac"][:30].copy()})
    with pytest.raises(DataError, match=r"'rna' \(40 cells\) and 'atac' \(30\) have different cells.*intersect_obs"):
        fitted.encode(short)


def test_a_map_between_codes_of_several_modalities_gives_their_counts():
    """Treated cells of both modalities, each with the totals of its control."""
    mdata = multiome(n=150)
    mdata.obs["drug"] = np.where(np.arange(300) % 2, "dmso", "x")
    study = cg.Study(mdata, cg.Design(treatment="drug", control="dmso", context=("type",), counts="X"))
    parts = cg.split.in_distribution(study, test=0.3, valid=0.1, min_cells=5)
    quick = dataclasses.replace(SPACE, loop=Loop(n_steps=60, chunk=20, valid_every=20))
    fitted = cg.transport.MeanShift(space=quick, encoder=cg.encode.OneHot()).fit(parts, key=jr.key(0))
    controls = study.adata[study.rows(study.controls[0])]
    made = fitted.predict(controls, study.conditions[0], output="counts")
    assert made.var["modality"].tolist() == study.adata.var["modality"].tolist()
    x, own = dense(made.X), dense(controls.X)
    assert x[:, GENES:].max() == 1 and x[:, :GENES].max() > 1
    assert x[:, :GENES].sum() == pytest.approx(own[:, :GENES].sum(), rel=0.05)
    assert x[:, GENES:].sum() == pytest.approx((own[:, GENES:] > 0).sum(), rel=0.1)

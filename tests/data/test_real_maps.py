"""Short fits on every real data set: from the file to predictions of what was held out."""

from pathlib import Path

import jax.random as jr
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad

import cellgap as cg
from cellgap.encode import AbstractEncoder, Context, Dose, OneHot, Table
from cellgap.space import PCA, AbstractSpace, Genes
from cellgap.study import Condition, Role, Split, Study
from cellgap.train import Loop
from cellgap.transport import AbstractMap, Codes, ConditionalMonge, Gaussian, MeanShift, Monge, Optimization

pytestmark = pytest.mark.data

SHORT = Optimization(loop=Loop(n_steps=100, chunk=50, valid_every=50), batch_size=64)


def trained(split: Split, space: AbstractSpace, encoder: AbstractEncoder) -> tuple[Codes, AbstractMap]:
    codes = Codes.of(split, space, encoder)
    model = ConditionalMonge(space=space, encoder=encoder, hidden=(32, 32), embedding=8, optimization=SHORT)
    fitted = model.fit_codes(codes, key=jr.key(0))
    assert fitted.stopped == "finished" and fitted.history[-1]["step"] == 100
    assert all(np.isfinite(list(row.values())).all() for row in fitted.history)
    monge, spread, *_ = fitted.gaps()
    assert np.isfinite([monge.value, spread.value]).all() and monge.value >= 0 and abs(spread.value) < 1
    return codes, fitted


def predicted(fitted: AbstractMap, codes: Codes, condition: Condition) -> AnnData:
    """Return the prediction from the source controls, after checking all that holds for any."""
    rows = codes.rows(condition.control, Role.SOURCE)
    cells = codes.split.study.adata[rows]
    out = fitted.predict(cells, condition)
    assert out.shape == (len(rows), len(codes.space.genes)) and list(out.var_names) == list(codes.space.genes)
    assert np.isfinite(out.X).all() and np.isfinite(out.obsm["X_cellgap"]).all()
    assert not codes.space.nonnegative or out.X.min() >= 0
    np.testing.assert_array_equal(out.obsm["X_cellgap_source"], codes.z[rows])
    assert fitted.predict(cells[:5], condition.control).obs["displacement"].max() == 0
    return out


def error_of_mean(out: AnnData, codes: Codes, condition: Condition) -> float:
    """Return how far the predicted mean is from the measured one, where no effect at all is 1."""
    truth = codes.cells(condition, Role.TEST).mean(0)
    source = codes.cells(condition.control, Role.SOURCE).mean(0)
    return float(np.linalg.norm(out.obsm["X_cellgap"].mean(0) - truth) / np.linalg.norm(source - truth))


def spread_of(out: AnnData, codes: Codes, condition: Condition) -> float:
    """Return the ratio of predicted to measured variance."""
    return float(out.obsm["X_cellgap"].var(0).sum() / codes.cells(condition, Role.TEST).var(0).sum())


def test_dapg_flow_at_an_unseen_dose(data_dir: Path) -> None:
    design = cg.Design(treatment="drug", dose="dose_uM", control="control")
    study = Study.read(data_dir / "dapg_flow" / "ecoli_dapg.h5ad", design)
    split = cg.split.unseen_dose(study, [8.1633, 187.0829])
    codes, fitted = trained(split, Genes(transform="none", scale=True), Dose())
    inside, outside = split.scored_conditions
    out = predicted(fitted, codes, outside)
    assert error_of_mean(out, codes, outside) < 0.3
    assert 0.5 < spread_of(out, codes, outside) < 2
    # The switch turns on between this dose and the next: the answer lies between the neighbors, above the truth.
    effect = np.linalg.norm(codes.cells(outside).mean(0) - codes.cells(Condition()).mean(0))
    wrong = predicted(fitted, codes, inside).obsm["X_cellgap"].mean(0) - codes.cells(inside, Role.TEST).mean(0)
    assert np.linalg.norm(wrong) < 0.35 * effect
    assert fitted.nearness(inside).extrapolates == ()
    assert out.uns["cellgap"]["extrapolates"] == ["the dose of DAPG@187.0829uM is above the training doses"]


def test_auxin_yeast_in_an_unseen_context(data_dir: Path) -> None:
    design = cg.Design(treatment="drug", dose="dose_uM", control="control", context=("strain",))
    study = Study.read(data_dir / "auxin_yeast" / "steady_state.h5ad", design)
    space = Genes(transform="arcsinh", cofactor=150.0, scale=True)
    split = cg.split.unseen_context(study, "auxin", {"strain": "TIR1-IAA1"})
    codes, fitted = trained(split, space, Dose())
    for condition in split.scored_conditions:
        out = predicted(fitted, codes, condition)
        assert error_of_mean(out, codes, condition) < 1
        assert out.uns["cellgap"]["extrapolates"] == ["strain TIR1-IAA1 was never trained on"]
    by_dose = Codes.of(cg.split.unseen_dose(study, 1.5), space, Dose() | Context("strain"))
    gaussian = Gaussian(space=space, encoder=Dose() | Context("strain")).fit_codes(by_dose)
    for condition in by_dose.split.scored_conditions:
        assert error_of_mean(predicted(gaussian, by_dose, condition), by_dose, condition) < 1


def test_sachs_signaling_of_an_unseen_combination(data_dir: Path) -> None:
    adata = read_h5ad(data_dir / "sachs_signaling" / "phospho_flow.h5ad")
    adata.obs["icam2"] = np.where(adata.obs["icam2"].astype(int) == 1, "icam2", "none")
    design = cg.Design(treatment=("activator", "icam2", "inhibitor"), control=("cd3cd28", "none", "none"))
    study = Study(adata, design)
    pairs = [c.names for c in study.conditions if len(c.treatments) > 1]
    split = cg.split.unseen_combination(study, pairs)
    codes, fitted = trained(split, Genes(transform="log1p", scale=True), OneHot())
    for condition in split.scored_conditions:
        out = predicted(fitted, codes, condition)
        # Combinations are no sums here, and no simple rule beats "no effect" (1) on both: only a sane answer is asked.
        assert error_of_mean(out, codes, condition) < 2
        assert 0.5 < spread_of(out, codes, condition) < 2
        assert out.uns["cellgap"]["extrapolates"] == ["the combination was never seen"]


def test_palbociclib_4i_of_one_condition(data_dir: Path) -> None:
    design = cg.Design(treatment="drug", dose="dose_nM", control="control")
    study = Study.read(data_dir / "palbociclib_4i" / "tumor_4i.h5ad", design)
    split = cg.split.in_distribution(study)
    codes = Codes.of(split, Genes(transform="none"), OneHot())
    fitted = Monge(
        space=Genes(transform="none"), encoder=OneHot(), hidden=(32, 32), optimization=SHORT
    ).fit_codes(codes, key=jr.key(0))  # fmt: skip
    (condition,) = split.scored_conditions
    out = predicted(fitted, codes, condition)
    assert error_of_mean(out, codes, condition) < 0.3
    assert 0.8 < spread_of(out, codes, condition) < 1.25
    assert predicted(fitted, codes, study.resolve("palbociclib")).uns["cellgap"]["distance_to_training"] == 0


def leave_donor_out(study: Study, donor: str) -> tuple[Codes, AbstractMap, Condition]:
    split = cg.split.leave_one_domain_out(study, "donor", donor)
    codes, fitted = trained(split, PCA(dim=10, genes=Genes(n_top=300)), OneHot())
    (condition,) = split.scored_conditions
    return codes, fitted, condition


def test_kang_ifnb_of_an_unseen_donor(data_dir: Path) -> None:
    design = cg.Design(treatment="condition", control="ctrl", donor="donor", counts="X")
    study = Study.read(data_dir / "kang_ifnb" / "perturbation.h5ad", design)
    codes, fitted, condition = leave_donor_out(study, "107")
    out = predicted(fitted, codes, condition)
    assert error_of_mean(out, codes, condition) < 0.6
    assert 0.7 < spread_of(out, codes, condition) < 1.3
    assert out.uns["cellgap"]["extrapolates"] == ["donor 107 was never trained on"]
    nearest = MeanShift(space=PCA(), encoder=OneHot(), rule="nearest").fit_codes(codes)
    mean = MeanShift(space=PCA(), encoder=OneHot(), rule="all").fit_codes(codes)
    np.testing.assert_allclose(nearest.shift(condition), mean.shift(condition), err_msg="donors look alike to OneHot")


def test_glioblastoma_panobinostat_of_an_unseen_patient(data_dir: Path) -> None:
    design = cg.Design(treatment="condition", dose="dose_uM", control="ctrl", donor="donor", counts="X")
    study = Study.read(data_dir / "glioblastoma_panobinostat" / "counts.h5ad", design, backed=True)
    donor = study.context_values["donor"][0]
    codes, fitted, condition = leave_donor_out(study, donor)
    out = predicted(fitted, codes, condition)
    assert 0.4 < spread_of(out, codes, condition) < 2.5
    assert out.uns["cellgap"]["extrapolates"] == [f"donor {donor} was never trained on"]


def test_bbbc021_wells_of_an_unseen_compound(data_dir: Path) -> None:
    adata = read_h5ad(data_dir / "bbbc021_wells" / "profiles.h5ad")
    assert isinstance(adata.X, np.ndarray)
    adata.X = np.clip(adata.X, -20.0, 20.0)
    study = Study(adata, cg.Design(treatment="drug", dose="dose_uM", control="control"))
    known = adata.obs[["drug", "moa"]].astype(str).drop_duplicates().query("drug != 'control'").set_index("drug")
    encoder = Table(pd.get_dummies(known["moa"]).astype(float)) | Dose()
    split = cg.split.unseen_treatment(study, ["taxol", "mevinolin/lovastatin"], min_cells=1)
    assert min(len(split.rows(c, Role.TRAIN)) for c in split.train_conditions) <= 2, (
        "a condition has two or three wells"
    )
    codes, fitted = trained(split, PCA(dim=10, genes=Genes(transform="none")), encoder)
    for condition in split.scored_conditions:
        out = predicted(fitted, codes, condition)
        assert "was not trained on" in out.uns["cellgap"]["extrapolates"][0]
        # Few wells say little about the spread: that of the controls is kept.
        controls = codes.cells(condition.control, Role.SOURCE).var(0).sum()
        assert 0.2 < out.obsm["X_cellgap"].var(0).sum() / controls < 5

"""Every real data set opens with a design a user would write, and can be split for the question it answers."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import read_h5ad

from cellgap.errors import DesignError, SplitError
from cellgap.study import Condition, Design, Role, Study, check, split

pytestmark = pytest.mark.data


def test_dapg_flow(data_dir: Path) -> None:
    design = Design(treatment="drug", dose="dose_uM", control="control")
    study = Study.read(data_dir / "dapg_flow" / "ecoli_dapg.h5ad", design)
    doses = [2.3324, 4.3634, 8.1633, 28.5714, 100, 187.0829]
    assert [c.treatments[0].dose for c in study.conditions] == doses
    assert {len(rows) for rows in study.populations.values()} == {3000}
    made = split.unseen_dose(study, [8.1633, 187.0829])
    assert made.params["interpolation"] == ["DAPG@8.1633uM"]
    assert made.params["extrapolation"] == ["DAPG@187.0829uM"]


def test_auxin_yeast(data_dir: Path) -> None:
    design = Design(treatment="drug", dose="dose_uM", control="control", context=("strain",))
    study = Study.read(data_dir / "auxin_yeast" / "steady_state.h5ad", design)
    assert len(study.controls) == 4 and len(study.conditions) == 10
    replicate = split.leave_one_domain_out(study, "replicate", "2")
    assert {len(replicate.rows(c, Role.TEST)) for c in study.conditions} == {833}
    strain = split.unseen_context(study, "auxin", {"strain": "TIR1-IAA1"})
    assert {str(c) for c in strain.test_conditions} == {"auxin@1.5uM | TIR1-IAA1", "auxin@50uM | TIR1-IAA1"}


def test_auxin_time_course(data_dir: Path) -> None:
    path = data_dir / "auxin_yeast" / "time_course.h5ad"
    study = Study.read(path, Design(treatment="dose_uM", control=0, time="time_min"))  # type: ignore[arg-type]
    assert study.all_conditions == (Condition(), Condition("dose_uM=10"))
    assert len(study.rows("control")) == 7 * 833
    adata = read_h5ad(path)
    adata.obs["drug"] = "auxin"
    dosed = Study(adata, Design(treatment="drug", control="none", dose="dose_uM", time="time_min"))
    assert [str(c) for c in dosed.conditions] == ["auxin@10uM"] and len(dosed.rows("control")) == 7 * 833
    assert any('never holds the control "none"' in w for w in dosed.findings.warnings)


def test_sachs_signaling(data_dir: Path) -> None:
    design = Design(treatment=("activator", "icam2", "inhibitor"), control=("cd3cd28", "0", "none"))
    study = Study.read(data_dir / "sachs_signaling" / "phospho_flow.h5ad", design)
    assert len(study.rows("control")) == 853
    assert len(study.rows("icam2")) == 902 and len(study.rows("icam2 + u0126")) == 759
    assert {c.names for c in study.conditions if len(c.names) > 1} == {("akt-inhibitor", "icam2"), ("icam2", "u0126")}
    made = split.unseen_combination(study, [("icam2", "u0126")])
    assert [str(c) for c in made.test_conditions] == ["icam2 + u0126"]
    assert made.params["unused"] == []


def test_palbociclib_4i(data_dir: Path) -> None:
    design = Design(treatment="drug", dose="dose_nM", control="control")
    study = Study.read(data_dir / "palbociclib_4i" / "tumor_4i.h5ad", design)
    assert [str(c) for c in study.conditions] == ["palbociclib@100nM"] and study.findings.ok
    assert len(study.rows("palbociclib@0.1uM")) == 2806 and len(study.rows("control")) == 3748
    assert len(split.in_distribution(study).cells(Role.TEST)) == round(0.2 * 2806)
    with pytest.raises(SplitError, match="nothing is left to train on"):
        split.unseen_treatment(study, "palbociclib")


def test_kang_ifnb(data_dir: Path) -> None:
    path = data_dir / "kang_ifnb" / "perturbation.h5ad"
    by_donor = Design(treatment="condition", control="ctrl", donor="donor", counts="X")
    study = Study.read(path, by_donor)
    assert study.is_counts and sp.issparse(study.values([0])) and len(study.controls) == 6
    made = split.leave_one_domain_out(study, "donor", "107")
    assert set(study.obs["donor"].iloc[made.cells(Role.TRAIN, Role.VALID)]) == set(study.obs["donor"]) - {"107"}
    by_type = Design(treatment="condition", control="ctrl", context=("cell_type_broad",), donor="donor", counts="X")
    adata = read_h5ad(path)
    with pytest.raises(DesignError, match=r'"cell_type_broad=Dendritic cells, donor=1039"'):
        Study(adata, by_type)
    kept = adata[~((adata.obs["cell_type_broad"] == "Dendritic cells") & (adata.obs["donor"] == "1039"))].copy()
    typed = Study(kept, by_type)
    made = split.leave_one_domain_out(typed, "donor", "1244", min_cells=20)
    assert {str(c) for c in made.scored_conditions} == {"stim | Monocytes, 1244", "stim | T cells, 1244"}
    assert len(made.params["unscored"]) == 3


def test_kang_annotation_holds_controls_only(data_dir: Path) -> None:
    adata = read_h5ad(data_dir / "kang_ifnb" / "annotation_ctrl.h5ad")
    design = Design(treatment="condition", control="ctrl", context=("cell_type",), donor="donor", counts="X")
    findings = check(adata, design)
    assert findings.ok and any("Every cell is a control" in w for w in findings.warnings)


@pytest.mark.parametrize("backed", [True, False])
def test_glioblastoma_panobinostat(backed: bool, data_dir: Path) -> None:
    design = Design(treatment="condition", dose="dose_uM", control="ctrl", donor="donor", counts="X")
    study = Study.read(data_dir / "glioblastoma_panobinostat" / "counts.h5ad", design, backed=backed)
    assert study.findings.warnings == () and {len(rows) for rows in study.populations.values()} == {500}
    whole = read_h5ad(data_dir / "glioblastoma_panobinostat" / "counts.h5ad").X
    rows = study.rows("panobinostat@200nM | PW036")
    assert (study.values(rows) != whole[rows]).nnz == 0
    made = split.unseen_context(study, "panobinostat", {"donor": "PW036"})
    assert len(made.test_conditions) == 1 and len(made.train_conditions) == 3


def test_bbbc021_wells(data_dir: Path) -> None:
    study = Study.read(
        data_dir / "bbbc021_wells" / "profiles.h5ad", Design(treatment="drug", dose="dose_uM", control="control")
    )
    assert len(study.rows("control")) == 330 and len(study.treatments) == 30
    assert {len(study.rows(c)) for c in study.conditions} <= {2, 3}
    with pytest.raises(SplitError, match="lower min_cells"):
        split.unseen_treatment(study, ["taxol"])
    made = split.unseen_treatment(study, ["taxol", "mevinolin/lovastatin"], min_cells=1)
    assert {c.names[0] for c in made.scored_conditions} == {"taxol", "mevinolin/lovastatin"}
    assert len(made.rows("control", Role.SOURCE)) == len(made.rows("control", Role.REFERENCE)) == 82
    assert np.isfinite(study.values([0])).all()

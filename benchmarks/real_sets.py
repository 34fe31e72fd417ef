"""The real data sets of the benchmark: how each is read, in which space, and which conditions are held out.

All choices follow rules written down here before any model was trained: every dose in turn; every strain in turn;
every measured combination; a fraction of the cells where there is one condition; every donor in turn; and the compounds
of every mechanism dealt in turn onto three folds. Nothing is chosen by looking at a result.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

import cellgap as cg
from cellgap.encode import AbstractEncoder
from cellgap.space import AbstractSpace
from cellgap.study import Split, Study


@dataclass(frozen=True)
class RealSet:
    """One data set: what is asked of it, its study, its space and encoder, and its splits."""

    name: str
    question: str
    study: Study
    space: AbstractSpace
    encoder: AbstractEncoder
    splits: tuple[Split, ...]


def data_root() -> Path:
    """Return the folder of real data: CELLGAP_DATA, or ``shared/data`` beside the checkout."""
    given = os.environ.get("CELLGAP_DATA")
    root = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not root.is_dir():
        raise SystemExit(f"no real data in {root}: set CELLGAP_DATA to the folder that holds them")
    return root


def dapg_flow(root: Path) -> RealSet:
    adata = anndata.read_h5ad(root / "dapg_flow" / "ecoli_dapg.h5ad")
    study = Study(adata, cg.Design(treatment="drug", control="control", dose="dose_uM"))
    doses = sorted({c.treatments[0].dose for c in study.conditions})
    splits = tuple(cg.split.unseen_dose(study, [dose]) for dose in doses)
    space = cg.space.Genes(transform="none", scale=True)
    return RealSet("dapg_flow", "every dose in turn never seen", study, space, cg.encode.Dose(), splits)


def auxin_study(root: Path) -> Study:
    adata = anndata.read_h5ad(root / "auxin_yeast" / "steady_state.h5ad")
    return Study(adata, cg.Design(treatment="drug", control="control", dose="dose_uM", context=("strain",)))


def auxin_yeast_dose(root: Path) -> RealSet:
    study = auxin_study(root)
    splits = tuple(cg.split.unseen_dose(study, [dose]) for dose in (0.05, 1.5, 50.0))
    space = cg.space.Genes(transform="arcsinh", cofactor=150.0, scale=True)
    encoder = cg.encode.Dose() | cg.encode.Context("strain")
    return RealSet("auxin_yeast (dose)", "every dose in turn never seen", study, space, encoder, splits)


def auxin_yeast_context(root: Path) -> RealSet:
    study = auxin_study(root)
    strains = study.context_values["strain"]
    splits = tuple(cg.split.unseen_context(study, ["auxin"], {"strain": strain}) for strain in strains)
    space = cg.space.Genes(transform="arcsinh", cofactor=150.0, scale=True)
    return RealSet(
        "auxin_yeast (strain)", "auxin in every strain in turn never seen", study, space, cg.encode.Dose(), splits
    )


def sachs_signaling(root: Path) -> RealSet:
    adata = anndata.read_h5ad(root / "sachs_signaling" / "phospho_flow.h5ad")
    adata.obs["icam2"] = np.where(adata.obs["icam2"].astype(int) == 1, "icam2", "none")
    design = cg.Design(treatment=("activator", "icam2", "inhibitor"), control=("cd3cd28", "none", "none"))
    study = Study(adata, design)
    pairs = [c.names for c in study.conditions if len(c.treatments) > 1]
    space = cg.space.Genes(transform="log1p", scale=True)
    splits = (cg.split.unseen_combination(study, pairs),)
    return RealSet("sachs_signaling", "both combinations never seen", study, space, cg.encode.OneHot(), splits)


def palbociclib_4i(root: Path) -> RealSet:
    adata = anndata.read_h5ad(root / "palbociclib_4i" / "tumor_4i.h5ad")
    study = Study(adata, cg.Design(treatment="drug", control="control", dose="dose_nM"))
    space = cg.space.Genes(transform="none")
    splits = (cg.split.in_distribution(study),)
    return RealSet("palbociclib_4i", "a fifth of the cells of one condition", study, space, cg.encode.OneHot(), splits)


def kang_ifnb(root: Path) -> RealSet:
    adata = anndata.read_h5ad(root / "kang_ifnb" / "perturbation.h5ad")
    design = cg.Design(treatment="condition", control="ctrl", context=("donor",), counts="X")
    study = Study(adata, design)
    splits = tuple(cg.split.leave_one_domain_out(study, "donor", donor) for donor in study.context_values["donor"])
    space = cg.space.PCA(dim=30, genes=cg.space.Genes(n_top=1000))
    return RealSet("kang_ifnb", "every donor in turn never seen", study, space, cg.encode.OneHot(), splits)


def glioblastoma_panobinostat(root: Path) -> RealSet:
    adata = anndata.read_h5ad(root / "glioblastoma_panobinostat" / "counts.h5ad")
    design = cg.Design(treatment="condition", control="ctrl", context=("donor",), counts="X")
    study = Study(adata, design)
    splits = tuple(cg.split.leave_one_domain_out(study, "donor", donor) for donor in study.context_values["donor"])
    space = cg.space.PCA(dim=30, genes=cg.space.Genes())
    encoder = cg.encode.OneHot()
    return RealSet("glioblastoma_panobinostat", "every patient in turn never seen", study, space, encoder, splits)


def bbbc021_wells(root: Path) -> RealSet:
    adata = anndata.read_h5ad(root / "bbbc021_wells" / "profiles.h5ad")
    adata.X = np.clip(adata.X, -20.0, 20.0)
    study = Study(adata, cg.Design(treatment="drug", control="control", dose="dose_uM"))
    known = adata.obs[["drug", "moa"]].astype(str).drop_duplicates().query("drug != 'control'").set_index("drug")
    mechanisms = pd.get_dummies(known["moa"]).astype(float)
    folds: list[list[str]] = [[], [], []]
    for _, members in known.sort_index().groupby("moa"):
        for i, name in enumerate(members.index):
            # A mechanism with one compound is always trained on.
            if len(members) > 1:
                folds[i % 3].append(str(name))
    splits = tuple(cg.split.unseen_treatment(study, fold, min_cells=1) for fold in folds)
    space = cg.space.PCA(dim=20, genes=cg.space.Genes(transform="none"))
    encoder = cg.encode.Table(mechanisms) | cg.encode.Dose()
    question = "compounds never seen, by mechanism and dose (three folds; a row is a well)"
    return RealSet("bbbc021_wells", question, study, space, encoder, splits)


SETS: dict[str, Callable[[Path], RealSet]] = {
    f.__name__: f
    for f in (
        dapg_flow,
        auxin_yeast_dose,
        auxin_yeast_context,
        sachs_signaling,
        palbociclib_4i,
        kang_ifnb,
        glioblastoma_panobinostat,
        bbbc021_wells,
    )
}


def load_sets(names: list[str]) -> Iterator[RealSet]:
    """Yield the sets of these names."""
    root = data_root()
    for name in names:
        yield SETS[name](root)

"""The 700 PBMC of the scanpy wheel as raw counts, which are recovered exactly, and a split of them by type."""

import anndata
import numpy as np
import pandas as pd

import cellgap as cg
from cellgap.study import Split, Study


def study() -> Study:
    """Return 700 cells and 765 genes with their types: counts are ``expm1`` over each cell's smallest value."""
    import scanpy

    stored = scanpy.datasets.pbmc68k_reduced()
    raw = stored.raw.to_adata()
    values = np.expm1(raw.X.toarray().astype(np.float64))
    smallest = np.where(values > 1e-6, values, np.inf).min(1)
    obs = pd.DataFrame({"cell_type": stored.obs["bulk_labels"].astype(str).to_numpy()}, index=stored.obs_names)
    counts = np.round(values / smallest[:, None]).astype(np.float32)
    adata = anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=raw.var_names))
    return Study(adata, cg.Design(context=("cell_type",), counts="X"))


def halves() -> Split:
    """Return 491 cells to train on (a tenth of them to choose when to stop) and 209 to compare with."""
    return cg.split.in_distribution(study(), test=0.3, valid=0.1, seed=0)

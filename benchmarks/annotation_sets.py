"""Labelled cells of several domains: RNA mixtures, two chemistries, donors, sequencing runs, a drug response."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from real_sets import data_root

LABEL, DOMAIN = "label", "domain"
SETS = ("rna_mixtures", "pbmc_technologies", "kang_donors", "paul15_runs", "panobinostat")


def annotation_set(name: str) -> anndata.AnnData:
    """Return raw counts with the columns "label" and "domain" of obs."""
    root = data_root()
    if name == "rna_mixtures":
        return rna_mixtures(root / "rna_mixtures")
    path, label, domain = {
        "pbmc_technologies": ("pbmc_technologies/counts.h5ad", "cell_type", "batch"),
        "kang_donors": ("kang_ifnb/annotation_ctrl.h5ad", "cell_type", "donor"),
        "paul15_runs": ("paul15_counts/paul15.h5ad", "cell_type", "seq_batch"),
        "panobinostat": ("glioblastoma_panobinostat/counts.h5ad", "condition", "donor"),
    }[name]
    cells = anndata.read_h5ad(root / path)
    obs = pd.DataFrame({LABEL: cells.obs[label].astype(str), DOMAIN: cells.obs[domain].astype(str)})
    return anndata.AnnData(sp.csr_matrix(cells.X), obs=obs, var=pd.DataFrame(index=cells.var_names))


def rna_mixtures(folder: Path) -> anndata.AnnData:
    """Return the mixtures of both protocols on the genes that they share; a domain is a protocol and an amount."""
    tables, parts = [], []
    for protocol in ("celseq2", "sortseq"):
        counts = pd.read_csv(folder / f"RNAmix_{protocol}.count.csv.gz", index_col=0)
        samples = pd.read_csv(folder / f"RNAmix_{protocol}.metadata.csv.gz", index_col=0).loc[counts.columns]
        shares = [samples[f"{line}_prop"].round(2).astype(str) for line in ("H2228", "H1975", "HCC827")]
        obs = pd.DataFrame(index=protocol + "_" + counts.columns)
        obs[LABEL] = (shares[0] + "/" + shares[1] + "/" + shares[2]).to_numpy()
        obs[DOMAIN] = (protocol + " " + samples["mRNA_amount"].astype(str)).to_numpy()
        tables.append(counts)
        parts.append(obs)
    genes = tables[0].index.intersection(tables[1].index)
    values = np.concatenate([table.loc[genes].to_numpy().T for table in tables])
    return anndata.AnnData(
        sp.csr_matrix(values.astype(np.int32)), obs=pd.concat(parts), var=pd.DataFrame(index=genes.astype(str))
    )

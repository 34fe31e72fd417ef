"""The peers: labels of cells of a domain that was left out, by CellTypist or by scANVI, every domain in turn.

CellTypist with its defaults: logistic regression on log-normalized counts of all genes. scANVI with its defaults, from
a trained scVI, which is told the batch; it is shown the cells of the left-out domain without their labels, as its
tutorials do, so it knows them better than the others. Prints one JSON object, and writes one row a cell.
"""

import argparse
import json
import os
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

UNKNOWN = "not known"


def cpu_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system


def by_celltypist(adata: anndata.AnnData, label: str, out: np.ndarray) -> pd.DataFrame:
    import celltypist
    import scanpy as sc

    cells = adata.copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    model = celltypist.train(cells[~out].copy(), labels=label, n_jobs=1)
    said = celltypist.annotate(cells[out].copy(), model=model).probability_matrix
    # One probability a class, which need not sum to 1: normalized, so that they can be scored.
    values = said.to_numpy()
    return pd.DataFrame(values / values.sum(axis=1, keepdims=True), index=said.index, columns=said.columns)


def by_scanvi(adata: anndata.AnnData, label: str, batch: str, out: np.ndarray) -> pd.DataFrame:
    import scvi
    import torch

    torch.set_num_threads(1)
    scvi.settings.seed = 0
    scvi.settings.verbosity = 30
    cells = adata.copy()
    cells.obs["told"] = np.where(out, UNKNOWN, cells.obs[label].astype(str))
    scvi.model.SCVI.setup_anndata(cells, batch_key=batch)
    model = scvi.model.SCVI(cells, gene_likelihood="nb")
    model.train(accelerator="cpu", enable_progress_bar=False)
    told = scvi.model.SCANVI.from_scvi_model(model, labels_key="told", unlabeled_category=UNKNOWN)
    told.train(accelerator="cpu", enable_progress_bar=False)
    return told.predict(cells[out].copy(), soft=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument("--label", required=True)
    parser.add_argument("--domain", required=True)
    parser.add_argument("--method", choices=("celltypist", "scanvi"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    adata = anndata.read_h5ad(args.cells)
    adata.X = adata.X.astype(np.float32)
    rows, spent = [], {}
    for target in sorted(adata.obs[args.domain].astype(str).unique()):
        out = (adata.obs[args.domain].astype(str) == target).to_numpy()
        before = cpu_seconds()
        if args.method == "celltypist":
            said = by_celltypist(adata, args.label, out)
        else:
            said = by_scanvi(adata, args.label, args.domain, out)
        spent[target] = cpu_seconds() - before
        best = said.to_numpy().argmax(axis=1)
        table = pd.DataFrame({"target": target, "truth": adata.obs.loc[said.index, args.label].astype(str)})
        table["label"] = said.columns.to_numpy()[best]
        table["probability"] = said.to_numpy()[np.arange(len(said)), best]
        rows.append(table)
        pd.concat(rows).to_csv(args.out, index_label="cell")
    print(json.dumps({"cpu_s": spent}))


if __name__ == "__main__":
    main()

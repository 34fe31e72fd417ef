"""The peers: latent cells of scVI, which is told the batch, and of scANVI, which is told the types as well.

Both with their defaults (scvi-tools), scANVI from the trained scVI. Their networks are so small that a second thread
costs more than it brings: torch is given one. Codes are written as one array a model. Prints one JSON object.
"""

import argparse
import json
import os
import warnings
from pathlib import Path

import anndata
import numpy as np
import scvi
import torch


def cpu_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument("--batch", required=True)
    parser.add_argument("--types", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    scvi.settings.seed = 0
    scvi.settings.verbosity = 30
    adata = anndata.read_h5ad(args.cells)
    before = cpu_seconds()
    scvi.model.SCVI.setup_anndata(adata, batch_key=args.batch)
    model = scvi.model.SCVI(adata, gene_likelihood="nb")
    model.train(accelerator="cpu", enable_progress_bar=False)
    codes = {"scVI": model.get_latent_representation()}
    told = scvi.model.SCANVI.from_scvi_model(model, labels_key=args.types, unlabeled_category="not known")
    told.train(accelerator="cpu", enable_progress_bar=False)
    codes["scANVI"] = told.get_latent_representation()
    np.savez(args.out, **codes)
    print(json.dumps({"training_cpu_s": cpu_seconds() - before}))


if __name__ == "__main__":
    main()

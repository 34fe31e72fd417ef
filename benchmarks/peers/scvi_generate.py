"""The peer: scVI (scvi-tools) trained on labelled counts, and cells drawn from it for given labels.

The label is the batch of the model, so that its decoder knows it. Two ways to draw: codes from the prior with totals of
training cells of the label; and the posterior predictive of training cells of the label. Prints one JSON object; cells
are written as one array a way and seed. With fewer epochs than the package's 400 the prior's weight warms up in as
many, as it does in 400; one thread is many times faster where other programs share the cores.
"""

import argparse
import json
import os
import time
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
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--by", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="the package's own number by default")
    parser.add_argument("--threads", type=int, help="as many as the package takes by default")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.threads:
        torch.set_num_threads(args.threads)
    scvi.settings.seed = 0
    scvi.settings.verbosity = 30
    adata = anndata.read_h5ad(args.train)
    labels = json.loads(args.labels.read_text())
    before = cpu_seconds()
    scvi.model.SCVI.setup_anndata(adata, batch_key=args.by)
    model = scvi.model.SCVI(adata, gene_likelihood="nb")
    plan = {"n_epochs_kl_warmup": args.epochs} if args.epochs else None
    model.train(accelerator="cpu", enable_progress_bar=False, max_epochs=args.epochs, plan_kwargs=plan)
    training = cpu_seconds() - before
    known = adata.obs[args.by].astype(str).to_numpy()
    codes = model.adata_manager.get_state_registry("batch").categorical_mapping.tolist()
    made: dict[str, np.ndarray] = {}
    for seed in range(args.seeds):
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        rows = np.empty(len(labels), int)
        for label in sorted(set(labels)):
            here = [i for i, other in enumerate(labels) if other == label]
            there = np.flatnonzero(known == label)
            rows[here] = rng.choice(there, len(here), replace=len(there) < len(here))
        drawn = model.posterior_predictive_sample(adata[rows].copy(), n_samples=1)
        made[f"posterior/{seed}"] = np.asarray(drawn.todense() if hasattr(drawn, "todense") else drawn)
        total = np.asarray(adata[rows].X.sum(1)).ravel()
        with torch.inference_mode():
            z = torch.randn(len(labels), model.module.n_latent)
            library = torch.log(torch.tensor(total, dtype=torch.float32))[:, None]
            batch = torch.tensor([[codes.index(label)] for label in labels])
            out = model.module.generative(z=z, library=library, batch_index=batch)
            made[f"prior/{seed}"] = out["px"].sample().numpy()
    np.savez(args.out, **made)
    began = time.process_time()
    print(json.dumps({"training_cpu_s": training, "seeds": args.seeds, "done": time.process_time() - began}))


if __name__ == "__main__":
    main()

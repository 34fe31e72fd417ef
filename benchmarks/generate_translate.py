"""Cells translated to one batch: does the way there and back change them, and how well are batches mixed?

Questions: a cell that is translated to the batch it is from should be what it was, within 1e-3; and cells translated to
one batch should mix batches and keep types, as scib-metrics (PyPI) scores it, at least as well as Harmony or scVI.
Data: PBMC by two chemistries (720 cells, a strong effect) and control PBMC of six lupus donors (2,000 of them, a weak
one, types in other shares in every donor); myeloid progenitors of two sequencing runs with --sets.
Ours: `CFGen` by its defaults, told the type and the batch, as published; cells go to the batch with most cells; what is
scored are its codes. Nothing is chosen by looking at a score. Beside it: the same told the batch alone, codes as they
are, 30 principal components of log-normalized counts, Harmony of these, scVI (told the batch, as Harmony is) and scANVI
(told the types too). All are scored on the cells that they were fitted on, and fitted once: three fits of ours differed
by 0.02 in the total on the donors, so that a difference of 0.01 says nothing.
Where the flow backward should end: noise that does not know the batch. Stated as the spread of the batches' means over
what chance makes of it (1 where noise is independent of the batch), and by its covariance.
"""

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

import anndata
import jax.random as jr
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from sklearn.decomposition import PCA
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import cellgap as cg
from bars import Bar
from cellgap.generate import CFGen, FittedCFGen, Sampler
from children import run_child, say, table
from environments import SCIB, SCVI, peer_python
from real_sets import data_root

# File, column of the batch, most cells.
SETS = {
    "pbmc_technologies": ("pbmc_technologies/counts.h5ad", "batch", None),
    "kang_ifnb": ("kang_ifnb/annotation_ctrl.h5ad", "donor", 2000),
    "paul15_counts": ("paul15_counts/paul15.h5ad", "seq_batch", None),
}
BEST = "RK4, 20 steps"
SAMPLERS = {
    "default (Heun, 10 steps)": None,
    "Heun, 20 steps": Sampler(n_steps=20),
    "Heun, 50 steps": Sampler(n_steps=50),
    "Heun, 100 steps": Sampler(n_steps=100),
    BEST: Sampler(solver="rk4", n_steps=20),
    "Tsit5, tolerance 1e-5": Sampler(solver="tsit5", tolerance=1e-5),
}
START, OURS, BLIND = "PCA", "ours, translated", "ours, translated, types not told"


def bar(what: str, value: float, target: str | None = None) -> None:
    Bar("translate", what, float(value), target, capability="generate").emit()


def read(name: str) -> AnnData:
    """Return the cells of a set with their batch and type."""
    path, batch, most = SETS[name]
    adata = anndata.read_h5ad(data_root() / path)
    if most is not None and adata.n_obs > most:
        adata = adata[np.sort(np.random.default_rng(0).choice(adata.n_obs, most, replace=False))]
    obs = pd.DataFrame({"batch": adata.obs[batch].astype(str), "cell_type": adata.obs["cell_type"].astype(str)})
    return AnnData(sp.csr_matrix(adata.X, dtype=np.float32), obs=obs, var=adata.var[[]])


def fit(adata: AnnData, attributes: tuple[str, ...]) -> FittedCFGen:
    study = cg.Study(adata, cg.Design(context=("cell_type",), donor="batch", counts="X"))
    return CFGen(space=cg.space.Autoencoder(), attributes=attributes).fit(study, key=jr.key(0))


def components(adata: AnnData) -> np.ndarray:
    """Return 30 principal components of log-normalized counts."""
    x = adata.X.toarray()
    x = np.log1p(1e4 * x / x.sum(1, keepdims=True))
    return PCA(30, random_state=0).fit_transform(x).astype(np.float32)


def translated(fitted: FittedCFGen, out: AnnData) -> np.ndarray:
    """Return the standardized codes of translated cells."""
    return (out.obsm["X_cellgap"] - fitted.center) / fitted.spread


def between(z: np.ndarray, batches: np.ndarray) -> float:
    """Return the variance between the batches' means over that within, both a degree of freedom: 1 by chance."""
    groups = [z[batches == batch] for batch in np.unique(batches)]
    apart = sum(len(g) * np.mean((g.mean(0) - z.mean(0)) ** 2) for g in groups) / (len(groups) - 1)
    within = sum(np.mean((g - g.mean(0)) ** 2) * len(g) for g in groups) / (len(z) - len(groups))
    return float(apart / within)


def accuracy(z: np.ndarray, types: np.ndarray) -> float:
    """Return how often the 15 nearest cells of other folds have a cell's type."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(cross_val_score(KNeighborsClassifier(15), z, types, cv=folds).mean())


def identity(name: str, told: FittedCFGen, blind: FittedCFGen, adata: AnnData) -> None:
    """Translate every cell to the batch it is from, by every sampler."""
    own = adata.obs["batch"].to_numpy()
    ways = {way: (told, sampler) for way, sampler in SAMPLERS.items()}
    ways[f"{BEST}, types not told"] = (blind, SAMPLERS[BEST])
    found = {}
    for way, (fitted, sampler) in ways.items():
        began = time.process_time()
        out = fitted.translate(adata, key=jr.key(0), sampler=sampler, output="latent", batch=own)
        spent = time.process_time() - began
        before, after, noise = fitted.encode(adata), translated(fitted, out), out.obsm["X_cellgap_noise"]
        error = np.linalg.norm(after - before, axis=1) / np.linalg.norm(before, axis=1)
        widths = np.linalg.eigvalsh(np.cov(noise.T))
        found[way] = {
            "max": error.max(),
            "mean": error.mean(),
            "evaluations": 2 * out.uns["cellgap"]["evaluations"],
            "CPU-s": spent,
            "mean of noise": np.sqrt(np.mean(noise.mean(0) ** 2)),
            "between batches": between(noise, own),
            "variance of noise": widths.mean(),
            "least": widths[0],
            "most": widths[-1],
        }
    rows = [(way, *map(float, values.values())) for way, values in found.items()]
    table(f"{name}: to the own batch; relative error of codes", rows, ("sampler", *found[BEST]))
    for way, values in found.items():
        bar(f"{name}: largest relative error of a cell, {way}", values["max"], "<= 1e-3" if way == BEST else None)
    best = found[BEST]
    bar(f"{name}: mean relative error of cells, {BEST}", best["mean"])
    bar(f"{name}: evaluations a cell, back and forth, {BEST}", best["evaluations"])
    bar(f"{name}: spread of the batches' means over chance, codes", between(told.encode(adata), own))
    bar(f"{name}: spread of the batches' means over chance, noise", best["between batches"])
    bar(f"{name}: mean variance of noise", best["variance of noise"])


def correction(name: str, adata: AnnData, told: FittedCFGen, blind: FittedCFGen, pythons: dict[str, str]) -> None:
    """Translate all cells to one batch, and score the embeddings."""
    types = adata.obs["cell_type"].to_numpy()
    reference = str(adata.obs["batch"].value_counts().index[0])
    found = {START: components(adata), "codes": told.encode(adata)}
    for way, fitted in {OURS: told, BLIND: blind}.items():
        out = fitted.translate(adata, key=jr.key(0), output="latent", batch=reference)
        found[way] = translated(fitted, out)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if SCVI.name in pythons:
            adata.write_h5ad(folder / "cells.h5ad")
            options = {"cells": folder / "cells.h5ad", "batch": "batch", "types": "cell_type"}
            done = run_child("peers/scvi_latent.py", options | {"out": folder / "scvi.npz"}, pythons[SCVI.name])
            say(f"  scVI and scANVI: {done['training_cpu_s']:.0f} CPU-s to train")
            with np.load(folder / "scvi.npz") as stored:
                found |= {way: stored[way] for way in stored}
        labels = {"batch": adata.obs["batch"].to_numpy().astype(str), "type": types.astype(str)}
        np.savez(folder / "embeddings.npz", **{way: z.astype(np.float32) for way, z in found.items()}, **labels)
        options = {"embeddings": folder / "embeddings.npz", "start": START, "out": folder / "harmony.npz"}
        done = run_child("peers/scib_scores.py", options, pythons[SCIB.name])
        with np.load(folder / "harmony.npz") as stored:
            found["Harmony"] = stored["Harmony"]
    say(f"  scib-metrics and Harmony: {done['process_cpu_s']:.0f} CPU-s")
    scores = done["scores"]
    kept = {way: accuracy(z, types) for way, z in found.items()}
    metrics = list(scores[START])
    rows = [(way, *(float(scores[way][m]) for m in metrics), kept[way]) for way in found]
    table(f"{name}: all cells to {reference}", rows, ("embedding", *metrics, "kNN accuracy"))
    total = {way: scores[way]["Total"] for way in found}
    for way in found:
        bar(f"{name}: scib total, {way}", total[way])
    bar(f"{name}: scib total, ours less that of the uncorrected PCA", total[OURS] - total[START], ">= 0")
    peers = max(total[way] for way in ("Harmony", "scVI") if way in total)
    which = "the better of Harmony and scVI" if "scVI" in total else "Harmony"
    bar(f"{name}: scib total, ours less that of {which}", total[OURS] - peers, ">= 0")
    bar(f"{name}: scib total, ours without types less that of {which}", total[BLIND] - peers)
    bar(f"{name}: kNN accuracy of types, ours less that of the codes before", kept[OURS] - kept["codes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="pbmc_technologies,kang_ifnb", help=f"of {', '.join(SETS)}")
    parser.add_argument("--no-scvi", action="store_true")
    args, _ = parser.parse_known_args()
    names = args.sets.split(",")
    if unknown := [name for name in names if name not in SETS]:
        parser.error(f"no data set {unknown[0]}: there are {', '.join(SETS)}")
    warnings.simplefilter("ignore")
    pythons = {peer.name: peer_python(peer) for peer in ((SCIB,) if args.no_scvi else (SCIB, SCVI))}
    for name in names:
        adata = read(name)
        began = time.process_time()
        told, blind = fit(adata, ("cell_type", "batch")), fit(adata, ("batch",))
        say(f"{name}: {adata.n_obs} cells, both fits {time.process_time() - began:.0f} CPU-s")
        identity(name, told, blind, adata)
        correction(name, adata, told, blind, pythons)


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"wall {time.perf_counter() - start:.0f} s", file=sys.stderr)

"""Embeddings of cells beside PCA and scVI: are types and conditions kept, and are batches mixed?

Question: on labelled and perturbed cells, does a contrastive embedding keep the biology at least as well as scVI does?
Scores: linear and k-nearest-neighbor probes that leave donors (chemistries) out where there are some, and scib-metrics.
Data: PBMC by two chemistries (720 cells), control PBMC of six donors (2,000 of them), the same donors with and without
interferon beta (2,664), myeloid progenitors of two sequencing runs (2,128), tumour cells of four patients with and
without panobinostat (4,000; no types are known, scib-metrics is given the condition in their place).
Ours, by the defaults of `ContrastiveEmbedding`, with pairs that were written down before any score was seen:
`Thin() | Neighbour(across=batch)`, told the batch as scVI is, which the bars are about; `Thin()`, told nothing, as PCA;
and `SameCondition(by=type, across=batch)`, told the types as scANVI is: how well types that are told are kept.
Of the perturbed sets also `SameCondition(across="donor")`, told the condition: fitted twice on one half of the donors,
and all probes learn on that half and are asked about the other. PCA and scVI know no condition; they have seen the
counts of all donors. Everything is fitted once.
Latents of the peers are kept in `benchmarks/out` under a digest of the cells, so that they are trained once; ours are
kept there too, and taken from there with --reuse only.
"""

import argparse
import hashlib
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import anndata
import jax.random as jr
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

import cellgap as cg
from bars import Bar
from cellgap.embed import AbstractPairs, ContrastiveEmbedding, Neighbour, SameCondition, Thin
from cellgap.evaluate import embedding_scores
from children import run_child, say, table
from environments import SCIB, SCVI, peer_python
from real_sets import data_root

OUT = Path(__file__).resolve().parent / "out"


@dataclass(frozen=True)
class Cells:
    """A set: where it is, its columns, and what is asked of it."""

    path: str
    batch: str
    types: str
    labels: tuple[str, ...]
    held: str | None = None  # left out by probes
    condition: str | None = None
    most: int | None = None


SETS = {
    "pbmc_technologies": Cells("pbmc_technologies/counts.h5ad", "batch", "cell_type", ("cell_type",), "batch"),
    "kang_ctrl": Cells("kang_ifnb/annotation_ctrl.h5ad", "donor", "cell_type", ("cell_type",), "donor", most=2000),
    "kang_ifnb": Cells(
        "kang_ifnb/perturbation.h5ad", "donor", "cell_type", ("cell_type", "condition"), "donor", "condition"
    ),
    "paul15_counts": Cells("paul15_counts/paul15.h5ad", "seq_batch", "cell_type", ("cell_type",)),
    "glioblastoma_panobinostat": Cells(
        "glioblastoma_panobinostat/counts.h5ad", "donor", "condition", ("condition",), "donor", "condition"
    ),
}
START, PEER, TOLD_PEER = "PCA", "scVI", "scANVI"
OURS, BLIND, TOLD = "ours", "ours, Thin", "ours, told the types"
TOLD_CONDITION = "ours, told the condition"
PROBES = ("linear_accuracy", "linear_balanced_accuracy", "knn_accuracy", "knn_balanced_accuracy")


def bar(what: str, value: float, target: str | None = None) -> None:
    Bar("cells", what, float(value), target, capability="embed").emit()


def read(cells: Cells) -> AnnData:
    """Return counts with the columns that are needed, as texts."""
    adata = anndata.read_h5ad(data_root() / cells.path)
    if cells.most is not None and adata.n_obs > cells.most:
        adata = adata[np.sort(np.random.default_rng(0).choice(adata.n_obs, cells.most, replace=False))]
    columns = dict.fromkeys((cells.batch, cells.types, *cells.labels))
    obs = pd.DataFrame({name: adata.obs[name].astype(str).to_numpy() for name in columns}, index=adata.obs_names)
    return AnnData(sp.csr_matrix(adata.X, dtype=np.float32), obs=obs, var=adata.var[[]])


def components(adata: AnnData) -> np.ndarray:
    """Return 30 principal components of log-normalized counts."""
    x = adata.X.toarray()
    x = np.log1p(1e4 * x / x.sum(1, keepdims=True))
    return PCA(30, random_state=0).fit_transform(x).astype(np.float32)


def embedded(
    adata: AnnData, cells: Cells, pairs: AbstractPairs, rows: np.ndarray | None = None, *, kept: Path, reuse: bool
) -> np.ndarray:
    """Return the embedding of all cells, fitted on all or on these rows, or as it was kept."""
    if reuse and kept.exists():
        return np.load(kept)
    if cells.condition is None:
        design = cg.Design(context=(cells.types,), donor=cells.batch, counts="X")
    else:
        design = cg.Design(treatment=cells.condition, control="ctrl", donor=cells.batch, counts="X")
    known = adata if rows is None else adata[rows].copy()
    began = time.process_time()
    fitted = ContrastiveEmbedding(pairs=pairs).fit(cg.Study(known, design), key=jr.key(0))
    trained = fitted.sampling.trained
    say(f"  {pairs}: {time.process_time() - began:.0f} CPU-s, best step {fitted.best_step}, {trained}")
    encoded = fitted.encode(adata)
    OUT.mkdir(exist_ok=True)
    np.save(kept, encoded)
    return encoded


def ours(name: str, adata: AnnData, cells: Cells, *, reuse: bool) -> dict[str, np.ndarray]:
    """Return our embeddings of all cells by name."""
    pairs = {OURS: Thin() | Neighbour(across=(cells.batch,)), BLIND: Thin()}
    if cells.types != cells.condition:
        pairs[TOLD] = SameCondition(by=(cells.types,), across=(cells.batch,))
    return {
        way: embedded(adata, cells, pair, kept=OUT / f"embed-{name}-ours-{i}.npy", reuse=reuse)
        for i, (way, pair) in enumerate(pairs.items())
    }


def peers(name: str, adata: AnnData, cells: Cells, python: str) -> dict[str, np.ndarray]:
    """Return the latents of scVI and scANVI, trained once for these cells."""
    digest = hashlib.sha256(adata.X.toarray().tobytes())
    digest.update(repr((cells.batch, cells.types, adata.obs.to_numpy().tolist(), SCVI.requirements)).encode())
    kept = OUT / f"embed-{name}-{digest.hexdigest()[:16]}.npz"
    if not kept.exists():
        OUT.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            path, latents = Path(temporary) / "cells.h5ad", Path(temporary) / "latents.npz"
            adata.write_h5ad(path)
            options = {"cells": path, "batch": cells.batch, "types": cells.types, "out": latents}
            done = run_child("peers/scvi_latent.py", options, python)
            say(f"  scVI and scANVI: {done['training_cpu_s']:.0f} CPU-s to train")
            kept.write_bytes(latents.read_bytes())
    with np.load(kept) as stored:
        return {way: stored[way] for way in stored}


def by_scib(found: dict[str, np.ndarray], adata: AnnData, cells: Cells, python: str) -> pd.DataFrame:
    """Return the scores of scib-metrics, and Harmony's beside them."""
    labels = {"batch": adata.obs[cells.batch].to_numpy(str), "type": adata.obs[cells.types].to_numpy(str)}
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "embeddings.npz"
        np.savez(path, **{way: z.astype(np.float32) for way, z in found.items()}, **labels)
        options = {"embeddings": path, "start": START, "out": Path(temporary) / "harmony.npz"}
        scored = run_child("peers/scib_scores.py", options, python)
    return pd.DataFrame(scored["scores"]).T


def other_half(name: str, adata: AnnData, cells: Cells, found: dict[str, np.ndarray], *, reuse: bool) -> pd.DataFrame:
    """Return accuracies on donors that neither probes nor the pairs told the condition saw, meaned over halves."""
    donors = adata.obs[cells.batch].to_numpy()
    names = np.unique(donors)
    rows = []
    for i, half in enumerate((names[::2], names[1::2])):
        known = np.isin(donors, half)
        kept = OUT / f"embed-{name}-half-{i}.npy"
        pairs = SameCondition(across=(cells.batch,))
        fitted = embedded(adata, cells, pairs, np.flatnonzero(known), kept=kept, reuse=reuse)
        for way, h in {**found, TOLD_CONDITION: fitted}.items():
            # Scaled as `cellgap.embed.linear_probe` scales: one factor for all directions.
            h = (h - h[known].mean(axis=0)) / np.sqrt(np.mean(np.var(h[known], axis=0)))
            for label in cells.labels:
                y = adata.obs[label].to_numpy()
                for probe, model in (
                    ("linear", LogisticRegression(max_iter=2000)),
                    ("knn", KNeighborsClassifier(15)),
                ):
                    told = model.fit(h[known], y[known]).predict(h[~known])
                    rows.append({"way": way, "of": f"{label}, {probe}", "accuracy": np.mean(told == y[~known])})
    return pd.DataFrame(rows).groupby(["way", "of"], sort=False)["accuracy"].mean().unstack("of")


def scored(name: str, cells: Cells, pythons: dict[str, str], *, reuse: bool) -> None:
    """Fit everything on one set, print its tables and bars."""
    adata = read(cells)
    say(f"{name}: {adata.n_obs} cells x {adata.n_vars} genes")
    found = {START: components(adata), **peers(name, adata, cells, pythons[SCVI.name])}
    found |= ours(name, adata, cells, reuse=reuse)
    if TOLD not in found:
        found.pop(TOLD_PEER)  # its types would be the conditions that are asked for
    scores = embedding_scores(found, adata.obs, labels=cells.labels, batch=cells.batch, donors=cells.held)
    scores["what"] = scores["factor"] + " " + scores["metric"]
    wide = scores.pivot(index="embedding", columns="what", values="value").loc[list(found)]
    chance = scores.drop_duplicates("what").set_index("what")["chance"]
    for label in cells.labels:
        columns = [c for c in wide if c.startswith(f"{label} ") and c != f"{label} graph_connectivity"]
        rows = [*wide[columns].itertuples(), ("chance", *chance[columns])]
        table(f"{name}: {label}", rows, ("embedding", *(c.removeprefix(f"{label} ") for c in columns)))
    columns = [c for c in wide if c.endswith("graph_connectivity") or (c.startswith(f"{cells.batch} "))]
    table(f"{name}: batches", [*wide[columns].itertuples(), ("chance", *chance[columns])], ("embedding", *columns))
    scib = by_scib(found, adata, cells, pythons[SCIB.name])
    table(f"{name}: scib-metrics", list(scib.itertuples()), ("embedding", *scib.columns))

    for label in cells.labels:
        for probe in PROBES:
            what = f"{label} {probe}"
            target = ">= 0" if probe in ("linear_accuracy", "knn_accuracy") else None
            bar(f"{name}: {what}, {OURS} less scVI", wide.loc[OURS, what] - wide.loc[PEER, what], target)
            for way in found:
                bar(f"{name}: {what}, {way}", wide.loc[way, what])
    for total, target in (("Bio conservation", ">= 0"), ("Batch correction", None), ("Total", None)):
        bar(f"{name}: scib {total}, {OURS} less scVI", scib.loc[OURS, total] - scib.loc[PEER, total], target)
        for way in scib.index:
            bar(f"{name}: scib {total}, {way}", scib.loc[way, total])
    for way in found:
        bar(f"{name}: mixing of batches by neighbors, {way}", wide.loc[way, f"{cells.batch} mixing"])
    if cells.condition is not None:
        found.pop(TOLD, None)  # it was told the types of both halves
        found.pop(TOLD_PEER, None)
        halves = other_half(name, adata, cells, found, reuse=reuse)
        table(f"{name}: donors of the other half", list(halves.itertuples()), ("embedding", *halves.columns))
        for column in halves:
            excess = halves.loc[TOLD_CONDITION, column] - halves.loc[PEER, column]
            told = column.startswith("condition")
            bar(f"{name}: other donors, {column}, {TOLD_CONDITION} less scVI", excess, ">= 0" if told else None)
            for way in halves.index:
                bar(f"{name}: other donors, {column}, {way}", halves.loc[way, column])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS), help=f"of {', '.join(SETS)}")
    parser.add_argument("--peers-only", action="store_true", help="train what is kept in benchmarks/out, and stop")
    parser.add_argument("--reuse", action="store_true", help="take our embeddings of the last run, to score them again")
    args, _ = parser.parse_known_args()
    names = args.sets.split(",")
    if unknown := [name for name in names if name not in SETS]:
        parser.error(f"no data set {unknown[0]}: there are {', '.join(SETS)}")
    warnings.simplefilter("ignore")
    pythons = {peer.name: peer_python(peer) for peer in (SCIB, SCVI)}
    for name in names:
        if args.peers_only:
            peers(name, read(SETS[name]), SETS[name], pythons[SCVI.name])
        else:
            scored(name, SETS[name], pythons, reuse=args.reuse)


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"wall {time.perf_counter() - start:.0f} s", file=sys.stderr)

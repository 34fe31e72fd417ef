"""Counts: do raw counts that spaces give back look like those that were measured?

Question    Held-out cells are encoded, and counts are drawn from their codes with their own totals. Do these have the
            zeros, the variances and the distribution of the measured ones? On a simulated screen and on Kang et al.
            (interferon beta and control, 1,000 variable genes, very shallow).
Figures     Share of zeros; Wasserstein-1 distance between the cells' shares of zeros; ratio of drawn to measured
            variance within conditions (median over genes with a mean above 0.05); energy distance in 20 components of
            log-normalized values (unbiased). "real training cells": as many of them, drawn from all conditions. For the
            autoencoder also the held-out negative log-likelihood a cell, beside that of gene means.
Choice      Defaults of the library; nothing is chosen on the cells that are compared.
Machine     Any; about five minutes of CPU time. ``--quick`` leaves the autoencoders out (not for the record).
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

import cellgap as cg
from bars import Bar
from cellgap.space import AbstractSpace, AutoencoderSpace
from cellgap.study import Role, Split
from real_sets import data_root, kang_ifnb

Cells = np.ndarray


def sets() -> Iterator[tuple[str, Split, cg.space.Genes]]:
    """Yield name, split and genes of every data set."""
    study = kang_ifnb(data_root()).study
    yield "kang_ifnb", cg.split.in_distribution(study), cg.space.Genes(n_top=1000)
    screen = cg.simulate(n_genes=300, n_cells=150, n_controls=300, seed=1)
    yield "simulated", cg.split.in_distribution(screen.study(), min_cells=10), cg.space.Genes()


def spaces(genes: cg.space.Genes, quick: bool) -> dict[str, AbstractSpace]:
    closed = {"Genes": genes} | {f"PCA {dim}": cg.space.PCA(dim=dim, genes=genes) for dim in (30, 50)}
    learnt = {
        "Autoencoder": cg.space.Autoencoder(genes=genes),
        "Autoencoder, log1p": cg.space.Autoencoder(genes=genes, inputs="log1p"),
        "Autoencoder, noise 0.3": cg.space.Autoencoder(genes=genes, noise=0.3),
    }
    return closed if quick else closed | learnt


def log_normalized(x: Cells) -> Cells:
    return np.log1p(1e4 * x / np.maximum(x.sum(1, keepdims=True), 1))


def within(x: Cells, codes: np.ndarray) -> np.ndarray:
    """Return each gene's variance within conditions."""
    means = pd.DataFrame(x).groupby(codes).transform("mean").to_numpy()
    return ((x - means) ** 2).sum(0) / (len(x) - len(np.unique(codes)))


def energy(a: Cells, b: Cells) -> float:
    n, m = len(a), len(b)
    return 2 * cdist(a, b).mean() - cdist(a, a).sum() / (n * (n - 1)) - cdist(b, b).sum() / (m * (m - 1))


def figures(drawn: Cells, x: Cells, codes: np.ndarray, project: Callable[[Cells], Cells]) -> dict[str, float]:
    seen = x.mean(0) > 0.05
    zeros, measured = (np.sort((values == 0).mean(1)) for values in (drawn, x))
    return {
        "zeros": float((drawn == 0).mean()),
        "zeros measured": float((x == 0).mean()),
        "zeros a cell": float(np.abs(zeros - measured).mean()),
        "variance ratio": float(np.median(within(drawn, codes)[seen] / within(x, codes)[seen])),
        "energy": energy(project(log_normalized(drawn)), project(log_normalized(x))),
    }


def compare(name: str, split: Split, genes: cg.space.Genes, quick: bool) -> Iterator[dict]:
    study = split.study
    kept = genes.fit(split).columns
    x = study.values(np.arange(study.n_obs))[:, kept].toarray().astype(float)
    # Log-normalized values of a cell without counts are not defined.
    some = x.sum(1) > 0
    train, test = (rows[some[rows]] for rows in (split.cells(Role.TRAIN), split.cells(Role.VALID, Role.TEST)))
    project = PCA(20, random_state=0).fit(log_normalized(x[train])).transform
    codes, rng = study.codes[test], np.random.default_rng(0)
    real = x[rng.choice(train, len(test), replace=len(test) > len(train))]
    yield {"data": name, "space": "real training cells"} | figures(real, x[test], codes, project)
    for label, settings in spaces(genes, quick).items():
        space = settings.fit(split)
        z = space.encode(study.adata, test)

        def row(space, label=label, z=z):
            drawn = space.counts(z, x[test].sum(1), seed=0).toarray()
            likelihood = {
                key: space.reconstruction[key] for key in ("nll", "nll_gene_means") if key in space.reconstruction
            }
            return {"data": name, "space": label} | figures(drawn, x[test], codes, project) | likelihood

        yield row(space)
        if label == "Autoencoder" and isinstance(space, AutoencoderSpace) and space.noise is not None:
            one = np.ones_like(space.noise.factor)
            theta = np.exp(np.asarray(space.net.log_theta)[: len(one)])
            noise = dataclasses.replace(space.noise, factor=one, fresh=one, theta=theta, rule="learnt")
            yield row(dataclasses.replace(space, noise=noise), "Autoencoder, learnt dispersion")


def report(row: dict) -> None:
    """Print one line a figure; the autoencoder's have targets."""
    where = f"{row['space']}, {row['data']}"
    held = row["space"] == "Autoencoder"
    for name in ("zeros", "zeros measured", "energy"):
        Bar("counts", f"{name}: {where}", row[name], capability="space").emit()
    Bar(
        "counts", f"distance of zeros a cell: {where}", row["zeros a cell"], "<= 0.015" if held else None, "space"
    ).emit()
    ratio = row["variance ratio"]
    Bar("counts", f"variance ratio: {where}", ratio, ">= 0.9" if held else None, "space").emit()
    if held:
        Bar("counts", f"variance ratio, from above: {where}", ratio, "<= 1.1", "space").emit()
    if "nll" in row:
        Bar("counts", f"held-out NLL a cell: {where}", row["nll"], capability="space").emit()
        better = row["nll"] / row["nll_gene_means"]
        Bar("counts", f"held-out NLL over that of gene means: {where}", better, "< 1" if held else None, "space").emit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    for name, split, genes in sets():
        for row in compare(name, split, genes, quick):
            report(row)


if __name__ == "__main__":
    main()

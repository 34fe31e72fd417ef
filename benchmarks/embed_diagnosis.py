"""Does the diagnosis of pairs, made before training, say what the trained embedding holds?

For each of ten samplers of pairs on each of two sets of real cells the diagnosis gives every factor a verdict, frozen
(reach below 0.02) or moved (above 0.5). Frozen should be found in the embedding, moved should not. What is between is
listed and not judged: the theory says nothing there.

The probe sees what the loss sees: the vote of the other cells weighted by exp(h.h'/tau), as a probability of every
category, and the information it gives about the factor, in shares of the factor's entropy. It does not see differences
that are far below the temperature, which an argmax or a linear probe on standardized coordinates would. A factor counts
as found where that information is at least half of what the vote of 15 neighbours among 30 principal components gives.
Cells that the probe reads were held out from training. Rule and thresholds were fixed before anything was run.
"""

import argparse
import time

import anndata
import jax.random as jr
import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

import cellgap as cg
from bars import Bar
from cellgap.embed import Neighbour, Restart, SameCondition, Thin
from cellgap.train import Loop
from children import say, table
from real_sets import data_root

TAU = 0.1
SETS = {
    "kang_ifnb": (
        "kang_ifnb/perturbation.h5ad",
        cg.Design(treatment="condition", control="ctrl", donor="donor", counts="X"),
        ("cell_type",),
        {
            "thin": Thin(),
            "same treatment": SameCondition(),
            "same treatment, other donor": SameCondition(across="donor"),
            "same treatment and type, other donor": SameCondition(across="donor", within="cell_type"),
            "same type": SameCondition(by="cell_type"),
            "same type, other treatment": SameCondition(by="cell_type", across="condition"),
            "same donor": SameCondition(by="donor"),
            "same donor and type, other treatment": SameCondition(by=("donor", "cell_type"), across="condition"),
            "10 nearest": Neighbour(10),
            "5 nearest of every other donor": Neighbour(5, across="donor"),
            "same treatment, and thin": SameCondition(across="donor") | Thin(),
            "same type, and 5 % any": SameCondition(by="cell_type") | Restart(0.05),
        },
    ),
    "pbmc_technologies": (
        "pbmc_technologies/counts.h5ad",
        cg.Design(context=("cell_type",), donor="batch", counts="X"),
        (),
        {
            "thin": Thin(),
            "same type": SameCondition(by="cell_type"),
            "same type, other batch": SameCondition(by="cell_type", across="batch"),
            "same batch": SameCondition(by="batch"),
            "10 nearest": Neighbour(10),
            "5 nearest of the other batch": Neighbour(5, across="batch"),
        },
    ),
}


def bar(what: str, value: float, target: str | None = None) -> None:
    Bar("diagnosis", what, float(value), target, capability="embed").emit()


def information(votes: np.ndarray, codes: np.ndarray) -> float:
    """Return the information of predicted shares about categories, in shares of their entropy."""
    shares = np.bincount(codes) / len(codes)
    entropy = -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())
    told = votes[np.arange(len(codes)), codes]
    return (entropy + float(np.log(np.maximum(told, 1e-12)).mean())) / entropy


def kernel_votes(h: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the shares of categories among the other cells, weighted by exp(h.h'/tau)."""
    weights = np.exp((h @ h.T - 1.0) / TAU)
    np.fill_diagonal(weights, 0.0)
    return smoothed(weights @ np.eye(codes.max() + 1)[codes], codes, weights.sum(1) ** 2 / (weights**2).sum(1))


def neighbour_votes(x: np.ndarray, codes: np.ndarray, k: int = 15) -> np.ndarray:
    near = NearestNeighbors(n_neighbors=k).fit(x).kneighbors(return_distance=False)
    return smoothed(np.eye(codes.max() + 1)[codes][near].sum(1), codes, np.full(len(x), float(k)))


def smoothed(votes: np.ndarray, codes: np.ndarray, voters: np.ndarray) -> np.ndarray:
    """Return shares with one more vote, spread as all cells are: the effective number of voters decides its weight."""
    prior = np.bincount(codes) / len(codes)
    shares = votes / np.maximum(votes.sum(1, keepdims=True), 1e-30)
    return (shares * voters[:, None] + prior) / (voters[:, None] + 1.0)


def rows_of(name: str, steps: int, seed: int) -> pd.DataFrame:
    """Return one row a sampler and factor."""
    path, design, extra, samplers = SETS[name]
    cells = anndata.read_h5ad(data_root() / path)
    order = np.random.default_rng(seed).permutation(cells.n_obs)
    test, train = (cells[np.sort(part)].copy() for part in np.split(order, [int(0.3 * cells.n_obs)]))
    study = cg.Study(train, design)
    pcs = cg.space.PCA(dim=30).fit(cg.split.everything(study)).encode(test)
    factors = {"cell_type": "cell_type", "donor": str(design.donor)}
    if design.treatment != ():
        factors["treatment"] = "condition"
    codes = {f: np.unique(test.obs[c].astype(str), return_inverse=True)[1] for f, c in factors.items()}
    reference = {f: information(neighbour_votes(pcs, c), c) for f, c in codes.items()}
    found = []
    for words, pairs in samplers.items():
        start = time.process_time()
        embedding = cg.ContrastiveEmbedding(
            pairs=pairs, factors=extra, tau=TAU, loop=Loop(n_steps=steps, chunk=50, valid_every=100)
        ).fit(study, key=jr.key(seed))
        reach = embedding.sampling.reach | {"donor": embedding.sampling.reach[str(design.donor)]}
        verdicts = {f.name: f.verdict for f in embedding.sampling.factors}
        h = embedding.encode(test).astype(float)
        for factor, code in codes.items():
            verdict = verdicts[str(design.donor) if factor == "donor" else factor]
            share = information(kernel_votes(h, code), code) / reference[factor]
            nearest = cg.embed.knn_probe(h, code.astype(str), k=15)
            found.append(
                {
                    "set": name, "pairs": words, "factor": factor, "reach": reach[factor], "verdict": verdict,
                    "information": share, "held": share >= 0.5, "knn": nearest.accuracy, "reference": reference[factor],
                }
            )  # fmt: skip
        say(f"{name}: {words}: {time.process_time() - start:.0f} CPU-s")
    return pd.DataFrame(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one set, few steps")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args, _ = parser.parse_known_args()
    names = ("pbmc_technologies",) if args.quick else tuple(SETS)
    rows = pd.concat([rows_of(name, 200 if args.quick else args.steps, args.seed) for name in names])
    judged = rows[rows["verdict"] != "partly moved"]
    right = judged["held"] == (judged["verdict"] == "frozen")
    shown = ["set", "pairs", "factor", "reach", "verdict", "information", "held", "knn"]
    table("verdicts before training, and what the embedding holds", rows[shown].values.tolist(), shown)
    for verdict, part in judged.groupby("verdict"):
        bar(f"{verdict}: share of the reference's information, median", part["information"].median())
    for name, part in right.groupby(judged["set"]):
        bar(f"{name}: verdicts that the probe confirms, of {len(part)}", part.mean())
    bar(
        f"samplers of pairs, {len(judged)} verdicts on factors",
        float(rows.groupby("set")["pairs"].nunique().sum()),
        ">= 6",
    )
    bar(f"verdicts that the probe confirms, of {len(judged)}", float(right.mean()), ">= 0.9")


if __name__ == "__main__":
    main()

"""Lorenz-96 and the Rössler chain: which variable drives which, from one noisy trajectory, beside published figures.

Question: does the group lasso on networks a target find the regulators where NGM's printed figures are? Data: our
simulations of the same laws (one trajectory of 1,000 points, 3,000 for irregular sampling, noise 0.1, five seeds).
NGM's simulator may add noise to the derivatives as well (its printed figures are quoted from its repository, not
rerun), so that both columns are not of the same data. One setting for each law, chosen on seeds 10 and 11 at dt 0.1,
which are not scored: windows of 0.4 in time (2 to 16 states) and strength 0.05 for Lorenz-96, 0.8 and 0.03 for Rössler.
Windows of four states at every dt were tried first, and found half of the edges at dt 0.05. AUROC is that of the
strengths of groups; NGM's printed AUC is taken after thresholding, so the same figure of ours for the edges that are
kept, (1 + TPR - FPR) / 2, stands beside it.
"""

import argparse
import time

import jax.random as jr
import numpy as np

from bars import Bar
from cellgap import NeuralLaw, evaluate
from cellgap.dynamics import GroupLasso, LawTraining, Solver, System, lorenz96, rossler
from cellgap.train import Loop
from children import table

SETTINGS = {"lorenz96": (0.05, 0.4), "rossler": (0.03, 0.8)}
"""Strength of the group lasso, and length of a window in time."""
MOST = 16  # states of a window

# Row: system, seconds between points, points, share kept, NGM's printed TPR, FDR, AUC.
Row = tuple[System, float, int, float, tuple[float | None, float | None, float]]


def rows_of(quick: bool) -> dict[str, Row]:
    lorenz, weak, chain = lorenz96(10, 10.0), lorenz96(10, 5.0), rossler(10, scale=400.0)
    printed = {0.01: (0.633, 0.0, 0.816), 0.05: (0.75, 0.0, 0.875), 0.1: (0.81, 0.0, 0.905), 0.15: (0.993, 0.0, 0.996),
               0.25: (0.99, 0.164, 0.994)}  # fmt: skip
    found: dict[str, Row] = {f"Lorenz-96, dt {dt:g}": (lorenz, dt, 1000, 1.0, p) for dt, p in printed.items()}
    for kept, auc in {1.0: 0.989, 0.7: 0.985, 0.5: 0.938, 0.3: 0.767}.items():
        found[f"Lorenz-96, F 5, irregular, {kept:g} kept"] = (weak, 0.05, 3000, kept, (None, None, auc))
    found["Rössler, 10"] = (chain, 0.1, 1000, 1.0, (0.863, 0.0, 0.932))
    found["Rössler, 50"] = (rossler(50, scale=400.0), 0.1, 1000, 1.0, (0.974, 0.11, 0.987))
    return {name: row for name, row in found.items() if not quick or name in ("Lorenz-96, dt 0.1", "Rössler, 10")}


def bar(what: str, value: float, target: str | None = None) -> None:
    Bar("laws", what, value, target, capability="dynamics").emit()


def measured(row: Row, seed: int, steps: int) -> dict[str, float]:
    """Return the figures of one simulation."""
    system, dt, n, kept, _ = row
    strength, length = SETTINGS[system.name]
    window = min(max(round(length / dt), 2), MOST)
    train = system.simulate(1, dt * np.arange(n), seed=seed, noise=0.1, keep=kept)
    model = NeuralLaw(
        penalty=GroupLasso(strength=strength),
        window=window,
        members=1,
        null=0,
        valid=0.1,
        solver=Solver(method="rk4", max_step=0.15),
        training=LawTraining(loop=Loop(n_steps=steps, chunk=50, valid_every=50), batch_size=128),
    )
    began = time.process_time()
    law = model.fit(train, key=jr.key(seed))
    seconds = time.process_time() - began
    network = law.network()
    scores = evaluate.network_scores(network.kept.astype(float), system.adjacency, threshold=0.5)
    strengths = evaluate.network_scores(network.strength, system.adjacency)
    return {
        "auroc": float(strengths["auroc"]),
        "tpr": float(scores["tpr"]),
        "fdr": float(scores["fdr"]),
        "auc at threshold": float(1 + scores["tpr"] - scores["fpr"]) / 2,
        "jacobian auroc": float(evaluate.network_scores(network.scores, system.adjacency)["auroc"]),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--quick", action="store_true", help="two rows")
    parser.add_argument("--rows", default="", help="only rows whose name holds this text")
    args, _ = parser.parse_known_args()
    shown = []
    for name, row in rows_of(args.quick).items():
        if args.rows not in name:
            continue
        runs = [measured(row, seed, args.steps) for seed in range(args.seeds)]
        mean = {key: float(np.mean([r[key] for r in runs])) for key in runs[0]}
        tpr, fdr, auc = row[4]
        gated = name == "Lorenz-96, dt 0.1"
        bar(f"{name}: AUROC of groups", mean["auroc"], ">= 0.98" if gated else None)
        bar(f"{name}: FDR at the threshold", mean["fdr"], "<= 0" if gated else None)
        for key in ("tpr", "auc at threshold", "jacobian auroc", "seconds"):
            bar(f"{name}: {key}", mean[key])
        bar(f"{name}: AUC printed for NGM", auc)
        columns = ("auroc", "auc at threshold", "tpr", "fdr", "jacobian auroc", "seconds")
        shown.append((name, *(mean[c] for c in columns), auc, tpr, fdr))
    table(
        f"mean of {args.seeds} seeds", shown,
        ("system", "AUROC", "AUC thr.", "TPR", "FDR", "Jacobian", "CPU s", "NGM AUC", "NGM TPR", "NGM FDR"),
    )  # fmt: skip


if __name__ == "__main__":
    main()

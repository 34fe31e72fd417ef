"""One-pass axes beside scikit-learn's IncrementalPCA, scanpy's chunked PCA and SciPy's svds: accuracy, CPU, memory.

Question: how much processor time and memory do 20 axes of an atlas take, and how far from the exact ones are they?
Data: made-up atlases in h5ad files (12 types, 6 programmes, Poisson counts, log-normalized): 10,000 cells x 1,500
genes, and 20,000 x 3,000 with a density of at most 25 %. Chunks of 500 cells for the peers, which are given the same
files. Accuracy is against eigenvectors of the whole covariance.
Machine: any CPU; every program is a process of its own, three rounds, medians. CPU seconds count all threads, with
reading and without imports; peak memory is that of the whole process.
How to read: error of axis 1 is 1 - cos^2; of five, the squared sine of the largest angle between the planes; lost is
the share of the variance of the best 20 axes that is missed.
"""

import argparse
import tempfile
from pathlib import Path

from bars import Bar
from children import medians, run_child, say, table
from environments import SCANPY, peer_python

WAYS = {
    "blocks": ("ours/axes.py", {"solver": "blocks"}),
    "gram": ("ours/axes.py", {"solver": "gram"}),
    "incremental": ("peers/axes.py", {"way": "incremental"}),
    "scanpy": ("peers/axes.py", {"way": "scanpy"}),
    "svds": ("peers/axes.py", {"way": "svds"}),
}
CALLED = {
    "blocks": "ours, blocks",
    "gram": "ours, Gram matrix",
    "incremental": "IncrementalPCA",
    "scanpy": "scanpy, chunked",
    "svds": "svds",
}
K = 20


def bar(what: str, value: float, target: str | None = None) -> None:
    Bar("peers", what, value, target, "stream").emit()


def compared(folder: Path, cells: int, genes: int, depth: float, rounds: int, python: str, gated: bool) -> None:
    """Print the lines of one atlas."""
    path = folder / f"{genes}.h5ad"
    made = run_child("ours/atlas.py", {"path": path, "cells": cells, "genes": genes, "depth": depth, "log": 1})
    where = f"{cells:,} x {genes:,}, density {100 * made['density']:.0f} %"
    found: dict[str, dict[str, float]] = {}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for round_ in range(rounds):
        for name, (program, options) in WAYS.items():
            say(f"{where}: {CALLED[name]}, round {round_ + 1}")
            arguments = {"path": path, "out": folder / f"{name}.npy", "k": K, **options}
            runs[name].append(run_child(program, arguments, python if name == "scanpy" else None))
    for name in WAYS:
        found[name] = medians(runs[name])
    axes = ",".join(f"{name}={folder / name}.npy" for name in WAYS)
    scores = run_child("ours/axes_score.py", {"path": path, "axes": axes})
    for name in ("incremental", "scanpy", "svds"):
        for ours in ("blocks", "gram"):
            ratio = found[name]["cpu_s"] / found[ours]["cpu_s"]
            target = ">= 5" if gated and (name, ours) == ("incremental", "blocks") else None
            bar(f"CPU time ratio, {CALLED[name]} / {CALLED[ours]}, {where}", ratio, target)
    for name in WAYS:
        bar(f"share of the best variance lost, {CALLED[name]}, {where}", scores[f"{name}_lost"])
        bar(f"peak memory of the process in MB, {CALLED[name]}, {where}", found[name]["peak_mb"])
    if gated:
        bar(f"lost variance, ours by blocks less IncrementalPCA, {where}",
            scores["blocks_lost"] - scores["incremental_lost"], "<= 0")  # fmt: skip
        bar(f"error of axis 1, ours by Gram matrix, {where}", scores["gram_first"], "<= 1e-9")
    rows = [
        (CALLED[name], found[name]["cpu_s"], found[name]["peak_mb"], scores[f"{name}_first"], scores[f"{name}_five"],
         100 * scores[f"{name}_lost"])
        for name in WAYS
    ]  # fmt: skip
    table(where, rows, ("who", "CPU-s", "peak MB", "error axis 1", "sin^2 of five", "lost, %"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cells, one round, to see that it runs")
    parser.add_argument("--scanpy-python", help="an interpreter that has scanpy")
    args, _ = parser.parse_known_args()
    rounds, scale = (1, 5) if args.quick else (3, 1)
    python = peer_python(SCANPY, args.scanpy_python)
    with tempfile.TemporaryDirectory() as temporary:
        compared(Path(temporary), 10_000 // scale, 1500, 1500.0, rounds, python, False)
        compared(Path(temporary), 20_000 // scale, 3000, 1300.0, rounds, python, True)


if __name__ == "__main__":
    main()

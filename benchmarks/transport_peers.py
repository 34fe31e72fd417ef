"""The whole job beside the package cmonge: autoencoder, conditional training, evaluation, in CPU time.

Question: what does a user pay for training and evaluating the published model, from the same cells? Data: a simulated
screen of 17,500 cells and 1,000 genes (six conditions); the package reads it log-normalized, ours as raw counts. Same
recipe: autoencoder 1000-512-512-50 with 50 gradient steps of 512 cells; the published conditional network on ten
numbers (ours: the four they are made of) and the dose, Sinkhorn divergence of one batch (eps 1) and Monge gap
(eps 0.01), 512 cells, AdamW 1e-4; 11 batches of 512 cells a condition for evaluation: transport cost, divergence at
eps 0.1, kernel discrepancy, correlation and distance of means over 50 genes. The package also solves a "Monge gap" of
cells that are not paired, which has no meaning and is left out of ours: one of five transport problems a batch. Ours
encodes every cell once; the package encodes all training cells of a condition at every step.
Both sides run as children of this process in turns; medians of CPU seconds (user and system, all threads). Compiling is
in, on both sides; lines without target leave it out. The package runs ``--peer-steps`` steps and 30 of the 66 batches,
and what a further one costs is added for the rest.
"""

import argparse
import tempfile
from pathlib import Path

from bars import Bar
from children import medians, run_child, say, table
from environments import CMONGE, peer_python


def bar(what: str, value: float, target: str | None = None) -> None:
    Bar("peers", what, value, target, capability="transport").emit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cmonge-python", help="interpreter that has cmonge 0.1.3")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--peer-steps", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=2)
    args, _ = parser.parse_known_args()
    python = peer_python(CMONGE, args.cmonge_python)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run_child("pipeline_problem.py", {"folder": folder})
        mine, theirs = [], []
        options = {"data": folder / "cells.npz", "run-steps": args.steps, "steps": args.peer_steps}
        for r in range(args.rounds):
            mine.append(run_child("ours/pipeline.py", {"folder": folder, "steps": args.steps}))
            theirs.append(run_child("peers/cmonge_pipeline.py", options, python))
            spent = [m[-1]["process_cpu_s"] for m in (mine, theirs)]
            say(f"  round {r + 1}/{args.rounds}: ours {spent[0]:.0f}, cmonge {spent[1]:.0f} CPU-s in all")
    ours, peer = medians(mine), medians(theirs)
    step = peer["training_further_cpu_s"] / args.peer_steps
    peer["training_cpu_s"] = peer["training_first_cpu_s"] + (args.steps - 2) * step
    batch = peer["evaluation_further_cpu_s"] / peer["batches_further"]
    peer["evaluation_cpu_s"] = peer["evaluation_first_cpu_s"] + (ours["batches"] - peer["batches_first"]) * batch
    scaled = f" (cmonge: {args.peer_steps} steps measured, {1e3 * step:.0f} CPU-ms a further step)"
    where = f"{args.steps} steps, n 512, 1,000 genes in a code of 50, six conditions{scaled}"
    bar(
        f"CPU time ratio cmonge / ours, whole training: {where}",
        peer["training_cpu_s"] / ours["training_cpu_s"],
        ">= 25",
    )
    own = ours["steps_after_first_chunk_cpu_s"] / ours["timed_steps"]
    bar(f"CPU time ratio cmonge / ours, a training step, compiling left out: {where}", step / own)
    bar("CPU milliseconds a training step, ours", 1e3 * own)
    bar("CPU milliseconds a training step, cmonge", 1e3 * step)
    batches = f"{int(ours['batches'])} batches of 512 cells (cmonge: {1e3 * batch:.0f} CPU-ms a further batch)"
    evaluation = peer["evaluation_cpu_s"] / ours["evaluation_cpu_s"]
    bar(f"CPU time ratio cmonge / ours, evaluation: {batches}", evaluation, ">= 20")
    bar("CPU seconds, ours, autoencoder of 50 steps and encoding of all cells", ours["autoencoder_cpu_s"])
    bar("CPU seconds, cmonge, autoencoder of 50 steps", peer["autoencoder_cpu_s"])
    names = ("autoencoder_cpu_s", "training_cpu_s", "evaluation_cpu_s")
    rows = [(who, *(m[name] for name in names), m["r2_mean"]) for who, m in (("ours", ours), ("cmonge", peer))]
    table("The whole job", rows, ("who", "autoencoder CPU-s", "training CPU-s", "evaluation CPU-s", "R2 of means"))


if __name__ == "__main__":
    main()

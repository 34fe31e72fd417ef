"""Ours: the CPU time of training steps, through the public estimators.

`cellgap.transport.Monge` (one condition) or `ConditionalMonge` (six) is fitted once, for ``--chunk`` + ``--steps``
steps. The progress bar is replaced by a clock that reads the CPU time at the end of each chunk: the first chunk
contains compiling, the others are what ``--steps`` steps cost, validations on held-out cells included. Prints one JSON
object.

``--objective published``: Sinkhorn divergence of one batch (eps 1), Monge gap (eps 0.01), Euclidean cost, weight 1, the
published network, started at the identity. ``--objective default``: everything as the estimator comes.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anndata
import jax
import jax.random as jr
import numpy as np
import pandas as pd

import cellgap
from cellgap import encode, space, split
from cellgap.study import Design, Study
from cellgap.train import Loop, _fit
from cellgap.transport import ConditionalMonge, Monge, Optimization


def cpu_seconds() -> float:
    """User and system seconds of this process, all threads, and of children it waited for."""
    return time.process_time() + os.times().children_user + os.times().children_system


def read_study(path: str, one: bool) -> tuple[Study, encode.AbstractEncoder]:
    """Return the cells as a study (with one treated condition, or with all), and an encoder of eleven numbers."""
    with np.load(path) as stored:
        kept = slice(1, 2) if one else slice(None)
        names = [str(name) for name in stored["names"][kept]]
        groups = [stored["controls"], *stored["treated"][kept].copy()]  # a copy, so that the rest is let go
        table = pd.DataFrame(stored["drug_embedding"], index=[str(drug) for drug in stored["drugs"]])
    sizes = [len(group) for group in groups]
    drugs = ["control", *(name.split("-")[0] for name in names)]
    doses = [0.0, *(float(name.split("-")[1]) for name in names)]
    obs = pd.DataFrame({"drug": np.repeat(drugs, sizes), "dose_nM": np.repeat(doses, sizes)})
    obs.index = obs.index.map(str)
    cells = anndata.AnnData(np.concatenate(groups), obs=obs)
    table.columns = [f"e{j}" for j in range(table.shape[1])]
    encoder = encode.Dose() if one else encode.Table(table) | encode.Dose()
    return Study(cells, Design(treatment="drug", control="control", dose="dose_nM")), encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--estimator", choices=("monge", "conditional"), required=True)
    parser.add_argument("--objective", choices=("published", "default"), required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--chunk", type=int, default=10)
    args = parser.parse_args()

    one = args.estimator == "monge"
    study, encoder = read_study(args.data, one)
    divided = split.in_distribution(study)
    options = {}
    if args.objective == "published":
        options = {
            "start": "identity",
            "fit_loss": "same_batch",
            "relative": False,
            "epsilon": 1.0,
            "gap_epsilon": 0.01,
        }
        options |= {} if one else {"conditioning": "concat"}
    read: list[tuple[int, float]] = []

    @contextmanager
    def clock(title: str, n_steps: int, done: int, *, shown: bool) -> Iterator[Callable[..., None]]:
        yield lambda step, row, seconds: read.append((step, cpu_seconds()))

    _fit.progress_bar = clock
    optimization = Optimization(
        loop=Loop(n_steps=args.chunk + args.steps, chunk=args.chunk), batch_size=args.n, learning_rate=1e-3
    )
    estimator = (Monge if one else ConditionalMonge)(
        space=space.Genes(transform="none"), encoder=encoder, optimization=optimization, **options
    )
    before = cpu_seconds()
    fitted = estimator.fit(divided, key=jr.key(0))
    jax.block_until_ready(fitted.net)
    whole = cpu_seconds() - before
    if [step for step, _ in read] != list(range(args.chunk, args.chunk + args.steps + 1, args.chunk)):
        raise SystemExit(f"expected the CPU time at the end of every chunk, found steps {[step for step, _ in read]}")
    spent = read[-1][1] - read[0][1]
    losses = [row["loss"] for row in fitted.history if "loss" in row]  # step 0 is validated only
    print(
        json.dumps(
            {
                "version": cellgap.__version__,
                "jax": jax.__version__,
                "steps": args.steps,
                "first_call_cpu_s": whole - spent,
                "whole_cpu_s": whole,
                "cpu_s": spent,
                "cpu_s_per_step": spent / args.steps,
                "loss_first": losses[0],
                "loss_last": losses[-1],
                "parameters": sum(p.size for p in jax.tree.leaves(fitted.net)),
            }
        )
    )


if __name__ == "__main__":
    main()

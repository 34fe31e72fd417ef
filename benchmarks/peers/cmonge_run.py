"""Peer: a training run of the package `cmonge`, with its own loader, embedding, network and trainer.

What runs: `ConditionalDataModule` over its `SciPlexModule` with ``reduction: null`` (its loader then hands out the
plain features: no autoencoder), mode ``homogeneous``, six conditions, split [0.8, 0.2] of 2500 cells a population,
that is 2000 training cells; `ModeOfActionEmbedding` read from a table (10 numbers a condition, the logarithm of the
dose appended); `ConditionalPerturbationNetwork` with its published sizes; `ConditionalMongeTrainer.train` with the
published losses (``sinkhorn`` eps 1.0, ``monge`` eps 0.01 Euclidean), AdamW. Nothing of it is rewritten here.

Needs only what cmonge itself brings. Its two step functions (with and without logging) are compiled by two steps
before the timed call, and the network is then put back to where it started. Prints one JSON object.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import anndata
import jax
import numpy as np
import pandas as pd
from cmonge.datasets.conditional_loader import ConditionalDataModule
from cmonge.trainers.conditional_monge_trainer import ConditionalMongeTrainer
from dotmap import DotMap
from loguru import logger


def cpu_seconds() -> float:
    """User and system seconds of this process, all threads, and of children it waited for."""
    return time.process_time() + os.times().children_user + os.times().children_system


def write_inputs(data: str, folder: Path) -> tuple[Path, list[str], int]:
    """Write the cells as the h5ad that its loader reads, and the embedding table that its embedding reads."""
    with np.load(data) as stored:
        names = [str(name) for name in stored["names"]]
        groups = [stored["controls"], *stored["treated"]]
        embedding = stored["embedding"]
    labels = ["control-0", *names]
    genes = [f"f{j}" for j in range(groups[0].shape[1])]
    obs = pd.DataFrame({"drug-dose": np.repeat(labels, [len(g) for g in groups])})
    obs.index = obs.index.map(str)
    cells = anndata.AnnData(np.concatenate(groups), obs=obs, var=pd.DataFrame(index=genes))
    cells.uns["rank_genes_groups"] = {"names": {name.split("-")[0]: np.array(genes) for name in labels}}
    cells.write_h5ad(folder / "cells.h5ad")
    pd.DataFrame(embedding.T, columns=names).to_csv(folder / "moa")
    return folder / "cells.h5ad", names, len(genes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--steps", type=int, default=1000, help="timed steps")
    parser.add_argument("--run-steps", type=int, default=1000, help="length of the run (learning-rate schedule)")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    logger.remove()
    logger.add(sys.stderr, level="WARNING")

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cells, names, features = write_inputs(args.data, folder)
        datamodule = ConditionalDataModule(
            DotMap(
                name="sciplex",
                file_path=str(cells),
                batch_size=args.n,
                split=[0.8, 0.2],
                seed=args.seed,
                drug_col="drug-dose",
                drug_condition=names[0],
                control_condition="control-0",
                ae=False,
                reduction=None,
            ),
            DotMap(mode="homogeneous", conditions=names, split=[0.8, 0.2, 0]),
        )
        config = DotMap(
            {
                "seed": args.seed,
                "num_train_iters": args.run_steps,
                "optim": {
                    "name": "adamw",
                    "lr": args.lr,
                    "grad_acc_steps": 1,
                    "kwargs": {"b1": 0.9, "b2": 0.999, "weight_decay": 1e-5},
                },
                "fitting_loss": {"name": "sinkhorn", "kwargs": {"epsilon_fitting": 1.0}},
                "regularizer": {"name": "monge", "kwargs": {"epsilon_regularizer": 0.01, "cost": "euclidean"}},
                "mlp": {
                    "dim_hidden": (64, 64, 64, 64),
                    "dim_data": features,
                    "dim_cond": 11,
                    "dim_cond_map": (50, 1),
                    "context_entity_bonds": ((0, 10), (10, 11)),
                },
                "embedding": {"name": "moa", "checkpoint": True, "model_dir": str(folder)},
            }
        )
        trainer = ConditionalMongeTrainer(
            jobid=0, logger_path=folder / "log.json", config=config, datamodule=datamodule
        )
        start = trainer.state_neural_net

        before = cpu_seconds()
        trainer.num_train_iters = 2
        trainer.train(datamodule)
        jax.block_until_ready(trainer.state_neural_net.params)
        compiled = cpu_seconds() - before

        trainer.state_neural_net = start
        trainer.num_train_iters = args.steps
        before, clock = cpu_seconds(), time.perf_counter()
        _, logs = trainer.train(datamodule)
        jax.block_until_ready(trainer.state_neural_net.params)
        spent, wall = cpu_seconds() - before, time.perf_counter() - clock
    fits = [float(v) for v in logs["train"]["fitting_loss"]]
    print(
        json.dumps(
            {
                "version": metadata.version("cmonge"),
                "jax": jax.__version__,
                "steps": args.steps,
                "first_call_cpu_s": compiled,
                "cpu_s": spent,
                "wall_s": wall,
                "loss_first": fits[0],
                "loss_last": fits[-1],
                "parameters": sum(p.size for p in jax.tree.leaves(trainer.state_neural_net.params)),
            }
        )
    )


if __name__ == "__main__":
    main()

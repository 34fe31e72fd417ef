"""Peer: the package `cmonge` trained on given codes, and what it predicts for conditions it did not see.

What runs: `ConditionalDataModule` over its `SciPlexModule` with ``reduction: null`` (the codes are its features),
`ModeOfActionEmbedding` reading a table of condition vectors, `ConditionalPerturbationNetwork` with its published sizes
(one shared layer of 50 for the condition), `ConditionalMongeTrainer.train` with the published losses, AdamW. Nothing of
it is rewritten here. The package knows one control population and no context: where the data have several contexts,
one model is trained for each.

Input (.npz), for every context g: ``g/controls`` (cells, d), ``g/treated/i`` (cells, d) and ``g/vectors`` (conditions,
p) of the training conditions, ``g/source`` (cells, d) and ``g/asked`` (questions, p). Output (.npz): ``g/moved/j``.
Prints one JSON object.
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
import jax.numpy as jnp
import numpy as np
import pandas as pd
from cmonge.datasets.conditional_loader import ConditionalDataModule
from cmonge.trainers.conditional_monge_trainer import ConditionalMongeTrainer
from dotmap import DotMap
from loguru import logger


def moved(context: dict[str, np.ndarray], folder: Path, steps: int, n: int, lr: float, seed: int) -> list[np.ndarray]:
    """Return the predicted cells of every question of one context."""
    treated = [context[f"treated/{i}"] for i in range(len(context["vectors"]))]
    names = [f"c{i}-1" for i in range(len(treated))]
    genes = [f"f{j}" for j in range(treated[0].shape[1])]
    groups = [context["controls"], *treated]
    obs = pd.DataFrame({"condition": np.repeat(["control-0", *names], [len(g) for g in groups])})
    obs.index = obs.index.map(str)
    cells = anndata.AnnData(np.concatenate(groups), obs=obs, var=pd.DataFrame(index=genes))
    cells.uns["rank_genes_groups"] = {"names": {name.split("-")[0]: np.array(genes) for name in ("control-0", *names)}}
    cells.write_h5ad(folder / "cells.h5ad")
    pd.DataFrame(context["vectors"].T, columns=names).to_csv(folder / "moa")
    width = context["vectors"].shape[1]
    datamodule = ConditionalDataModule(
        DotMap(
            name="sciplex",
            file_path=str(folder / "cells.h5ad"),
            batch_size=n,
            split=[0.9, 0.1],
            seed=seed,
            drug_col="condition",
            drug_condition=names[0],
            control_condition="control-0",
            ae=False,
            reduction=None,
        ),
        DotMap(mode="homogeneous", conditions=names, split=[0.9, 0.1, 0]),
    )
    config = DotMap(
        {
            "seed": seed,
            "num_train_iters": steps,
            "optim": {"name": "adamw", "lr": lr, "grad_acc_steps": 1, "kwargs": {"weight_decay": 1e-5}},
            "fitting_loss": {"name": "sinkhorn", "kwargs": {"epsilon_fitting": 1.0}},
            "regularizer": {"name": "monge", "kwargs": {"epsilon_regularizer": 0.01, "cost": "euclidean"}},
            "mlp": {
                "dim_hidden": (64, 64, 64, 64),
                "dim_data": len(genes),
                "dim_cond": width,
                "dim_cond_map": (50,),
                "embed_cond_equal": True,
                "context_entity_bonds": ((0, width),),
            },
            "embedding": {"name": "moa", "checkpoint": True, "model_dir": str(folder), "dose_split": False},
        }
    )
    trainer = ConditionalMongeTrainer(jobid=0, logger_path=folder / "log.json", config=config, datamodule=datamodule)
    trainer.train(datamodule)
    found = []
    x = jnp.asarray(context["source"])
    for vector in context["asked"]:
        found.append(np.asarray(trainer.transport(x, jnp.tile(jnp.asarray(vector), (len(x), 1)), 1)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    logger.remove()
    logger.add(sys.stderr, level="ERROR")
    with np.load(args.data) as stored:
        arrays = dict(stored)
    contexts = sorted({name.split("/")[0] for name in arrays})
    out: dict[str, np.ndarray] = {}
    for g in contexts:
        own = {name.partition("/")[2]: value for name, value in arrays.items() if name.split("/")[0] == g}
        with tempfile.TemporaryDirectory() as temporary:
            for j, cells in enumerate(moved(own, Path(temporary), args.steps, args.n, args.lr, args.seed)):
                out[f"{g}/moved/{j}"] = cells
    np.savez(args.out, **out)
    spent = time.process_time() + os.times().children_user + os.times().children_system
    print(json.dumps({"version": metadata.version("cmonge"), "jax": jax.__version__, "cpu_s": spent}))


if __name__ == "__main__":
    main()

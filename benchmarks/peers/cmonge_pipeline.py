"""Peer: the whole job with the package `cmonge`: its autoencoder, its conditional map in the code, its evaluation.

What runs: `AETrainerModule` (features-512-512-50, MSE, its 50 gradient steps of 512 cells), `ConditionalDataModule`
with ``reduction: ae`` over six conditions, `ConditionalMongeTrainer.train` with the published network and losses, and
its `evaluate` (decoded, 50 features). Nothing of it is rewritten here. CPU seconds are read around each call; training
and evaluation are called twice: two steps and two batches a condition, which compile everything, then ``--steps`` steps
and three batches a condition.

Prints one JSON object.
"""

import argparse
import json
import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
from cmonge.datasets.conditional_loader import ConditionalDataModule
from cmonge.trainers.ae_trainer import AETrainerModule
from cmonge.trainers.conditional_monge_trainer import ConditionalMongeTrainer
from cmonge_run import cpu_seconds, write_inputs
from dotmap import DotMap
from loguru import logger


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--n", type=int, default=512)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--run-steps", type=int, default=1000, help="length of the run (learning-rate schedule)")
    args = parser.parse_args()
    logger.remove()
    logger.add(sys.stderr, level="ERROR")
    spent: dict[str, float] = {}

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cells, names, features = write_inputs(args.data, folder)

        def settings(**changes: object) -> DotMap:
            base = {"name": "sciplex", "file_path": str(cells), "batch_size": args.n, "split": [0.8, 0.2, 0.0]}
            base |= {"drug_col": "drug-dose", "drug_condition": names[0], "control_condition": "control-0"}
            return DotMap(base | {"seed": 42, "ae": False, "reduction": None} | changes)

        condition = DotMap(mode="homogeneous", conditions=names, split=[0.8, 0.2, 0.0])

        def coder() -> DotMap:
            model = {"hidden_dims": [512, 512], "latent_dim": 50, "data_dim": features, "seed": 1, "act_fn": "gelu"}
            optim = {"lr": 1e-4, "optimizer": "adamw", "kwargs": {"weight_decay": 1e-5}}
            training = {"n_epochs": 50, "valid": False, "cpkt": False, "model_dir": str(folder)}
            return DotMap({"model": model, "optim": optim, "training": training})

        before = cpu_seconds()
        datamodule = ConditionalDataModule(settings(ae=True), condition)
        ae = AETrainerModule(coder())
        ae.train(datamodule)
        spent["autoencoder_cpu_s"] = cpu_seconds() - before

        datamodule = ConditionalDataModule(settings(reduction="ae"), condition, ae_config=coder())
        # Fifty features to compare, as its marker genes.
        for loader in datamodule.loaders.values():
            loader.marker_idx = list(range(50))
        mlp = {"dim_hidden": (64, 64, 64, 64), "dim_data": 50, "dim_cond": 11, "dim_cond_map": (50, 1)}
        config = {
            "seed": 42,
            "num_train_iters": args.run_steps,
            "optim": {"name": "adamw", "lr": 1e-4, "grad_acc_steps": 1, "kwargs": {"weight_decay": 1e-5}},
            "fitting_loss": {"name": "sinkhorn", "kwargs": {"epsilon_fitting": 1.0}},
            "regularizer": {"name": "monge", "kwargs": {"epsilon_regularizer": 0.01, "cost": "euclidean"}},
            "mlp": mlp | {"context_entity_bonds": ((0, 10), (10, 11))},
            "embedding": {"name": "moa", "checkpoint": True, "model_dir": str(folder)},
        }
        trainer = ConditionalMongeTrainer(
            jobid=0, logger_path=folder / "log.json", config=DotMap(config), datamodule=datamodule
        )
        start = trainer.state_neural_net
        for name, steps in (("first", 2), ("further", args.steps)):
            trainer.state_neural_net = start
            before = cpu_seconds()
            trainer.num_train_iters = steps
            trainer.train(datamodule)
            jax.block_until_ready(trainer.state_neural_net.params)
            spent[f"training_{name}_cpu_s"] = cpu_seconds() - before
        for name, most in (("first", 0), ("further", 1)):
            before = cpu_seconds()
            trainer.evaluate(datamodule, n_samples=most)
            spent[f"evaluation_{name}_cpu_s"] = cpu_seconds() - before
            metrics = trainer.metrics["valid-set"]
            spent[f"batches_{name}"] = int(np.sum([len(m["r2"]) for m in metrics.values()]))
    head = {"version": metadata.version("cmonge"), "jax": jax.__version__, "steps": args.steps}
    r2 = float(np.mean([np.mean(m["r2"]) for m in metrics.values()]))
    print(json.dumps(head | spent | {"r2_mean": r2, "pid": os.getpid()}))


if __name__ == "__main__":
    main()

"""Peer: the demo that the repository of `cmonge` ships, run by the package itself, with everything random written down.

What runs: its demo configuration (dummy data of 100 genes, three drugs, an autoencoder of 50 gradient steps, a
conditional map of 100 steps, its evaluation), with its loaders, networks, trainers and metrics; nothing is rewritten.
Written beside the metrics: initial weights, every batch that a trainer or the evaluation drew, and the embeddings, so
that another program can repeat the same arithmetic.

Needs a checkout of the public repository (data, configuration, descriptors): ``--repository``. Prints one JSON object.
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
from cmonge.utils import load_config
from loguru import logger


def flat(params: object, prefix: str) -> dict[str, np.ndarray]:
    """Return a tree of weights as arrays by path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {prefix + "/".join(str(k.key) for k in path): np.asarray(leaf) for path, leaf in leaves}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="where weights and batches go (.npz)")
    args = parser.parse_args()
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    out = args.out.resolve()
    os.chdir(args.repository)
    kept: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as temporary:
        config = load_config("configs/demo_config.yml")
        config.ae.training.model_dir = temporary
        config.model.embedding.checkpoint = True
        # The descriptors are those of the checkout, so that none has to be computed.
        config.data.ae = True
        config.data.reduction = None
        datamodule = ConditionalDataModule(config.data, config.condition)
        ae = AETrainerModule(config.ae)
        kept |= flat(ae.state.params, "ae_start/")
        batches: list[np.ndarray] = []
        draw = ae.generate_batch

        def recorded(datamodule, split_type):
            batch = draw(datamodule, split_type)
            batches.append(np.asarray(batch))
            return batch

        ae.generate_batch = recorded
        ae.train(datamodule)
        kept["ae_batches"] = np.stack(batches)
        kept |= flat(ae.state.params, "ae_end/")

        config.data.ae = False
        config.ae.model.act_fn = "gelu"
        config.data.reduction = "ae"
        datamodule = ConditionalDataModule(config.data, config.condition, ae_config=config.ae)
        trainer = ConditionalMongeTrainer(
            jobid=1, logger_path=Path(temporary) / "log.json", config=config.model, datamodule=datamodule
        )
        kept |= flat(trainer.state_neural_net.params, "map_start/")
        sources, targets, conditions = [], [], []
        generate = trainer.generate_batch

        def drawn(datamodule, split_type):
            batch, condition = generate(datamodule, split_type)
            if split_type == "train":
                sources.append(np.asarray(batch["source"]))
                targets.append(np.asarray(batch["target"]))
                conditions.append(np.asarray(batch["condition"][0]))
            return batch, condition

        trainer.generate_batch = drawn
        trainer.train(datamodule)
        kept["map_sources"], kept["map_targets"] = np.stack(sources), np.stack(targets)
        kept["map_conditions"] = np.stack(conditions)
        kept |= flat(trainer.state_neural_net.params, "map_end/")

        seen: dict[str, tuple[list, list]] = {}
        loaders = datamodule.valid_dataloaders

        def watched():
            def watch(iterator, log):
                for batch in iterator:
                    log.append(np.asarray(batch))
                    yield batch

            found = {}
            for name, (source, target) in loaders().items():
                seen[name] = ([], [])
                found[name] = (watch(source, seen[name][0]), watch(target, seen[name][1]))
            return found

        datamodule.valid_dataloaders = watched
        trainer.evaluate(datamodule)
        measured = trainer.metrics["valid-set"]
        for i, name in enumerate(measured):
            n = len(measured[name]["r2"])
            kept[f"eval_sources/{i}"] = np.stack(seen[name][0][:n])
            kept[f"eval_targets/{i}"] = np.stack(seen[name][1][:n])
            kept[f"eval_condition/{i}"] = np.asarray(trainer.embedding_module(name)[0][0])
        kept["markers"] = np.asarray(datamodule.marker_idx)
    np.savez(out, **kept)
    means = {name: {k.split("mean_")[1]: v for k, v in m["mean_statistics"].items()} for name, m in measured.items()}
    print(json.dumps({"version": metadata.version("cmonge"), "jax": jax.__version__, "metrics": means}))


if __name__ == "__main__":
    main()

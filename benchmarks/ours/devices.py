"""Train one network for a few steps of several conditions and write its numbers. A child of transport_scale.py.

With ``--devices`` the conditions of a step are shared; with ``--coordinator`` this is one process of two.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.random as jr
import numpy as np

from cellgap.encode import Dose, Table
from cellgap.space import Genes
from cellgap.study import Study, simulate_latent, split
from cellgap.train import Loop, initialize
from cellgap.transport import ConditionalMonge, Optimization


def trained(devices: int | None, steps: int) -> dict[str, np.ndarray]:
    made = simulate_latent(doses=(10.0, 10000.0), dim=20, n_train=300, n_test=0, seed=0)
    cut = split.in_distribution(Study(made.adata, made.design), seed=0)
    loop = Loop(n_steps=steps, chunk=10, valid_every=10)
    model = ConditionalMonge(
        space=Genes(transform="none"),
        encoder=Table(made.descriptors) | Dose(),
        start="identity",  # far from the answer, so that the weights that are kept have moved
        optimization=Optimization(loop=loop, batch_size=64, conditions_per_step=4, devices=devices),
    )
    fitted = model.fit(cut, key=jr.key(0))
    if not fitted.best_step:
        raise RuntimeError("training has not moved the weights that are kept: nothing was compared")
    cells = np.asarray(made.adata.X)[cut.rows(cut.study.controls[0])][:200]
    return {
        "weights": np.concatenate([np.ravel(w) for w in jax.tree.leaves(fitted.net)]),
        "losses": np.asarray([row["loss"] for row in fitted.history if "loss" in row]),
        "predictions": np.stack([fitted.transport(cells, c) for c in cut.train_conditions]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--devices", type=int, default=0)
    parser.add_argument("--coordinator", default="")
    parser.add_argument("--process", type=int, default=0)
    args = parser.parse_args()
    if args.coordinator:
        initialize(args.coordinator, 2, args.process)
    found = trained(args.devices or None, args.steps)
    if jax.process_index() == 0:
        np.savez(args.path, **found)
    print(json.dumps({"devices": jax.device_count()}))


if __name__ == "__main__":
    main()

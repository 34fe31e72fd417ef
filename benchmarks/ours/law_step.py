"""CPU seconds of a training step of a law on a Hill network, compiling left out: of the published field and of ours."""

import argparse
import json
import time

import jax.random as jr
import numpy as np

from cellgap import NeuralLaw
from cellgap.dynamics import LawTraining, PathReg, Solver, trajectories_of
from cellgap.train import Loop

FIRST = 300


def seconds(model_settings: dict, trajectories, steps: int) -> float:
    """Return the CPU seconds of a step: a long fit less a short one, both compiled from nothing."""
    taken = []
    for n in (FIRST, FIRST + steps):
        training = LawTraining(loop=Loop(n_steps=n, chunk=50, valid_every=50))
        model = NeuralLaw(**model_settings, members=1, null=0, valid=0.0, training=training)
        began = time.process_time()
        model.fit(trajectories, key=jr.key(0))
        taken.append(time.process_time() - began)
    return (taken[1] - taken[0]) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="seed0.npz of the Hill networks")
    parser.add_argument("--steps", type=int, default=3000)
    args = parser.parse_args()
    with np.load(args.data) as z:
        trajectories = trajectories_of(z["train"].swapaxes(0, 1), z["t_train"])
    field = {
        "penalty": PathReg(unit="unit", expected=False),
        "network": "shared",
        "hidden": 100,
        "activations": 1,
        "decay": False,
        "scale": "none",
    }
    found = {
        "published_field_s": seconds(field | {"solver": Solver(method="rk4")}, trajectories, args.steps),
        "published_field_evaluations": 4 * (trajectories.values.shape[1] - 1),
        "default_s": seconds({}, trajectories, args.steps),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()

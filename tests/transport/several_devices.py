"""A program that fits a small map and a streamed toy on one device and on two, and writes the numbers.

python several_devices.py FOLDER                      two devices of one process, beside one device
python several_devices.py FOLDER COORDINATOR PROCESS  one of two processes, a device each

The folders tests/transport and tests/train are on its path.
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.random as jr
import numpy as np
import test_batches as toy
from small import FULL, NETWORK, QUICK, RAW, screen
from test_flow import MODEL, codes_of
from toy import validate

import cellgap.train._fit as module
from cellgap.study import Role, split
from cellgap.train import fit, initialize
from cellgap.transport import Codes, ConditionalMonge
from cellgap.transport._affine import fit_affine_path
from cellgap.transport._objective import Objective
from cellgap.transport._train_flow import FlowSettings, train_flow
from cellgap.transport._train_map import train_map
from cellgap.transport._training_data import training_problem


def map_numbers(devices: int | None, folder: Path) -> dict[str, np.ndarray]:
    """Return weights and losses of a network whose steps take four conditions."""
    cut = split.unseen_dose(screen(), [100], seed=0, min_cells=20)
    codes = Codes.of(cut, RAW, FULL)
    problem = training_problem(codes, cut.train_conditions, Role.TRAIN, fit_affine_path(codes, "shift"))
    net = ConditionalMonge(space=RAW, encoder=FULL, **NETWORK)._network(codes, jr.key(0))
    loop = dataclasses.replace(QUICK.loop, n_steps=10)
    optimization = dataclasses.replace(QUICK, loop=loop, conditions_per_step=4, devices=devices)
    objective = Objective("two_batch", "euclidean", 0.2, "euclidean", 0.002, 1.0)
    done = train_map(net, problem, None, objective, optimization, key=jr.key(1), folder=folder)
    weights = np.concatenate([np.ravel(w) for w in jax.tree.leaves(done.state.net)])
    return {"weights": weights, "loss": np.asarray([row["loss"] for row in done.history])}


def flow_numbers(devices: int | None) -> dict[str, np.ndarray]:
    """Return weights and losses of a velocity field whose steps take four conditions."""
    codes = codes_of()
    problem = training_problem(codes, codes.split.train_conditions, Role.TRAIN, fit_affine_path(codes, "shift"))
    optimization = dataclasses.replace(MODEL.optimization, conditions_per_step=4, devices=devices)
    flow = FlowSettings(0.1, 0.2, 0.0, "euler", 4, 1.0)
    done = train_flow(MODEL._network(codes, jr.key(0)), problem, None, flow, optimization, key=jr.key(1))
    weights = np.concatenate([np.ravel(w) for w in jax.tree.leaves(done.state.net)])
    return {"flow weights": weights, "flow loss": np.asarray([row["loss"] for row in done.history])}


def streamed_numbers(devices: int | None, folder: Path) -> dict[str, np.ndarray]:
    """Return the end of the streamed toy, whose batches of eight cells are cut in two."""
    options = {"validate": validate, "devices": devices, "folder": folder}
    source = toy.streamed(toy.cells_of_toy())
    done = fit(toy.descend, toy.start(), key=jr.key(0), loop=toy.LOOP, batches=source, **options)
    again = fit(toy.descend, toy.start(), key=jr.key(0), loop=toy.LOOP, batches=source, **options)
    np.testing.assert_array_equal(again.state.weights, done.state.weights)  # the checkpoint, put on the devices
    logs = {name: np.asarray([row[name] for row in done.history if name in row]) for name in ("loss", "valid")}
    return {"state": np.concatenate(done.state), "streamed loss": logs["loss"], "valid": logs["valid"]}


def forbidden(*args: object) -> None:
    raise AssertionError("only process 0 writes")


if __name__ == "__main__":
    out = Path(sys.argv[1])
    if len(sys.argv) > 2:
        process = int(sys.argv[3])
        initialize(sys.argv[2], 2, process)
        if process:
            module.write_checkpoint = module._write_log = forbidden
        runs, name = (2,), f"process {process}"
    else:
        runs, name = (None, 2), "devices"
    assert jax.device_count() == 2
    for devices in runs:
        found = map_numbers(devices, out / f"{name[:7]} {devices} map")
        found |= streamed_numbers(devices, out / f"{name[:7]} {devices} toy")
        if len(runs) > 1:
            found |= flow_numbers(devices)
        np.savez(out / f"{name} {devices}.npz", **found)
    print(json.dumps({"devices": jax.local_device_count()}))

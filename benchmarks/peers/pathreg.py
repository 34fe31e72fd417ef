"""Peer: PathReg's own network, solver and penalties, from a checkout of the public repository theislab/PathReg.

Nothing of it is copied: gates are imported from ``L0_regularization.l0_layers``, and the network, the ODE block and the
penalties are the notebook's own cells, found by the names they define and executed here. Two ways to train on the
same trajectories: "loop" is what the notebook does, one trajectory a solve; "batch" puts all of them into one state of
the same field, in one call of ``odeint``. Both: dopri5 with rtol = atol = 1e-3, gates drawn anew at each evaluation,
Adam at 1e-2, and lambda (L1 of weight paths + 0.1 of gate paths), backpropagation through the solver.
``--hematopoiesis`` has trajectories of unlike times (the published protocol), and only the loop. The notebook's
checkpoint after every iteration and its scheduler are left out. Prints one JSON object; CPU seconds on one thread.
"""

import argparse
import contextlib
import io
import json
import sys
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchdiffeq import odeint

NOTEBOOK = Path("notebooks") / "single cell" / "single_cell_PathReg.ipynb"
WANTED = ("class L0_MLP", "def PathReg", "def L1(")
HIDDEN = 100


def published(checkout: Path) -> dict[str, Any]:
    """Return the names that the notebook's cells with the network and the penalties define."""
    sys.path.insert(0, str(checkout))
    from L0_regularization.l0_layers import L0Dense

    cells = ["".join(c["source"]) for c in json.loads((checkout / NOTEBOOK).read_text())["cells"]]
    names: dict[str, Any] = {"torch": torch, "nn": nn, "np": np, "odeint": odeint, "L0Dense": L0Dense}
    # The notebook uses `deepcopy` and nowhere imports it.
    names |= {"deepcopy": deepcopy, "args": {"tol": 1e-3, "method": "dopri5"}}
    for wanted in WANTED:
        found = [cell for cell in cells if any(line.startswith(wanted) for line in cell.splitlines())]
        if len(found) != 1:
            raise SystemExit(f"{checkout / NOTEBOOK} has {len(found)} cells with {wanted!r}, expected one")
        exec(compile(found[0], f"{NOTEBOOK.name}: {wanted}", "exec"), names)
    return names


def build(theirs: dict[str, Any], dim: int) -> nn.Sequential:
    """Return the notebook's model; its layers print themselves, which is not passed on."""
    with contextlib.redirect_stdout(io.StringIO()):
        field = theirs["L0_MLP"](input_dim=dim, layer_dims=(HIDDEN, HIDDEN, dim), N=150)
    return nn.Sequential(theirs["initial_position"](dim, HIDDEN), theirs["ODEBlock"](field, dim))


def measured(
    model: nn.Sequential, theirs: dict[str, Any], error: Callable[[], torch.Tensor], iterations: int, lam: float
) -> dict[str, Any]:
    """Train and return CPU seconds, evaluations of the field and the error without the penalty, one an iteration."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    field = model[1].odefunc
    out: dict[str, Any] = {"cpu_s": [], "evaluations": [], "errors": []}
    for _ in range(iterations):
        before, field.nfe = time.process_time(), 0
        optimizer.zero_grad()
        fit = error()
        penalty = lam * theirs["L1"](model) + 0.1 * lam * theirs["PathReg"](model)
        (fit + penalty).backward()
        optimizer.step()
        out["cpu_s"].append(time.process_time() - before)
        out["evaluations"].append(field.nfe)
        out["errors"].append(float(fit))
    return out


def hill(args: argparse.Namespace, theirs: dict[str, Any]) -> dict[str, Any]:
    """Return the loop and the batch on the trajectories of a Hill network."""
    with np.load(args.data) as stored:
        times = torch.tensor(stored["t_train"], dtype=torch.float32)
        values = torch.tensor(stored["train"], dtype=torch.float32)  # (time, trajectory, gene)
    n, dim = values.shape[1:]
    mse = nn.MSELoss()
    out: dict[str, Any] = {"trajectories": n, "times": len(times), "dim": dim}

    def loop(model: nn.Sequential) -> torch.Tensor:
        total = torch.zeros(())
        for i in range(n):
            model[1].set_times(times)
            total = total + mse(model(values[:1, i : i + 1]), values[:, i : i + 1])
        return total / n

    def batch(model: nn.Sequential) -> torch.Tensor:
        solved = odeint(model[1].odefunc, values[0], times, rtol=1e-3, atol=1e-3, method="dopri5")
        return mse(solved, values)

    for name, way, iterations in (("loop", loop, args.iterations), ("batch", batch, args.batch_iterations)):
        torch.manual_seed(args.seed)
        model = build(theirs, dim)
        done = measured(model, theirs, lambda way=way, model=model: way(model), iterations, args.lam)
        solves = n if name == "loop" else 1
        out |= {f"{name}_{key}": series for key, series in done.items()}
        out[f"{name}_s"] = float(np.mean(done["cpu_s"])) if iterations else None
        out[f"{name}_evaluations_per_solve"] = float(np.mean(done["evaluations"])) / solves if iterations else None
        if name == "batch":
            model.eval()  # the gates as at test time: the field is a function again
            with torch.no_grad():
                model[1].odefunc.nfe = 0
                batch(model)
            out["batch_evaluations_with_fixed_gates"] = model[1].odefunc.nfe
    return out


def hematopoiesis(args: argparse.Namespace, theirs: dict[str, Any]) -> dict[str, Any]:
    """Return the loop on the lineages of one donor: ``times0``, ``values0``, ``times1``, ... of the file."""
    with np.load(args.data) as stored:
        count = sum(name.startswith("times") for name in stored.files)
        times = [torch.tensor(stored[f"times{i}"], dtype=torch.float32) for i in range(count)]
        values = [torch.tensor(stored[f"values{i}"], dtype=torch.float32)[:, None] for i in range(count)]
    mse = nn.MSELoss()
    torch.manual_seed(args.seed)
    model = build(theirs, values[0].shape[2])

    def loop() -> torch.Tensor:
        total = torch.zeros(())
        for clock, cells in zip(times, values, strict=True):
            model[1].set_times(clock)
            total = total + mse(model(cells[:5]), cells)
        return total

    done = measured(model, theirs, loop, args.iterations, args.lam)
    out: dict[str, Any] = {f"loop_{key}": series for key, series in done.items()}
    out["loop_s"] = float(np.mean(done["cpu_s"]))
    out["loop_evaluations_per_solve"] = float(np.mean(done["evaluations"])) / count
    return out | {"trajectories": count, "dim": values[0].shape[2]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pathreg", type=Path, required=True, help="a checkout of theislab/PathReg")
    parser.add_argument("--data", type=Path, required=True, help="seedN.npz of grn_hill, or lineages of one donor")
    parser.add_argument("--hematopoiesis", type=int, default=0, choices=(0, 1))
    parser.add_argument("--iterations", type=int, default=2, help="one trajectory a solve; 0: none")
    parser.add_argument("--batch-iterations", type=int, default=20, help="all trajectories in one solve")
    parser.add_argument("--lam", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    theirs = published(args.pathreg.expanduser().resolve())
    out = (hematopoiesis if args.hematopoiesis else hill)(args, theirs)
    print(json.dumps(out | {"torch": metadata.version("torch"), "torchdiffeq": metadata.version("torchdiffeq")}))


if __name__ == "__main__":
    main()

"""Speed of a training step of a law: ours beside PathReg's own code, in CPU seconds on one thread.

Question: what does one training step cost on the same trajectories, beside PathReg as it is shipped (one trajectory a
solve) and beside its field with all trajectories in one state, which we put there?
Data: Hill network of seed 0, 20 genes, 40 trajectories of 16 times; a step is a solve of all of them, the error to
all states, the penalty, backpropagation and Adam. Hidden width 100, rtol = atol = 1e-3. For context: the published
hematopoiesis protocol, 529 genes, three lineages of single cells, one solve each.
Peer: theislab/PathReg at commit 46263bb, run from a checkout (``--pathreg``, CELLGAP_PATHREG, or cloned once beside the
peers' environments) with torch 2.13.0 and torchdiffeq 0.2.5. Where there is no checkout, ours is measured alone.
Ours is the same field (shared network, gates of units, path penalty) with Runge-Kutta steps of fourth order between
samples.
Machine: any CPU. CPU seconds of children on one thread; compiling is not in ours. The peer's first steps need more
evaluations of its field than later ones (its gates are drawn anew at each), so the mean over the first 20 is taken for
the batch; the loop is measured for two.
How to read: "ratio" is the peer's CPU seconds a step over ours. Evaluations of the field have no target.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bars import Bar
from children import run_child, say, table
from dynamics_data import TRAINED, hematopoiesis_published
from environments import PATHREG, peer_python
from real_sets import data_root

CAPABILITY = "dynamics"
REPOSITORY = "https://github.com/theislab/PathReg"
COMMIT = "46263bb"


def bar(what: str, value: float | None, target: str | None = None) -> None:
    Bar("speed", what, value, target, CAPABILITY).emit()


def ours(path: Path, steps: int) -> dict[str, float]:
    """Return CPU seconds of a training step on these trajectories, in a child on one thread: see ours/law_step.py."""
    return run_child("ours/law_step.py", {"data": path, "steps": steps}, sys.executable)


def checkout(given: str | None) -> Path | None:
    """Return a checkout of the peer's repository, cloned where there is none; None where that cannot be done."""
    asked = given or os.environ.get("CELLGAP_PATHREG")
    if asked:
        folder = Path(asked).expanduser()
        if not (folder / "L0_regularization").is_dir():
            raise SystemExit(f"{folder} is no checkout of {REPOSITORY}: it has no folder L0_regularization")
        return folder
    folder = Path(os.environ.get("CELLGAP_PEERS", Path.home() / ".cache" / "cellgap-peers")) / "pathreg-src"
    if (folder / "L0_regularization").is_dir():
        return folder
    say(f"cloning {REPOSITORY} into {folder}")
    quiet = {"capture_output": True, "env": os.environ | {"GIT_TERMINAL_PROMPT": "0"}}
    for command in (["clone", "--no-checkout", REPOSITORY, str(folder)], ["-C", str(folder), "checkout", COMMIT]):
        if subprocess.run(["git", *command], **quiet).returncode != 0:
            return None
    return folder


def lineages(data: Path, path: Path) -> Path:
    """Write the training donor in the published protocol for the peer, and return the path."""
    arrays: dict[str, np.ndarray] = {}
    for i, (times, values) in enumerate(hematopoiesis_published(data)[TRAINED].trajectories.each()):
        arrays |= {f"times{i}": times.astype(np.float32), f"values{i}": values.astype(np.float32)}
    np.savez(path, **arrays)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pathreg", help="a checkout of theislab/PathReg")
    parser.add_argument("--pathreg-python", help="interpreter that has torch and torchdiffeq 0.2.5")
    parser.add_argument("--no-peers", action="store_true", help="ours only")
    parser.add_argument("--quick", action="store_true", help="few steps, to see that it runs")
    args, _ = parser.parse_known_args()
    data, seed = data_root(), 0
    where = "Hill network, d 20, 40 x 16"

    own = ours(data / "grn_hill" / f"seed{seed}.npz", 500 if args.quick else 3000)
    mine, solves = own["published_field_s"], own["published_field_evaluations"]
    bar(f"CPU milliseconds a step, ours, the published field, {where}", 1e3 * mine)
    bar(f"evaluations of the field a solve, ours, {where}", solves)
    bar(f"CPU milliseconds a step, ours, the default law (networks a target), {where}", 1e3 * own["default_s"])
    rows: list[tuple[object, ...]] = [("ours, the published field", where, 1e3 * mine, solves)]
    rows.append(("ours, the default law", where, 1e3 * own["default_s"], ""))

    source = None if args.no_peers else checkout(args.pathreg)
    if source is None:
        bar("PathReg was not run and the ratios were not measured: no checkout (--pathreg PATH, CELLGAP_PATHREG)", None)
    else:
        python = peer_python(PATHREG, args.pathreg_python)
        options: dict[str, object] = {"pathreg": source, "data": data / "grn_hill" / f"seed{seed}.npz"}
        options |= {"iterations": 1 if args.quick else 2, "batch-iterations": 3 if args.quick else 20}
        say("PathReg on the Hill network, about a minute")
        theirs = run_child("peers/pathreg.py", options, python)
        for name, called, target in (
            ("batch", "PathReg's field with all trajectories in one state", ">= 40"),
            ("loop", "PathReg as shipped", ">= 1000"),
        ):
            seconds, evaluations = theirs[f"{name}_s"], theirs[f"{name}_evaluations_per_solve"]
            bar(f"CPU time ratio a step, {called} / ours, {where}", seconds / mine, target)
            bar(f"CPU milliseconds a step, {called}, {where}", 1e3 * seconds)
            bar(f"evaluations of the field a solve, {called}, {where}", evaluations)
            rows.append((called, where, 1e3 * seconds, evaluations))
        fixed = theirs["batch_evaluations_with_fixed_gates"]
        bar(f"evaluations of the field a solve, PathReg's field with its gates fixed, {where}", fixed)
        say("PathReg on the lineages of hematopoiesis")
        with tempfile.TemporaryDirectory() as temporary:
            options |= {"data": lineages(data, Path(temporary) / "lineages.npz"), "hematopoiesis": 1}
            options["iterations"] = 2 if args.quick else 10
            theirs = run_child("peers/pathreg.py", options, python)
        where = f"hematopoiesis {TRAINED}, d 529, three lineages"
        bar(f"CPU milliseconds a step, PathReg as shipped, {where}", 1e3 * theirs["loop_s"])
        bar(f"evaluations of the field a solve, PathReg as shipped, {where}", theirs["loop_evaluations_per_solve"])
        rows.append(("PathReg as shipped", where, 1e3 * theirs["loop_s"], theirs["loop_evaluations_per_solve"]))
    table("Training step", rows, ("who", "problem", "CPU-ms a step", "evaluations a solve"))


if __name__ == "__main__":
    main()

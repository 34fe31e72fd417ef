"""More cells than memory, more devices than one, more conditions than a process: the same numbers, and how fast.

Questions: does training with the conditions of a step shared by two devices, or by two processes, give the numbers of
one device? Is anything lost when a worker dies in the middle of an evaluation? How fast does the shuffled reader give
out cells of a file, beside an index into memory and beside random rows of the file, and in how much memory?
Data: known-answer populations (`simulate_latent`; 20 coordinates, 6 conditions, 300 cells each) for devices and
workers; for the reader a made-up sparse file of 200,000 cells x 2,000 genes, 200 stored values a cell (h5ad, not
compressed), in a temporary folder. Its pages are in the cache of the operating system when it is read: a cold disk is
slower.
Machine: any CPU, which is divided into two devices (JAX_NUM_CPU_DEVICES); the two processes speak over 127.0.0.1.
How to read: differences are the norm of the difference over the norm, the largest of weights, losses and predictions
after 50 steps of four conditions. Speeds are in batches of 512 cells; CPU seconds disturb less on a shared machine.
Random rows are read for a few batches only. Peak memory is that of the whole process, beside that of one which holds
the whole matrix.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bars import Bar
from children import HERE, environment, run_child, say, table

LIMIT = "<= 1e-5"


def started(arguments: dict[str, object], devices: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "ours/devices.py")]
    for name, value in arguments.items():
        command += [f"--{name}", str(value)]
    env = environment() | {"JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(*children: subprocess.Popen[str]) -> None:
    said = [child.communicate()[0] for child in children]
    for child, text in zip(children, said, strict=True):
        if child.returncode:
            raise RuntimeError(f"a process ended with code {child.returncode}:\n{text[-3000:]}")


def difference(one: Path, other: Path) -> float:
    with np.load(one) as a, np.load(other) as b:
        return max(float(np.linalg.norm(a[k] - b[k]) / np.linalg.norm(a[k])) for k in a.files)


def devices(folder: Path, steps: int) -> None:
    """Print the bars of two devices and two processes."""
    paths = {name: folder / f"{name}.npz" for name in ("one", "two", "processes")}
    say("training on one device, on two, and in two processes")
    finished(started({"path": paths["one"], "steps": steps}, 1))
    finished(started({"path": paths["two"], "steps": steps, "devices": 2}, 2))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    common = {"path": paths["processes"], "steps": steps, "devices": 2, "coordinator": coordinator}
    finished(*(started(common | {"process": i}, 1) for i in range(2)))
    two, processes = difference(paths["one"], paths["two"]), difference(paths["one"], paths["processes"])
    Bar("scale", "two devices against one: largest relative difference", two, LIMIT, "transport").emit()
    Bar("scale", "two processes against one: largest relative difference", processes, LIMIT, "transport").emit()


def workers(drugs: int) -> None:
    """Print the bar of a killed worker."""
    say("an evaluation alone and by two workers, one of which is killed")
    found = run_child("ours/workers.py", {"drugs": drugs})
    if found["deaths"] != 1:
        raise RuntimeError("no worker was killed, so nothing was shown")
    Bar("scale", "rows of scores", found["rows"], None, "transport").emit()
    what = "rows lost after killing a Dask worker (missing, or another value in the last bit)"
    Bar("scale", what, found["missing"], "<= 0", "transport").emit()


def reading(folder: Path, cells: int) -> None:
    """Print the lines of the reader."""
    path = folder / "cells.h5ad"
    size = run_child("ours/reading.py", {"path": path, "way": "write", "cells": cells})["megabytes"]
    ways = {
        "memory": "index into memory",
        "reader-memory": "ShuffledReader, in memory",
        "reader": "ShuffledReader, h5ad",
        "random": "random rows of the h5ad",
    }
    rows = []
    for way, name in ways.items():
        say(f"reading {cells:,} cells: {name}")
        found = run_child("ours/reading.py", {"path": path, "way": way, "batches": 5 if way == "random" else 0})
        rows.append((name, int(found["cells"]), found["per_s"], found["per_cpu_s"], found["peak_mb"]))
        Bar("scale", f"cells a CPU second, {name}", found["per_cpu_s"], None, "transport").emit()
        if way in ("memory", "reader"):
            where = f"peak memory of the process in MB, {name}, file of {size:.0f} MB"
            Bar("scale", where, found["peak_mb"], None, "transport").emit()
        if way == "reader":
            Bar("scale", "memory of the reader's buffer in MB", found["buffer_mb"], None, "transport").emit()
    table(f"{cells:,} cells in batches of 512", rows, ("way", "cells", "cells/s", "cells/CPU-s", "peak MB"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps, drugs and cells, to see that it runs")
    args, _ = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        reading(Path(temporary), 20_000 if args.quick else 200_000)
        workers(4 if args.quick else 6)
        devices(Path(temporary), 10 if args.quick else 50)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()

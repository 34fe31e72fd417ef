"""The Gram matrix on an accelerator, beside the processor: wall seconds, CPU seconds, and agreement.

Question: what does an accelerator save where the exact answer is wanted for many genes?
Data: a made-up atlas (log-normalized, sparse h5ad), 100,000 cells x 8,000 genes, density about 5 %, 20 axes.
Machine: one with an accelerator that JAX sees; elsewhere one line says that there is none.
How to read: the whole pass, reading included; the first pass is run twice, and the second counts (compiled).
"""

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path

import jax
import numpy as np

from bars import Bar
from cellgap.stream import StreamingPCA
from children import run_child, say


def bar(what: str, value: float, target: str | None = None) -> None:
    Bar("device", what, value, target, "stream").emit()


def timed(path: Path, solver: str, device: str) -> tuple[np.ndarray, float, float]:
    wall, cpu = time.perf_counter(), sum(os.times()[:2])
    stream = StreamingPCA(20, solver=solver, device=device, memory="4GiB").fit_backed(path, transform="none")
    axes = stream.components_
    return axes, time.perf_counter() - wall, sum(os.times()[:2]) - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4,000 cells and 1,000 genes, to see that it runs")
    args, _ = parser.parse_known_args()
    warnings.simplefilter("ignore")
    device = jax.devices()[0]
    found = device.platform != "cpu"
    bar(f"accelerators that JAX sees ({device.device_kind if found else 'none'})", float(found))
    if not found and not args.quick:
        return
    cells, genes = (4_000, 1_000) if args.quick else (100_000, 8_000)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "atlas.h5ad"
        say(f"writing {cells:,} x {genes:,}")
        made = run_child("ours/atlas.py", {"path": path, "cells": cells, "genes": genes, "depth": 500, "log": 1})
        where = f"{cells:,} x {genes:,}, density {100 * made['density']:.0f} %"
        timed(path, "gram", "auto")
        results = {}
        for name, solver, device_ in (
            ("Gram matrix, accelerator", "gram", "auto"),
            ("Gram matrix, processor", "gram", "cpu"),
            ("blocks, processor", "blocks", "cpu"),
        ):
            say(f"{name}: {where}")
            results[name] = timed(path, solver, device_)
            bar(f"wall seconds, {name}, {where}", results[name][1])
            bar(f"CPU seconds, {name}, {where}", results[name][2])
    one, other = results["Gram matrix, accelerator"], results["Gram matrix, processor"]
    bar(f"wall time ratio, processor / accelerator, {where}", other[1] / one[1])
    bar(
        "largest difference of the axes, accelerator against processor",
        float(np.abs(one[0] - other[0]).max()),
        "<= 1e-8",
    )


if __name__ == "__main__":
    main()

"""A million cells in one pass: peak memory, and CPU time a cell, beside a hundred thousand.

Question: does a pass over a backed matrix stay below 1 GB, and does a cell cost the same at any number of cells?
Data: made-up counts (h5ad, sparse, not compressed), 2,000 genes, 10^5 and 10^6 cells, read in shuffled chunks,
normalized and logarithmic in the pass; 50 axes. Its pages are in the cache of the operating system when it is read.
Machine: any CPU; every pass is a process of its own. Writing the file takes minutes and 1.5 GB on disk.
How to read: peak memory is that of the whole process, Python and its libraries included.
"""

import argparse
import tempfile
from pathlib import Path

from bars import Bar
from children import run_child, say, table

GENES, K = 2000, 50


def bar(what: str, value: float, target: str | None = None) -> None:
    Bar("million", what, value, target, "stream").emit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10,000 and 100,000 cells, to see that it runs")
    args, _ = parser.parse_known_args()
    sizes = (10_000, 100_000) if args.quick else (100_000, 1_000_000)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        found: dict[tuple[str, int], dict[str, float]] = {}
        for cells in sizes:
            path = Path(temporary) / f"{cells}.h5ad"
            say(f"writing {cells:,} cells")
            made = run_child("ours/atlas.py", {"path": path, "cells": cells, "genes": GENES, "depth": 400})
            for solver in ("blocks", "gram"):
                say(f"{cells:,} cells by {solver}")
                arguments = {"path": path, "out": Path(temporary) / "axes.npy", "k": K, "solver": solver}
                run = run_child("ours/axes.py", arguments | {"transform": "lognorm"})
                found[solver, cells] = run
                per_cell = 1e6 * run["cpu_s"] / cells
                rows.append(
                    (solver, cells, 100 * made["density"], run["cpu_s"], per_cell, run["peak_mb"], run["state_mb"])
                )
            path.unlink()
        few, many = sizes
        for solver in ("blocks", "gram"):
            one, other = found[solver, few], found[solver, many]
            bar(f"peak memory of the process in MB, {solver}, {many:,} cells", other["peak_mb"], "< 1000")
            bar(f"summary in MB, {solver}", other["state_mb"])
            per = (one["cpu_s"] / few, other["cpu_s"] / many)
            bar(f"CPU microseconds a cell, {solver}, {many:,} cells", 1e6 * per[1])
            bar(f"CPU time a cell, {many:,} cells / {few:,} cells, {solver}", per[1] / per[0], "<= 1.25")
            bar(
                f"summary in bytes, {many:,} cells / {few:,} cells, {solver}",
                other["state_mb"] / one["state_mb"],
                "<= 1.01",
            )
    table("passes", rows, ("solver", "cells", "density, %", "CPU-s", "us a cell", "peak MB", "summary MB"))


if __name__ == "__main__":
    main()

"""Principal axes of a file by `cellgap.stream`. A child of stream_*.py.

Prints CPU and wall seconds of the pass (reading included, starting Python and importing not), cells, and what the
stream reports; the axes go to ``--out``.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np

from cellgap.stream import StreamingPCA


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--k", type=int, required=True)
    parser.add_argument("--solver", default="auto")
    parser.add_argument("--transform", default="none")
    parser.add_argument("--shuffle", type=int, default=1)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    wall, cpu = time.perf_counter(), sum(os.times()[:2])
    stream = StreamingPCA(args.k, solver=args.solver, order="check" if args.shuffle else "as_given")
    stream.fit_backed(args.path, transform=args.transform, shuffle=bool(args.shuffle))
    components = stream.components_
    wall, cpu = time.perf_counter() - wall, sum(os.times()[:2]) - cpu
    np.save(args.out, components)
    found = stream.report()
    print(
        json.dumps(
            {
                "cpu_s": cpu,
                "wall_s": wall,
                "cells": found.rows,
                "state_mb": found.nbytes / 1e6,
                "solver": found.solver,
                "heavy": found.heavy_kept,
            }
        )
    )


if __name__ == "__main__":
    main()

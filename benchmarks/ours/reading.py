"""Read a sparse file of cells in random order, one way, and say how fast. A child of transport_scale.py.

Ways: ``write`` makes the file; ``memory`` indexes the whole matrix, read before; ``reader``, ``reader-memory`` are
`ShuffledReader` on the file and on the matrix; ``random`` asks for the random rows of each batch on the file.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from cellgap.study import Design, ShuffledReader, Study

DESIGN = Design(treatment="drug", control="vehicle", counts=None)
BATCH = 512


def write(path: Path, cells: int, genes: int, values: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    parts = []
    for start in range(0, cells, 20_000):
        n = min(20_000, cells - start)
        indptr = np.concatenate([[0], np.cumsum(rng.poisson(values, n))])
        indices = rng.integers(0, genes, indptr[-1]).astype(np.int32)
        part = sp.csr_matrix((1 + rng.poisson(1, indptr[-1]).astype(np.float32), indices, indptr), shape=(n, genes))
        part.sum_duplicates()
        parts.append(part)
    x = sp.vstack(parts, format="csr")
    obs = pd.DataFrame({"drug": np.resize(["vehicle", "x"], cells)}, index=[f"c{i}" for i in range(cells)])
    AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(genes)])).write_h5ad(path)
    return {"megabytes": path.stat().st_size / 1e6}


def read(path: Path, way: str, batches: int) -> dict[str, float]:
    study = Study.read(path, DESIGN, backed=way in ("reader", "random"))
    buffer = 0
    if way.startswith("reader"):
        reader = ShuffledReader(study, seed=0)
        buffer = reader.buffer_bytes
        source = (block.values for block in reader.batches(BATCH))
    else:
        order = np.random.default_rng(0).permutation(study.n_obs)
        chosen = [order[i : i + BATCH] for i in range(0, study.n_obs, BATCH)][: batches or None]
        source = (study.values(rows) for rows in chosen)
    cells, wall, cpu = 0, time.perf_counter(), sum(os.times()[:2])
    for values in source:
        cells += values.shape[0]
    wall, cpu = time.perf_counter() - wall, sum(os.times()[:2]) - cpu
    return {"cells": cells, "per_s": cells / wall, "per_cpu_s": cells / cpu, "buffer_mb": buffer / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--way", required=True)
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--values", type=int, default=200)
    parser.add_argument("--batches", type=int, default=0, help="stop after as many; 0 reads all")
    args = parser.parse_args()
    if args.way == "write":
        found = write(args.path, args.cells, args.genes, args.values)
    else:
        found = read(args.path, args.way, args.batches)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

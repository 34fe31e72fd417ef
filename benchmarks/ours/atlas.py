"""Write a made-up atlas, never whole in memory: cell types, continuous programmes, Poisson counts. A child of stream_*.

The matrix is CSR, float32, not compressed: raw counts, or their log after normalization to 10,000 (``--log``). Types
are drawn for each cell, so that the order of rows is random; with ``--plates`` cells are sorted by plate, and every
plate has an axis of its own.
"""

import argparse
import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import write_elem

TYPES, PROGRAMMES = 12, 6


def write(path: Path, cells: int, genes: int, depth: float, plates: int, log: bool, seed: int = 0) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    types = rng.gamma(0.5, 1.0, (TYPES, genes)) + 1e-3
    types /= types.sum(axis=1, keepdims=True)
    programmes = 0.3 * rng.normal(size=(PROGRAMMES, genes))
    of_plate = 0.15 * rng.normal(size=(max(1, plates), genes)) * (plates > 0)
    plate = np.sort(rng.integers(0, max(1, plates), cells))
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        obs = pd.DataFrame({"plate": pd.Categorical([f"p{i}" for i in plate])}, index=[f"c{i}" for i in range(cells)])
        write_elem(file, "obs", obs)
        write_elem(file, "var", pd.DataFrame(index=[f"g{j}" for j in range(genes)]))
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [cells, genes]})
        growing = {"shape": (0,), "maxshape": (None,), "chunks": (2**16,)}
        data = group.create_dataset("data", dtype=np.float32, **growing)
        indices = group.create_dataset("indices", dtype=np.int32, **growing)
        indptr = [np.zeros(1, np.int64)]
        stored = 0
        for start in range(0, cells, 4000):
            n = min(4000, cells - start)
            rate = types[rng.integers(0, TYPES, n)] * np.exp(rng.normal(size=(n, PROGRAMMES)) @ programmes)
            rate *= np.exp(of_plate[plate[start : start + n]])
            rate *= depth * rng.lognormal(0.0, 0.3, (n, 1)) / rate.sum(axis=1, keepdims=True)
            part = sp.csr_matrix(rng.poisson(rate).astype(np.float32))
            if log:
                total = np.maximum(np.asarray(part.sum(axis=1)).ravel(), 1.0)
                part.data = np.log1p(part.data * np.repeat(1e4 / total, np.diff(part.indptr))).astype(np.float32)
            for dataset, values in ((data, part.data), (indices, part.indices)):
                dataset.resize((stored + part.nnz,))
                dataset[stored:] = values
            indptr.append(stored + part.indptr[1:].astype(np.int64))
            stored += part.nnz
        group.create_dataset("indptr", data=np.concatenate(indptr))
        for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
            file.create_group(name).attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
    return {"density": stored / cells / genes, "megabytes": path.stat().st_size / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--cells", type=int, required=True)
    parser.add_argument("--genes", type=int, required=True)
    parser.add_argument("--depth", type=float, default=1500.0)
    parser.add_argument("--plates", type=int, default=0)
    parser.add_argument("--log", type=int, default=0)
    args = parser.parse_args()
    print(json.dumps(write(args.path, args.cells, args.genes, args.depth, args.plates, bool(args.log))))


if __name__ == "__main__":
    main()

"""The peers: principal axes of a file by scikit-learn, scanpy or SciPy. Runs where these are installed.

Ways: ``incremental`` is IncrementalPCA on chunks of 500 cells; ``scanpy`` is ``scanpy.pp.pca(chunked=True)`` with the
same chunks on the file; ``svds`` is SciPy's Lanczos iteration on the whole matrix, centered as a linear operator.
Prints CPU and wall seconds (reading included); the axes go to ``--out``.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path

import h5py
import numpy as np
import scipy.sparse as sp

CHUNK = 500


def chunks(path: Path):
    with h5py.File(path, "r") as file:
        x = file["X"]
        indptr, shape = x["indptr"][:], x.attrs["shape"]
        for start in range(0, shape[0], CHUNK):
            edges = indptr[start : start + CHUNK + 1]
            values = slice(edges[0], edges[-1])
            yield sp.csr_matrix(
                (x["data"][values], x["indices"][values], edges - edges[0]), shape=(len(edges) - 1, shape[1])
            )


def incremental(path: Path, k: int) -> np.ndarray:
    from sklearn.decomposition import IncrementalPCA

    model = IncrementalPCA(k)
    for part in chunks(path):
        if part.shape[0] >= k:
            model.partial_fit(part.toarray())
    return model.components_


def with_scanpy(path: Path, k: int) -> np.ndarray:
    import anndata
    import scanpy as sc

    cells = anndata.read_h5ad(path, backed="r")
    sc.pp.pca(cells, n_comps=k, chunked=True, chunk_size=CHUNK)
    return cells.varm["PCs"].T


def svds(path: Path, k: int) -> np.ndarray:
    from scipy.sparse.linalg import LinearOperator
    from scipy.sparse.linalg import svds as lanczos

    x = sp.vstack(list(chunks(path)), format="csr").astype(np.float64)
    mean = np.asarray(x.mean(axis=0)).ravel()
    centered = LinearOperator(
        x.shape,
        matvec=lambda v: x @ v - mean @ v,
        rmatvec=lambda u: x.T @ u - mean * u.sum(),
        dtype=np.float64,
    )
    _, _, found = lanczos(centered, k=k, random_state=0)
    return found[::-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--k", type=int, required=True)
    parser.add_argument("--way", choices=("incremental", "scanpy", "svds"), required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.way == "scanpy":
        pass
    wall, cpu = time.perf_counter(), sum(os.times()[:2])
    components = {"incremental": incremental, "scanpy": with_scanpy, "svds": svds}[args.way](args.path, args.k)
    wall, cpu = time.perf_counter() - wall, sum(os.times()[:2]) - cpu
    np.save(args.out, components)
    print(json.dumps({"cpu_s": cpu, "wall_s": wall}))


if __name__ == "__main__":
    main()

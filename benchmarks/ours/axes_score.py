"""How far axes are from the exact ones: eigenvectors of the covariance, by NumPy. A child of stream_peers.py."""

import argparse
import json
from pathlib import Path

import h5py
import numpy as np
import scipy.sparse as sp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--axes", nargs="+", required=True, help="name=file")
    args = parser.parse_args(None)
    with h5py.File(args.path, "r") as file:
        x = file["X"]
        whole = sp.csr_matrix((x["data"][:], x["indices"][:], x["indptr"][:]), shape=tuple(x.attrs["shape"]))
    mean = np.asarray(whole.mean(axis=0, dtype=np.float64)).ravel()
    gram = np.zeros((whole.shape[1],) * 2)
    for start in range(0, whole.shape[0], 5000):
        part = whole[start : start + 5000].toarray().astype(np.float64) - mean
        gram += part.T @ part
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    scores = {}
    for pair in args.axes[0].split(","):
        name, _, path = pair.partition("=")
        found = np.load(path).astype(np.float64)
        k = len(found)
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        basis = np.linalg.qr(found.T)[0]
        scores[f"{name}_first"] = max(0.0, 1.0 - float(found[0] @ vectors[:, 0]) ** 2)
        cosines = np.linalg.svd(np.linalg.qr(found[:5].T)[0].T @ vectors[:, :5], compute_uv=False)
        scores[f"{name}_five"] = max(0.0, 1.0 - float(cosines.min()) ** 2)
        kept = float(np.einsum("ij,ij->", basis, gram @ basis))
        scores[f"{name}_lost"] = 1.0 - kept / float(values[:k].sum())
    print(json.dumps(scores))


if __name__ == "__main__":
    main()

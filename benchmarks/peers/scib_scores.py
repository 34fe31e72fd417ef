"""The scorer and a peer: scib-metrics on embeddings of the same cells, and Harmony on one of them.

Reads arrays by name, with the batches and types of cells under ``batch`` and ``type``; the embedding ``--start`` is
what Harmony corrects, and what the principal component regression is compared with. Harmony's embedding is written as
one more array; the scores of all (defaults of ``Benchmarker``, not rescaled over the methods) are printed as one JSON
object.
"""

import argparse
import json
import warnings
from pathlib import Path

import harmonypy
import numpy as np
import pandas as pd
from anndata import AnnData
from scib_metrics.benchmark import Benchmarker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embeddings", type=Path, required=True)
    parser.add_argument("--start", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with np.load(args.embeddings) as stored:
        arrays = {name: stored[name] for name in stored}
    index = pd.Index([f"c{i}" for i in range(len(arrays["batch"]))])
    obs = pd.DataFrame({name: pd.Categorical(arrays.pop(name)) for name in ("batch", "type")}, index=index)
    harmony = harmonypy.run_harmony(arrays[args.start], obs, "batch", verbose=False)
    arrays["Harmony"] = np.asarray(harmony.Z_corr, np.float32)
    np.savez(args.out, Harmony=arrays["Harmony"])
    cells = AnnData(np.zeros((len(obs), 1), np.float32), obs=obs, obsm=arrays)
    scorer = Benchmarker(
        cells, "batch", "type", list(arrays), pre_integrated_embedding_obsm_key=args.start, progress_bar=False
    )
    scorer.benchmark()
    found = scorer.get_results(min_max_scale=False).drop("Metric Type").astype(float)
    print(json.dumps({"scores": found.T.to_dict()}))


if __name__ == "__main__":
    main()

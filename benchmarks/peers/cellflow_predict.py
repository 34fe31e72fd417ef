"""Peer: the package `cellflow-tools` trained on given codes, and what it predicts for conditions it did not see.

What runs: `CellFlow(adata, solver="otfm")`, `prepare_data` (the codes, every condition as a category with its vector,
the context as a sample covariate that also splits the controls), `prepare_model`, `train`, `predict`. Nothing of it is
rewritten here. Its defaults are kept but for the widths, which are meant for accelerators, and the optimizer: Adam at
``--lr`` without accumulating gradients over 20 steps, or so few steps would be a hundred updates.

Input and output as in `cmonge_predict.py`; one model for all contexts. Prints one JSON object.
"""

import argparse
import json
import os
import time
from importlib import metadata
from pathlib import Path

import anndata
import jax
import numpy as np
import optax
import pandas as pd
from cellflow.model import CellFlow


def table_of(rows: list[tuple[str, str, bool, np.ndarray]]) -> anndata.AnnData:
    """Return cells of (context, condition, whether control, codes) as the package reads them."""
    cells = np.concatenate([codes for *_, codes in rows]).astype(np.float32)
    sizes = [len(codes) for *_, codes in rows]
    obs = pd.DataFrame(
        {
            "context": pd.Categorical(np.repeat([context for context, *_ in rows], sizes)),
            "condition": pd.Categorical(np.repeat([name for _, name, *_ in rows], sizes)),
            "control": np.repeat([control for *_, control, _ in rows], sizes),
        }
    )
    obs.index = obs.index.map(str)
    made = anndata.AnnData(cells, obs=obs)
    made.obsm["X_codes"] = made.X
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--width", type=int, default=256)
    args = parser.parse_args()
    with np.load(args.data) as stored:
        arrays = dict(stored)
    contexts = sorted({name.split("/")[0] for name in arrays})
    rows, vectors, width = [], {}, arrays[f"{contexts[0]}/vectors"].shape[1]
    for g in contexts:
        rows.append((g, "control", True, arrays[f"{g}/controls"]))
        for i, vector in enumerate(arrays[f"{g}/vectors"]):
            rows.append((g, f"{g}-{i}", False, arrays[f"{g}/treated/{i}"]))
            vectors[f"{g}-{i}"] = vector.astype(np.float32)
        for j, vector in enumerate(arrays[f"{g}/asked"]):
            vectors[f"{g}-asked{j}"] = vector.astype(np.float32)
    vectors["control"] = np.zeros(width, np.float32)
    place = {g: np.eye(len(contexts), dtype=np.float32)[i] for i, g in enumerate(contexts)}
    cells = table_of(rows)
    cells.uns["vectors"], cells.uns["contexts"] = vectors, place
    model = CellFlow(cells, solver="otfm")
    several = {"split_covariates": ["context"], "sample_covariates": ["context"]}
    several |= {"sample_covariate_reps": {"context": "contexts"}}
    model.prepare_data(
        sample_rep="X_codes",
        control_key="control",
        perturbation_covariates={"condition": ("condition",)},
        perturbation_covariate_reps={"condition": "vectors"},
        **(several if len(contexts) > 1 else {}),
    )
    model.prepare_model(
        time_encoder_dims=[args.width] * 2,
        hidden_dims=[args.width] * 2,
        decoder_dims=[2 * args.width] * 2,
        condition_embedding_dim=64,
        layers_before_pool=[],
        layers_after_pool=[],
        time_freqs=64,
        optimizer=optax.adam(args.lr),
    )
    model.train(num_iterations=args.steps, batch_size=args.n, valid_freq=10**9)
    out: dict[str, np.ndarray] = {}
    for g in contexts:
        source = table_of([(g, "control", True, arrays[f"{g}/source"])])
        source.uns["vectors"], source.uns["contexts"] = vectors, place
        names = [f"{g}-asked{j}" for j in range(len(arrays[f"{g}/asked"]))]
        asked = pd.DataFrame({"context": g, "condition": pd.Categorical(names), "control": False}, index=names)
        found = model.predict(source, asked, sample_rep="X_codes", condition_id_key=None)
        for key, moved in found.items():
            name = next(part for part in (key if isinstance(key, tuple) else (key,)) if str(part) in names)
            out[f"{g}/moved/{names.index(str(name))}"] = np.asarray(moved)
    np.savez(args.out, **out)
    spent = time.process_time() + os.times().children_user + os.times().children_system
    version = metadata.version("cellflow-tools")
    print(json.dumps({"version": version, "jax": jax.__version__, "cpu_s": spent}))


if __name__ == "__main__":
    main()

"""Cells of the peer scVI, by the way in which they are drawn: see `peers/scvi_generate.py`."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from children import run_child, say
from environments import SCVI, peer_python


def scvi_cells(
    train: AnnData, labels: list[str], *, by: str, seeds: int, epochs: int | None = None
) -> dict[str, Callable[[int], AnnData]]:
    """Return what draws scVI's cells of these labels, from the prior and from the posterior of training cells.

    Parameters
    ----------
    train
        Raw counts, with the labels in ``obs[by]``.
    labels
        One a cell to draw.
    by
        Their column.
    seeds
        How many times; the functions that are returned take a seed below it.
    epochs
        Of training; None is the package's own number.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train.write_h5ad(folder / "train.h5ad")
        (folder / "labels.json").write_text(json.dumps(labels))
        options = {"train": folder / "train.h5ad", "labels": folder / "labels.json", "by": by, "seeds": seeds}
        options |= {"out": folder / "cells.npz", "threads": 1} | ({} if epochs is None else {"epochs": epochs})
        done = run_child("peers/scvi_generate.py", options, peer_python(SCVI))
        with np.load(folder / "cells.npz") as stored:
            cells = {key: stored[key] for key in stored}
    say(f"  scVI: {done['training_cpu_s']:.0f} CPU-s to train")
    obs = pd.DataFrame({by: labels}, index=pd.Index([f"c{i}" for i in range(len(labels))]))

    def drawn(way: str) -> Callable[[int], AnnData]:
        return lambda seed: AnnData(cells[f"{way}/{seed}"].astype(np.float32), obs=obs, var=train.var)

    return {"scVI, prior": drawn("prior"), "scVI, posterior of training cells": drawn("posterior")}

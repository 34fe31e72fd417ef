"""How much of gene space a code keeps."""

import numpy as np

from cellgap.space._interface import AbstractFittedSpace
from cellgap.study import Role, Split

_MOST = 5000


def reconstruction_of(space: AbstractFittedSpace, split: Split) -> dict[str, float]:
    """Return the error of ``decode(encode(x))`` in gene space on validation cells, which the space was not fitted on.

    Parameters
    ----------
    space
        Fitted on the split.
    split
        Where it has no validation cells, training cells are used, and ``held_out`` is 0.

    Returns
    -------
    errors
        ``rmse``: root mean squared error over cells and genes; ``variance_kept``: 1 - squared error / squared deviation
        from the gene means; ``cells``: how many cells (at most 5,000, evenly spaced); ``held_out``: 1 or 0.
    """
    rows = split.cells(Role.VALID)
    held_out = len(rows) > 1
    if not held_out:
        rows = split.cells(Role.TRAIN)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, _MOST).astype(int))] if len(rows) > _MOST else rows
    x = space.measured(split.study.values(rows)).astype(np.float64)
    back = space.decode(space.encode(split.study.adata, rows)).astype(np.float64)
    error, total = float(np.sum((x - back) ** 2)), float(np.sum((x - x.mean(axis=0)) ** 2))
    return {
        "rmse": float(np.sqrt(error / max(x.size, 1))),
        "variance_kept": 1.0 - error / total if total > 0 else float(error == 0),
        "cells": float(len(rows)),
        "held_out": float(held_out),
    }

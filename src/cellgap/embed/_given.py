"""Arrays of cells as they are given: checked, in float64."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from cellgap.errors import DataError


def cells_of(values: Any, name: str, least: int = 1) -> Float[np.ndarray, "cells features"]:
    """Return cells by features in float64, or say what is wrong with them."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be an array of numbers, found {type(values).__name__}.") from error
    if array.ndim != 2 or array.shape[1] == 0:
        raise DataError(f"{name} must be an array of cells x features, found shape {array.shape}.")
    if len(array) < least:
        raise DataError(f"{name} must have at least {least} cells, found {len(array)}.")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).any(axis=1).sum())
        raise DataError(f"{name} must be finite, found NaN or infinite values in {bad} of {len(array)} cells.")
    return array


def same_cells(a: Any, b: Any, names: tuple[str, str], least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return two arrays of the same cells, or say what is wrong with them."""
    a, b = cells_of(a, names[0], least), cells_of(b, names[1], least)
    if len(a) != len(b):
        raise DataError(f"{names[0]} and {names[1]} must be of the same cells, found {len(a)} and {len(b)}.")
    return a, b


def one_a_cell(values: Any, n: int, name: str) -> np.ndarray:
    """Return one value a cell, or say what is wrong."""
    array = np.asarray(values)
    if array.shape != (n,):
        raise DataError(f"{name} must be one a cell ({n}), found shape {array.shape}.")
    if missing := int(pd.isna(array).sum()):
        raise DataError(f"{name} are missing in {missing} of {n} cells: leave these cells out.")
    return array

"""Checks that every metric makes of the populations it is given."""

import numpy as np
from jaxtyping import Float

from cellgap.errors import DataError

Cells = Float[np.ndarray, "cells features"]


def cloud(values: object, name: str) -> np.ndarray:
    """Return `values` as a float64 array of cells by features.

    Raises
    ------
    DataError
        Not two-dimensional, no cell or feature, or a value that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise DataError(f"{name} must be cells x features with at least one of each, found shape {array.shape}.")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).any(axis=1).sum())
        raise DataError(f"{name} must be finite, found NaN or infinite values in {bad} of {len(array)} cells.")
    return array


def clouds(*values: object, names: tuple[str, ...] = ("p", "q", "c")) -> tuple[np.ndarray, ...]:
    """Return several populations as float64 arrays over the same features.

    Raises
    ------
    DataError
        One of them is refused by `cloud`, or they differ in the number of features.
    """
    arrays = tuple(cloud(v, name) for v, name in zip(values, names, strict=False))
    widths = {a.shape[1] for a in arrays}
    if len(widths) > 1:
        found = ", ".join(f"{name} {a.shape[1]}" for a, name in zip(arrays, names, strict=False))
        raise DataError(f"populations must share their features, found numbers of features: {found}.")
    return arrays

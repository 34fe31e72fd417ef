"""Which factors a sampler moves: cell type, donor, treatment, depth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from cellgap.embed._pair_sample import PairSample
from cellgap.embed.pairs._same_condition import texts_of
from cellgap.errors import DataError

DEPTH = "depth"
"""The built-in factor of counts: logarithm of the molecules in a view."""
_MANY = 20


def factors_of(obs: pd.DataFrame, names: Sequence[str], treatment: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the factors of cells: texts where they are categories, numbers where they are numbers of many values.

    Parameters
    ----------
    obs
        Of the cells.
    names
        Columns.
    treatment
        Names of treatments, which make the factor "treatment"; None: there are none.

    Raises
    ------
    DataError
        A column is missing, or has no label in some cell.
    """
    found: dict[str, np.ndarray] = {} if treatment is None else {"treatment": treatment.astype(str)}
    for name in names:
        series: Any = obs[name] if name in obs.columns else None
        if series is not None and pd.api.types.is_numeric_dtype(series) and series.nunique() > _MANY:
            numbers = series.to_numpy(float)
            if not np.isfinite(numbers).all():
                raise DataError(f"obs[{name!r}] is not finite in {int((~np.isfinite(numbers)).sum()):,} cells.")
            found[name] = numbers
        else:
            found[name] = texts_of(obs, name).astype(str)
    return {name: values for name, values in found.items() if len(np.unique(values)) > 1}


def reach_of(sample: PairSample, factors: Mapping[str, np.ndarray], *, counts: bool) -> dict[str, float]:
    """Return how far each factor is moved: 0 frozen, 1 as good as independent.

    For categories ``P(F(y) != F(x)) / (1 - sum_a P(F = a)^2)``; for numbers half the mean squared step over the
    variance.

    Parameters
    ----------
    sample
        Pairs.
    factors
        One value a cell.
    counts
        Whether views have a depth.
    """
    reach = {}
    for name, values in factors.items():
        a, b = values[sample.rows], values[sample.partner_rows]
        if values.dtype.kind == "f":
            reach[name] = _moved(a, b)
            continue
        _, codes = np.unique(values, return_inverse=True)
        shares = np.bincount(codes[sample.rows]) / len(sample)
        spread = 1.0 - float((shares**2).sum())
        if spread > 0:
            reach[name] = float((a != b).mean()) / spread
    if counts:
        reach[DEPTH] = _moved(sample.depth, sample.partner_depth)
    return reach


def explained(coordinate: Float[np.ndarray, " n"], values: np.ndarray) -> float:
    """Return the share of a coordinate's variance that a factor explains (eta squared, or squared correlation)."""
    total = float(coordinate.var())
    if total <= 0:
        return 0.0
    if values.dtype.kind == "f":
        return float(np.corrcoef(coordinate, values)[0, 1] ** 2) if values.std() > 0 else 0.0
    _, codes = np.unique(values, return_inverse=True)
    n = np.bincount(codes)
    means = np.bincount(codes, coordinate) / n
    return float((n * (means - coordinate.mean()) ** 2).sum() / len(coordinate) / total)


def _moved(a: np.ndarray, b: np.ndarray) -> float:
    variance = float(a.astype(float).var())
    return float(((b - a).astype(float) ** 2).mean() / 2 / variance) if variance > 0 else 0.0

"""The tidy table of scores: its columns, its scale, and its series by predictor, space and metric."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellgap.evaluate._scale import merit

COLUMNS = ("predictor", "condition", "space", "metric", "value", "scaled", "n_pred", "n_true", "seed", "note")

Key = tuple[str, str, str]
"""Predictor, space, metric."""


def scale_of(value: np.ndarray, zero: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Return ``(value - zero) / (one - zero)`` elementwise, NaN where the anchors are equal."""
    return np.where(one == zero, np.nan, (value - zero) / np.where(one == zero, 1.0, one - zero))


def with_scale(table: pd.DataFrame, zero: str, one: str) -> pd.DataFrame:
    """Return the table with the column ``scaled`` measured between two predictors.

    Parameters
    ----------
    table
        With the columns of `COLUMNS`, with or without ``scaled``.
    zero, one
        Predictors whose scores, averaged over the draws of a condition, are 0 and 1. NaN where one has no score.
    """
    metrics = table["metric"].to_numpy()
    turned = table["value"].to_numpy(np.float64).copy()
    for name in dict.fromkeys(metrics):
        turned[metrics == name] = merit(turned[metrics == name], name)
    keys = pd.Series(list(zip(table["condition"], table["space"], metrics, strict=True)), dtype=object)
    place = np.asarray(keys.factorize()[0])
    predictors = table["predictor"].to_numpy()
    anchors = [_means(turned, place, predictors == name)[place] for name in (zero, one)]
    return table.assign(scaled=scale_of(turned, *anchors)).reindex(columns=list(COLUMNS))


def _means(values: np.ndarray, place: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the mean of the chosen finite values at every place, NaN where there is none."""
    chosen = chosen & np.isfinite(values)
    size = int(place.max()) + 1 if len(place) else 0
    count = np.bincount(place[chosen], minlength=size)
    total = np.bincount(place[chosen], weights=values[chosen], minlength=size)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@dataclass(frozen=True, eq=False)
class Series:
    """Values of one predictor, space and metric, of the conditions that have one in every draw.

    Parameters
    ----------
    conditions, seeds
        Labels of the rows and columns.
    values
        Conditions by draws.
    """

    conditions: tuple[str, ...]
    seeds: tuple[int, ...]
    values: np.ndarray

    def on(self, conditions: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Return the values at these conditions and seeds."""
        rows = [self.conditions.index(c) for c in conditions]
        return self.values[np.ix_(rows, [self.seeds.index(s) for s in seeds])]


def series_of(table: pd.DataFrame) -> dict[Key, Series]:
    """Return the values by predictor, space and metric, conditions in the order of the table."""
    order = list(dict.fromkeys(table["condition"]))
    columns = (table[name].tolist() for name in ("predictor", "space", "metric", "condition", "seed", "value"))
    found: dict[Key, dict[tuple[str, int], float]] = {}
    for predictor, space, metric, condition, seed, value in zip(*columns, strict=True):
        found.setdefault((predictor, space, metric), {})[condition, seed] = value
    series: dict[Key, Series] = {}
    for key, values in found.items():
        seeds = tuple(sorted({seed for (_, seed), value in values.items() if np.isfinite(value)}))
        rows = {c: [values.get((c, seed), np.nan) for seed in seeds] for c in order}
        kept = tuple(c for c in order if seeds and np.isfinite(rows[c]).all())
        array = np.asarray([rows[c] for c in kept], np.float64).reshape(len(kept), len(seeds))
        series[key] = Series(kept, seeds, array)
    return series


def aligned(series: Sequence[Series]) -> list[np.ndarray]:
    """Return the values of series on the conditions and draws that all have."""
    if not series:
        return []
    conditions = [c for c in series[0].conditions if all(c in other.conditions for other in series[1:])]
    seeds = [s for s in series[0].seeds if all(s in other.seeds for other in series[1:])]
    return [one.on(conditions, seeds) for one in series]

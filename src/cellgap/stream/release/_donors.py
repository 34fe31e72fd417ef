"""From cells to one vector a donor: the only form in which cells enter a private statistic.

Errors of this module name files, columns and genes, never a value, a cell or a donor.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Float

from cellgap.errors import CellgapError, ConfigError, DataError, PrivacyError
from cellgap.study._measurements import matrix_of, take

_BLOCK = 2048
Rank = Callable[[Sequence[str]], np.ndarray]
"""From names of cells to numbers that order them at random, the same way at every call (`PrivacyBudget.ranks`)."""


def donor_means(
    cells: AnnData | Sequence[AnnData],
    donor: str,
    genes: Sequence[str],
    *,
    layer: str | None = None,
    target_sum: float = 1e4,
    max_cells: int | None = None,
    rank: Rank | None = None,
    only: Collection[str] | None = None,
) -> dict[str, Float[np.ndarray, " genes"]]:
    """Return the mean log-normalized expression of every donor, from raw counts.

    Parameters
    ----------
    cells
        Cells, in memory or on disk; of several plates they are pooled.
    donor
        Column of obs.
    genes
        Names of genes, fixed in public; totals are over all genes of the data.
    layer
        Where the raw counts are: None or "X", or the name of a layer.
    target_sum
        Counts of a cell after normalization; the values are ``log(1 + x)``.
    max_cells, rank
        Cells of a donor at most, those of lowest rank; None takes all.
    only
        Donors to return; None returns all.

    Returns
    -------
    dict
        From the donor to its mean, (genes,).

    Raises
    ------
    ConfigError
        `max_cells` comes without `rank`.
    DataError
        A column or a gene is missing.
    PrivacyError
        The values are no raw counts.
    """
    parts = _parts(cells)
    columns = [columns_of(part, genes) for part in parts]
    means = {}
    for who, chosen in _cells(parts, donor, max_cells, rank, only):
        total, n = np.zeros(len(genes)), 0
        for i, rows in chosen:
            for block in _blocks(parts[i], layer, rows):
                counts = block.sum(axis=1, dtype=np.float64)
                factor = target_sum / np.maximum(np.asarray(counts).ravel(), 1.0)
                kept = sp.csr_matrix(block[:, columns[i]], dtype=np.float64)
                kept.data = np.log1p(kept.data * np.repeat(factor, np.diff(kept.indptr)))
                total += np.ones(len(factor)) @ kept
                n += len(factor)
        means[who] = total / max(1, n)
    return means


def donor_counts(
    cells: AnnData | Sequence[AnnData],
    donor: str,
    by: Sequence[str],
    values: Sequence[str],
    *,
    unit: str = "cells",
    max_cells: int | None = None,
    rank: Rank | None = None,
    only: Collection[str] | None = None,
) -> dict[str, Float[np.ndarray, " values"]]:
    """Return how many cells of each condition (type, plate, ...) every donor has.

    Parameters
    ----------
    cells
        Cells; of several plates they are pooled.
    donor
        Column of obs.
    by
        Columns of obs whose values, joined by `` | `` where there are several, are the conditions.
    values
        The conditions, fixed in public; cells of others are not counted.
    unit
        "cells" counts cells; "share" divides by all cells of the donor; "present" is 1 where there is one.
    max_cells, rank, only
        As for `donor_means`.

    Raises
    ------
    ConfigError
        The unit is unknown.
    DataError
        A column is missing.
    """
    if unit not in ("cells", "share", "present"):
        raise ConfigError(f'unit of counts is "cells", "share" or "present", found {unit!r}.')
    parts = _parts(cells)
    places = [pd.Index(list(values)).get_indexer(joined(part, by)) for part in parts]
    found = {}
    for who, chosen in _cells(parts, donor, max_cells, rank, only):
        here = np.concatenate([places[i][rows] for i, rows in chosen])
        counts = np.bincount(here[here >= 0], minlength=len(values)).astype(np.float64)
        if unit == "share":
            counts /= len(here)
        found[who] = np.minimum(counts, 1.0) if unit == "present" else counts
    return found


def donor_histograms(
    cells: AnnData | Sequence[AnnData],
    donor: str,
    column: str,
    edges: Sequence[float | int],
    *,
    unit: str = "mean",
    max_cells: int | None = None,
    rank: Rank | None = None,
    only: Collection[str] | None = None,
) -> dict[str, Float[np.ndarray, " bins"]]:
    """Return a histogram of weight 1 of every donor's values of a column.

    Parameters
    ----------
    cells
        Cells; of several plates they are pooled.
    donor
        Column of obs.
    column
        Numeric column of obs.
    edges
        Edges of the bins, increasing, fixed in public; values outside go to the first or last bin.
    unit
        "mean": all weight in the bin of the donor's mean; "cells": spread over the bins of its cells.
    max_cells, rank, only
        As for `donor_means`.

    Raises
    ------
    ConfigError
        The unit is unknown.
    DataError
        A column is missing or not of numbers.
    PrivacyError
        A value is not finite.
    """
    if unit not in ("mean", "cells"):
        raise ConfigError(f'unit of a quantile is "mean" or "cells", found {unit!r}.')
    parts = _parts(cells)
    numbers = [numbers_of(part, column) for part in parts]
    inner = np.asarray(edges, np.float64)[1:-1]
    found = {}
    for who, chosen in _cells(parts, donor, max_cells, rank, only):
        values = np.concatenate([numbers[i][rows] for i, rows in chosen])
        values = values.mean(keepdims=True) if unit == "mean" else values
        counts = np.bincount(np.searchsorted(inner, values, side="right"), minlength=len(edges) - 1)
        found[who] = counts / counts.sum()
    return found


def donors_of(adata: AnnData, donor: str) -> np.ndarray:
    """Return the donor of every cell as text, (cells,).

    Raises
    ------
    DataError
        The column is missing.
    PrivacyError
        A cell has none, or the names are numbers with a point: 1.0 on one plate and 1 on another would be two donors.
    """
    joined(adata, [donor])
    column = adata.obs[donor]
    names = column.astype(str).to_numpy()
    if np.any(np.asarray(column.isna())) or np.any(names == ""):
        raise PrivacyError(f"obs[{donor!r}] is empty for some cells: every cell needs its donor.")
    kinds = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    if pd.api.types.is_float_dtype(kinds):
        raise PrivacyError(f"obs[{donor!r}] holds numbers with a point: write donors as text or as whole numbers.")
    return names


def joined(adata: AnnData, by: Sequence[str]) -> np.ndarray:
    """Return the values of columns of obs, joined, (cells,).

    Raises
    ------
    DataError
        A column is missing.
    """
    for name in by:
        if name not in adata.obs:
            known = ", ".join(map(repr, adata.obs.columns)) or "none"
            raise DataError(f"obs has no column {name!r}: found {known}.")
    columns = [adata.obs[name].astype(str).to_numpy().astype(object) for name in by]
    whole = columns[0]
    for column in columns[1:]:
        whole = whole + " | " + column
    return whole


def numbers_of(adata: AnnData, column: str) -> Float[np.ndarray, " cells"]:
    """Return a numeric column of obs, (cells,).

    Raises
    ------
    DataError
        The column is missing or not of numbers.
    PrivacyError
        A value is not finite.
    """
    joined(adata, [column])
    if not pd.api.types.is_numeric_dtype(adata.obs[column]):
        raise DataError(f"obs[{column!r}] is not a column of numbers.")
    numbers = adata.obs[column].to_numpy(np.float64)
    if not np.isfinite(numbers).all():
        raise PrivacyError(f"obs[{column!r}] has values that are not finite: repair them before the release.")
    return numbers


def columns_of(adata: AnnData, genes: Sequence[str]) -> np.ndarray:
    """Return where genes are in the data, (genes,).

    Raises
    ------
    DataError
        A gene is missing, or a name stands for several.
    """
    if not adata.var_names.is_unique:
        raise DataError("The data have genes of one name: make var_names unique.")
    places = adata.var_names.astype(str).get_indexer(list(genes))
    if (places < 0).any():
        missing = [gene for gene, place in zip(genes, places, strict=True) if place < 0]
        raise DataError(f"{len(missing)} of {len(places)} genes are not in the data, such as {missing[0]!r}.")
    return places


def _parts(cells: AnnData | Sequence[AnnData]) -> list[AnnData]:
    return [cells] if isinstance(cells, AnnData) else list(cells)


def _cells(
    parts: Sequence[AnnData], donor: str, max_cells: int | None, rank: Rank | None, only: Collection[str] | None
) -> Iterator[tuple[str, list[tuple[int, np.ndarray]]]]:
    """Yield every donor with its rows in each part, the chosen ones where there are too many."""
    if (max_cells is None) != (rank is None):
        raise ConfigError("max_cells and rank belong together: cells are chosen by a rank that no data decide.")
    names = [donors_of(part, donor) for part in parts]
    everybody = {who for part in names for who in part.tolist()}
    for who in sorted(everybody if only is None else everybody & set(only)):
        rows = [np.flatnonzero(part == who) for part in names]
        n = sum(map(len, rows))
        if max_cells is not None and rank is not None and n > max_cells:
            cells = [str(name) for part, here in zip(parts, rows, strict=True) for name in part.obs_names[here]]
            taken = np.zeros(n, bool)
            taken[np.argsort(rank(cells), kind="stable")[:max_cells]] = True
            inside = np.split(taken, np.cumsum([len(here) for here in rows])[:-1])
            rows = [here[mask] for here, mask in zip(rows, inside, strict=True)]
        yield who, [(i, here) for i, here in enumerate(rows) if len(here)]


def _blocks(adata: AnnData, layer: str | None, rows: np.ndarray) -> Iterator[Any]:
    matrix = matrix_of(adata, layer)
    for start in range(0, len(rows), _BLOCK):
        try:
            block = sp.csr_matrix(take(matrix, rows[start : start + _BLOCK]))
        except CellgapError:
            raise
        except Exception:
            # What a reader says may hold values.
            raise PrivacyError("The counts of some cells cannot be read: the file is damaged.") from None
        block.sum_duplicates()
        data = block.data
        if data.size and (not np.isfinite(data).all() or (data < 0).any() or (data != np.floor(data)).any()):
            raise PrivacyError("The values are not raw counts (negative, fractional or not finite): name their layer.")
        yield block

"""Embeddings of the same cells side by side: what they keep of the biology, and whether they mix the batches."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from cellgap.embed import Probe, knn_probe, linear_probe, ridge_probe
from cellgap.errors import ConfigError, DataError
from cellgap.evaluate._clouds import cloud

_COLUMNS = ("embedding", "kind", "factor", "metric", "value", "chance", "p_value")
_Row = tuple[str, str, str, float, float, float]


def embedding_scores(
    embeddings: Mapping[str, Any],
    obs: pd.DataFrame,
    *,
    labels: str | Sequence[str],
    batch: str | None = None,
    donors: str | None = None,
    k: int = 15,
    n_folds: int = 5,
    most_cells: int = 5000,
    seed: int = 0,
) -> pd.DataFrame:
    """Return scores of embeddings: probes and neighbors of labels, silhouettes, and the mixing of batches.

    Parameters
    ----------
    embeddings
        Arrays of (cells, features) by name; widths may differ.
    obs
        Table of the cells, one row each in the same order.
    labels
        Columns that an embedding should keep. Columns of floats are taken as numbers, all others as classes. Cells
        without a value are left out of the scores of that column.
    batch
        Column that an embedding should not know.
    donors
        Column whose values are held out in turn by the probes of `labels`; without it, stratified folds. A probe of the
        batch always has folds of cells.
    k
        Neighbors of a cell.
    n_folds
        Number of folds.
    most_cells
        Cells that a silhouette is taken of, by chance, where there are more.
    seed
        Of the folds and of that choice.

    Returns
    -------
    scores
        One row an embedding, factor and metric, with the columns ``embedding``, ``kind`` ("bio", where more is kept if
        the value is high; "batch"), ``factor``, ``metric``, ``value``, ``chance`` (what knowing nothing reaches; NaN
        where that is not known) and ``p_value`` (that nothing is told; see `cellgap.embed.linear_probe`).

        Of classes: ``accuracy, balanced_accuracy, macro_f1`` with the prefix ``linear_`` or ``knn_``, and
        ``silhouette``. Of numbers: ``ridge_r2``. Of the batch: ``knn_accuracy, knn_balanced_accuracy``, where chance is
        what is wanted; ``mixing``, 1 where the balanced accuracy is that of chance and 0 where every cell's batch is
        told; ``silhouette``, and for every column of classes ``graph_connectivity`` (factor: that column): the share of
        the cells of a class that hang together in the graph of neighbors, meaned over classes. Where batches differ in
        their shares of cell types, an embedding that keeps the types cannot reach a mixing of 1.

    Raises
    ------
    ConfigError
        A column is not in `obs`, there is no label, or `k`, `n_folds`, `most_cells` is out of range.
    DataError
        An embedding is not finite or not of these cells, or a column cannot be told (one class, one donor); a note
        says which.

    Source
    ------
    Luecken et al. 2022 (doi 10.1038/s41592-021-01336-8) for graph connectivity; silhouettes here are as they are,
    between -1 and 1, not moved to between 0 and 1 as there.
    """
    columns = [labels] if isinstance(labels, str) else list(labels)
    if not columns:
        raise ConfigError("embedding_scores needs a column of labels, found none.")
    for column in (*columns, *(c for c in (batch, donors) if c is not None)):
        if column not in obs.columns:
            raise ConfigError(f"obs has no column {column!r}; it has {', '.join(map(repr, obs.columns))}.")
    if most_cells < 3:
        raise ConfigError(f"a silhouette needs three cells or more, found most_cells={most_cells}.")
    if not embeddings:
        raise DataError("embedding_scores needs an embedding, found none.")
    classes = [c for c in columns if not _is_number(obs[c])]
    rows: list[tuple[Any, ...]] = []
    for name, values in embeddings.items():
        h = cloud(values, f"embedding {name!r}")
        if len(h) != len(obs):
            raise DataError(f"embedding {name!r} has {len(h)} cells, but obs has {len(obs)}.")
        try:
            for column in columns:
                known = obs[column].notna().to_numpy()
                groups = None if donors is None else obs[donors].to_numpy()[known]
                shared = {"groups": groups, "n_folds": n_folds, "seed": seed}
                found = _of_number if column not in classes else _of_classes
                rows += [(name, "bio", column, *row) for row in found(h[known], obs[column][known], k, shared)]
                if column in classes:
                    rows.append((name, "bio", column, *_silhouette(h[known], obs[column][known], most_cells, seed)))
            if batch is not None:
                rows += [
                    (name, "batch", *row) for row in _of_batch(h, obs, batch, classes, k, n_folds, most_cells, seed)
                ]
        except (ConfigError, DataError) as error:
            error.add_note(f"in the scores of embedding {name!r}")
            raise
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_float_dtype(column.dtype)


def _of_classes(h: np.ndarray, column: pd.Series, k: int, shared: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    labels = column.astype(str).to_numpy()
    yield from _of_probe("linear", linear_probe(h, labels, **shared))
    yield from _of_probe("knn", knn_probe(h, labels, k=k, **shared))


def _of_probe(name: str, found: Probe) -> Iterator[tuple[Any, ...]]:
    n, majority = found.n_labels, found.chance
    yield f"{name}_accuracy", found.accuracy, majority, found.p_value
    yield f"{name}_balanced_accuracy", found.balanced_accuracy, 1 / n, found.p_value
    # Who always says the most frequent class has this F1 there and 0 elsewhere.
    yield f"{name}_macro_f1", found.macro_f1, 2 * majority / (1 + majority) / n, found.p_value


def _of_number(h: np.ndarray, column: pd.Series, k: int, shared: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    found = ridge_probe(h, column.to_numpy(dtype=np.float64), **shared)
    yield "ridge_r2", found.r2, 0.0, found.p_value


def _of_batch(
    h: np.ndarray,
    obs: pd.DataFrame,
    batch: str,
    classes: list[str],
    k: int,
    n_folds: int,
    most_cells: int,
    seed: int,
) -> Iterator[tuple[Any, ...]]:
    known = obs[batch].notna().to_numpy()
    found = knn_probe(h[known], obs[batch][known].astype(str).to_numpy(), k=k, n_folds=n_folds, seed=seed)
    by_chance = 1 / found.n_labels
    yield batch, "knn_accuracy", found.accuracy, found.chance, found.p_value
    yield batch, "knn_balanced_accuracy", found.balanced_accuracy, by_chance, found.p_value
    told = max(0.0, (found.balanced_accuracy - by_chance) / (1 - by_chance))
    yield batch, "mixing", 1 - told, 1.0, found.p_value
    yield batch, *_silhouette(h[known], obs[batch][known], most_cells, seed)
    for column in classes:
        yield column, "graph_connectivity", _connectivity(h, obs[column], k), float("nan"), float("nan")


def _silhouette(h: np.ndarray, column: pd.Series, most_cells: int, seed: int) -> _Row:
    from sklearn.metrics import silhouette_score

    labels = column.astype(str).to_numpy()
    if len(h) > most_cells:
        rows = np.random.default_rng(seed).choice(len(h), most_cells, replace=False)
        h, labels = h[rows], labels[rows]
    n = len(np.unique(labels))
    value = float(silhouette_score(h, labels)) if 1 < n < len(h) else float("nan")
    return "silhouette", value, 0.0, float("nan")


def _connectivity(h: np.ndarray, column: pd.Series, k: int) -> float:
    """Return the share of a class's cells in its largest component of the graph of neighbors, meaned over classes."""
    from sklearn.neighbors import NearestNeighbors

    graph = sp.csr_matrix(NearestNeighbors(n_neighbors=k).fit(h).kneighbors_graph())
    known = column.notna().to_numpy()
    labels = column.astype(str).to_numpy()
    shares = []
    for label in np.unique(labels[known]):
        rows = np.flatnonzero(known & (labels == label))
        _, part = connected_components(graph[rows][:, rows], directed=True, connection="weak")
        shares.append(np.bincount(part).max() / len(rows))
    return float(np.mean(shares))

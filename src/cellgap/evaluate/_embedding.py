"""Embeddings of the same cells side by side: what they keep of the biology, and whether they mix the batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from cellgap.embed import Probe, knn_probe, linear_probe, ridge_probe
from cellgap.errors import ConfigError, DataError
from cellgap.evaluate._clouds import cloud

_COLUMNS = ("embedding", "kind", "factor", "metric", "value", "chance", "p_value")
_Row = tuple[str, float, float, float]  # metric, value, chance, p-value


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
    told = _Told(obs, k=k, n_folds=n_folds, most_cells=most_cells, seed=seed)
    rows: list[tuple[Any, ...]] = []
    for name, values in embeddings.items():
        h = cloud(values, f"embedding {name!r}")
        if len(h) != len(obs):
            raise DataError(f"embedding {name!r} has {len(h)} cells, but obs has {len(obs)}.")
        try:
            for column in columns:
                rows += [(name, "bio", column, *row) for row in told.kept(h, column, donors)]
            if batch is not None:
                rows += [(name, "batch", *row) for row in told.mixed(h, batch, columns)]
        except (ConfigError, DataError) as error:
            error.add_note(f"in the scores of embedding {name!r}")
            raise
    return pd.DataFrame(rows, columns=pd.Index(_COLUMNS))


@dataclass(frozen=True)
class _Told:
    """What is known of the cells, and how it is asked for."""

    obs: pd.DataFrame
    k: int
    n_folds: int
    most_cells: int
    seed: int

    def kept(self, h: np.ndarray, column: str, donors: str | None) -> Iterator[_Row]:
        """Yield the scores of a column that should be kept."""
        known = self._known(column)
        h, groups = h[known], None if donors is None else self.obs[donors].to_numpy()[known]
        shared = {"groups": groups, "n_folds": self.n_folds, "seed": self.seed}
        if self._is_number(column):
            found = ridge_probe(h, self.obs[column].to_numpy(dtype=np.float64)[known], **shared)
            yield "ridge_r2", found.r2, 0.0, found.p_value
            return
        labels = self._classes(column)[known]
        yield from _of_probe("linear", linear_probe(h, labels, **shared))
        yield from _of_probe("knn", knn_probe(h, labels, k=self.k, **shared))
        yield self._silhouette(h, labels)

    def mixed(self, h: np.ndarray, batch: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield the factor and the scores of the batch and of the graph's classes."""
        known = self._known(batch)
        labels = self._classes(batch)[known]
        found = knn_probe(h[known], labels, k=self.k, n_folds=self.n_folds, seed=self.seed)
        by_chance = 1 / found.n_labels
        told = max(0.0, (found.balanced_accuracy - by_chance) / (1 - by_chance))
        yield batch, "knn_accuracy", found.accuracy, found.chance, found.p_value
        yield batch, "knn_balanced_accuracy", found.balanced_accuracy, by_chance, found.p_value
        yield batch, "mixing", 1 - told, 1.0, found.p_value
        yield batch, *self._silhouette(h[known], labels)
        for column in columns:
            if not self._is_number(column):
                yield column, "graph_connectivity", self._connectivity(h, column), float("nan"), float("nan")

    def _known(self, column: str) -> np.ndarray:
        return self.obs[column].notna().to_numpy()

    def _is_number(self, column: str) -> bool:
        return pd.api.types.is_float_dtype(self.obs[column].dtype)

    def _classes(self, column: str) -> np.ndarray:
        return self.obs[column].to_numpy().astype(str)

    def _silhouette(self, h: np.ndarray, labels: np.ndarray) -> _Row:
        from sklearn.metrics import silhouette_score

        if len(h) > self.most_cells:
            rows = np.random.default_rng(self.seed).choice(len(h), self.most_cells, replace=False)
            h, labels = h[rows], labels[rows]
        n = len(np.unique(labels))
        value = float(silhouette_score(h, labels)) if 1 < n < len(h) else float("nan")
        return "silhouette", value, 0.0, float("nan")

    def _connectivity(self, h: np.ndarray, column: str) -> float:
        """Return the share of a class's cells in its largest component of the graph of neighbors, meaned over them."""
        from sklearn.neighbors import NearestNeighbors

        graph = sp.csr_matrix(NearestNeighbors(n_neighbors=self.k).fit(h).kneighbors_graph())
        known, labels, shares = self._known(column), self._classes(column), []
        for label in np.unique(labels[known]):
            rows = np.flatnonzero(known & (labels == label))
            _, part = connected_components(graph[rows][:, rows], directed=True, connection="weak")
            shares.append(np.bincount(part).max() / len(rows))
        return float(np.mean(shares))


def _of_probe(name: str, found: Probe) -> Iterator[_Row]:
    n, majority = found.n_labels, found.chance
    yield f"{name}_accuracy", found.accuracy, majority, found.p_value
    yield f"{name}_balanced_accuracy", found.balanced_accuracy, 1 / n, found.p_value
    # Who always says the most frequent class has this F1 there and 0 elsewhere.
    yield f"{name}_macro_f1", found.macro_f1, 2 * majority / (1 + majority) / n, found.p_value

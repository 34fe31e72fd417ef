"""Measured values of named genes, block by block, from memory or disk."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from cellgap.errors import DataError
from cellgap.study._measurements import matrix_of, take
from cellgap.study._wording import listed

_BLOCK_VALUES = 4_000_000


def rows_of(adata: AnnData, rows: Sequence[int] | np.ndarray | None) -> np.ndarray:
    """Return row indices as int64: all rows for None, the true ones of a mask.

    Raises
    ------
    DataError
        A row is out of range.
    """
    if rows is None:
        return np.arange(adata.n_obs)
    index = np.asarray(rows)
    index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
    if index.ndim != 1 or (index.size and (index.min() < 0 or index.max() >= adata.n_obs)):
        raise DataError(f"Rows must be a list of numbers from 0 to {adata.n_obs - 1}, found {rows!r}.")
    return index


def blocks_of(adata: AnnData, layer: str | None, genes: Sequence[str], rows: np.ndarray) -> Iterator[tuple[slice, Any]]:
    """Yield (place among `rows`, values of `genes` in order) a few megabytes at a time.

    Raises
    ------
    DataError
        Genes are missing.
    DesignError
        The layer is missing.
    """
    columns = columns_of(adata, genes)
    matrix = matrix_of(adata, layer)
    step = max(1, _BLOCK_VALUES // max(1, adata.n_vars))
    for start in range(0, len(rows), step):
        block = take(matrix, rows[start : start + step])
        yield slice(start, start + step), block if columns is None else block[:, columns]


def columns_of(adata: AnnData, genes: Sequence[str]) -> np.ndarray | None:
    """Return where `genes` are among the genes of `adata`; None where they are exactly its genes in order.

    Raises
    ------
    DataError
        Genes are missing, or a name stands for several genes.
    """
    names = adata.var_names.astype(str)
    if len(names) == len(genes) and (names == np.asarray(genes, dtype=object)).all():
        return None
    known = set(names)
    missing = [gene for gene in genes if gene not in known]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(genes)} genes that the space was fitted on are missing in the data: "
            f"{listed(missing)}; give cells measured on the same genes."
        )
    if not names.is_unique:
        twice = names[names.duplicated()][0]
        raise DataError(f"The gene {twice!r} comes twice in the data: make var_names unique.")
    return names.get_indexer(list(genes))


def counts_of(adata: AnnData, layer: str | None, genes: Sequence[str]) -> sp.csr_matrix:
    """Return the measured counts of these genes, (cells, genes).

    Raises
    ------
    DataError
        Genes are missing.
    DesignError
        The layer is missing.
    """
    blocks = [sp.csr_matrix(block) for _, block in blocks_of(adata, layer, genes, np.arange(adata.n_obs))]
    return sp.csr_matrix(sp.vstack(blocks)) if blocks else sp.csr_matrix((0, len(genes)))


def dense(block: Any) -> np.ndarray:
    """Return a block of values as an array."""
    return block.toarray() if sp.issparse(block) else np.asarray(block)

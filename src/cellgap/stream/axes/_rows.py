"""Rows of a matrix (cells) as they come: checked, sparse, float64."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from cellgap.errors import DataError
from cellgap.storage import storable

Csr = Any
"""A CSR matrix of float64: the type hints of SciPy do not know that it has a shape."""


@storable
@dataclass(frozen=True, eq=False)
class Rows:
    """Sparse rows that can be stored.

    Parameters
    ----------
    data, indices, indptr
        As in a CSR matrix.
    width
        Number of columns.
    """

    data: Float[np.ndarray, " stored"]
    indices: Int[np.ndarray, " stored"]
    indptr: Int[np.ndarray, " edges"]
    width: int

    @classmethod
    def of(cls, matrix: Csr) -> "Rows":
        """Return the rows of a CSR matrix."""
        return cls(
            np.asarray(matrix.data, np.float64),
            np.asarray(matrix.indices, np.int32),
            np.asarray(matrix.indptr, np.int64),
            int(matrix.shape[1]),
        )

    @classmethod
    def none(cls, width: int) -> "Rows":
        """Return no rows."""
        return cls(np.zeros(0), np.zeros(0, np.int32), np.zeros(1, np.int64), width)

    @property
    def matrix(self) -> Csr:
        """The rows as a CSR matrix."""
        return sp.csr_matrix((self.data, self.indices, self.indptr), shape=(len(self), self.width), copy=False)

    def __len__(self) -> int:
        return len(self.indptr) - 1


def as_rows(values: Any, width: int | None = None) -> Csr:
    """Return cells as CSR of float64.

    Parameters
    ----------
    values
        (cells, genes): CSR, CSC (converted), another sparse matrix, or an array.
    width
        Number of genes to expect; None takes any.

    Raises
    ------
    DataError
        Another number of genes, a value that is not finite, or no matrix of numbers at all.
    """
    if hasattr(values, "X") and hasattr(values, "obs"):  # a chunk of an AnnData
        values = values.X
    if not sp.issparse(values):
        values = np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "iufb":
        raise DataError(f"Cells come as a matrix of numbers, (cells, genes), found {values.dtype} of {values.shape}.")
    if width is not None and values.shape[1] != width:
        raise DataError(f"The stream has {width} genes, but a chunk has {values.shape[1]}: give the same genes always.")
    rows = sp.csr_matrix(values, dtype=np.float64)
    if not np.isfinite(rows.data).all():
        raise DataError("The values hold NaN or infinite numbers: remove these cells or genes first.")
    if not rows.has_canonical_format:  # a value stored twice would be squared twice
        rows = rows.copy() if sp.issparse(values) else rows  # it may share the arrays of the caller
        rows.sum_duplicates()
    return rows


def stacked(parts: Sequence[Csr]) -> Csr:
    """Return the rows of several matrices, one below the other."""
    return parts[0] if len(parts) == 1 else sp.csr_matrix(sp.vstack(parts, format="csr"))


def between(rows: Csr, start: int, stop: int) -> Csr:
    """Return neighboring rows without copying their values."""
    if start == 0 and stop >= rows.shape[0]:
        return rows
    edges = rows.indptr[start : stop + 1]
    stored = slice(edges[0], edges[-1])
    parts = rows.data[stored], rows.indices[stored], edges - edges[0]
    return sp.csr_matrix(parts, shape=(len(edges) - 1, rows.shape[1]), copy=False)


def scaled(rows: Csr, factor: np.ndarray | None) -> Csr:
    """Return rows with every column multiplied by its factor, (columns,); None: by 1."""
    if factor is None:
        return rows
    return sp.csr_matrix((rows.data * factor[rows.indices], rows.indices, rows.indptr), shape=rows.shape, copy=False)


def squared_norms(rows: Csr, center: Float[np.ndarray, " columns"] | None) -> Float[np.ndarray, " rows"]:
    """Return the squared distance of every row from a center; None: from 0."""
    norms = _row_sums(rows, rows.data * rows.data)
    return norms if center is None else np.maximum(norms - 2.0 * (rows @ center) + center @ center, 0.0)


def _row_sums(rows: Csr, values: np.ndarray) -> np.ndarray:
    # Differences of a running sum would lose digits of small rows after large ones.
    out = np.zeros(rows.shape[0])
    filled = np.flatnonzero(np.diff(rows.indptr))
    if len(filled):
        out[filled] = np.add.reduceat(values, rows.indptr[filled])
    return out


def project(
    rows: Csr, basis: Float[np.ndarray, "columns r"], shift: Float[np.ndarray, " r"]
) -> tuple[Float[np.ndarray, "columns r"], Float[np.ndarray, "rows r"]]:
    """Return ``X'(X Z - 1 shift')`` and ``X Z - 1 shift'``: a pass over the rows in which they stay sparse."""
    # Dense products are quicker above a density that falls with the number of columns (measured, one thread).
    if rows.nnz > (0.13 + 3.8 / basis.shape[1]) * rows.shape[0] * rows.shape[1]:
        x = rows.toarray()
        inside = x @ basis
        inside -= shift
        return (inside.T @ x).T, inside
    inside = rows @ basis
    inside -= shift
    return np.asarray(rows.T @ inside), inside


def centered(rows: Csr, mean: Float[np.ndarray, " columns"] | None) -> Float[np.ndarray, "rows columns"]:
    """Return a few rows as an array, less the mean."""
    dense = rows.toarray()
    if mean is not None:
        dense -= mean
    return dense

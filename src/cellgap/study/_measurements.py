"""Reading and checking the measured values: dense, CSR, or on disk, never all at once."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from cellgap.errors import CellgapError, DataError, DesignError

_CHUNK_VALUES = 2_000_000  # 8 to 16 MB


def matrix_of(adata: AnnData, counts: str | None) -> Any:
    """Return the matrix that the design points at: ``X``, or the layer of raw counts.

    Raises
    ------
    DesignError
        There is no such layer.
    DataError
        ``X`` is empty, or the matrix is of a kind that is not supported.
    """
    if counts is None or counts == "X":
        matrix, name = adata.X, "X"
        if matrix is None:
            raise DataError('The AnnData has no X: set Design(counts="...") to the layer that holds the counts.')
    else:
        if counts not in adata.layers:
            # anndata 0.13 lists X among the layers, under the name None.
            layers = ", ".join(repr(name) for name in adata.layers if isinstance(name, str)) or "none"
            raise DesignError(
                f'Design(counts={counts!r}) names no layer: found {layers}; set counts="X" if X holds the raw counts.'
            )
        matrix, name = adata.layers[counts], f"layers[{counts!r}]"
    dtype = getattr(matrix, "dtype", None)
    if dtype is None or not hasattr(matrix, "shape") or np.dtype(dtype).kind not in "iufb":
        raise DataError(f"{name} must be a dense or CSR matrix of numbers, found {type(matrix).__name__} of {dtype}.")
    if getattr(matrix, "format", None) == "csc" and not in_memory(matrix):
        raise DataError(f"{name} is stored by columns (CSC) on disk, which cannot be read by cells: store it as CSR.")
    if hasattr(matrix, "dask"):
        raise DataError(f"{name} is a dask array: open the file with Study.read(path, design, backed=True) instead.")
    return matrix


def is_sparse(matrix: Any) -> bool:
    """Return whether a matrix is sparse, in memory or on disk."""
    return sp.issparse(matrix) or getattr(matrix, "format", None) in ("csr", "csc")


def in_memory(matrix: Any) -> bool:
    """Return whether a matrix is an array or a SciPy sparse matrix, and not a file."""
    return isinstance(matrix, np.ndarray) or sp.issparse(matrix)


def take(matrix: Any, rows: np.ndarray) -> Any:
    """Return the rows of a matrix in the order given, as CSR or as an array; reads only these from a file."""
    if in_memory(matrix):
        part = matrix[rows]
        return part.tocsr() if sp.issparse(part) else np.asarray(part)
    # Files want increasing indices without repeats.
    wanted, back = np.unique(rows, return_inverse=True)
    width = _rows_a_block(matrix)
    parts = []
    start = 0
    while start < len(wanted):
        stop = int(np.searchsorted(wanted, wanted[start] + width))
        block = wanted[start:stop]
        low, high = int(block[0]), int(block[-1]) + 1
        # One slice is far quicker than many rows one by one, unless most of the slice would be thrown away.
        if len(block) == high - low:
            parts.append(_slice(matrix, low, high))
        else:
            dense_enough = len(block) * 16 >= high - low
            parts.append(_slice(matrix, low, high)[block - low] if dense_enough else matrix[block])
        start = stop
    if not parts:
        return (
            sp.csr_matrix((0, matrix.shape[1])) if is_sparse(matrix) else np.empty((0, matrix.shape[1]), matrix.dtype)
        )
    whole: Any = sp.vstack(parts, format="csr") if sp.issparse(parts[0]) else np.concatenate(parts)
    return whole if np.array_equal(back, np.arange(len(rows))) else whole[back]


def blocks(matrix: Any) -> Iterator[tuple[int, Any]]:
    """Yield (first row, block of rows) over a matrix, a few million values at a time."""
    n_obs = matrix.shape[0]
    step = _rows_a_block(matrix)
    for start in range(0, n_obs, step):
        block = _slice(matrix, start, min(start + step, n_obs))
        yield start, block.tocsr() if sp.issparse(block) else np.asarray(block)


def _slice(matrix: Any, start: int, stop: int) -> Any:
    """Return neighboring rows, in memory or from a file."""
    if in_memory(matrix) or not is_sparse(matrix):
        return matrix[start:stop]
    # From the stored arrays themselves: slicing anndata's handle costs milliseconds a call.
    stored = matrix.group
    indptr = stored["indptr"][start : stop + 1]
    first, last = int(indptr[0]), int(indptr[-1])
    values = (stored["data"][first:last], stored["indices"][first:last], indptr - first)
    return sp.csr_matrix(values, shape=(stop - start, matrix.shape[1]))


def row_bytes(matrix: Any) -> np.ndarray:
    """Return the memory of every row when it is read, in bytes, (n_obs,)."""
    n_obs, n_vars = matrix.shape
    if not is_sparse(matrix):
        return np.full(n_obs, n_vars * matrix.dtype.itemsize)
    if sp.issparse(matrix):
        indptr, index = matrix.tocsr().indptr, matrix.indices.dtype
    else:
        indptr, index = matrix.group["indptr"][:], matrix.group["indices"].dtype
    return np.diff(indptr).astype(np.int64) * (matrix.dtype.itemsize + index.itemsize)


def _rows_a_block(matrix: Any) -> int:
    n_obs, n_vars = matrix.shape
    stored = n_obs * n_vars
    if sp.issparse(matrix):
        stored = matrix.nnz
    elif is_sparse(matrix):
        stored = matrix.group["data"].shape[0]
    return max(1, int(_CHUNK_VALUES * max(1, n_obs) / max(1, stored)))


def check_values(matrix: Any, adata: AnnData, name: str, counts: bool) -> tuple[list[CellgapError], bool]:
    """Return the errors of the values (in one pass), and whether all are whole and not negative.

    NaN and infinite values are always refused; where the matrix is declared to hold raw counts, negative and
    fractional values are too. Each error names how many there are and where the first one is.
    """
    told: dict[str, list[Any]] = {}
    whole = True
    for start, block in blocks(matrix):
        data = block.data if sp.issparse(block) else block
        if data.dtype.kind == "b" or data.size == 0:
            continue
        finite = data.dtype.kind in "iu" or bool(np.isfinite(data).all())
        if not finite:
            _note(told, "NaN", np.isnan(data), block, start)
            _note(told, "infinite", np.isinf(data), block, start)
        if data.dtype.kind == "u":
            continue
        if not whole and not counts:
            continue
        negative = bool((data < 0).any())
        fractional = data.dtype.kind == "f" and bool((data != np.floor(data)).any())
        whole = whole and finite and not negative and not fractional
        if counts and negative:
            _note(told, "negative", data < 0, block, start)
        if counts and fractional:
            _note(told, "not whole", np.isfinite(data) & (data != np.floor(data)), block, start)
    errors: list[CellgapError] = []
    advice = {
        "NaN": "remove or impute them first",
        "infinite": "remove these cells or genes first",
        "negative": "raw counts are 0 or more; point Design(counts=...) at the raw counts, or set counts=None",
        "not whole": "raw counts are whole numbers; point Design(counts=...) at the raw counts, or set counts=None",
    }
    for kind, (number, row, column, value) in told.items():
        cell, gene = adata.obs_names[row], adata.var_names[column]
        where = f'the first, {value:g}, is in cell "{cell}", gene "{gene}"'
        errors.append(DataError(f"{name} has {number} values that are {kind} ({where}): {advice[kind]}."))
    return errors, whole


def _note(told: dict[str, list[Any]], kind: str, bad: np.ndarray, block: Any, start: int) -> None:
    """Add the bad values of a block: how many, and where the first one is."""
    number = int(bad.sum())
    if number == 0:
        return
    if kind in told:
        told[kind][0] += number
        return
    first = int(np.argmax(bad))
    if sp.issparse(block):
        row = int(np.searchsorted(block.indptr, first, side="right")) - 1
        column, value = int(block.indices[first]), block.data[first]
    else:
        row, column = np.unravel_index(first, block.shape)
        value = block[row, column]
    told[kind] = [number, start + int(row), int(column), value]

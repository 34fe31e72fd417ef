"""Cells in random order from files larger than memory: contiguous chunks in random order, mixed in a buffer."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp

from cellgap.errors import DataError


class Cells(Protocol):
    """Where cells are read from: a `Study`, or anything with rows of measurements."""

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        ...

    def values(self, rows: Any, genes: Sequence[str] | None = None) -> Any:
        """Return the measurements of cells, in the order given."""
        ...

    def row_bytes(self) -> np.ndarray:
        """Return the memory of every cell when it is read, in bytes, (n_obs,)."""
        ...


class CellBlock(NamedTuple):
    """Some cells of a study.

    Parameters
    ----------
    rows
        Their rows in the study, (cells,) int64.
    values
        Their measurements in that order, (cells, genes): CSR where they are stored sparse, else an array.
    """

    rows: np.ndarray
    values: Any


class ShuffledReader:
    """Cells of a study in random order, epoch after epoch, read from disk (or memory) in contiguous chunks.

    The chosen rows are cut into chunks of neighbors; an epoch visits the chunks in a random order, reads `n_chunks` of
    them into a buffer, and gives out the buffer's cells in a random order. So every row comes exactly once an epoch,
    and a file is read in pieces that disks and compression like. Cells of one chunk stay near one another in the order:
    a buffer should hold many more cells than a batch, and chunks from many places.

    The order depends on seed, rows, `chunk` and `n_chunks` only, never on what was read before: a position in the
    endless stream of epochs says everything, and reading can begin at any.

    Parameters
    ----------
    study
        The study, whose matrix may be on disk (``Study.read(path, design, backed=True)``), or other `Cells`.
    rows
        Rows to give out, without repeats; None takes all.
    genes
        Names of genes, in the order wanted; None takes all.
    seed
        Seed of the order.
    chunk
        Neighboring rows that are read together.
    n_chunks
        Chunks in the buffer.

    Raises
    ------
    DataError
        There are no rows, a row comes twice or is out of range, or a size is below 1.

    Attributes
    ----------
    rows
        The rows that are given out, increasing.
    """

    def __init__(
        self,
        study: Cells,
        rows: np.ndarray | Sequence[int] | None = None,
        *,
        genes: Sequence[str] | None = None,
        seed: int,
        chunk: int = 512,
        n_chunks: int = 32,
    ) -> None:
        self._study, self._genes, self._seed = study, genes, seed
        self.rows = np.arange(study.n_obs) if rows is None else np.sort(np.asarray(rows, np.int64))
        if chunk < 1 or n_chunks < 1:
            raise DataError(f"a reader needs chunk and n_chunks of at least 1, found {chunk} and {n_chunks}.")
        if not len(self.rows) or self.rows[0] < 0 or self.rows[-1] >= study.n_obs:
            raise DataError(f"a reader needs rows from 0 to {study.n_obs - 1}, found {self.rows}.")
        if (np.diff(self.rows) == 0).any():
            twice = self.rows[:-1][np.diff(self.rows) == 0][0]
            raise DataError(f"a reader gives out every row once an epoch, but row {twice} was asked for twice.")
        self._chunks = [self.rows[i : i + chunk] for i in range(0, len(self.rows), chunk)]
        self._n_chunks = n_chunks
        self._plan: tuple[int, np.ndarray, np.ndarray] | None = None
        self._buffer: tuple[tuple[int, int], CellBlock] | None = None

    def __len__(self) -> int:
        """Return the number of cells of an epoch."""
        return len(self.rows)

    @property
    def buffer_bytes(self) -> int:
        """Most memory that the buffer takes, in bytes: that of its largest chunks.

        Twice as much is held while it is filled, and what `read` returns comes on top; nothing else grows with the
        study but the row numbers (8 bytes a cell).
        """
        of_rows = self._study.row_bytes()
        of_chunks = np.sort([int(of_rows[rows].sum()) for rows in self._chunks])
        return int(of_chunks[-self._n_chunks :].sum())

    def read(self, start: int, stop: int) -> CellBlock:
        """Return the cells at positions ``start .. stop - 1`` of the endless stream of epochs.

        Epoch ``e`` is at the positions from ``e * len(reader)``. Reading forward reads every chunk once an epoch.
        """
        if not 0 <= start < stop:
            raise DataError(f"positions to read must grow from 0, found {start} to {stop}.")
        parts = []
        while start < stop:
            epoch, position = divmod(start, len(self.rows))
            order, edges = self._order(epoch)
            number = int(np.searchsorted(edges, position, side="right")) - 1
            begin, end = int(edges[number]), int(edges[number + 1])
            here = slice(position - begin, min(end, position + stop - start) - begin)
            # Copies: a view would keep the whole buffer alive while the next one is read.
            parts.append(CellBlock(*(part[here].copy() for part in self._filled(epoch, number, order))))
            start += here.stop - here.start
        return _joined(parts)

    def batches(self, size: int, *, epoch: int = 0, position: int = 0) -> Iterator[CellBlock]:
        """Yield the cells of an epoch from a position on, `size` at a time; the last batch may be smaller."""
        first, end = epoch * len(self.rows), (epoch + 1) * len(self.rows)
        for start in range(first + position, end, size):
            yield self.read(start, min(start + size, end))

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the order of the chunks in an epoch, and the position at which each buffer begins."""
        if self._plan is None or self._plan[0] != epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(len(self._chunks))
            sizes = np.asarray([len(self._chunks[i]) for i in order])
            ends = np.cumsum(sizes)
            last = np.arange(self._n_chunks, len(order) + self._n_chunks, self._n_chunks).clip(max=len(order)) - 1
            self._plan = epoch, order, np.concatenate([[0], ends[last]])
        return self._plan[1:]

    def _filled(self, epoch: int, number: int, order: np.ndarray) -> CellBlock:
        """Return the cells of a buffer, shuffled."""
        if self._buffer is None or self._buffer[0] != (epoch, number):
            self._buffer = None  # let the old one go before the new one is read
            # In the order of the file, which is quickest; the shuffle comes after.
            chosen = np.sort(order[number * self._n_chunks : (number + 1) * self._n_chunks])
            chunks = [self._chunks[i] for i in chosen]
            values = _stacked([self._study.values(rows, self._genes) for rows in chunks])
            rows = np.concatenate(chunks)
            shuffle = np.random.default_rng([self._seed, epoch, 1 + number]).permutation(len(rows))
            self._buffer = (epoch, number), CellBlock(rows[shuffle], values[shuffle])
        return self._buffer[1]


def _joined(parts: list[CellBlock]) -> CellBlock:
    if len(parts) == 1:
        return parts[0]
    return CellBlock(np.concatenate([p.rows for p in parts]), _stacked([p.values for p in parts]))


def _stacked(values: list[Any]) -> Any:
    if not sp.issparse(values[0]):
        return np.concatenate(values)
    # scipy's own vstack widens the indices to 64 bits where a file's pointers have 64, which is half as much again.
    lengths = np.concatenate([np.diff(part.indptr) for part in values])
    indices = np.concatenate([part.indices.astype(np.int32, copy=False) for part in values])
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    data = np.concatenate([part.data for part in values])
    return sp.csr_matrix((data, indices, indptr), shape=(len(lengths), values[0].shape[1]))

"""Batches that come from the host while a model trains: read one chunk of steps ahead, in a thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from cellgap.errors import DataError
from cellgap.study import CellBlock, ShuffledReader


@runtime_checkable
class Batches(Protocol):
    """Where the batches of a training run come from, if not from the device."""

    def read(self, start: int, stop: int) -> Any:
        """Return the batches of steps ``start .. stop - 1``: a tree of arrays whose first axis is the step.

        What is returned depends on the numbers of the steps only, so that a run can be resumed at any; all batches have
        one shape.
        """
        ...


class Streamed:
    """Batches of a fixed size from a shuffled reader: step ``i`` gets the cells at ``i * size .. (i + 1) * size - 1``.

    Epochs follow one another without a gap: a batch may hold the last cells of one and the first of the next, and no
    cell is left out.

    Parameters
    ----------
    reader
        Gives out cells, from memory or disk.
    size
        Cells a batch.
    prepare
        What becomes of cells on the host: a tree of NumPy arrays whose first axis is the cell, which a step gets with
        ``size`` cells in it.

    Raises
    ------
    DataError
        The size is below 1.
    """

    def __init__(self, reader: ShuffledReader, size: int, prepare: Callable[[CellBlock], Any]) -> None:
        if size < 1:
            raise DataError(f"a batch needs at least 1 cell, found size={size}.")
        self._reader, self._size, self._prepare = reader, size, prepare

    def read(self, start: int, stop: int) -> Any:
        """Return the batches of some steps; see `Batches`."""
        prepared = self._prepare(self._reader.read(start * self._size, stop * self._size))
        return jax.tree.map(lambda x: np.reshape(x, (stop - start, self._size, *np.shape(x)[1:])), prepared)


class Ahead:
    """Reads the next chunk of steps in a thread while the device works on this one.

    Two chunks are in memory at most. As a context manager it ends its thread.

    Parameters
    ----------
    batches
        Where they come from.
    place
        Brings a chunk onto the devices.
    """

    def __init__(self, batches: Batches, place: Callable[[Any], Any]) -> None:
        self._batches, self._place = batches, place
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, int, Future[Any]] | None = None

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def take(self, start: int, stop: int, then: int) -> Any:
        """Return the batches of these steps, and begin to read those of the `then` steps that follow."""
        waiting, self._next = self._next, None
        future = waiting[2] if waiting is not None and waiting[:2] == (start, stop) else self._submit(start, stop)
        found = future.result()
        if then:
            self._next = stop, stop + then, self._submit(stop, stop + then)
        return found

    def _submit(self, start: int, stop: int) -> Future[Any]:
        return self._pool.submit(lambda: self._place(self._batches.read(start, stop)))

"""One pass over a file: in shuffled chunks, with progress, resumable, by one process or the workers of a cluster."""

import itertools
import os
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellgap import storage
from cellgap.errors import ConfigError, DataError, StorageError
from cellgap.settings import to_dict
from cellgap.stream.axes._atlas import Atlas, AtlasCells, opened
from cellgap.stream.axes._blocks import Plan
from cellgap.stream.axes._order import OrderCheck
from cellgap.stream.axes._partial import Partial
from cellgap.stream.axes._streaming_pca import StreamingPCA
from cellgap.study import CellBlock, ShuffledReader
from cellgap.train import deferred_interrupt, progress_bar

if TYPE_CHECKING:
    from distributed import Client

_CHUNK = 2048  # cells read together
_SAVE_EVERY = 60.0  # seconds between checkpoints


def fit_backed(
    stream: StreamingPCA,
    source: str | os.PathLike[str] | Atlas,
    *,
    shuffle: bool = True,
    block_rows: int = 64,
    fetch_blocks: int = 128,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = False,
    client: "Client | None" = None,
    **options: Any,
) -> StreamingPCA:
    """Return the stream after one pass over a file.

    Parameters
    ----------
    stream
        A stream without rows, or one that was stopped in the middle of the same pass.
    source
        Path of the file with `options` as in `Atlas`, or an `Atlas`.
    shuffle
        Read stretches of `block_rows` neighboring cells in random order, `fetch_blocks` of them at a time, and shuffle
        these in memory; else read in the order of the file.
    block_rows, fetch_blocks
        See `shuffle`. Longer stretches read faster and leave more of the file's order: ``stream.design_effect`` says
        by how much that inflates the noise of sampling.
    checkpoint
        Folder in which the stream is kept once a minute and at Ctrl-C, and from which the same call goes on; removed
        by nobody.
    progress
        Show on standard error how far the pass is.
    client
        A Dask client whose workers share every block after the first; they must see the same file. The answer is that
        of one process up to rounding.

    Raises
    ------
    ConfigError
        Options are wrong, the stream has rows of something else, or workers are asked for with another solver.
    DataError, DesignError
        The file cannot be read as asked.
    KeyboardInterrupt
        After Ctrl-C; the checkpoint is written before.
    """
    atlas = source if isinstance(source, Atlas) else Atlas(path=str(source), **options)
    if isinstance(source, Atlas) and options:
        raise ConfigError(f"An Atlas has its options already, found {', '.join(options)} beside it.")
    cells = atlas.open()
    cells.first(64)
    if cells.n_obs <= stream.settings.k:
        raise DataError(f"k={stream.settings.k} axes need at least {stream.settings.k + 1} cells, found {cells.n_obs}.")
    reading = _Reading(atlas, shuffle, block_rows, fetch_blocks, stream.settings.seed)
    about = {"settings": to_dict(stream.settings), "reading": reading.to_dict(), "size": list(atlas.size())}
    folder = None if checkpoint is None else Path(checkpoint)
    if folder is not None and (folder / "stream.json").exists() and not stream.n_samples_seen_:
        _go_on(stream, folder, about)
    stream.expect(cells.n_obs)
    source_of = reading.open(cells)
    if shuffle and not stream.n_samples_seen_:
        stream.design_effect = _design_effect(source_of, cells, block_rows, fetch_blocks)
    done = stream.n_samples_seen_
    saved = time.monotonic()
    title = f"reading {Path(atlas.path).name}"
    with deferred_interrupt() as interrupted, progress_bar(title, cells.n_obs, done, shown=progress) as show:
        for done in _taken_in(stream, reading, source_of, cells, client):
            show(done, {}, 0.0)
            stop = interrupted()
            if folder is not None and (stop or time.monotonic() - saved > _SAVE_EVERY):
                stream.save(folder, header=about)
                saved = time.monotonic()
            if stop:
                raise KeyboardInterrupt
    if folder is not None:
        stream.save(folder, header=about)
    return stream


class _Reading:
    """In which order the cells of a file come; can be sent to workers."""

    def __init__(self, atlas: Atlas, shuffle: bool, block_rows: int, fetch_blocks: int, seed: int) -> None:
        self.atlas, self.shuffle, self.block_rows, self.fetch_blocks = atlas, shuffle, block_rows, fetch_blocks
        self.seed = seed
        if block_rows < 1 or fetch_blocks < 1:
            raise ConfigError(f"block_rows and fetch_blocks must be at least 1, found {block_rows} and {fetch_blocks}.")

    def to_dict(self) -> dict[str, Any]:
        order = [self.block_rows, self.fetch_blocks, self.seed] if self.shuffle else []
        return {"atlas": to_dict(self.atlas), "shuffle": self.shuffle, "order": order}

    def open(self, cells: AtlasCells) -> "ShuffledReader | _InOrder":
        if not self.shuffle:
            return _InOrder(cells)
        return ShuffledReader(cells, seed=self.seed, chunk=self.block_rows, n_chunks=self.fetch_blocks)

    @property
    def step(self) -> int:
        """Cells that a worker takes at a time: one buffer, which is then read once."""
        return self.block_rows * self.fetch_blocks if self.shuffle else _CHUNK


class _InOrder:
    """Cells in the order of the file."""

    def __init__(self, cells: AtlasCells) -> None:
        self._cells = cells

    def read(self, start: int, stop: int) -> CellBlock:
        """Return the cells from one row to before another."""
        rows = np.arange(start, stop)
        return CellBlock(rows, self._cells.values(rows))


def _taken_in(
    stream: StreamingPCA, reading: _Reading, source: Any, cells: AtlasCells, client: "Client | None"
) -> Iterator[int]:
    """Take all cells in, and yield how many are."""
    n = cells.n_obs
    labels = cells.labels
    alone = n if client is None else min(n, stream.settings.first_rows)
    at = stream.n_samples_seen_
    while at < alone:
        stop = min(at + _CHUNK, alone)
        block = source.read(at, stop)
        stream.partial_fit(block.values, labels=None if labels is None else labels[block.rows])
        at = stop
        yield at
    while at < n and client is not None:
        plan = stream.plan()
        stop = min(plan.end, n)
        total: Partial | None = None
        rows = []
        for part, places in _of_workers(client, reading, plan, stream.order_check, at, stop):
            total = part if total is None else total + part
            rows.append(places)
        assert total is not None
        stream.close(total, labels=None if labels is None else labels[np.concatenate(rows)])
        at = stop
        yield at


def _of_workers(
    client: "Client", reading: _Reading, plan: Plan, order: OrderCheck | None, start: int, stop: int
) -> Iterator[tuple[Partial, np.ndarray]]:
    """Yield the sums of a block's rows, and which of the file these are, in the order of the stream, by buffers."""
    step = reading.step
    edges = [start, *range(step * (start // step + 1), stop, step), stop]
    shared = client.scatter((plan, order), broadcast=True)
    futures = [client.submit(_partial, reading, shared, a, b, pure=False) for a, b in itertools.pairwise(edges)]
    for i, future in enumerate(futures):
        yield future.result()
        futures[i] = None  # type: ignore[call-overload]  # let the worker forget it


@lru_cache(maxsize=2)
def _reader(key: str) -> list[Any]:
    """Return a place for the reader of a process: opening costs, and a buffer is used by neighbors."""
    return []


def _partial(
    reading: _Reading, shared: tuple[Plan, OrderCheck | None], start: int, stop: int
) -> tuple[Partial, np.ndarray]:
    place = _reader(repr(reading.to_dict()))
    if not place:
        place.append(reading.open(opened(reading.atlas)))
    plan, order = shared
    block = place[0].read(start, stop)
    return StreamingPCA.partial(block.values, plan, start, order), block.rows


def _go_on(stream: StreamingPCA, folder: Path, about: dict[str, Any]) -> None:
    """Give the stream the state that was kept of the same pass."""
    kept = storage.read_document(folder, name="stream")["header"]
    for name, told in (
        ("settings", "other settings"),
        ("reading", "another file or order"),
        ("size", "a changed file"),
    ):
        if kept.get(name) != about[name]:
            raise ConfigError(
                f"{folder} holds a pass with {told}: name another checkpoint (on the command line another --out), or "
                "delete that one."
            )
    state = storage.load(folder, name="stream")
    try:
        stream.resume(state)
    except AttributeError as error:
        raise StorageError(f"{folder} does not hold a stream ({error}).") from None


def _design_effect(source: Any, cells: AtlasCells, block_rows: int, fetch_blocks: int) -> float:
    """Return by how much neighbors that stay together inflate the variance of sums: 1 + (b - 1) ICC.

    From the first buffer, as the largest over the statistics of the order check.
    """
    n = min(cells.n_obs, block_rows * fetch_blocks)
    block = source.read(0, n)
    from cellgap.stream.axes._rows import as_rows

    rows = as_rows(block.values)
    values = OrderCheck.start(rows.shape[1]).statistics(rows)
    stretch = block.rows // block_rows
    names, place, size = np.unique(stretch, return_inverse=True, return_counts=True)
    if len(names) < 4 or len(values) <= len(names):
        return float("nan")
    sums = np.stack([np.bincount(place, column) for column in values.T], axis=1)
    means = sums / size[:, None]
    inside = ((values - means[place]) ** 2).sum(axis=0) / (len(values) - len(names))
    between = (size[:, None] * (means - values.mean(axis=0)) ** 2).sum(axis=0) / (len(names) - 1)
    # Analysis of variance: between = inside (1 + b ICC / (1 - ICC)).
    ratio = np.maximum(between / np.maximum(inside, np.finfo(float).tiny), 1.0)
    icc = (ratio - 1) / (ratio - 1 + size.mean())
    return float(1.0 + (block_rows - 1) * icc.max())

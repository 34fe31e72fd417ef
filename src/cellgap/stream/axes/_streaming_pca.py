"""Principal components in one pass, in memory that does not grow with the number of cells."""

import os
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from threadpoolctl import ThreadpoolController

from cellgap import storage
from cellgap.errors import ConfigError, DataError
from cellgap.gap import Gap
from cellgap.settings import to_dict
from cellgap.stream.axes._blocks import Blocks, Plan, take_in
from cellgap.stream.axes._cautions import AS_GIVEN, StreamWarning, cautions, refuse_sorted
from cellgap.stream.axes._engine import AbstractEngine, Found, Solver
from cellgap.stream.axes._frequent import FrequentDirections
from cellgap.stream.axes._gram import Gram
from cellgap.stream.axes._incremental import Incremental
from cellgap.stream.axes._low_rank import axes_of, nystrom, orthonormal, signed
from cellgap.stream.axes._moments import Moments
from cellgap.stream.axes._order import LabelCheck, OrderCheck
from cellgap.stream.axes._partial import Partial
from cellgap.stream.axes._rows import Csr, Rows, as_rows, between, project, scaled, stacked
from cellgap.stream.axes._spectrum import StreamReport, gaps_of, report_of
from cellgap.stream.axes._stream_settings import StreamSettings
from cellgap.stream.axes._stream_state import Refined, StreamState

if TYPE_CHECKING:
    from cellgap.stream.axes._atlas import Atlas

_BATCH = 1024  # rows that are taken in together, whatever chunks they come in


class StreamingPCA:
    """Principal components in one pass over cells that need not fit in memory; nothing of it is private.

    Like scikit-learn's ``IncrementalPCA`` in use, and unlike it exact where the Gram matrix of the genes fits
    (``solver="gram"``), and otherwise (``"blocks"``) a blocked power iteration of which every block counts, with the
    first block exact and rows of large norm kept as they are; for rows in random order (Kacham & Woodruff, NeurIPS
    2024, arXiv 2412.11963). For any order where the Gram matrix does not fit: frequent directions (``"fd"``).

    Chunks may have any size: rows are taken in by fixed batches, so the same rows in the same order give the same bits.

    Parameters
    ----------
    k
        Axes.
    solver
        "gram", "blocks", "fd", "incremental" (scikit-learn's), or "auto": chosen from the number of genes, that of
        cells where it is known, and `order`; never from values.
    oversample
        Further directions of "blocks" and "fd"; the larger of 10 and `k` where left out.
    heavy_rows
        Rows of large norm that "blocks" keeps at most.
    heavy_share
        A row is heavy where it has this share of the k-th eigenvalue, and four times the mean energy of a row.
    first_block
        Rows that "blocks" takes exactly; 512, or more for large `k`.
    growth
        Each block ends when so many times the rows before it are in.
    rank
        Columns kept of closed blocks; twice ``k + oversample`` where left out.
    center
        Subtract the mean of each gene; exact, though rows stay sparse.
    scale
        Divide each gene by its standard deviation.
    order
        "check": rows come in random order, and that is checked. "as_given": they come in any order.
    on_order
        What to do where the check fails: "warn", "raise" a ``DataError`` when axes are read, or "ignore".
    memory
        What the Gram matrix may take: "1GiB".
    device
        Where the Gram matrix is computed: "auto" takes the accelerator where JAX has one, or "cpu".
    seed
        Of the check's projections and of shuffled reading.

    Raises
    ------
    ConfigError
        Settings are wrong or contradict one another.

    Attributes
    ----------
    design_effect
        After `fit_backed`: by how much neighbors of the file that stay together inflate the noise of sampling; 1 = not
        at all, nan = not measured.

    Examples
    --------
    >>> pca = StreamingPCA(k=20)
    >>> for chunk in chunks:  # doctest: +SKIP
    ...     pca.partial_fit(chunk)
    >>> pca.components_, pca.transform(chunk)  # doctest: +SKIP
    """

    def __init__(
        self,
        k: int = 50,
        *,
        solver: str = "auto",
        oversample: int | None = None,
        heavy_rows: int = 256,
        heavy_share: float = 0.1,
        first_block: int | None = None,
        growth: float = 2.0,
        rank: int | None = None,
        center: bool = True,
        scale: bool = False,
        order: str = "check",
        on_order: str = "warn",
        memory: str = "1GiB",
        device: str = "auto",
        seed: int = 0,
    ) -> None:
        values: dict[str, Any] = {name: value for name, value in locals().items() if name != "self"}
        self.settings = StreamSettings(**values)
        self._engine: AbstractEngine | None = None
        self._order: OrderCheck | None = None
        self._labels: LabelCheck | None = None
        self._pending: list[Csr] = []
        self._n_pending = 0
        self._width: int | None = None
        self._rows: int | None = None
        self._refined: Refined | None = None
        self._warned: list[str] = []
        self._read: tuple[int, Found] | None = None
        self.design_effect = float("nan")

    # Taking rows in.

    def partial_fit(self, X: Any, y: Any = None, *, labels: Sequence[str] | np.ndarray | None = None) -> "StreamingPCA":
        """Return the stream after taking in some cells.

        Parameters
        ----------
        X
            (cells, genes): CSR, CSC (converted), an array, or a chunk of an AnnData (its ``X``).
        y
            Ignored; there for scikit-learn's sake.
        labels
            Plates or donors of the cells: whether they are spread evenly is checked too.

        Raises
        ------
        DataError
            Values are not finite, or the number of genes has changed. Nothing of the chunk is taken in then.
        ConfigError
            There are too few genes for `k`.
        """
        rows = as_rows(X, self._width)
        if labels is not None and len(labels) != rows.shape[0]:
            raise DataError(f"{rows.shape[0]} cells need as many labels, found {len(labels)}.")
        if not rows.shape[0]:
            return self
        if self._width is None:
            self._begin(rows.shape[1])
        self._refined = None
        self._count(labels)
        self._n_pending += rows.shape[0]
        # What waits is copied: the caller may fill the same arrays again.
        self._pending.append(rows if self._n_pending >= self._next() else rows.copy())
        self._take(whole=False)
        return self

    def fit(self, X: Any, y: Any = None) -> "StreamingPCA":
        """Return the stream after taking in a matrix, a dask array with row chunks, or chunks one after the other."""
        if hasattr(X, "dask"):
            if X.numblocks[1] > 1:
                raise DataError("The dask array is cut between genes: rechunk it so that a chunk has whole rows.")
            self.expect(int(X.shape[0]))
            X = (chunk.compute() for chunk in map(X.blocks.__getitem__, range(X.numblocks[0])))
        elif hasattr(X, "shape") or hasattr(X, "obs"):
            self.expect(int(X.shape[0]))
            X = [X]
        for chunk in X:
            self.partial_fit(chunk)
        return self

    def fit_backed(self, source: "str | os.PathLike[str] | Atlas", **options: Any) -> "StreamingPCA":
        """Return the stream after one pass over a file, in shuffled chunks; see `cellgap.stream.axes.fit_backed`."""
        from cellgap.stream.axes._backed import fit_backed

        fit_backed(self, source, **options)
        return self

    def expect(self, rows: int) -> "StreamingPCA":
        """Tell how many rows will come, before the first: ``solver="auto"`` weighs the work."""
        if self.n_samples_seen_ == 0:
            self._rows = rows
        return self

    def refine(self, chunks: Iterable[Any]) -> "StreamingPCA":
        """Return the stream after a second pass over the same rows: one exact power step.

        The error of an axis shrinks by about the square of its eigenvalue ratio, and so does that of its energy.

        Raises
        ------
        DataError
            The second pass has not as many rows as the first.
        """
        found, moments = self._axes(), self._known(self._current()).moments
        factor = 1.0 / moments.sd if self.settings.scale else None
        mean = moments.mean if factor is None else moments.mean * factor
        basis = orthonormal(found.components.T)
        shift = mean @ basis if self.settings.center else np.zeros(basis.shape[1])
        product, n = np.zeros_like(basis), 0
        inside_sum = np.zeros(basis.shape[1])
        for chunk in chunks:
            rows = as_rows(chunk, self._width)
            for start in range(0, rows.shape[0], _BATCH):
                more, inside = project(scaled(between(rows, start, start + _BATCH), factor), basis, shift)
                product += more
                inside_sum += inside.sum(axis=0)
                n += inside.shape[0]
        if n != self.n_samples_seen_:
            raise DataError(f"The first pass had {self.n_samples_seen_} rows and the second {n}: give the same ones.")
        if self.settings.center:
            product -= np.outer(mean, inside_sum)
        better = axes_of(nystrom(product, basis), len(found.energy))
        self._refined = Refined(signed(better.vectors.T), better.values, found.further, found.modelled)
        self._read = None
        return self

    # Workers.

    def plan(self) -> Plan:
        """Return what workers need for the open block (`partial`); the first block has to be taken in before.

        Raises
        ------
        ConfigError
            The solver has no blocks, or the first block is still open.
        """
        self._take(whole=True)
        if not isinstance(self._engine, Blocks) or self._engine.first is not None:
            raise ConfigError(
                f'plan() needs solver="blocks" after its first {self.settings.first_rows} rows: partial_fit them first.'
            )
        return self._engine.plan()

    @staticmethod
    def partial(X: Any, plan: Plan, start: int, order: OrderCheck | None = None) -> Partial:
        """Return what some rows of the open block come to; pure, so that it can be repeated by any worker.

        Parameters
        ----------
        X
            The rows.
        plan
            Of the open block.
        start
            Number of the first of these rows in the stream, from ``plan.start`` on.
        order
            For the check of the order (`order_check`); None leaves it out.
        """
        rows = as_rows(X, len(plan.origin))
        stop = start + rows.shape[0]
        if not plan.start <= start < stop <= plan.end:
            raise DataError(f"Rows {start} to {stop} are not of the open block, {plan.start} to {plan.end}.")
        values = order.statistics(rows) if order is not None else np.zeros((0, 4))
        taken = take_in(plan, rows, np.arange(start, stop))
        return Partial(plan.block, ((start, stop),), taken, ((start, values),))

    @property
    def order_check(self) -> OrderCheck | None:
        """The check of the order so far."""
        return self._order

    def close(self, partial: Partial, *, labels: Sequence[str] | np.ndarray | None = None) -> "StreamingPCA":
        """Return the stream after taking in the sums of all rows of the open block, or of its first ones.

        Parameters
        ----------
        partial
            The sums.
        labels
            Plates or donors of these rows, in the order of the stream; see `partial_fit`.

        Raises
        ------
        DataError
            The sums are of another block, or rows are missing between them.
        """
        engine = self._engine
        if not isinstance(engine, Blocks) or partial.block != engine.closed:
            raise DataError("The sums are not of the open block: make them with the plan() of this stream.")
        covered = partial.covered()
        if covered[0] != engine.moments.n:
            raise DataError(f"The sums begin at row {covered[0]} but the stream is at row {engine.moments.n}.")
        with _threads(engine):
            self._engine = engine.add(partial.taken)
        for values in partial.statistics():
            self._order = self._known(self._order).add(values)
        self._count(labels)
        self._refined = self._read = None
        return self

    # Results.

    @property
    def n_samples_seen_(self) -> int:
        """Rows taken in."""
        return self._n_pending + (self._engine.moments.n if self._engine is not None else 0)

    @property
    def n_features_in_(self) -> int:
        """Genes."""
        return self._known(self._width)

    @property
    def solver_(self) -> Solver:
        """The engine in use."""
        return self._known(self._current()).solver

    @property
    def components_(self) -> Float[np.ndarray, "k genes"]:
        """Axes, the first one first; the entry of largest size of each is positive, (k, genes).

        Raises
        ------
        DataError
            There are too few rows, or all are alike; with ``on_order="raise"``: the rows are not in random order.
        """
        return self._axes().components

    @property
    def mean_(self) -> Float[np.ndarray, " genes"]:
        """Mean of every gene, exact, (genes,); 0 where rows are not centered."""
        moments = self._known(self._current()).moments
        return moments.mean if self.settings.center else np.zeros_like(moments.mean)

    @property
    def scale_(self) -> Float[np.ndarray, " genes"]:
        """What each gene is divided by, (genes,)."""
        moments = self._known(self._current()).moments
        return moments.sd if self.settings.scale else np.ones_like(moments.mean)

    @property
    def explained_variance_(self) -> Float[np.ndarray, " k"]:
        """Variance along each axis (n - 1 in the denominator), (k,).

        Exact with "gram", nearly so after `refine`; with "blocks" that of the last closed or the open block, whichever
        is longer, and of the heavy rows: an estimate that need not fall from axis to axis, and is too low for the last
        axes of a flat spectrum.
        """
        return self._axes().energy / max(1, self.n_samples_seen_ - 1)

    @property
    def explained_variance_ratio_(self) -> Float[np.ndarray, " k"]:
        """Share of the whole variance along each axis, (k,); the whole is exact."""
        return self._axes().energy / self._known(self._current()).energy()

    @property
    def singular_values_(self) -> Float[np.ndarray, " k"]:
        """Square roots of the sums of squares along the axes, (k,)."""
        return np.sqrt(self._axes().energy)

    def transform(self, X: Any) -> Float[np.ndarray, "cells k"]:
        """Return the coordinates of cells; sparse rows stay sparse."""
        rows = as_rows(X, self._width)
        weights = (self.components_ / self.scale_).T
        return np.asarray(rows @ weights) - self.mean_ @ weights

    def report(self) -> StreamReport:
        """Return what a reader should know: blocks, heavy rows, order, spectrum, memory."""
        engine = self._known(self._current())
        return report_of(engine, self._axes(), self.settings, self._checked(), self._labels)

    def gaps(self) -> list[Gap]:
        """Return the gaps: spectral, of the order, of heavy rows, of what is not modelled."""
        return gaps_of(self.report())

    # Keeping.

    def to_state(self) -> StreamState:
        """Return all that the stream has to remember; going on from it gives the same bits."""
        pending = Rows.of(stacked(self._pending)) if self._pending else None
        if pending is None and self._width is not None:
            pending = Rows.none(self._width)
        engine = self._engine.kept() if isinstance(self._engine, Gram) else self._engine
        return StreamState(
            to_dict(self.settings), engine, self._order, self._labels, pending, self._rows, self._refined,
            tuple(self._warned), self.design_effect,
        )  # fmt: skip

    @classmethod
    def from_state(cls, state: StreamState) -> "StreamingPCA":
        """Return the stream that `to_state` described."""
        values = {name: value for name, value in state.settings.items() if name != "kind"}
        given: dict[str, Any] = {name: None if isinstance(value, dict) else value for name, value in values.items()}
        return cls(**given).resume(state)

    def resume(self, state: StreamState) -> "StreamingPCA":
        """Return the stream after giving it the state of another one with the same settings."""
        self._engine, self._order, self._labels = state.engine, state.order, state.labels
        self._rows, self._refined, self._warned = state.rows, state.refined, list(state.warned)
        self.design_effect = state.design_effect
        if isinstance(state.engine, Gram):  # it is updated in place
            self._engine = state.engine.placed(self.settings.device)
        if state.pending is not None:
            self._width = state.pending.width
            self._pending, self._n_pending = [], len(state.pending)
            if len(state.pending):
                self._pending = [state.pending.matrix]
        self._read = None
        return self

    def save(
        self, folder: str | os.PathLike[str], *, name: str = "stream", header: dict[str, Any] | None = None
    ) -> Path:
        """Return the folder after writing the stream into it: arrays and JSON, no pickle."""
        return storage.save(self.to_state(), folder, name=name, header=header)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, name: str = "stream") -> "StreamingPCA":
        """Return the stream that `save` wrote."""
        return cls.from_state(storage.load(folder, name=name))

    def __repr__(self) -> str:
        seen = f"{self.n_samples_seen_:,} rows" if self._width is not None else "no rows yet"
        return f"StreamingPCA(k={self.settings.k}, solver={self.settings.solver!r}; {seen})"

    def _begin(self, width: int) -> None:
        if self.settings.k > width - 1:
            raise ConfigError(f"k={self.settings.k} axes need at least {self.settings.k + 1} genes, found {width}.")
        self._width = width
        self._order = OrderCheck.start(width, seed=self.settings.seed)

    def _started(self, rows: Csr) -> AbstractEngine:
        """Return the engine of no rows; the first ones say where moments are taken about."""
        s, moments = self.settings, Moments.about(rows)
        solver = s.choose(rows.shape[1], self._rows)
        if solver == "gram":
            return Gram.start(moments, center=s.center, scale=s.scale, device=s.device)
        if solver == "fd":
            return FrequentDirections.start(moments, center=s.center, size=2 * s.columns)
        if solver == "incremental":
            return Incremental.start(moments, rank=s.columns)
        if s.order == "as_given":
            self._warn(AS_GIVEN)
        return Blocks.start(s.blocks(), moments)

    def _take(self, *, whole: bool) -> None:
        """Move rows that wait into the engine: by fixed batches, or all of them."""
        if not self._pending or not (whole or self._n_pending >= self._next()):
            return
        rows = stacked(self._pending)
        at = 0
        while at < rows.shape[0]:
            size = self._next()
            if rows.shape[0] - at < size and not whole:
                break
            batch = between(rows, at, at + size)
            self._take_batch(batch)
            at += batch.shape[0]
        left = between(rows, at, rows.shape[0]).copy()
        self._pending, self._n_pending = ([left] if left.shape[0] else []), left.shape[0]
        self._read = None

    def _next(self) -> int:
        """Return the rows of the next batch: batches lie at fixed places of the stream."""
        seen = self._engine.moments.n if self._engine is not None else 0
        size = _BATCH - seen % _BATCH
        end = self.settings.first_rows if self._engine is None else self._engine.next_end
        return size if end is None else min(size, end - seen)

    def _take_batch(self, batch: Csr) -> None:
        if self._engine is None:
            self._engine = self._started(batch)
        order = self._known(self._order)
        self._order = order.add(order.statistics(batch))
        with _threads(self._engine):
            self._engine = self._engine.absorb(batch)

    def _count(self, labels: Sequence[str] | np.ndarray | None) -> None:
        if labels is not None:
            window = self._known(self._order).window
            self._labels = (self._labels or LabelCheck(window)).add(np.asarray(labels))

    def _checked(self) -> OrderCheck:
        """Return the check of the order of all rows, those that wait included."""
        order = self._known(self._order)
        return order.add(order.statistics(stacked(self._pending))) if self._pending else order

    def _current(self) -> AbstractEngine | None:
        """Return the summary of all rows, those that wait included."""
        if not self._pending:
            return self._engine
        if isinstance(self._engine, Gram):  # exact in any batches, and not to be copied
            self._take(whole=True)
            return self._engine
        engine, order, pending, n = self._engine, self._order, self._pending, self._n_pending
        try:
            self._take(whole=True)
            return self._engine
        finally:
            self._engine, self._order, self._pending, self._n_pending = engine, order, pending, n

    def _axes(self) -> Found:
        n, k = self.n_samples_seen_, self.settings.k
        if self._refined is not None:
            r = self._refined
            return Found(r.components, r.energy, r.further, r.modelled)
        if self._read is not None and self._read[0] == n:
            return self._read[1]
        if n < k + 1:
            raise DataError(f"k={k} axes need at least {k + 1} rows, and {n} are in so far.")
        engine = self._known(self._current())
        if engine.energy() <= 0:
            raise DataError("All rows are alike, so that there is no axis." if self.settings.center else "All are 0.")
        with _threads(engine):
            found = engine.axes(k)
        if len(found.energy) < k:
            raise DataError(f"The rows span {len(found.energy)} directions only: ask for at most as many axes.")
        order, s = self._checked(), self.settings
        refuse_sorted(engine, order, s)
        for text in cautions(engine, found, order, s):
            self._warn(text)
        self._read = n, found
        return found

    def _warn(self, text: str) -> None:
        kind = text.lstrip("0123456789").split(":")[0][:40]  # without a count, which changes from chunk to chunk
        if kind not in self._warned:
            self._warned.append(kind)
            warnings.warn(f"StreamingPCA: {text}.", StreamWarning, stacklevel=4)

    @staticmethod
    def _known(value: Any) -> Any:
        if value is None:
            raise DataError("The stream has no rows yet: partial_fit some first.")
        return value


def _threads(engine: AbstractEngine) -> AbstractContextManager[Any]:
    """Keep linear algebra of small matrices to one thread: several spend most of their time on waiting."""
    return nullcontext() if isinstance(engine, Gram) else _libraries().limit(limits=1, user_api="blas")


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()

"""Axes of many genes in one pass: blocks that double, each summed up along a few directions, heavy rows kept.

The scheme of Kacham & Woodruff (Approximating the Top Eigenvector in Random Order Streams, NeurIPS 2024): rows in
random order, of which the few of large norm are stored, and the others go through blocked power iteration. Here every
block leaves a low-rank part of its Gram matrix (Nystrom), blocks double, the first is exact, and the answer is the top
of light and heavy rows together.
"""

import dataclasses
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float

from cellgap.storage import storable
from cellgap.stream.axes._engine import AbstractEngine, Found, Solver
from cellgap.stream.axes._heavy import HeavyRows
from cellgap.stream.axes._low_rank import Axes, axes_of, best_part, nystrom, orthonormal, signed, with_heavy
from cellgap.stream.axes._moments import Moments
from cellgap.stream.axes._rows import Csr, Rows, centered, project, scaled, squared_norms, stacked

ALIGN = 64
"""Blocks end at multiples of so many rows."""


@storable
@dataclass(frozen=True)
class BlockSettings:
    """Numbers of the scheme.

    Parameters
    ----------
    k
        Axes wanted.
    columns
        Directions along which a block is summed up, ``k`` and some more.
    rank
        Columns of what earlier blocks leave.
    heavy_rows
        Heavy rows to keep at most.
    heavy_share
        A row is heavy where its squared norm is above this share of the k-th eigenvalue (and four times the mean).
    first
        Rows of the first block.
    growth
        A block ends when so many times the rows before it are in.
    center, scale
        Whether the mean is subtracted, and whether genes are divided by their standard deviation.
    """

    k: int
    columns: int
    rank: int
    heavy_rows: int
    heavy_share: float
    first: int
    growth: float
    center: bool
    scale: bool


@storable
@dataclass(frozen=True, eq=False)
class Plan:
    """What a worker has to know of the open block.

    Parameters
    ----------
    block
        Its number.
    start, end
        Numbers of its first row and of the row after its last.
    basis
        Directions, orthonormal columns, (genes, columns).
    mean
        Of the rows before the block, scaled; None where rows are not centered, (genes,).
    factor
        One over the scale of each gene; None: unscaled.
    threshold, bar
        Squared norm above which a row is heavy, and above which there is room for it.
    heavy_rows
        Candidates to return at most.
    origin
        Of the moments, (genes,).
    """

    block: int
    start: int
    end: int
    basis: Float[np.ndarray, "genes columns"]
    mean: Float[np.ndarray, " genes"] | None
    factor: Float[np.ndarray, " genes"] | None
    threshold: float
    bar: float
    heavy_rows: int
    origin: Float[np.ndarray, " genes"]


@storable
@dataclass(frozen=True, eq=False)
class BlockSum:
    """Light rows of a block, summed up: linear in the rows, so that workers' sums add up to one worker's.

    Parameters
    ----------
    n
        Light rows.
    product
        Sum of ``a (a - mean)'Z``, (genes, columns); `mean` is that of the plan.
    inside
        Sum of ``(a - mean)'Z``, (columns,).
    total
        Sum of the rows, (genes,).
    """

    n: int
    product: Float[np.ndarray, "genes columns"]
    inside: Float[np.ndarray, " columns"]
    total: Float[np.ndarray, " genes"]

    @classmethod
    def none(cls, basis: np.ndarray) -> "BlockSum":
        """Return the sum of no rows."""
        return cls(0, np.zeros_like(basis), np.zeros(basis.shape[1]), np.zeros(basis.shape[0]))

    @classmethod
    def of(cls, light: Csr, basis: np.ndarray, mean: np.ndarray | None) -> "BlockSum":
        """Return the sum of some (scaled) rows."""
        shift = np.zeros(basis.shape[1]) if mean is None else mean @ basis
        product, inside = project(light, basis, shift)
        return cls(light.shape[0], product, inside.sum(axis=0), np.ones(light.shape[0]) @ light)

    def __add__(self, other: "BlockSum") -> "BlockSum":
        if not other.n:
            return self
        return BlockSum(
            self.n + other.n, self.product + other.product, self.inside + other.inside, self.total + other.total
        )

    def nystrom(self, basis: np.ndarray, before: np.ndarray | None, mean: np.ndarray | None) -> np.ndarray:
        """Return a factor of the Gram matrix of the rows about `mean`; `before` is the mean of the plan."""
        if not self.n:
            return np.zeros((len(self.total), 0))
        product = self.product
        if mean is not None and before is not None:
            product = product - np.outer(mean, self.inside)
            product -= np.outer(self.total - self.n * mean, (mean - before) @ basis)
        return nystrom(product, basis)


@storable
@dataclass(frozen=True, eq=False)
class Taken:
    """What a worker makes of some rows of the open block.

    Parameters
    ----------
    light, heavy, moments
        Sums of light rows, candidates for heavy rows, moments of all.
    passed
        Heavy rows that were not taken as candidates for lack of room.
    """

    light: BlockSum
    heavy: HeavyRows
    moments: Moments
    passed: int

    def __add__(self, other: "Taken") -> "Taken":
        return Taken(
            self.light + other.light, self.heavy + other.heavy, self.moments + other.moments, self.passed + other.passed
        )


def take_in(plan: Plan, rows: Csr, arrivals: np.ndarray) -> Taken:
    """Return what some rows of the open block come to; `arrivals` are their numbers in the stream."""
    inside = scaled(rows, plan.factor)
    norms = squared_norms(inside, plan.mean)
    heavy = np.flatnonzero(norms > plan.bar)
    if len(heavy) > plan.heavy_rows:
        heavy = heavy[np.lexsort((heavy, -norms[heavy]))][: plan.heavy_rows]
    passed = int((norms > plan.threshold).sum()) - len(heavy)
    light = np.ones(rows.shape[0], bool)
    light[heavy] = False
    return Taken(
        BlockSum.of(inside if light.all() else inside[light], plan.basis, plan.mean),
        HeavyRows.of(rows[heavy], norms[heavy], arrivals[heavy]),
        Moments(0, plan.origin, np.zeros_like(plan.origin), np.zeros_like(plan.origin)).of(rows),
        passed,
    )


@final
@storable
@dataclass(frozen=True, eq=False)
class Blocks(AbstractEngine):
    """See the module. Memory: genes x (columns of basis, sum and last block, rank) and the heavy rows.

    Parameters
    ----------
    settings
        Numbers of the scheme.
    moments
        Of all rows.
    first
        Rows of the first block while it is open; None later.
    basis, mean, factor
        Directions of the open block, mean and inverse scale at its start.
    light
        Sum of the open block's light rows.
    earlier
        Factor of the closed blocks, cut to the rank, (genes, rank).
    last, last_n
        Factor of the last closed block, and its number of light rows.
    heavy
        The heavy rows.
    threshold
        Squared norm above which a row is heavy.
    end
        Number of the row before which the open block ends.
    closed
        Blocks closed.
    passed
        Rows above the threshold that were not kept for lack of room.
    """

    settings: BlockSettings
    moments: Moments
    first: Rows | None
    basis: np.ndarray
    mean: np.ndarray | None
    factor: np.ndarray | None
    light: BlockSum
    earlier: np.ndarray
    last: np.ndarray
    last_n: int
    heavy: HeavyRows
    threshold: float
    end: int
    closed: int
    passed: int

    @classmethod
    def start(cls, settings: BlockSettings, moments: Moments) -> "Blocks":
        """Return the summary of no rows."""
        width = len(moments.origin)
        nothing = np.zeros((width, 0))
        return cls(
            settings, moments, Rows.none(width), nothing, None, np.ones(width) if settings.scale else None,
            BlockSum.none(nothing), nothing, nothing, 0, HeavyRows.none(width), 0.0, settings.first, 0, 0,
        )  # fmt: skip

    @property
    def solver(self) -> Solver:  # type: ignore[override]
        """Name of the engine."""
        return "blocks"

    @property
    def center(self) -> bool:  # type: ignore[override]
        """Whether the mean is subtracted."""
        return self.settings.center

    @property
    def next_end(self) -> int:
        """End of the open block."""
        return self.end

    def absorb(self, rows: Csr) -> "Blocks":
        """Return the summary with some rows of the open block; closes the block where they are its last."""
        if self.first is not None:
            more = Rows.of(stacked([self.first.matrix, rows]) if len(self.first) else rows.copy())
            new = dataclasses.replace(self, first=more, moments=self.moments + self.moments.of(rows))
            return new.close() if new.moments.n >= self.end else new
        arrivals = self.moments.n + np.arange(rows.shape[0])
        return self.add(take_in(self.plan(), rows, arrivals))

    def plan(self) -> Plan:
        """Return what workers have to know; there is no plan for the first block, which is read as it is."""
        bar = self.threshold
        most = self.settings.heavy_rows
        if most and len(self.heavy) >= most:
            bar = max(bar, float(self.heavy.norms[-1]))
        return Plan(
            self.closed, self.moments.n, self.end, self.basis, self.mean, self.factor, self.threshold,
            bar if most else np.inf, most, self.moments.origin,
        )  # fmt: skip

    def add(self, taken: Taken) -> "Blocks":
        """Return the summary with the sums of workers; closes the block where nothing of it is left."""
        heavy, displaced = (self.heavy + taken.heavy).cut(self.settings.heavy_rows)
        light, passed = self.light + taken.light, self.passed + taken.passed
        if displaced.shape[0]:
            inside = scaled(displaced, self.factor)
            light += BlockSum.of(inside, self.basis, self.mean)
            passed += displaced.shape[0]
        new = dataclasses.replace(self, moments=self.moments + taken.moments, light=light, heavy=heavy, passed=passed)
        return new.close() if new.moments.n >= self.end else new

    def close(self) -> "Blocks":
        """Return the summary with the open block's factor added to those before, and a new basis."""
        s, old = self.settings, self.factor
        factor = 1.0 / self.moments.sd if s.scale else None
        mean = self._mean(factor)
        candidates = self.heavy if self.first is None else self._largest(self.first.matrix, factor, mean)
        block, n = self._light_factor(candidates, self.light, factor, mean)
        earlier = _rescaled(self.earlier, old, factor)
        found = self._model(np.concatenate([earlier, block], axis=1), candidates, factor, mean)
        wanted = float(found.values[s.k - 1]) if len(found.values) >= s.k else 0.0
        rounding = 0.0 if mean is None else 1e-12 * float(mean @ mean)  # of distances from the mean
        threshold = max(s.heavy_share * wanted, 4.0 * self.energy() / self.moments.n, rounding)
        heavy, returned = candidates.split(threshold, mean, factor)
        passed = self.passed
        if self.first is not None:
            above = squared_norms(scaled(self.first.matrix, factor), mean) > threshold
            passed += int(above.sum()) - len(heavy)
        if returned.shape[0]:
            light = self.light
            if self.first is None:
                light += BlockSum.of(scaled(returned, old), self.basis, self.mean)
            block, n = self._light_factor(heavy, light, factor, mean)
        earlier = best_part(np.concatenate([earlier, block], axis=1), s.rank)
        basis = self._basis(earlier, block, heavy, factor, mean)
        end = max(self.moments.n + ALIGN, ALIGN * int(s.growth * self.moments.n / ALIGN))
        return dataclasses.replace(
            self, first=None, basis=basis, mean=mean, factor=factor, light=BlockSum.none(basis), earlier=earlier,
            last=block, last_n=n, heavy=heavy, threshold=threshold, end=end, closed=self.closed + 1, passed=passed,
        )  # fmt: skip

    def axes(self, k: int) -> Found:
        """Return the first `k` axes.

        Energies are not those of the model, which are too small: along each axis, the light rows of the last closed
        or the open block, whichever is longer, stand for all light rows; heavy rows are counted as they are.
        """
        factor = 1.0 / self.moments.sd if self.settings.scale else None
        mean = self._mean(factor)
        block, n = self._light_factor(self.heavy, self.light, factor, mean)
        earlier = _rescaled(self.earlier, self.factor, factor)
        found = self._model(np.concatenate([earlier, block], axis=1), self.heavy, factor, mean, most=k + 1)
        components = signed(found.vectors[:, :k].T)
        if self.last_n > n:
            block, n = _rescaled(self.last, self.factor, factor), self.last_n
        whole = self.moments.n - len(self.heavy)
        heavy = self._heavy(self.heavy, factor, mean)
        energy, further = (
            (whole / max(1, n)) * ((along @ block) ** 2).sum(axis=1) + ((along @ heavy.T) ** 2).sum(axis=1)
            for along in (components, found.vectors[:, k : k + 1].T)
        )
        modelled = min(1.0, float(found.total / max(self.energy(), np.finfo(float).tiny)))
        return Found(components, energy, float(further[0]) if len(further) else float("nan"), modelled)

    def _mean(self, factor: np.ndarray | None) -> np.ndarray | None:
        if not self.settings.center:
            return None
        return self.moments.mean if factor is None else self.moments.mean * factor

    def _largest(self, rows: Csr, factor: np.ndarray | None, mean: np.ndarray | None) -> HeavyRows:
        """Return the candidates of the first block for heavy rows: its largest ones."""
        norms = squared_norms(scaled(rows, factor), mean)
        chosen = np.lexsort((np.arange(len(norms)), -norms))[: self.settings.heavy_rows]
        return HeavyRows.of(rows[chosen], norms[chosen], chosen)

    def _light_factor(
        self, heavy: HeavyRows, light: BlockSum, factor: np.ndarray | None, mean: np.ndarray | None
    ) -> tuple[np.ndarray, int]:
        """Return the factor of the open block's light rows, in units of another scale, and how many they are."""
        if self.first is None:
            product = light.nystrom(self.basis, self.mean, self._mean(self.factor))
            return _rescaled(product, self.factor, factor), light.n
        rest = ~np.isin(np.arange(len(self.first)), heavy.arrivals)
        rows = centered(scaled(self.first.matrix[rest], factor), mean)
        return best_part(rows.T, self.settings.rank), len(rows)

    def _heavy(self, heavy: HeavyRows, factor: np.ndarray | None, mean: np.ndarray | None) -> np.ndarray:
        return centered(scaled(heavy.rows.matrix, factor), mean)

    def _model(
        self, factors: np.ndarray, heavy: HeavyRows, factor: np.ndarray | None, mean: np.ndarray | None,
        most: int | None = None,
    ) -> "_Model":  # fmt: skip
        light = axes_of(factors)
        rows = self._heavy(heavy, factor, mean)
        found = with_heavy(light, rows, self.energy(), self.settings.k if most is None else most)
        return _Model(found, float(light.values.sum()) + float(np.vdot(rows, rows)))

    def _basis(
        self, earlier: np.ndarray, block: np.ndarray, heavy: HeavyRows, factor: np.ndarray | None,
        mean: np.ndarray | None,
    ) -> np.ndarray:  # fmt: skip
        """Return the directions of the next block: those of this block alone, and beside them all of the model.

        Early in a stream one heavy row outweighs all that light rows have shown, so a joint iteration would lose them.
        Where a block has fewer directions than asked for (its rows are alike), random ones find what comes after it.
        """
        s = self.settings
        parts = [axes_of(block, s.columns).vectors]
        if len(heavy):
            rows = self._heavy(heavy, factor, mean)
            parts += [axes_of(earlier, s.k).vectors, axes_of(rows.T, s.k).vectors]
        basis = orthonormal(*parts)
        width, found = basis.shape
        lacking = min(s.columns, width) - found
        if lacking <= 0:
            return basis
        further = np.random.default_rng(self.closed).normal(size=(width, lacking))
        return np.linalg.qr(np.concatenate([basis, further], axis=1))[0]


class _Model:
    """Axes of all rows, and how much energy their summary holds."""

    def __init__(self, found: Axes, total: float) -> None:
        self.values, self.vectors, self.total = found.values, found.vectors, total


def _rescaled(columns: np.ndarray, old: np.ndarray | None, new: np.ndarray | None) -> np.ndarray:
    """Return a factor in units of another scale: exact, because scaling a gene scales its row of the factor."""
    if old is None or new is None:
        return columns
    return columns * (new / old)[:, None]

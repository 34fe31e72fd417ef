"""Frequent directions: rows in any order, when the Gram matrix does not fit.

Ghashami, Liberty, Phillips & Woodruff, Frequent Directions: Simple and Deterministic Matrix Sketching, SIAM J. Comput.
2016: ``0 <= A'A - B'B <= |A - A_q|^2 / (l - q)`` for every q below the number of rows l of the sketch.
"""

import dataclasses
from dataclasses import dataclass
from typing import final

import numpy as np

from cellgap.storage import storable
from cellgap.stream.axes._engine import AbstractEngine, Found, Solver
from cellgap.stream.axes._low_rank import axes_of, signed
from cellgap.stream.axes._moments import Moments
from cellgap.stream.axes._rows import Csr, between, centered


@final
@storable
@dataclass(frozen=True, eq=False)
class FrequentDirections(AbstractEngine):
    """A sketch of a few rows, taken about the origin of the moments.

    Parameters
    ----------
    moments
        Of all rows.
    centered_
        Whether the mean is subtracted when axes are read.
    size
        Rows of the sketch (l).
    sketch
        The sketch, at most ``size`` rows, (rows, genes).
    lost
        By how much its energy along any direction may be too small.
    """

    moments: Moments
    centered_: bool
    size: int
    sketch: np.ndarray
    lost: float

    @classmethod
    def start(cls, moments: Moments, *, center: bool, size: int) -> "FrequentDirections":
        """Return the summary of no rows."""
        return cls(moments, center, size, np.zeros((0, len(moments.origin))), 0.0)

    @property
    def solver(self) -> Solver:  # type: ignore[override]
        """Name of the engine."""
        return "fd"

    @property
    def center(self) -> bool:  # type: ignore[override]
        """Whether the mean is subtracted."""
        return self.centered_

    @property
    def factor(self) -> None:  # type: ignore[override]
        """Genes are not scaled."""
        return None

    @property
    def next_end(self) -> None:
        """Batches may end anywhere."""
        return None

    def absorb(self, rows: Csr) -> "FrequentDirections":
        """Return the summary with these rows."""
        sketch, lost = self.sketch, self.lost
        for start in range(0, rows.shape[0], self.size):
            block = self._block(between(rows, start, start + self.size))
            sketch, level = self._shrunk(np.concatenate([sketch, block]))
            lost += level
        moments = self.moments + self.moments.of(rows)
        return dataclasses.replace(self, sketch=sketch, lost=lost, moments=moments)

    def _block(self, rows: Csr) -> np.ndarray:
        return centered(rows, self.moments.origin if self.centered_ else None)

    def _shrunk(self, rows: np.ndarray) -> tuple[np.ndarray, float]:
        """Return at most ``size`` rows, and the energy that was taken from every direction."""
        if len(rows) <= self.size:
            return rows, 0.0
        found = axes_of(rows.T)
        level = 0.0 if len(found.values) <= self.size else float(found.values[self.size])
        values = np.maximum(found.values[: self.size] - level, 0.0)
        return (found.vectors[:, : self.size] * np.sqrt(values)).T, level

    def axes(self, k: int) -> Found:
        """Return the first `k` axes, with energies in the middle of what they can be: within ``lost / 2``."""
        m = self.moments
        columns = self.sketch.T
        if self.centered_:
            # B'B - n off off', in the span of the rows of B (off is outside of it in rounding only).
            off = m.total / max(1, m.n)
            found = axes_of(np.concatenate([columns, np.sqrt(m.n) * off[:, None]], axis=1))
            inside = found.vectors.T @ columns
            small = inside @ inside.T - m.n * np.outer(found.vectors.T @ off, found.vectors.T @ off)
            values, turned = np.linalg.eigh(small)
            values, vectors = np.maximum(values[::-1], 0.0), found.vectors @ turned[:, ::-1]
        else:
            found = axes_of(columns)
            values, vectors = found.values, found.vectors
        modelled = min(1.0, float(values.sum()) / max(self.energy(), np.finfo(float).tiny))
        values = values + self.lost / 2
        further = float(values[k]) if len(values) > k else float("nan")
        return Found(signed(vectors[:, :k].T), values[:k], further, modelled)

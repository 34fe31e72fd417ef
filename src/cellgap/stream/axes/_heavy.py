"""Rows so large that one of them could be an axis: kept as they are."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from cellgap.storage import storable
from cellgap.stream.axes._rows import Csr, Rows, scaled, squared_norms, stacked


@storable
@dataclass(frozen=True, eq=False)
class HeavyRows:
    """Some rows, the largest first; ties go to the row that came first.

    Parameters
    ----------
    rows
        As they came (not scaled, not centered).
    norms
        Squared distances from the mean when they were taken in, (heavy,).
    arrivals
        Their numbers in the stream, (heavy,).
    """

    rows: Rows
    norms: Float[np.ndarray, " heavy"]
    arrivals: Int[np.ndarray, " heavy"]

    @classmethod
    def none(cls, width: int) -> "HeavyRows":
        """Return no rows."""
        return cls(Rows.none(width), np.zeros(0), np.zeros(0, np.int64))

    @classmethod
    def of(cls, matrix: Csr, norms: np.ndarray, arrivals: np.ndarray) -> "HeavyRows":
        """Return these rows, sorted."""
        order = np.lexsort((arrivals, -norms))
        return cls(Rows.of(matrix[order]), norms[order], np.asarray(arrivals[order], np.int64))

    def __len__(self) -> int:
        return len(self.norms)

    def __add__(self, other: "HeavyRows") -> "HeavyRows":
        if not len(other):
            return self
        if not len(self):
            return other
        return HeavyRows.of(
            stacked([self.rows.matrix, other.rows.matrix]),
            np.concatenate([self.norms, other.norms]),
            np.concatenate([self.arrivals, other.arrivals]),
        )

    def cut(self, most: int) -> tuple["HeavyRows", Csr]:
        """Return the largest rows, at most so many, and the others."""
        matrix = self.rows.matrix
        if len(self) <= most:
            return self, matrix[:0]
        kept = HeavyRows(Rows.of(matrix[:most]), self.norms[:most], self.arrivals[:most])
        return kept, matrix[most:]

    def split(self, threshold: float, mean: np.ndarray | None, factor: np.ndarray | None) -> tuple["HeavyRows", Csr]:
        """Return the rows that are still above a threshold about a new mean, and those that no longer are."""
        matrix = self.rows.matrix
        norms = squared_norms(scaled(matrix, factor), mean)
        above = norms > threshold
        return HeavyRows.of(matrix[above], norms[above], self.arrivals[above]), matrix[~above]

"""The same cells with fewer molecules: binomial parts of their counts, drawn once for all divisions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from cellgap.annotate._axes import Axes
from cellgap.study import Study


@dataclass(frozen=True)
class ThinnedCounts:
    """Counts of some genes in several views of every cell, the whole cell first.

    Parameters
    ----------
    columns
        The genes, as places among those of the study.
    counts
        (cells, genes) for each view.
    totals
        Molecules of all genes, for each view; at least 1.
    """

    columns: Int[np.ndarray, " genes"]
    counts: tuple[sp.csr_matrix, ...]
    totals: tuple[Float[np.ndarray, " cells"], ...]

    @classmethod
    def of(
        cls,
        study: Study,
        rows: Int[np.ndarray, " cells"],
        columns: Int[np.ndarray, " genes"],
        *,
        n_views: int,
        least: float,
        rng: np.random.Generator,
    ) -> "ThinnedCounts":
        """Return views of cells.

        Parameters
        ----------
        study, rows
            The cells; raw counts.
        columns
            Genes that are looked at, increasing; the molecules of all others are thinned together.
        n_views
            Views of every cell.
        least
            Smallest part of the molecules that is kept; parts are uniform in their logarithm.
        rng
            Of parts and molecules.
        """
        values: Any = sp.csr_matrix(study.values(rows)).astype(np.int64)
        kept: Any = sp.csr_matrix(values[:, columns])
        whole, inside = (np.asarray(m.sum(axis=1)).ravel() for m in (values, kept))
        counts, totals = [kept], [whole]
        for _ in range(n_views - 1):
            part = np.exp(rng.uniform(np.log(least), 0.0, len(rows)))
            seen = kept.copy()
            seen.data = rng.binomial(kept.data, np.repeat(part, np.diff(kept.indptr)))
            counts.append(seen)
            totals.append(np.asarray(seen.sum(axis=1)).ravel() + rng.binomial(whole - inside, part))
        return cls(columns, tuple(counts), tuple(np.maximum(t, 1).astype(float) for t in totals))

    def genes(self, axes: Axes, places: Int[np.ndarray, " n"]) -> list[sp.csr_matrix]:
        """Return cells in the gene space of these axes, log-normalized, one matrix a view."""
        chosen = np.searchsorted(self.columns, axes.genes.columns)
        out = []
        for counts, totals in zip(self.counts, self.totals, strict=True):
            part = sp.csr_matrix(counts[places][:, chosen], dtype=np.float32)
            factor = (axes.genes.target_sum / totals[places]).astype(np.float32)
            part.data = np.log1p(part.data * np.repeat(factor, np.diff(part.indptr)))
            out.append(part)
        return out

    def codes(self, axes: Axes, places: Int[np.ndarray, " n"], n_axes: int) -> Float[np.ndarray, "views n axes"]:
        """Return the first coordinates of cells."""
        return np.stack([axes.project(values, n_axes) for values in self.genes(axes, places)])

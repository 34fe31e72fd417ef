"""Totals of cells: mean and spread by category of one attribute, shrunk to what all categories share."""

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from cellgap.storage import storable

_KEPT, _BLUR = 4096, 0.5
_CELLS = 10.0
"""Cells whose worth the pooled moments have: a category of one cell has a mean near the pooled one, and its spread."""


@storable
class LibraryModel(eqx.Module):
    """The logarithms of a cell's totals, ``m_c + s_c e`` by category; a column a total (one a modality).

    Parameters
    ----------
    attribute
        Number of the attribute whose categories these are.
    names
        Of the totals.
    mean, sd
        Of every category and total.
    residuals
        Values of ``e``, of which one is drawn for a cell: those of training cells, mean 0 and variance 1; None for
        normal ones.
    low, high
        Smallest and largest logarithms among the training cells: what `scaled` maps to 0 and 1.

    Notes
    -----
    Source: Palma et al., CFGen (arXiv 2407.11734), who take normal residuals. Ours: moments of small categories are
    shrunk to the pooled ones; residuals are those of the training cells (sorted cells have no normal totals), which
    also keeps totals of several modalities together.
    """

    attribute: int = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    mean: Float[np.ndarray, "categories m"]
    sd: Float[np.ndarray, "categories m"]
    residuals: Float[np.ndarray, "r m"] | None
    low: Float[np.ndarray, " m"]
    high: Float[np.ndarray, " m"]

    @classmethod
    def of(
        cls,
        library: Float[np.ndarray, "n m"],
        labels: Int[np.ndarray, " n"],
        n_categories: int,
        attribute: int,
        names: tuple[str, ...] = ("library",),
        *,
        normal: bool = False,
    ) -> "LibraryModel":
        """Return the model of training cells.

        Parameters
        ----------
        library
            Totals, above 0.
        labels
            Category of every cell.
        n_categories
            How many there are.
        attribute
            Number of the attribute.
        names
            Of the totals.
        normal
            Whether residuals are normal, as published.
        """
        logs = np.log(library.astype(np.float64))
        n = np.bincount(labels, minlength=n_categories).astype(float)[:, None]
        one = np.eye(n_categories)[labels]
        own = one.T @ logs / np.maximum(n, 1.0)
        deviations = logs - own[labels]
        squared = one.T @ deviations**2
        there = n[:, 0] > 0
        pooled = squared.sum(0) / max(len(logs) - there.sum(), 1)
        between = np.maximum(np.var(own[there], axis=0), 1e-12)
        # The mean of a category is known up to pooled / n; categories differ by `between`.
        weight = n / (n + pooled / between)
        mean = weight * own + (1.0 - weight) * logs.mean(0)
        variance = (squared + _CELLS * pooled) / (np.maximum(n - 1.0, 0.0) + _CELLS)
        sd = np.sqrt(variance)
        return cls(
            attribute,
            names,
            mean.astype(np.float32),
            sd.astype(np.float32),
            None if normal else _residuals(deviations / sd[labels]),
            logs.min(0).astype(np.float32),
            logs.max(0).astype(np.float32),
        )

    def typical(self, labels: Int[np.ndarray, "n k"]) -> Float[np.ndarray, "n m"]:
        """Return the median totals of cells with these attributes."""
        return np.exp(self.mean[labels[:, self.attribute]].astype(np.float64))

    def draw(self, labels: Int[np.ndarray, "n k"], rng: np.random.Generator) -> Float[np.ndarray, "n m"]:
        """Return totals of cells with these attributes, at least 1."""
        c = labels[:, self.attribute]
        if self.residuals is None:
            drawn = rng.standard_normal((len(c), len(self.names)))
        else:
            known = np.asarray(self.residuals)
            drawn = known[rng.integers(0, len(known), len(c))]
            # A little of another residual: few training cells have few totals, and covariances stay as they are.
            other = _BLUR * len(known) ** -0.2
            drawn = (drawn + other * known[rng.integers(0, len(known), len(c))]) / np.sqrt(1.0 + other**2)
        return np.maximum(np.exp(self.mean[c] + self.sd[c] * drawn), 1.0)

    def scaled(self, library: Float[np.ndarray, "n m"]) -> Float[np.ndarray, " n"]:
        """Return the logarithms of the first totals, 0 and 1 at the ends of the training cells, cut there."""
        logs = (np.log(library[:, 0]) - self.low[0]) / max(float(self.high[0] - self.low[0]), 1e-6)
        return np.clip(logs, 0.0, 1.0).astype(np.float32)


def _residuals(values: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "r m"]:
    """Return at most some thousand standardized residuals, evenly spaced along the first."""
    order = np.argsort(values[:, 0], kind="stable") if values.shape[1] else np.arange(len(values))
    kept = values[order[np.unique(np.linspace(0, len(values) - 1, _KEPT).astype(int))]]
    spread = kept.std(0)
    return ((kept - kept.mean(0)) / np.where(spread > 1e-9, spread, np.inf)).astype(np.float32)

"""Totals of cells: log-normal in every category of one attribute, shrunk to what all categories share."""

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from cellgap.storage import storable

_CELLS = 10.0
"""Cells whose worth the pooled moments have: a category of one cell has a mean near the pooled one, and its spread."""


@storable
class LibraryModel(eqx.Module):
    """The logarithms of a cell's totals, ``Normal(m_c, s_c^2)`` by category; a column a total (one a modality).

    Parameters
    ----------
    attribute
        Number of the attribute whose categories these are.
    names
        Of the totals.
    mean, sd
        Of every category and total.
    factor
        Cholesky factor of the correlation of the totals of a cell, pooled within categories.
    low, high
        Smallest and largest logarithms among the training cells: what `scaled` maps to 0 and 1.

    Notes
    -----
    Source: Palma et al., CFGen (arXiv 2407.11734). Moments of small categories are shrunk to the pooled ones, and
    totals of several modalities are drawn together (ours).
    """

    attribute: int = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    mean: Float[np.ndarray, "categories m"]
    sd: Float[np.ndarray, "categories m"]
    factor: Float[np.ndarray, "m m"]
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
        return cls(
            attribute,
            names,
            mean.astype(np.float32),
            np.sqrt(variance).astype(np.float32),
            _correlation_factor(deviations),
            logs.min(0).astype(np.float32),
            logs.max(0).astype(np.float32),
        )

    def typical(self, labels: Int[np.ndarray, "n k"]) -> Float[np.ndarray, "n m"]:
        """Return the median totals of cells with these attributes."""
        return np.exp(self.mean[labels[:, self.attribute]].astype(np.float64))

    def draw(self, labels: Int[np.ndarray, "n k"], rng: np.random.Generator) -> Float[np.ndarray, "n m"]:
        """Return totals of cells with these attributes, at least 1."""
        c = labels[:, self.attribute]
        normal = rng.standard_normal((len(c), len(self.names))) @ np.asarray(self.factor).T
        return np.maximum(np.exp(self.mean[c] + self.sd[c] * normal), 1.0)

    def scaled(self, library: Float[np.ndarray, "n m"]) -> Float[np.ndarray, " n"]:
        """Return the logarithms of the first totals, 0 and 1 at the ends of the training cells, cut there."""
        logs = (np.log(library[:, 0]) - self.low[0]) / max(float(self.high[0] - self.low[0]), 1e-6)
        return np.clip(logs, 0.0, 1.0).astype(np.float32)


def _correlation_factor(deviations: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "m m"]:
    m = deviations.shape[1]
    spread = deviations.std(0)
    if m < 2 or not (spread > 0).all():
        return np.eye(m, dtype=np.float32)
    scaled = deviations / spread
    # Kept off 1, so that the factor exists.
    correlation = 0.999 * (scaled.T @ scaled) / len(scaled) + 0.001 * np.eye(m)
    return np.linalg.cholesky(correlation).astype(np.float32)

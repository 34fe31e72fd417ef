"""Totals of cells: log-normal in every category of one attribute, shrunk to what all categories share."""

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from cellgap.storage import storable

_CELLS = 10.0
"""Cells whose worth the pooled moments have: a category of one cell has a mean near the pooled one, and its spread."""


@storable
class LibraryModel(eqx.Module):
    """The logarithm of a cell's total, ``Normal(m_c, s_c^2)`` by category.

    Parameters
    ----------
    attribute
        Number of the attribute whose categories these are.
    mean, sd
        Of every category.
    low, high
        Smallest and largest logarithm among the training cells: what `scaled` maps to 0 and 1.

    Notes
    -----
    Source: Palma et al., CFGen (arXiv 2407.11734). Moments of small categories are shrunk to the pooled ones (ours).
    """

    attribute: int = eqx.field(static=True)
    mean: Float[np.ndarray, " categories"]
    sd: Float[np.ndarray, " categories"]
    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)

    @classmethod
    def of(
        cls, library: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"], n_categories: int, attribute: int
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
        """
        logs = np.log(library.astype(np.float64))
        n = np.bincount(labels, minlength=n_categories).astype(float)
        own = np.bincount(labels, logs, n_categories) / np.maximum(n, 1.0)
        squared = np.bincount(labels, (logs - own[labels]) ** 2, n_categories)
        pooled = squared.sum() / max(len(logs) - (n > 0).sum(), 1)
        between = max(float(np.var(own[n > 0])), 1e-12)
        # The mean of a category is known up to pooled / n; categories differ by `between`.
        weight = n / (n + pooled / between)
        mean = weight * own + (1.0 - weight) * logs.mean()
        variance = (squared + _CELLS * pooled) / (np.maximum(n - 1.0, 0.0) + _CELLS)
        return cls(
            attribute,
            mean.astype(np.float32),
            np.sqrt(variance).astype(np.float32),
            float(logs.min()),
            float(logs.max()),
        )

    def draw(self, labels: Int[np.ndarray, "n k"], rng: np.random.Generator) -> Float[np.ndarray, " n"]:
        """Return totals of cells with these attributes, at least 1."""
        c = labels[:, self.attribute]
        return np.maximum(np.exp(self.mean[c] + self.sd[c] * rng.standard_normal(len(c))), 1.0)

    def scaled(self, library: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return the logarithms of totals, 0 and 1 at the ends of the training cells, cut there."""
        logs = (np.log(library) - self.low) / max(self.high - self.low, 1e-6)
        return np.clip(logs, 0.0, 1.0).astype(np.float32)

"""The moved-variance spectrum: how far a sampler moves each direction, from frozen (0) to independent (1)."""

from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float

from cellgap.errors import DataError

_SMALL = 1e-6


class Spectrum(NamedTuple):
    """Generalised eigenvalues of moved variance within pairs and variance of all cells.

    Parameters
    ----------
    rho
        Sorted upwards; 0: frozen, 1: independent.
    directions
        Columns: the linear function whose values are moved by that much, with variance 1 over anchors.
    patterns
        Columns: the covariance of that function with every coordinate.
    """

    rho: Float[np.ndarray, " d"]
    directions: Float[np.ndarray, "d_in d"]
    patterns: Float[np.ndarray, "d_in d"]

    @property
    def anisotropy(self) -> float:
        """The least moved direction over the most moved one: alpha; 1 is isotropic."""
        return float(self.rho[0] / self.rho[-1]) if self.rho[-1] > 0 else 1.0


def moved_variance(x: Any, y: Any) -> Spectrum:
    """Return the moved-variance spectrum of pairs.

    ``C_w = mean (y - x)(y - x)^T / 2`` against ``C_t = Cov(x)``. It does not change under any invertible linear map of
    the coordinates. Directions with less than 1e-6 of the largest variance are left out.

    Parameters
    ----------
    x, y
        Coordinates of anchors and of their partners, (pairs, coordinates) each.

    Raises
    ------
    DataError
        Shapes differ, values are not finite, or the anchors do not vary.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape or x.ndim != 2 or len(x) < 2:
        raise DataError(f"Pairs need two tables of one shape with at least two rows, found {x.shape} and {y.shape}.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError("Coordinates of pairs are not finite.")
    centered, step = x - x.mean(axis=0), y - x
    total, within = centered.T @ centered / len(x), step.T @ step / (2 * len(x))
    values, vectors = np.linalg.eigh((total + total.T) / 2)
    kept = values > _SMALL * values[-1]
    if values[-1] <= 0:
        raise DataError("Anchors do not vary in the reference space.")
    white = vectors[:, kept] / np.sqrt(values[kept])
    inside = white.T @ within @ white
    rho, turned = scipy.linalg.eigh((inside + inside.T) / 2)
    directions = white @ turned
    return Spectrum(np.maximum(rho, 0.0), directions, total @ directions)

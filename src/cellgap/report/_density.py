"""Projections and densities of populations: pure functions on arrays."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import eigh


@dataclass(frozen=True, eq=False)
class Projection:
    """Two principal axes: project with ``(cells - center) @ axes``; `explained` is each axis' share of the variance."""

    center: Float[np.ndarray, " genes"]
    axes: Float[np.ndarray, "genes 2"]
    explained: Float[np.ndarray, " 2"]

    def __call__(self, cells: Float[np.ndarray, "cells genes"]) -> Float[np.ndarray, "cells 2"]:
        """Return the coordinates of `cells`."""
        return (cells - self.center) @ self.axes


def fit_projection(cells: Float[np.ndarray, "cells genes"]) -> Projection | None:
    """Return the first two principal axes of `cells`, signs fixed; None where they span fewer than two."""
    if min(cells.shape) < 2:
        return None
    center = cells.mean(axis=0)
    centered = cells - center
    wide = cells.shape[1] > cells.shape[0]
    gram = centered @ centered.T if wide else centered.T @ centered
    total = float(np.trace(gram))
    values, vectors = eigh(gram, subset_by_index=(len(gram) - 2, len(gram) - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    if total <= 0 or values[1] <= 1e-9 * values[0]:
        return None
    axes = centered.T @ vectors / np.sqrt(values) if wide else vectors
    largest = axes[np.abs(axes).argmax(axis=0), [0, 1]]
    return Projection(center, axes * np.sign(largest), values / total)


@dataclass(frozen=True, eq=False)
class Field:
    """A density on a grid, with the heights whose contours hold 90 % and 50 % of the points, in this order."""

    x: Float[np.ndarray, " nx"]
    y: Float[np.ndarray, " ny"]
    height: Float[np.ndarray, "ny nx"]
    levels: tuple[float, float]


def density_2d(
    points: Float[np.ndarray, "cells 2"], low: Float[np.ndarray, " 2"], high: Float[np.ndarray, " 2"], size: int = 72
) -> Field | None:
    """Return the Gaussian kernel density (Scott's bandwidth per axis) of `points` on a grid from `low` to `high`.

    None where there are fewer than ten points, or where they do not vary along both axes.
    """
    n = len(points)
    spread = points.std(axis=0) if n >= 10 else np.zeros(2)
    if n < 10 or not (spread > 1e-9 * (high - low)).all():
        return None
    width = spread * n ** (-1 / 6)
    x, y = (np.linspace(low[i], high[i], size) for i in (0, 1))
    height = _kernels(y, points[:, 1], width[1]) @ _kernels(x, points[:, 0], width[0]).T
    at_points = (_kernels(points[:, 1], points[:, 1], width[1]) * _kernels(points[:, 0], points[:, 0], width[0])).sum(
        axis=1
    )
    outer, inner = (float(level) for level in np.quantile(at_points, [0.1, 0.5]))
    return Field(x, y, height, (outer, inner)) if 0 < outer < inner < height.max() else None


def density_1d(
    values: Float[np.ndarray, " cells"], low: float, high: float, size: int = 90
) -> tuple[Float[np.ndarray, " size"], Float[np.ndarray, " size"]] | None:
    """Return (grid, density scaled to a maximum of 1) of `values` between their own ends; None where they do not vary.

    The kernel is kept narrow (half of Scott's bandwidth, at least 1.5 % of `high` - `low`), because expression has a
    spike at zero that a wide kernel would smear over the expressed cells.
    """
    spread = float(values.std()) if len(values) > 1 else 0.0
    if not spread > 1e-9 * max(high - low, 1e-300):
        return None
    width = max(0.5 * spread * len(values) ** -0.2, 0.015 * (high - low))
    grid = np.linspace(max(low, values.min()), min(high, values.max()), size)
    height = _kernels(grid, values, width).sum(axis=1)
    return grid, height / height.max()


def sample(n: int, most: int) -> Int[np.ndarray, " kept"]:
    """Return at most `most` of the indices below `n`, drawn once and for all, in increasing order."""
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(0).choice(n, most, replace=False))


def _kernels(at: np.ndarray, points: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-0.5 * ((at[:, None] - points[None, :]) / width) ** 2)

"""Multidimensional scaling: coordinates whose distances are given, and where a further point lies among them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_SMALLEST = 1e-9  # eigenvalues below this part of the largest are rounding


class Scaling(NamedTuple):
    """Coordinates by classical scaling.

    Parameters
    ----------
    coordinates
        (points, dim), centered, the longest axis first.
    axes
        Unit eigenvectors, (points, dim); in each, the entry of largest size is positive.
    lengths
        Square roots of their eigenvalues, (dim,).
    mean_squared
        Mean squared distance of every point to all, (points,).
    explained
        Share of the eigenvalues, by size, that the coordinates hold.
    """

    coordinates: Float[np.ndarray, "points dim"]
    axes: Float[np.ndarray, "points dim"]
    lengths: Float[np.ndarray, " dim"]
    mean_squared: Float[np.ndarray, " points"]
    explained: float

    def place(self, squared: Float[np.ndarray, "new points"]) -> Float[np.ndarray, "new dim"]:
        """Return coordinates of further points from their squared distances to all points, which do not move.

        ``x = axes^T (mean_squared - squared) / (2 lengths)``, exact where the distances are those of points in the span
        of the coordinates. Source: Gower 1968.
        """
        return 0.5 * (self.mean_squared - squared) @ self.axes / self.lengths


def classical_scaling(squared: Float[np.ndarray, "points points"], dim: int) -> Scaling:
    """Return coordinates whose squared distances are closest to the given ones in the sense of Torgerson (1952).

    Parameters
    ----------
    squared
        Squared distances; noise may make some of them negative.
    dim
        Largest number of coordinates; there are fewer where fewer eigenvalues are positive, and none for equal points.
    """
    mean = squared.mean(axis=1)
    inner = -0.5 * (squared - mean[:, None] - mean[None] + mean.mean())
    values, vectors = np.linalg.eigh(0.5 * (inner + inner.T))
    values, vectors = values[::-1], vectors[:, ::-1]
    dim = min(dim, int((values > _SMALLEST * max(np.abs(values).max(), np.abs(squared).max() * _SMALLEST)).sum()))
    axes = vectors[:, :dim]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dim)])
    lengths = np.sqrt(values[:dim])
    total = np.abs(values).sum()
    explained = float(values[:dim].sum() / total) if total > 0 else 0.0
    return Scaling(axes * lengths, axes, lengths, mean, explained)


def published_scaling(
    distances: Float[np.ndarray, "points points"], dim: int, seed: int
) -> Float[np.ndarray, "points dim"]:
    """Return coordinates by stress majorization (SMACOF, the best of 4 random starts), all scaled to between 0 and 1.

    One minimum and one maximum over all coordinates scale them. Another point changes every coordinate. Source:
    Conditional Monge Gap (arXiv 2504.08328); published was no seed.
    """
    from sklearn.manifold import smacof

    coordinates = np.asarray(smacof(distances, n_components=dim, n_init=4, random_state=seed)[0])
    low, high = coordinates.min(), coordinates.max()
    return (coordinates - low) / max(high - low, 1e-300)

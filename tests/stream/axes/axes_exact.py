"""Exact answers to compare one-pass axes with, and streams whose warnings are not the point."""

import warnings
from typing import Any

import numpy as np

from cellgap.stream.axes import StreamingPCA, StreamWarning


def exact(x: np.ndarray, k: int, *, center: bool = True, scale: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the first axes and the sums of squares along them, by NumPy's SVD."""
    y = x - x.mean(0) if center else x
    if scale:
        y = y / x.std(0)
    _, values, turned = np.linalg.svd(y, full_matrices=False)
    return turned[:k], values[:k] ** 2


def error(found: np.ndarray, axis: np.ndarray) -> float:
    """Return 1 - the squared correlation of two unit vectors."""
    return max(0.0, 1.0 - float(found @ axis) ** 2)


def sine(found: np.ndarray, axes: np.ndarray) -> float:
    """Return the sine of the largest angle between two spans with orthonormal rows, to full accuracy."""
    return float(np.linalg.norm(found - (found @ axes.T) @ axes, 2))


def lost(x: np.ndarray, found: np.ndarray, *, center: bool = True) -> float:
    """Return the share of the variance of the best axes that is not along those found."""
    y = x - x.mean(0) if center else x
    return 1.0 - float(((y @ found.T) ** 2).sum() / exact(x, len(found), center=center)[1].sum())


def quiet(stream: StreamingPCA, *chunks: Any) -> StreamingPCA:
    """Return the stream after these chunks and after its axes were read, without what it warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StreamWarning)
        for chunk in chunks:
            stream.partial_fit(chunk)
        assert len(stream.components_)
    return stream


def told(stream: StreamingPCA, *chunks: Any) -> list[str]:
    """Return what the stream warns of from these chunks to its axes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", StreamWarning)
        for chunk in chunks:
            stream.partial_fit(chunk)
        assert len(stream.components_)
    return [str(w.message) for w in caught if issubclass(w.category, StreamWarning)]


def spectrum(n: int, d: int, seed: int, *, axes: int = 8, noise: float = 0.5, mean: float = 3.0) -> np.ndarray:
    """Return rows with some axes of well separated variance (ratio 1.7) turned at random, and noise."""
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(rng.normal(size=(d, d)))[0]
    x = rng.normal(size=(n, d)) * np.r_[6 * 1.3 ** -np.arange(axes), np.full(d - axes, noise)]
    return x @ turned.T + mean * rng.normal(size=d)


def counts(n: int, d: int, seed: int) -> np.ndarray:
    """Return counts of three kinds of cells in random order, many of them 0."""
    rng = np.random.default_rng(seed)
    rate = np.exp(rng.normal(-1, 1, (3, d)))
    return rng.poisson(rate[rng.integers(0, 3, n)])

"""Optimal transport between Gaussians: Bures maps and distances, and the entropic closed form."""

import numpy as np
from jaxtyping import Float


def symmetric_root(matrix: Float[np.ndarray, "d d"], power: float = 0.5) -> Float[np.ndarray, "d d"]:
    """Return a power of a symmetric positive semi-definite matrix; negative powers are taken on its range only."""
    values, vectors = np.linalg.eigh(np.asarray(matrix, np.float64))
    smallest = max(values[-1], 0.0) * len(values) * np.finfo(np.float64).eps
    kept = values > smallest
    powered = np.where(kept, np.where(kept, values, 1.0) ** power, 0.0)
    return (vectors * powered) @ vectors.T


def bures_map(
    mean_x: Float[np.ndarray, " d"],
    cov_x: Float[np.ndarray, "d d"],
    mean_y: Float[np.ndarray, " d"],
    cov_y: Float[np.ndarray, "d d"],
) -> tuple[Float[np.ndarray, "d d"], Float[np.ndarray, " d"]]:
    """Return ``A, b`` of the optimal map ``T(x) = A x + b`` between two Gaussians for the squared Euclidean cost.

    ``A = S_x^(-1/2) (S_x^(1/2) S_y S_x^(1/2))^(1/2) S_x^(-1/2)`` and ``b = m_y - A m_x``; `A` is symmetric.
    """
    root = symmetric_root(cov_x)
    inverse = symmetric_root(cov_x, -0.5)
    a = inverse @ symmetric_root(root @ np.asarray(cov_y, np.float64) @ root) @ inverse
    a = 0.5 * (a + a.T)
    return a, np.asarray(mean_y, np.float64) - a @ np.asarray(mean_x, np.float64)


def bures_distance2(
    mean_x: Float[np.ndarray, " d"],
    cov_x: Float[np.ndarray, "d d"],
    mean_y: Float[np.ndarray, " d"],
    cov_y: Float[np.ndarray, "d d"],
) -> float:
    """Return the squared 2-Wasserstein distance between two Gaussians.

    ``|m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x^(1/2) S_y S_x^(1/2))^(1/2))``, never below 0.
    """
    root = symmetric_root(cov_x)
    cross = symmetric_root(root @ np.asarray(cov_y, np.float64) @ root)
    shift = np.asarray(mean_x, np.float64) - np.asarray(mean_y, np.float64)
    return max(float(shift @ shift + np.trace(cov_x) + np.trace(cov_y) - 2.0 * np.trace(cross)), 0.0)


def gaussian_entropic_cost(
    mean_x: Float[np.ndarray, " d"],
    cov_x: Float[np.ndarray, "d d"],
    mean_y: Float[np.ndarray, " d"],
    cov_y: Float[np.ndarray, "d d"],
    epsilon: float,
) -> float:
    """Return ``OT_kl`` between two Gaussians for the squared Euclidean cost (Janati et al. 2020; Mallasto et al. 2022).

    With ``s = eps / 2`` and ``D = (4 S_x^(1/2) S_y S_x^(1/2) + s^2 I)^(1/2)``:
    ``|m_x - m_y|^2 + tr S_x + tr S_y - tr D + d s (1 - log(2 s)) + s log det(D + s I)``.
    """
    d, s = len(mean_x), epsilon / 2.0
    root = symmetric_root(cov_x)
    roots = np.sqrt(np.linalg.eigvalsh(4.0 * root @ np.asarray(cov_y, np.float64) @ root + s * s * np.eye(d)))
    shift = np.asarray(mean_x, np.float64) - np.asarray(mean_y, np.float64)
    entropy = d * s * (1.0 - np.log(2.0 * s)) + s * np.log(roots + s).sum()
    return float(shift @ shift + np.trace(cov_x) + np.trace(cov_y) - roots.sum() + entropy)

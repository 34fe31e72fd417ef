"""Identifiability: how much of a truth, or of another run, an embedding holds.

Geometry that a contrastive loss identifies is known up to an orthogonal map only, so everything here but
`mean_correlation_coefficient` is the same for an embedding and for its rotation. Arrays are cells in rows; they are
worked on in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from cellgap.embed._given import cells_of, same_cells
from cellgap.errors import ConfigError, DataError


@dataclass(frozen=True)
class LinearFit:
    """R^2 of a linear map from an embedding to a truth.

    Attributes
    ----------
    pooled
        ``1 - SS_res / SS_tot`` over all coordinates of the truth.
    per_coordinate
        The same of each; NaN where the coordinate does not vary. A fold or a lost coordinate shows as one near 0.
    """

    pooled: float
    per_coordinate: Float[np.ndarray, " k"]


def linear_r2(truth: Any, h: Any, *, held_out: bool = False, seed: int = 0) -> LinearFit:
    """Return how much of the truth a linear map of the embedding explains: least squares ``truth ~ A h + b``.

    Parameters
    ----------
    truth
        Latent variables, (cells, k).
    h
        The embedding, (cells, d).
    held_out
        Fit on one half of the cells and score on the other. In-sample R^2 of unrelated arrays is about ``d / cells``;
        held-out R^2 can be negative.
    seed
        Of the halves.

    Raises
    ------
    DataError
        Arrays are not of the same cells, not finite, the truth does not vary, or there are at most ``d + 1`` cells to
        fit on, which fit anything.

    Source
    ------
    Zimmermann et al. 2021 (arXiv 2102.08850) for the score; Zaliaduonis et al. 2026 (arXiv 2606.04280) pool it.
    """
    truth, h = same_cells(truth, h, ("the truth", "the embedding"))
    n = len(h)
    fitted = scored = np.arange(n)
    if held_out:
        order = np.random.default_rng(seed).permutation(n)
        fitted, scored = order[: n // 2], order[n // 2 :]
    if len(fitted) < h.shape[1] + 2:
        raise DataError(f"a linear map of {h.shape[1]} coordinates needs more cells to fit on, found {len(fitted)}.")
    center_h, center = h[fitted].mean(axis=0), truth[fitted].mean(axis=0)
    weights = np.linalg.lstsq(h[fitted] - center_h, truth[fitted] - center, rcond=None)[0]
    left = truth[scored] - center - (h[scored] - center_h) @ weights
    residual, total = np.sum(left**2, axis=0), np.sum((truth[scored] - truth[scored].mean(axis=0)) ** 2, axis=0)
    varies = np.ptp(truth[scored], axis=0) > 0
    if not varies.any():
        raise DataError("the truth does not vary over the cells that are scored: R^2 has no meaning.")
    each = np.full(truth.shape[1], np.nan)
    each[varies] = 1 - residual[varies] / total[varies]
    return LinearFit(pooled=float(1 - residual.sum() / total.sum()), per_coordinate=each)


def procrustes_error(a: Any, b: Any) -> float:
    """Return the distance of two embeddings after the best rotation: ``min_A sqrt(mean |A a_i - b_i|^2)``, A in O(k).

    It is 0 if and only if one is an orthogonal map of the other. Nothing is centered or scaled.

    Parameters
    ----------
    a, b
        Embeddings of the same cells, (cells, k).

    Raises
    ------
    DataError
        Shapes differ, or values are not finite.

    Source
    ------
    Schönemann 1966.
    """
    a, b = same_cells(a, b, ("the first embedding", "the second embedding"))
    if a.shape[1] != b.shape[1]:
        raise DataError(f"a rotation needs embeddings of one width, found {a.shape[1]} and {b.shape[1]} coordinates.")
    u, _, v = np.linalg.svd(a.T @ b)
    # The residual itself: the nuclear norm would lose half of the digits near 0.
    return float(np.sqrt(np.mean(np.sum((a @ (u @ v) - b) ** 2, axis=1))))


def angle_preservation_error(a: Any, b: Any, *, block: int = 1024) -> float:
    """Return the mean over pairs of cells i != j of ``|cos(a_i, a_j) - cos(b_i, b_j)|``, between 0 and 2.

    Rows are taken as directions: their lengths do not count.

    Parameters
    ----------
    a, b
        Embeddings of the same cells, (cells, d) and (cells, k).
    block
        Rows at a time: memory is a few arrays of ``block x block``.

    Raises
    ------
    ConfigError
        `block` is below 1.
    DataError
        Arrays are not of the same two or more cells, not finite, or have a row of zeros.

    Source
    ------
    Zaliaduonis et al. 2026 (arXiv 2606.04280). The figures printed there average over all i, j and are halved: twice
    such a figure is compared with this one.
    """
    if block < 1:
        raise ConfigError(f"a block has at least one row, found block={block}.")
    a, b = (_directions(x) for x in same_cells(a, b, ("the first embedding", "the second embedding"), least=2))
    n, total = len(a), 0.0
    for start in range(0, n, block):
        rows = slice(start, start + block)
        for other in range(start, n, block):
            columns = slice(other, other + block)
            apart = np.abs(a[rows] @ a[columns].T - b[rows] @ b[columns].T)
            if other == start:
                # Both cosines of a cell with itself are 1, up to rounding that must not count.
                np.fill_diagonal(apart, 0.0)
            total += apart.sum() * (1 if other == start else 2)
    return float(total / (n * (n - 1)))


def mean_correlation_coefficient(truth: Any, h: Any) -> float:
    """Return the mean absolute correlation of the truth's coordinates with those of the embedding, matched one to one.

    It asks for coordinates, not for geometry: random rotations of the 2-sphere score .83 on average, between
    .66 and 1. Report it and gate nothing on it.

    Parameters
    ----------
    truth
        Latent variables, (cells, k).
    h
        The embedding, (cells, d); where ``d < k`` the coordinates without a match count 0, as do constant ones.

    Raises
    ------
    DataError
        Arrays are not of the same two or more cells, or not finite.

    Source
    ------
    Hyvärinen and Morioka 2016 (arXiv 1605.06336).
    """
    truth, h = same_cells(truth, h, ("the truth", "the embedding"), least=2)
    t, e = (np.where(np.ptp(x, axis=0) > 0, x - x.mean(axis=0), 0.0) for x in (truth, h))
    lengths = np.outer(np.linalg.norm(t, axis=0), np.linalg.norm(e, axis=0))
    alike = np.abs(t.T @ e) / np.where(lengths > 0, lengths, 1.0)
    rows, columns = linear_sum_assignment(alike, maximize=True)
    return float(alike[rows, columns].sum() / truth.shape[1])


def knn_overlap(a: Any, b: Any, k: int = 15) -> float:
    """Return which share of a cell's k nearest cells in one embedding is among its k nearest in the other, on average.

    Unrelated embeddings share ``k / (cells - 1)``.

    Parameters
    ----------
    a, b
        Embeddings of the same cells, (cells, d) and (cells, k).
    k
        Number of neighbors, without the cell itself.

    Raises
    ------
    ConfigError
        `k` is not between 1 and the number of other cells.
    DataError
        Arrays are not of the same cells, or not finite.
    """
    from sklearn.neighbors import NearestNeighbors

    a, b = same_cells(a, b, ("the first embedding", "the second embedding"), least=2)
    n = len(a)
    if not 1 <= k < n:
        raise ConfigError(f"k is between 1 and the {n - 1} other cells, found k={k}.")
    first, second = (NearestNeighbors(n_neighbors=k).fit(x).kneighbors(return_distance=False) for x in (a, b))
    return float(np.mean([np.isin(i, j).mean() for i, j in zip(first, second, strict=True)]))


def effective_rank(h: Any) -> float:
    """Return how many directions an embedding fills: the exponential of the entropy of its singular values' shares.

    The embedding is centered first. It is its width where all directions are alike, 1 on a line, 0 at a point.

    Parameters
    ----------
    h
        The embedding, (cells, k).

    Raises
    ------
    DataError
        Fewer than two cells, or not finite.

    Source
    ------
    Roy and Vetterli 2007, "The effective rank".
    """
    h = cells_of(h, "the embedding", least=2)
    if not np.ptp(h, axis=0).any():
        return 0.0
    values = np.linalg.svd(h - h.mean(axis=0), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


@dataclass(frozen=True)
class Agreement:
    """How alike the embeddings of several runs are.

    Attributes
    ----------
    minimum
        The smallest R^2 over all pairs.
    pairs
        One row a pair: ``first, second`` (places in the list), ``r2`` of the linear map, the smaller of both
        directions, and ``procrustes``: the root of the mean squared distance left by the best rotation.
    """

    minimum: float
    pairs: pd.DataFrame


def agreement(embeddings: Sequence[Any], *, held_out: bool = False, seed: int = 0) -> Agreement:
    """Return how far runs agree up to a linear map, and up to a rotation.

    A loss that identifies geometry makes runs agree. Runs that agree may still share the same distortion: agreement is
    necessary, and not sufficient. Four runs or more are wanted.

    Parameters
    ----------
    embeddings
        Of the same cells in the same order, (cells, k) each.
    held_out, seed
        As for `linear_r2`.

    Raises
    ------
    DataError
        Fewer than two embeddings, shapes differ, or one of them does not vary.
    """
    if len(embeddings) < 2:
        raise DataError(f"agreement is between two embeddings or more, found {len(embeddings)}.")
    arrays = [cells_of(h, f"embedding {i}") for i, h in enumerate(embeddings)]
    rows = []
    for i, j in combinations(range(len(arrays)), 2):
        ways = ((arrays[i], arrays[j]), (arrays[j], arrays[i]))
        r2 = min(linear_r2(to, of, held_out=held_out, seed=seed).pooled for to, of in ways)
        rows.append({"first": i, "second": j, "r2": r2, "procrustes": procrustes_error(arrays[i], arrays[j])})
    pairs = pd.DataFrame(rows)
    return Agreement(minimum=float(pairs["r2"].min()), pairs=pairs)


def _directions(x: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise DataError(f"a row of zeros has no direction, found {int((lengths == 0).sum())} of them.")
    return x / lengths

"""How much of a truth, of labels, or of another run an embedding holds.

Geometry that a contrastive loss identifies is known up to an orthogonal map only, so everything here but
`mean_correlation_coefficient` is the same for an embedding and for its rotation. Arrays are cells in rows; they are
worked on in float64.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm

from cellgap.errors import ConfigError, DataError

_MUTUAL = 2.0  # variance of a sum over pairs of cells that tell each other, over that of each telling alone


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
    truth, h = _same_cells(truth, h, ("the truth", "the embedding"))
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
    a, b = _same_cells(a, b, ("the first embedding", "the second embedding"))
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
    a, b = (_directions(x) for x in _same_cells(a, b, ("the first embedding", "the second embedding"), least=2))
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
    truth, h = _same_cells(truth, h, ("the truth", "the embedding"), least=2)
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

    a, b = _same_cells(a, b, ("the first embedding", "the second embedding"), least=2)
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
    h = _cells(h, "the embedding", least=2)
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
    arrays = [_cells(h, f"embedding {i}") for i, h in enumerate(embeddings)]
    rows = []
    for i, j in combinations(range(len(arrays)), 2):
        ways = ((arrays[i], arrays[j]), (arrays[j], arrays[i]))
        r2 = min(linear_r2(to, of, held_out=held_out, seed=seed).pooled for to, of in ways)
        rows.append({"first": i, "second": j, "r2": r2, "procrustes": procrustes_error(arrays[i], arrays[j])})
    pairs = pd.DataFrame(rows)
    return Agreement(minimum=float(pairs["r2"].min()), pairs=pairs)


@dataclass(frozen=True)
class Probe:
    """How well labels of held-out cells are told from their embedding.

    Attributes
    ----------
    accuracy, balanced_accuracy, macro_f1
        Over all cells, each predicted once by a probe that has not seen it (nor its group).
    chance
        Share of the most frequent label: the accuracy of knowing nothing. That of the balanced accuracy is
        ``1 / n_labels``.
    p_value
        Of the null that the embedding says nothing of the labels (within groups, where groups are left out); NaN where
        no fold holds two labels, so that there is nothing to exchange.
    n_cells, n_labels
        Their numbers.
    """

    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    chance: float
    p_value: float
    n_cells: int
    n_labels: int


@dataclass(frozen=True)
class RidgeProbe:
    """How well a number is told from the embedding of held-out cells, and the p-value of the null that it is not."""

    r2: float
    p_value: float
    n_cells: int


def linear_probe(h: Any, labels: Any, *, groups: Any = None, n_folds: int = 5, seed: int = 0) -> Probe:
    """Return how well a linear classifier tells labels: multinomial logistic regression, L2 penalty with ``C = 1``.

    Embeddings are centered and divided by one number: shift, scale and rotation of an embedding do not count, and its
    directions keep their weights.

    Parameters
    ----------
    h
        The embedding, (cells, k).
    labels
        One a cell.
    groups
        One a cell, such as the donor: every group is held out in turn. Without, `n_folds` stratified folds.
    n_folds
        Number of folds. A label of fewer cells is held out in as many folds as it has cells.
    seed
        Of the folds, and of the draws from the null.

    Raises
    ------
    ConfigError
        Fewer than two folds, or more than cells.
    DataError
        `h` is not finite; labels or groups are missing or not one a cell; cells to learn from have one label only.

    Notes
    -----
    The test exchanges labels of held-out cells within a fold, which the null allows whatever the probe has learned from
    the other cells. The mean and variance of the number of hits are then known (Hoeffding 1951). Folds depend on one
    another: a cell that is told by another tells that one in turn, so that the sum over folds varies more than the sum
    of variances says, twice as much where every influence is mutual. That is what the hits are held against, by the
    normal limit. Of trials on noise 1.5 to 4.7 % then fall below .05; without the factor 9 % of those by neighbors do.
    """
    from sklearn.linear_model import LogisticRegression

    def predict(h: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
        h, asked = _scaled(h, asked)
        return LogisticRegression(max_iter=2000).fit(h, y).predict(asked)

    return _probe(predict, h, labels, groups, n_folds, seed)


def knn_probe(h: Any, labels: Any, *, k: int = 15, groups: Any = None, n_folds: int = 5, seed: int = 0) -> Probe:
    """Return how well the k nearest cells of other folds or groups tell labels, by the majority of their votes.

    Parameters
    ----------
    h
        The embedding, (cells, k), as it is: distances are Euclidean.
    labels, groups, n_folds, seed
        As for `linear_probe`, with the same test.
    k
        Number of neighbors.

    Raises
    ------
    ConfigError
        `k` or `n_folds` is out of range.
    DataError
        As for `linear_probe`.
    """
    from sklearn.neighbors import KNeighborsClassifier

    def predict(h: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
        if not 1 <= k <= len(h):
            raise ConfigError(f"k is between 1 and the {len(h)} cells that are not held out, found k={k}.")
        return KNeighborsClassifier(k).fit(h, y).predict(asked)

    return _probe(predict, h, labels, groups, n_folds, seed)


def ridge_probe(
    h: Any, values: Any, *, groups: Any = None, n_folds: int = 5, penalty: float = 1.0, seed: int = 0
) -> RidgeProbe:
    """Return how well a linear map tells a number: R^2 of ridge regression on held-out cells.

    Parameters
    ----------
    h
        The embedding, (cells, k), scaled as for `linear_probe`.
    values
        One number a cell.
    groups, n_folds, seed
        As for `linear_probe`; folds are random.
    penalty
        Of the squared weights.

    Raises
    ------
    ConfigError
        Folds are out of range.
    DataError
        Arrays are not finite or not one a cell, or the values do not vary.

    Notes
    -----
    R^2 is ``1 - SS_res / SS_tot`` over all cells. The test is that of `linear_probe`, on the covariance of told and
    true values.
    """
    from sklearn.linear_model import Ridge

    h = _cells(h, "the embedding", least=2)
    values = _one_a_cell(values, len(h), "values").astype(np.float64)
    if not np.isfinite(values).all() or not np.ptp(values) > 0:
        raise DataError("the values to tell must be finite and vary, found infinite ones or a single value.")
    told, excess = np.empty(len(h)), []
    for held in _folds(np.zeros(len(h), int), groups, n_folds, seed):
        learn, asked = _scaled(h[~held], h[held])
        told[held] = Ridge(alpha=penalty).fit(learn, values[~held]).predict(asked)
        if np.ptp(values[held]) > 0:
            x, y = (v - v.mean() for v in (told[held], values[held]))
            excess.append((float(x @ y), float((x @ x) * (y @ y)) / (len(x) - 1)))
    residual, total = np.sum((values - told) ** 2), np.sum((values - values.mean()) ** 2)
    return RidgeProbe(r2=float(1 - residual / total), p_value=_p_value(excess), n_cells=len(h))


def _probe(
    predict: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    h: Any,
    labels: Any,
    groups: Any,
    n_folds: int,
    seed: int,
) -> Probe:
    """Return the scores of a classifier: `predict` is given cells, their labels, and the cells that are asked."""
    from sklearn.metrics import f1_score, recall_score

    h = _cells(h, "the embedding", least=2)
    names, codes = np.unique(_one_a_cell(labels, len(h), "labels").astype(str), return_inverse=True)
    told, excess = np.empty(len(h), int), []
    for held in _folds(codes, groups, n_folds, seed):
        if len(np.unique(codes[~held])) < 2:
            raise DataError("a probe needs cells of two labels to learn from, found one label in them.")
        told[held] = predict(h[~held], codes[~held], h[held])
        if len(np.unique(codes[held])) > 1:
            excess.append(_hits_over_exchanged(codes[held], told[held], len(names)))
    return Probe(
        accuracy=float(np.mean(told == codes)),
        # Recall with the labels given: those of a fold's training cells may lack one, and it counts all the same.
        balanced_accuracy=float(recall_score(codes, told, average="macro", labels=np.arange(len(names)))),
        macro_f1=float(f1_score(codes, told, average="macro", labels=np.arange(len(names)))),
        chance=float(np.bincount(codes).max() / len(h)),
        p_value=_p_value(excess),
        n_cells=len(h),
        n_labels=len(names),
    )


def _hits_over_exchanged(true: np.ndarray, told: np.ndarray, n_labels: int) -> tuple[float, float]:
    """Return by how much hits exceed their mean under an exchange of labels, and the variance under exchange."""
    n = len(true)
    t, p = (np.bincount(x, minlength=n_labels).astype(float) for x in (true, told))
    both = t @ p
    variance = (both - t**2 @ p / n - t @ p**2 / n + both**2 / n**2) / (n - 1)
    return float(np.sum(true == told) - both / n), max(float(variance), 0.0)


def _p_value(excess: list[tuple[float, float]]) -> float:
    """Return the one-sided p-value of a sum over folds that depend on one another, from (excess, variance) of each."""
    if not excess:
        return float("nan")
    over, variances = np.asarray(excess).T
    spread = np.sqrt(_MUTUAL * variances.sum())
    # Without spread every prediction is the same: nothing was told.
    return float(norm.sf(over.sum() / spread)) if spread > 0 else 1.0


def _folds(codes: Int[np.ndarray, " n"], groups: Any, n_folds: int, seed: int) -> Iterator[Bool[np.ndarray, " n"]]:
    """Yield which cells are held out: every group in turn, or folds with equal shares of each code."""
    n = len(codes)
    if groups is None:
        if not 2 <= n_folds <= n:
            raise ConfigError(f"there are between 2 folds and one a cell ({n}), found n_folds={n_folds}.")
        # Cells in a random order within each code are dealt out like cards: no code needs one a fold.
        order = np.lexsort((np.random.default_rng(seed).random(n), codes))
        fold = np.empty(n, int)
        fold[order] = np.arange(n) % n_folds
    else:
        fold = np.unique(_one_a_cell(groups, n, "groups").astype(str), return_inverse=True)[1]
        if fold.max() == 0:
            raise DataError("leaving a group out needs two groups or more, found one.")
    for i in range(fold.max() + 1):
        yield fold == i


def _scaled(h: Float[np.ndarray, "n k"], asked: Float[np.ndarray, "m k"]) -> tuple[np.ndarray, np.ndarray]:
    """Return both around the mean of the first, by one factor for all directions: its mean variance is 1."""
    center = h.mean(axis=0)
    spread = np.sqrt(np.mean((h - center) ** 2))
    # One factor a direction would blow up those that hold little, and with them every shift between groups.
    scale = spread if np.ptp(h, axis=0).any() else 1.0
    return (h - center) / scale, (asked - center) / scale


def _cells(values: Any, name: str, least: int = 1) -> Float[np.ndarray, "cells features"]:
    """Return cells by features in float64, or say what is wrong with them."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be an array of numbers, found {type(values).__name__}.") from error
    if array.ndim != 2 or array.shape[1] == 0:
        raise DataError(f"{name} must be an array of cells x features, found shape {array.shape}.")
    if len(array) < least:
        raise DataError(f"{name} must have at least {least} cells, found {len(array)}.")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).any(axis=1).sum())
        raise DataError(f"{name} must be finite, found NaN or infinite values in {bad} of {len(array)} cells.")
    return array


def _same_cells(a: Any, b: Any, names: tuple[str, str], least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    a, b = _cells(a, names[0], least), _cells(b, names[1], least)
    if len(a) != len(b):
        raise DataError(f"{names[0]} and {names[1]} must be of the same cells, found {len(a)} and {len(b)}.")
    return a, b


def _one_a_cell(values: Any, n: int, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (n,):
        raise DataError(f"{name} must be one a cell ({n}), found shape {array.shape}.")
    if missing := int(pd.isna(array).sum()):
        raise DataError(f"{name} are missing in {missing} of {n} cells: leave these cells out.")
    return array


def _directions(x: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise DataError(f"a row of zeros has no direction, found {int((lengths == 0).sum())} of them.")
    return x / lengths

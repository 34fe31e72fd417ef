"""Probes: how well labels and numbers of held-out cells are told from their embedding, and whether above chance.

An orthogonal map of the embedding changes no probe.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm

from cellgap.embed._given import cells_of, one_a_cell
from cellgap.errors import ConfigError, DataError

_MUTUAL = 2.0  # variance of a sum over pairs of cells that tell each other, over that of each telling alone


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

    h = cells_of(h, "the embedding", least=2)
    values = one_a_cell(values, len(h), "values").astype(np.float64)
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

    h = cells_of(h, "the embedding", least=2)
    names, codes = np.unique(one_a_cell(labels, len(h), "labels").astype(str), return_inverse=True)
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
        fold = np.unique(one_a_cell(groups, n, "groups").astype(str), return_inverse=True)[1]
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

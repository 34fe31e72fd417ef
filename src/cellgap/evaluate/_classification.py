"""Scores of classifiers: right or wrong, by class, by probability, and of what may be left without a label.

Labels are arrays of texts or numbers. Probabilities are arrays (cells, classes) whose columns are `classes`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from cellgap.errors import ConfigError, DataError

N_BINS = 15
_FLOOR = float(np.finfo(np.float64).eps)


class CalibrationCurve(NamedTuple):
    """Confidence and accuracy in bins of as many cells each, least confident first; empty bins are left out.

    Parameters
    ----------
    confidence
        Mean probability of the most probable class.
    accuracy
        Share of cells that are right.
    n
        Cells.
    """

    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    n: Int[np.ndarray, " bins"]


class CoverageCurve(NamedTuple):
    """Accuracy of the most confident cells, for every number of them; equally confident cells enter together.

    Parameters
    ----------
    coverage
        Share of the cells that get a label.
    accuracy
        Share of these that are right.
    threshold
        The least confidence among them.
    """

    coverage: Float[np.ndarray, " points"]
    accuracy: Float[np.ndarray, " points"]
    threshold: Float[np.ndarray, " points"]


def accuracy(truth: Any, predicted: Any) -> float:
    """Return the share of cells whose predicted label is the true one.

    Raises
    ------
    DataError
        There is no cell, or the numbers of labels differ.
    """
    truth, predicted = _labels(truth, predicted)
    return float(np.mean(truth == predicted))


def macro_f1(truth: Any, predicted: Any) -> float:
    """Return the mean over the classes that are present in the truth of ``2 TP / (2 TP + FP + FN)``.

    Classes that only the prediction has are no terms of the mean: their cells count as misses of the true classes. How
    many there are is told by `absent_rate`.

    Raises
    ------
    DataError
        There is no cell, or the numbers of labels differ.
    """
    truth, predicted = _labels(truth, predicted)
    found = []
    for name in np.unique(truth):
        true, said = truth == name, predicted == name
        found.append(2 * np.sum(true & said) / (true.sum() + said.sum()))
    return float(np.mean(found))


def absent_rate(truth: Any, predicted: Any, classes: Sequence[Any]) -> float:
    """Return the share of cells that are given one of `classes` although no cell truly is of it.

    Parameters
    ----------
    truth, predicted
        Labels; others than `classes`, such as "unassigned", are none of them.
    classes
        The labels that a classifier can give.

    Raises
    ------
    DataError
        There is no cell, or the numbers of labels differ.
    """
    truth, predicted = _labels(truth, predicted)
    absent = [str(name) for name in classes if str(name) not in set(truth.tolist())]
    return float(np.isin(predicted, absent).mean())


def calibration_curve(
    confidence: Float[np.ndarray, " cells"], correct: Bool[np.ndarray, " cells"], n_bins: int = N_BINS
) -> CalibrationCurve:
    """Return confidence and accuracy in bins of about as many cells; cells of equal confidence share a bin.

    Parameters
    ----------
    confidence
        Probability of the predicted class.
    correct
        Whether it is the true one.
    n_bins
        Number of bins, at most.

    Raises
    ------
    ConfigError
        There is no bin.
    DataError
        There is no cell, or a confidence is no probability.

    Source
    ------
    Nguyen, O'Connor 2015 (arXiv 1508.05154) for bins of equal mass.
    """
    if n_bins < 1:
        raise ConfigError(f"A calibration curve needs a bin, found n_bins={n_bins}.")
    confidence, correct = _confidences(confidence, correct)
    place = (rankdata(confidence) - 0.5) / len(confidence)
    bins = np.minimum((place * n_bins).astype(int), n_bins - 1)
    n = np.bincount(bins, minlength=n_bins)
    sums = (np.bincount(bins, weights=values, minlength=n_bins)[n > 0] for values in (confidence, correct))
    mean, right = (values / n[n > 0] for values in sums)
    return CalibrationCurve(mean, right, n[n > 0])


def expected_calibration_error(
    confidence: Float[np.ndarray, " cells"], correct: Bool[np.ndarray, " cells"], n_bins: int = N_BINS
) -> float:
    """Return the mean over cells of ``|accuracy - confidence|`` of their bin, see `calibration_curve`.

    Few cells make it large by chance: where p is the accuracy of n calibrated cells, b bins give about
    ``sqrt(2 b p (1 - p) / (pi n))``, which is 0.10 for 80 cells at p = 0.9 in 15 bins. Small targets are better pooled.

    Raises
    ------
    ConfigError, DataError
        As `calibration_curve`.

    Source
    ------
    Naeini, Cooper, Hauskrecht 2015 ("Obtaining well calibrated probabilities using Bayesian binning").
    """
    curve = calibration_curve(confidence, correct, n_bins)
    return float(np.sum(curve.n * np.abs(curve.accuracy - curve.confidence)) / curve.n.sum())


def brier_score(truth: Any, probabilities: Float[np.ndarray, "cells classes"], classes: Sequence[Any]) -> float:
    """Return the mean over cells of ``sum_k (p_k - 1[k is true])^2``, between 0 and 2.

    Raises
    ------
    DataError
        A true label is none of the classes, or a row is no distribution.

    Source
    ------
    Brier 1950 (doi 10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2), the sum over all classes.
    """
    return float(brier_terms(truth, probabilities, classes).mean())


def brier_terms(
    truth: Any, probabilities: Float[np.ndarray, "cells classes"], classes: Sequence[Any]
) -> Float[np.ndarray, " cells"]:
    """Return the terms whose mean is `brier_score`."""
    p, column = _distributions(truth, probabilities, classes)
    own = p[np.arange(len(p)), column]
    return (p**2).sum(axis=1) - 2 * own + 1


def log_loss(truth: Any, probabilities: Float[np.ndarray, "cells classes"], classes: Sequence[Any]) -> float:
    """Return the mean over cells of ``-log p`` of the true class, in nats; p is at least 2.2e-16.

    Raises
    ------
    DataError
        A true label is none of the classes, or a row is no distribution.
    """
    return float(log_terms(truth, probabilities, classes).mean())


def log_terms(
    truth: Any, probabilities: Float[np.ndarray, "cells classes"], classes: Sequence[Any]
) -> Float[np.ndarray, " cells"]:
    """Return the terms whose mean is `log_loss`."""
    p, column = _distributions(truth, probabilities, classes)
    return -np.log(np.clip(p[np.arange(len(p)), column], _FLOOR, 1.0))


def coverage_curve(confidence: Float[np.ndarray, " cells"], correct: Bool[np.ndarray, " cells"]) -> CoverageCurve:
    """Return the accuracy of the most confident cells, for every number of them.

    Raises
    ------
    DataError
        There is no cell, or a confidence is no probability.

    Source
    ------
    El-Yaniv, Wiener 2010 ("On the foundations of noise-free selective classification"): risk over coverage.
    """
    confidence, correct = _confidences(confidence, correct)
    order = np.argsort(-confidence, kind="stable")
    sure, right = confidence[order], np.cumsum(correct[order])
    last = np.flatnonzero(np.append(sure[1:] < sure[:-1], True))
    return CoverageCurve((last + 1) / len(sure), right[last] / (last + 1), sure[last])


def coverage_at(
    confidence: Float[np.ndarray, " cells"], correct: Bool[np.ndarray, " cells"], accuracy: float = 0.95
) -> float:
    """Return the largest share of cells, the most confident first, of which the share `accuracy` or more is right.

    The threshold is chosen on the same cells: it says what ordering by confidence can reach, not what a threshold of
    other cells will.

    Raises
    ------
    ConfigError
        `accuracy` is not between 0 and 1.
    DataError
        There is no cell, or a confidence is no probability.
    """
    if not 0 < accuracy <= 1:
        raise ConfigError(f"coverage_at needs an accuracy above 0 and at most 1, found {accuracy!r}.")
    curve = coverage_curve(confidence, correct)
    enough = curve.accuracy >= accuracy - 1e-12
    return float(curve.coverage[enough].max(initial=0.0))


def confusion(truth: Any, predicted: Any, classes: Sequence[Any] | None = None) -> pd.DataFrame:
    """Return numbers of cells, one row a true label and one column a predicted one.

    Parameters
    ----------
    truth, predicted
        Labels.
    classes
        Order of rows and columns, those without a cell too; further labels follow. None takes them sorted.

    Raises
    ------
    DataError
        There is no cell, or the numbers of labels differ.
    """
    truth, predicted = _labels(truth, predicted)
    wanted = [str(name) for name in classes or ()]
    names = ([*wanted, *(n for n in np.unique(v).tolist() if n not in wanted)] for v in (truth, predicted))
    rows, columns = (pd.Index(found) for found in names)
    table = np.zeros((len(rows), len(columns)), np.int64)
    np.add.at(table, (rows.get_indexer(truth), columns.get_indexer(predicted)), 1)
    return pd.DataFrame(table, index=rows.rename("truth"), columns=columns.rename("predicted"))


def unseen_auroc(novelty: Float[np.ndarray, " cells"], unseen: Bool[np.ndarray, " cells"]) -> float:
    """Return how often a cell of an unseen class is more novel than one of a known class; ties count half.

    0.5 is chance; not a number where all cells are of one kind.

    Parameters
    ----------
    novelty
        Any score that is higher for cells unlike those trained on.
    unseen
        Whether the true class is one that was not trained on.

    Source
    ------
    Mann, Whitney 1947 (doi 10.1214/aoms/1177730491).
    """
    novelty, unseen = np.asarray(novelty, float), np.asarray(unseen, bool)
    if novelty.shape != unseen.shape or not np.isfinite(novelty).all():
        raise DataError(f"Novelty needs a finite number a cell, found {novelty.shape} for {unseen.shape} cells.")
    n, m = int(unseen.sum()), int((~unseen).sum())
    if n == 0 or m == 0:
        return float("nan")
    return float((rankdata(novelty)[unseen].sum() - n * (n + 1) / 2) / (n * m))


def _labels(truth: Any, predicted: Any) -> tuple[np.ndarray, np.ndarray]:
    pair = np.asarray(truth).astype(str), np.asarray(predicted).astype(str)
    if pair[0].ndim != 1 or pair[0].shape != pair[1].shape:
        raise DataError(f"A score needs a predicted label for each cell, found {pair[1].shape} for {pair[0].shape}.")
    if not len(pair[0]):
        raise DataError("A score needs a cell, found none.")
    return pair


def _confidences(confidence: Any, correct: Any) -> tuple[np.ndarray, np.ndarray]:
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, bool)
    if confidence.ndim != 1 or confidence.shape != correct.shape or not len(confidence):
        raise DataError(f"A score needs a confidence for each cell, found {confidence.shape} for {correct.shape}.")
    if not ((confidence >= 0) & (confidence <= 1 + 1e-6)).all():
        raise DataError("A confidence is a probability, between 0 and 1; found another number.")
    return confidence, correct


def _distributions(truth: Any, probabilities: Any, classes: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    p, names = np.asarray(probabilities, np.float64), pd.Index([str(name) for name in classes])
    if p.shape != (len(np.asarray(truth)), len(names)) or not len(p):
        raise DataError(f"Probabilities must be (cells, {len(names)} classes), found {p.shape}.")
    if not (p >= -1e-6).all() or not np.allclose(p.sum(axis=1), 1.0, rtol=0, atol=1e-4):
        raise DataError("Probabilities of the classes of a cell must be 0 or more and sum to 1; they do not.")
    column = names.get_indexer(np.asarray(truth).astype(str))
    if (column < 0).any():
        raise DataError(f"The true label {str(np.asarray(truth)[np.argmin(column)])!r} is none of the classes.")
    return p, column

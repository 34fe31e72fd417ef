"""Ridge regression from condition features to effects, its penalty chosen by leaving treatments out."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cellgap.study import Condition

PENALTIES = tuple(float(10.0**e) for e in np.arange(-4, 4.5, 0.5))


class Ridge(NamedTuple):
    """A fitted regression ``targets = features @ coefficients``.

    Parameters
    ----------
    coefficients
        Shape (features, targets).
    penalty
        The chosen penalty.
    error
        Mean squared error on left-out groups at each of `PENALTIES`, relative to that of the mean effect; NaN
        where there was only one group to leave out.
    """

    coefficients: np.ndarray
    penalty: float
    error: tuple[float, ...]


def groups_of(conditions: Sequence[Condition]) -> np.ndarray:
    """Return a group number for each condition: conditions with the same set of treatment names share one.

    With a single set of names, every set of treatments (doses) is a group; with a single one of those, every condition.
    """
    for label in (lambda c: c.names, lambda c: c.treatments, lambda c: c):
        labels = [label(c) for c in conditions]
        distinct = list(dict.fromkeys(labels))
        if len(distinct) > 1:
            return np.asarray([distinct.index(item) for item in labels])
    return np.zeros(len(conditions), int)


def feature_scale(features: np.ndarray) -> np.ndarray:
    """Return the root mean square of every feature, 1 where it is always 0."""
    scale = np.sqrt((features**2).mean(0))
    return np.where(scale > 0, scale, 1.0)


def fit_ridge(features: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> Ridge:
    """Return the ridge regression whose penalty predicts left-out groups best.

    The first feature (the number of treatments) is not penalized, so a large penalty gives the mean effect and no
    treatment gives no effect. Other features are scaled by their root mean square.

    Parameters
    ----------
    features
        Shape (conditions, p); the first column is the number of treatments.
    targets
        Shape (conditions, q).
    groups
        Group number of each condition; see `groups_of`.
    """
    scale = feature_scale(features)
    scaled = features / scale
    errors = np.full(len(PENALTIES), np.nan)
    distinct = np.unique(groups)
    if len(distinct) > 1:
        total = np.zeros(len(PENALTIES))
        baseline = 0.0
        for g in distinct:
            out = groups == g
            gram, cross = scaled[~out].T @ scaled[~out], scaled[~out].T @ targets[~out]
            for i, penalty in enumerate(PENALTIES):
                total[i] += ((scaled[out] @ _solve(gram, cross, penalty) - targets[out]) ** 2).sum()
            baseline += ((targets[~out].mean(0) - targets[out]) ** 2).sum()
        errors = total / max(baseline, 1e-300)
        # The largest penalty within rounding of the best: ties go to the simpler answer.
        best = int(np.flatnonzero(errors <= errors.min() * (1 + 1e-6))[-1])
    else:
        best = len(PENALTIES) // 2
    coefficients = _solve(scaled.T @ scaled, scaled.T @ targets, PENALTIES[best]) / scale[:, None]
    return Ridge(coefficients, PENALTIES[best], tuple(float(e) for e in errors))


def _solve(gram: np.ndarray, cross: np.ndarray, penalty: float) -> np.ndarray:
    weights = np.full(len(gram), penalty)
    weights[0] = 1e-10
    return np.linalg.solve(gram + np.diag(weights), cross)

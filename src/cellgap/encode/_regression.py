"""Ridge regression of coordinates on features, its penalty chosen by leaving treatments out in closed form."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_PENALTIES = tuple(float(10.0**e) for e in np.arange(-4, 4.5, 0.5))


class Regression(NamedTuple):
    """A fitted regression ``targets = features @ coefficients``.

    Parameters
    ----------
    coefficients
        (features, targets).
    penalty
        The chosen penalty.
    error
        Squared error on left-out groups over that of the mean of the others; None where there is only one group.
    """

    coefficients: Float[np.ndarray, "p q"]
    penalty: float
    error: float | None


def regress(features: Float[np.ndarray, "n p"], targets: Float[np.ndarray, "n q"], groups: Sequence[str]) -> Regression:
    """Return the ridge regression whose penalty predicts left-out groups best.

    The residuals of a left-out group are ``(I - H_gg)^(-1)`` times its own, with `H` what smooths the targets, so that
    one decomposition serves all groups and penalties. With a single group the penalty is 1.

    Parameters
    ----------
    features
        The first column is 1: the intercept, which is not penalized. Others are scaled by their root mean square.
    targets
        What is regressed.
    groups
        Label of each row; rows of one label are left out together.
    """
    scale = np.sqrt((features[:, 1:] ** 2).mean(axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    scaled = features[:, 1:] / scale
    center, mean = scaled.mean(axis=0), targets.mean(axis=0)
    u, s, vt = np.linalg.svd(scaled - center, full_matrices=False)
    labels = np.asarray(groups)
    members = [np.flatnonzero(labels == label) for label in dict.fromkeys(groups)]
    penalty, error = 1.0, None
    if len(members) > 1:
        errors = np.array([_left_out(u, s**2 / (s**2 + p), targets, members) for p in _PENALTIES])
        without = sum(((np.delete(targets, rows, 0).mean(axis=0) - targets[rows]) ** 2).sum() for rows in members)
        # The largest penalty within rounding of the best: ties go to the simpler answer.
        best = int(np.flatnonzero(errors <= errors.min() * (1 + 1e-6))[-1])
        penalty, error = _PENALTIES[best], float(errors[best] / max(without, 1e-300))
    slopes = vt.T @ ((s / (s**2 + penalty))[:, None] * (u.T @ targets))
    return Regression(np.concatenate([(mean - center @ slopes)[None], slopes / scale[:, None]]), penalty, error)


def _left_out(u: np.ndarray, shrinkage: np.ndarray, targets: np.ndarray, members: list[np.ndarray]) -> float:
    """Return the squared error of all groups, each predicted from the others."""
    residuals = targets - targets.mean(axis=0) - (u * shrinkage) @ (u.T @ targets)
    total = 0.0
    for rows in members:
        own = 1.0 / len(targets) + (u[rows] * shrinkage) @ u[rows].T
        total += float((np.linalg.solve(np.eye(len(rows)) - own, residuals[rows]) ** 2).sum())
    return total

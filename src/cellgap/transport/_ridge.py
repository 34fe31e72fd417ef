"""Ridge regression from condition features to effects, its penalty chosen by leaving treatments out.

Leaving a group of conditions out needs no new fit: with `H` the matrix that smooths targets, the residuals of a
left-out group are ``(I - H_gg)^(-1)`` times its residuals. One decomposition serves all groups and penalties.
"""

from collections.abc import Iterator, Sequence
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


def members_of(groups: np.ndarray) -> list[np.ndarray]:
    """Return the positions of each group's members."""
    return [np.flatnonzero(groups == g) for g in np.unique(groups)]


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
    design, members = _decompose(features), members_of(groups)
    errors = np.full(len(PENALTIES), np.nan)
    if len(members) > 1:
        total = [sum((left**2).sum() for left in _left_out(design, targets, members, p)) for p in PENALTIES]
        others = [np.delete(targets, rows, axis=0).mean(0) for rows in members]
        baseline = sum(((mean - targets[rows]) ** 2).sum() for mean, rows in zip(others, members, strict=True))
        errors = np.asarray(total) / max(baseline, 1e-300)
        # The largest penalty within rounding of the best: ties go to the simpler answer.
        best = int(np.flatnonzero(errors <= errors.min() * (1 + 1e-6))[-1])
    else:
        best = len(PENALTIES) // 2
    penalty = PENALTIES[best]
    slopes = design.vt.T @ ((design.s / (design.s**2 + penalty))[:, None] * (design.u.T @ targets))
    intercept = design.first @ (targets - design.rest @ slopes) / design.length
    coefficients = np.concatenate([intercept[None], slopes]) / design.scale[:, None]
    return Ridge(coefficients, penalty, tuple(float(e) for e in errors))


def residuals_without(
    features: np.ndarray, targets: np.ndarray, groups: np.ndarray, penalty: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each group's members, and the residuals of all conditions when the group is left out of the regression.

    Parameters
    ----------
    features, targets, groups
        As in `fit_ridge`.
    penalty
        Of the regression.
    """
    design, members = _decompose(features), members_of(groups)
    residuals = targets - _smoothed(design, targets, penalty)
    for rows, left in zip(members, _left_out(design, targets, members, penalty), strict=True):
        placed = np.zeros_like(targets)
        placed[rows] = left
        yield rows, residuals + _smoothed(design, placed, penalty)


class _Design(NamedTuple):
    """Scaled features: the first as a unit vector times a length, the rest orthogonal to it by singular values."""

    scale: np.ndarray
    first: np.ndarray
    length: float
    rest: np.ndarray
    u: np.ndarray
    s: np.ndarray
    vt: np.ndarray


def _decompose(features: np.ndarray) -> _Design:
    scale = feature_scale(features)
    scaled = features / scale
    length = float(np.linalg.norm(scaled[:, 0]))
    first, rest = scaled[:, 0] / length, scaled[:, 1:]
    u, s, vt = np.linalg.svd(rest - np.outer(first, first @ rest), full_matrices=False)
    return _Design(scale, first, length, rest, u, s, vt)


def _shrinkage(design: _Design, penalty: float) -> np.ndarray:
    return design.s**2 / (design.s**2 + penalty)


def _smoothed(design: _Design, values: np.ndarray, penalty: float) -> np.ndarray:
    """Return ``H @ values``."""
    inner = _shrinkage(design, penalty)[:, None] * (design.u.T @ values)
    return np.outer(design.first, design.first @ values) + design.u @ inner


def _left_out(design: _Design, targets: np.ndarray, members: list[np.ndarray], penalty: float) -> Iterator[np.ndarray]:
    """Yield the residuals of each group when it is left out."""
    residuals = targets - _smoothed(design, targets, penalty)
    shrinkage = _shrinkage(design, penalty)
    for rows in members:
        own = np.outer(design.first[rows], design.first[rows]) + (design.u[rows] * shrinkage) @ design.u[rows].T
        yield np.linalg.solve(np.eye(len(rows)) - own, residuals[rows])

"""Metrics on effects, ``mean(treated) - mean(control)``: whether the right features move, in the right direction."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from cellgap.errors import DataError
from cellgap.evaluate._clouds import Cells, clouds
from cellgap.evaluate._moments import mean_effect

Effects = Float[np.ndarray, "conditions features"]
Features = Float[np.ndarray, " features"]

TOP = 50
"""Features that count as the most moved, where there are at least five times as many."""


def top_size(n_features: int, k: int = TOP) -> int:
    """Return how many features count as the top: `k`, but at most a fifth, so that chance overlap stays below 20 %."""
    return max(1, min(k, n_features // 5))


def sign_accuracy(p: Cells, q: Cells, c: Cells, *, k: int = TOP) -> float:
    """Return the share of the `k` most moved features that the prediction moves in the measured direction.

    Parameters
    ----------
    p, q, c
        Predicted, measured and control cells over the same features.
    k
        Features of the largest measured ``|mean(q) - mean(c)|``; at most a fifth of all (`top_size`). The sign of a
        feature that does not respond is noise. A predicted effect of exactly 0 has no sign and counts as wrong.
    """
    p, q, c = clouds(p, q, c)
    return same_signs(mean_effect(p.mean(0), c.mean(0)), mean_effect(q.mean(0), c.mean(0)), k)


def top_overlap(p: Cells, q: Cells, c: Cells, *, k: int = TOP) -> float:
    """Return the share of the `k` most moved features, by ``|effect|``, common to prediction and measurement.

    NaN where the predicted or the measured effect is exactly zero. `k` is at most a fifth of the features (`top_size`).
    """
    p, q, c = clouds(p, q, c)
    return same_top(mean_effect(p.mean(0), c.mean(0)), mean_effect(q.mean(0), c.mean(0)), k)


def same_signs(predicted: Features, measured: Features, k: int = TOP) -> float:
    """Return `sign_accuracy` of two effects."""
    if not measured.any():
        return float("nan")
    top = _top(measured, top_size(len(measured), k))
    return float(np.mean(np.sign(predicted[top]) == np.sign(measured[top])))


def same_top(predicted: Features, measured: Features, k: int = TOP) -> float:
    """Return `top_overlap` of two effects."""
    if not (predicted.any() and measured.any()):
        return float("nan")
    size = top_size(len(measured), k)
    return len(np.intersect1d(_top(predicted, size), _top(measured, size))) / size


def discrimination(
    predicted: Effects,
    measured: Effects,
    *,
    own: Sequence[int] | None = None,
    distance: Literal["cosine", "euclidean"] = "cosine",
) -> Float[np.ndarray, " conditions"]:
    """Return for each condition how its measured effect ranks among all, by nearness to the predicted effect.

    1: the prediction is nearest to its own measured effect; 0: every other measured effect is nearer. A prediction
    that is the same for all conditions scores 0.5 on average.  Ties count half.

    Parameters
    ----------
    predicted, measured
        Mean effects, one condition a row.
    own
        Which measured effect belongs to each predicted one; by default they come in the same order.
    distance
        ``"cosine"`` (1 - cosine similarity; NaN for a predicted effect of zero) or ``"euclidean"``.

    Returns
    -------
    numpy.ndarray
        One score a prediction; NaN with fewer than two measured conditions.

    Source
    ------
    Perturbation discrimination score of the Arc virtual cell challenge (``pds_cosine``), here on our own effects.
    """
    predicted, measured = clouds(predicted, measured, names=("predicted effects", "measured effects"))
    k = len(measured)
    rows = np.arange(k) if own is None else np.asarray(own, dtype=np.int64)
    if len(predicted) != len(rows):
        raise DataError(f"one measured effect belongs to each predicted one: found {len(rows)} and {len(predicted)}.")
    if k < 2:
        return np.full(len(rows), np.nan)
    if distance == "cosine":
        far = 1.0 - _unit(predicted) @ _unit(measured).T
    elif distance == "euclidean":
        far = np.linalg.norm(predicted[:, None, :] - measured[None, :, :], axis=2)
    else:
        raise DataError(f'distance must be "cosine" or "euclidean", found {distance!r}.')
    mine = np.take_along_axis(far, rows[:, None], axis=1)
    others = np.arange(k)[None, :] != rows[:, None]
    nearer = ((far < mine) & others).sum(1) + 0.5 * ((far == mine) & others).sum(1)
    return np.where(np.isfinite(mine[:, 0]), 1.0 - nearer / (k - 1), np.nan)


def _top(effect: np.ndarray, k: int) -> np.ndarray:
    # A stable order makes equal effects fall the same way in every run.
    return np.argsort(-np.abs(effect), kind="stable")[:k]


def _unit(effects: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(effects, axis=1, keepdims=True)
    return np.divide(effects, length, out=np.full_like(effects, np.nan), where=length > 0)

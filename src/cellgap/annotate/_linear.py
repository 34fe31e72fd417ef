"""Linear classifiers with a ridge penalty, for any comp-sum loss."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.special import log_softmax

_CURVATURE = 0.2  # typical size of p (1 - p), for the scaling of coordinates


class Linear(NamedTuple):
    """Scores ``x W + b``.

    Parameters
    ----------
    weight, bias
        See there.
    """

    weight: Float[np.ndarray, "dim classes"]
    bias: Float[np.ndarray, " classes"]

    def scores(self, x: Float[np.ndarray, "cells dim"]) -> Float[np.ndarray, "cells classes"]:
        """Return the scores of cells."""
        return np.asarray(x, np.float64) @ self.weight + self.bias


def ridge_path(
    x: Float[np.ndarray, "cells dim"],
    y: Int[np.ndarray, " cells"],
    n_classes: int,
    strengths: tuple[float, ...],
    *,
    tau: float = 1.0,
    max_iterations: int = 200,
) -> list[Linear]:
    """Return a classifier for every strength: minimizers of ``C sum_i l_tau(x_i W + b, y_i) + |W|^2 / 2``.

    Each starts at the one before (in increasing C), in coordinates scaled by the expected curvature, and, for tau other
    than 1, at the minimizer of the cross-entropy: the loss is convex at ``tau <= 1`` only.

    Parameters
    ----------
    x
        Coordinates of cells, by falling variance.
    y
        Classes.
    n_classes
        Number of classes; one that no cell has gets a low score everywhere.
    strengths
        The C of logistic regression, each above 0.
    tau
        Of the comp-sum loss.
    max_iterations
        Of L-BFGS, for each.
    """
    x = np.asarray(x, np.float32)
    present = np.flatnonzero(np.bincount(y, minlength=n_classes))
    label = np.searchsorted(present, y)
    order = np.argsort(strengths)
    found: dict[int, Linear] = {}
    weight, bias = np.zeros((x.shape[1], len(present))), np.log(np.bincount(label) / len(label))
    for i in order:
        weight, bias = _descended(x, label, strengths[i], 1.0, weight, bias, max_iterations)
        kept = (weight, bias)
        if tau != 1.0:
            kept = _descended(x, label, strengths[i], tau, weight, bias, max_iterations)
        full = Linear(np.zeros((x.shape[1], n_classes)), np.full(n_classes, -30.0))
        full.weight[:, present], full.bias[present] = kept
        found[int(i)] = full
    return [found[i] for i in range(len(strengths))]


def _descended(
    x: np.ndarray, label: np.ndarray, strength: float, tau: float, weight: np.ndarray, bias: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray]:
    n, dim = x.shape
    classes = weight.shape[1]
    # Mean loss + |W|^2 / (2 C n); coordinates in which both parts are about equally curved for every axis.
    ridge = 1.0 / (strength * n)
    scale = 1.0 / np.sqrt(_CURVATURE * np.mean(x**2, axis=0, dtype=np.float64) + ridge)
    rows = np.arange(n)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        u = flat.reshape(dim + 1, classes)
        w = u[:dim] * scale[:, None]
        # Products of all cells in single precision, which halves the time; everything else in double.
        log_share = log_softmax((x @ w.astype(np.float32)).astype(np.float64) + u[dim], axis=1)
        own = log_share[rows, label]
        value = -own.mean() if tau == 1.0 else np.expm1(np.minimum(-(1 - tau) * own, 300.0)).mean() / (1 - tau)
        pull = np.exp(log_share)
        pull[rows, label] -= 1.0
        if tau != 1.0:
            pull *= np.exp(np.minimum((tau - 1) * own, 300.0))[:, None]
        pull /= n
        slope = np.empty_like(u)
        slope[:dim] = scale[:, None] * ((x.T @ pull.astype(np.float32)).astype(np.float64) + ridge * w)
        slope[dim] = pull.sum(axis=0)
        return float(value + ridge * (w**2).sum() / 2), slope.ravel()

    start = np.concatenate([weight / scale[:, None], bias[None]]).ravel()
    done = minimize(
        objective, start, jac=True, method="L-BFGS-B", options={"maxiter": most, "ftol": 1e-7, "gtol": 1e-5}
    )
    u = np.asarray(done.x).reshape(dim + 1, classes)
    return u[:dim] * scale[:, None], u[dim]

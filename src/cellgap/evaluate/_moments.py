"""Metrics on means and variances of populations: pure functions on arrays of cells by features.

Throughout, `p` are predicted cells (n x d), `q` measured treated cells (m x d), `c` matched controls (k x d). What is
undefined is NaN, never 0 or 1.
"""

import numpy as np
from jaxtyping import Float

from cellgap.evaluate._clouds import Cells, clouds

# Below this share of the size of the values, a spread is rounding and a correlation with it means nothing.
_ROUNDING = 1e-12

Features = Float[np.ndarray, " features"]


def pearson(u: Features, v: Features) -> float:
    """Return the Pearson correlation of two vectors; NaN where one of them is constant."""
    u, v = np.asarray(u, np.float64), np.asarray(v, np.float64)
    du, dv = u - u.mean(), v - v.mean()
    nu, nv = float(np.linalg.norm(du)), float(np.linalg.norm(dv))
    if nu <= _ROUNDING * np.linalg.norm(u) or nv <= _ROUNDING * np.linalg.norm(v):
        return float("nan")
    return float(np.clip(du @ dv / (nu * nv), -1.0, 1.0))


def mean_effect(treated: Features, control: Features) -> Features:
    """Return the difference of two means, exactly 0 where it is nothing but rounding."""
    effect = treated - control
    size = max(float(np.linalg.norm(treated)), float(np.linalg.norm(control)))
    return effect if np.linalg.norm(effect) > _ROUNDING * size else np.zeros_like(effect)


def r2_mean(p: Cells, q: Cells) -> float:
    """Return the squared Pearson correlation, over features, of ``mean(p)`` and ``mean(q)``.

    Nearly 1 for untouched controls in gene space: never show it without `r2_delta`. Source: the "R2" of the CellOT and
    conditional Monge protocols (not the coefficient of determination, which other lines call by the same name).
    """
    p, q = clouds(p, q)
    return pearson(p.mean(0), q.mean(0)) ** 2


def r2_delta(p: Cells, q: Cells, c: Cells) -> float:
    """Return the squared Pearson correlation, over features, of ``mean(p) - mean(c)`` and ``mean(q) - mean(c)``.

    NaN where the predicted or the measured effect is zero. Both effects are taken against the same controls, whose
    sampling noise they share: small effects measured on few cells look correlated. The replicate shares it too, so read
    the scaled value.
    """
    return pearson_delta(p, q, c) ** 2


def pearson_delta(p: Cells, q: Cells, c: Cells) -> float:
    """Return the Pearson correlation of the predicted and the measured effect: `r2_delta` with its sign kept."""
    p, q, c = clouds(p, q, c)
    control = c.mean(0)
    return pearson(mean_effect(p.mean(0), control), mean_effect(q.mean(0), control))


def r2_var(p: Cells, q: Cells) -> float:
    """Return the squared Pearson correlation, over features, of the feature variances of `p` and `q`.

    NaN for a single cell.
    """
    p, q = clouds(p, q)
    if min(len(p), len(q)) < 2:
        return float("nan")
    return pearson(p.var(0, ddof=1), q.var(0, ddof=1)) ** 2


def drug_signature(p: Cells, q: Cells) -> float:
    """Return the Euclidean distance of the effect vectors, ``|(mean(p) - mean(c)) - (mean(q) - mean(c))|``.

    The controls cancel: it is the distance of the means. Known as perturbation signature, or PS.
    """
    p, q = clouds(p, q)
    return float(np.linalg.norm(p.mean(0) - q.mean(0)))


def variance_ratio(p: Cells, q: Cells) -> float:
    """Return the mean over features of predicted variance / measured variance.

    1 is right; below 1 the prediction is too narrow. Features that do not vary among the measured cells are left out;
    NaN where none is left, or for a single cell.
    A mean of ratios follows its rarest genes: look at `total_variance_ratio` beside it.
    """
    p, q = clouds(p, q)
    if min(len(p), len(q)) < 2:
        return float("nan")
    return mean_ratio(p.var(0, ddof=1), q.var(0, ddof=1), np.square(q).mean(0))


def total_variance_ratio(p: Cells, q: Cells) -> float:
    """Return the total predicted variance / the total measured variance, summed over features; NaN where undefined."""
    p, q = clouds(p, q)
    if min(len(p), len(q)) < 2:
        return float("nan")
    return total_ratio(p.var(0, ddof=1), q.var(0, ddof=1), np.square(q).mean(0))


def mean_ratio(predicted: Features, measured: Features, size: Features) -> float:
    """Return the mean of ``predicted / measured`` over features whose variance is more than rounding of their size."""
    varies = measured > _ROUNDING * size
    return float(np.mean(predicted[varies] / measured[varies])) if varies.any() else float("nan")


def total_ratio(predicted: Features, measured: Features, size: Features) -> float:
    """Return ``sum(predicted) / sum(measured)``; NaN where the measured variance is rounding of the size of values."""
    total = float(measured.sum())
    return float(predicted.sum()) / total if total > _ROUNDING * float(size.sum()) else float("nan")


def l2_uvp(predicted: Cells, true: Cells) -> float:
    """Return the unexplained variance of a map in percent: ``100 E|T(x) - T*(x)|^2 / Var(T*(x))``.

    Parameters
    ----------
    predicted, true
        Images of the same source cells, row by row, under the fitted and under the true map. The variance is the trace
        of the covariance of `true`.

    Source
    ------
    Korotin et al. 2021, "Wasserstein-2 generative networks", section 5.1.
    """
    predicted, true = clouds(predicted, true, names=("predicted", "true"))
    if predicted.shape != true.shape:
        from cellgap.errors import DataError

        raise DataError(
            f"L2-UVP compares the images of the same cells: found {len(predicted)} predicted and {len(true)} true rows."
        )
    spread = float(true.var(0).sum())
    if spread <= _ROUNDING * float(np.square(true).mean(0).sum()):
        return float("nan")
    return 100.0 * float(np.square(predicted - true).sum(1).mean()) / spread

"""The bound on the error in a target domain, and what of it can be seen with labels of source domains only."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from cellgap.errors import DataError


class AdaptivityBound(NamedTuple):
    """Both sides of the bound: ``error <= risk + gap``.

    Parameters
    ----------
    error
        Expected absolute error in the target.
    risk
        Reweighted risk in the sources.
    gap
        Adaptivity gap: how far the labelling of sources is from that of the target, on cells of the target.
    """

    error: float
    risk: float
    gap: float


class AccuracyDrop(NamedTuple):
    """Accuracy that is lost where a domain is not among the sources.

    Parameters
    ----------
    drop
        Of each domain: accuracy within less accuracy when left out; NaN where one of them has no cell.
    mean
        Over domains.
    se
        Standard error of the mean over domains; NaN with fewer than two.
    """

    drop: Float[np.ndarray, " domains"]
    mean: float
    se: float


def adaptivity_bound(
    prediction: Float[np.ndarray, " points"],
    target: Float[np.ndarray, " points"],
    target_label: Float[np.ndarray, " points"],
    sources: Float[np.ndarray, "domains points"],
    source_labels: Float[np.ndarray, "domains points"],
    weights: Float[np.ndarray, " domains"],
) -> AdaptivityBound:
    """Return both sides of the bound on a finite set of points.

    ``err_T(h) <= sum_i a_i { E_{P_i}[P_T/P_i |h - f_i|] + E_{P_T} |f_i - f_T| }``

    Parameters
    ----------
    prediction
        The hypothesis ``h`` at every point.
    target, target_label
        Probabilities ``P_T`` and labelling function ``f_T``.
    sources, source_labels
        ``P_i`` and ``f_i``.
    weights
        ``a_i``, not negative, with sum 1.

    Raises
    ------
    DataError
        A source with weight does not cover the target.

    Source
    ------
    Zhang et al. 2023 (arXiv 2208.08661) has a bound of this form; this one is by the triangle inequality and a change
    of measure.
    """
    used = weights > 0
    if np.any((sources[used] == 0) & (target > 0)):
        raise DataError("A source with weight has probability 0 where the target has cells, so the bound is infinite.")
    ratio = np.divide(target, sources, out=np.zeros_like(sources), where=sources > 0)
    risks = np.sum(sources * ratio * np.abs(prediction - source_labels), 1)
    gaps = np.sum(target * np.abs(source_labels - target_label), 1)
    error = np.sum(target * np.abs(prediction - target_label))
    return AdaptivityBound(float(error), float(weights[used] @ risks[used]), float(weights[used] @ gaps[used]))


def accuracy_drop(
    within: Bool[np.ndarray, " n"],
    within_domain: Int[np.ndarray, " n"],
    left_out: Bool[np.ndarray, " m"],
    left_out_domain: Int[np.ndarray, " m"],
    n_domains: int,
) -> AccuracyDrop:
    """Return how much accuracy falls where a domain is left out of training.

    The adaptivity gap itself needs labels of the target. Every source domain can play the target: its accuracy when it
    is left out, against that of its held-out cells when the rest of it is trained on. The difference holds the gap and
    whatever else changes with fewer cells and domains.

    Parameters
    ----------
    within, within_domain
        Whether a held-out cell of a training domain is classified correctly, and its domain, counted from 0.
    left_out, left_out_domain
        The same of cells whose domain was left out.
    n_domains
        Number of domains.

    Raises
    ------
    DataError
        No domain has cells of both kinds.
    """
    drop = _accuracies(within, within_domain, n_domains) - _accuracies(left_out, left_out_domain, n_domains)
    seen = drop[np.isfinite(drop)]
    if len(seen) == 0:
        raise DataError("No domain has both held-out cells and cells that were classified when it was left out.")
    se = float(seen.std(ddof=1) / np.sqrt(len(seen))) if len(seen) > 1 else float("nan")
    return AccuracyDrop(drop, float(seen.mean()), se)


def _accuracies(
    correct: Bool[np.ndarray, " n"], domain: Int[np.ndarray, " n"], n_domains: int
) -> Float[np.ndarray, " domains"]:
    count = np.bincount(domain, minlength=n_domains).astype(float)
    right = np.bincount(domain, correct.astype(float), minlength=n_domains)
    return np.divide(right, count, out=np.full(n_domains, np.nan), where=count > 0)

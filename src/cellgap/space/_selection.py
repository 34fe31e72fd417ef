"""Mean and variance of genes in one pass, and the choice of variable genes."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float

_BINS = 20


def mean_and_variance(
    blocks: Iterable[Any],
) -> tuple[Float[np.ndarray, " genes"], Float[np.ndarray, " genes"], int]:
    """Return mean, variance (divided by n - 1) and number of cells over blocks of cells, in float64.

    Chan's update of blockwise means and squared deviations, so that large means do not cancel.
    """
    n, mean, deviations = 0, np.zeros(0), np.zeros(0)
    for given in blocks:
        block: Any = given.astype(np.float64) if sp.issparse(given) else np.asarray(given, np.float64)
        m = block.shape[0]
        block_mean = np.asarray(block.mean(axis=0)).ravel()
        if sp.issparse(block):
            centered = block.copy()
            centered.data = (centered.data - block_mean[centered.indices]) ** 2
            zeros = m - block.getnnz(axis=0)
            block_deviations = np.asarray(centered.sum(axis=0)).ravel() + zeros * block_mean**2
        else:
            block_deviations = ((block - block_mean) ** 2).sum(axis=0)
        if n == 0:
            n, mean, deviations = m, block_mean, block_deviations
            continue
        step = block_mean - mean
        mean = mean + step * m / (n + m)
        deviations = deviations + block_deviations + step**2 * n * m / (n + m)
        n += m
    return mean, deviations / max(n - 1, 1), n


def normalized_dispersion(
    mean: Float[np.ndarray, " genes"], variance: Float[np.ndarray, " genes"]
) -> Float[np.ndarray, " genes"]:
    """Return how variable each gene is among genes of like mean; NaN for genes without counts or variance.

    The rule that the field calls "seurat": the logarithm of variance / mean of normalized counts (before the
    logarithm), as a z-score within 20 equal bins of ``log(1 + mean)``. A gene alone in its bin scores 1.

    Source
    ------
    Satija et al. 2015, as scanpy's ``highly_variable_genes(flavor="seurat")`` computes it.
    """
    safe = np.where(mean > 0, mean, 1e-12)
    ratio = variance / safe
    dispersion = pd.Series(np.log(np.where(ratio > 0, ratio, np.nan)))
    bins = pd.cut(pd.Series(np.log1p(safe)), bins=_BINS, labels=False)
    groups = dispersion.groupby(bins)
    center, spread = groups.transform("mean"), groups.transform("std")
    alone = spread.isna()
    spread = spread.where(~alone, center)
    center = center.where(~alone, 0.0)
    return ((dispersion - center) / spread).to_numpy(dtype=np.float64)


def most_variable(score: Float[np.ndarray, " genes"], n: int) -> np.ndarray:
    """Return the indices, increasing, of the `n` genes of highest score; ties go to the first gene, NaN comes last."""
    order = np.argsort(-np.where(np.isnan(score), -np.inf, score), kind="stable")
    return np.sort(order[:n])

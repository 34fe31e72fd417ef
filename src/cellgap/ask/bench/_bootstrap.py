"""Intervals of means over questions, by resampling the questions."""

import numpy as np
from jaxtyping import Float

RESAMPLES = 2_000
SEED = 0


def intervals(values: Float[np.ndarray, "questions metrics"]) -> Float[np.ndarray, "metrics 2"]:
    """Return the 2.5 and 97.5 % points of the mean of each column over resampled questions.

    All columns are resampled alike, 2,000 times with seed 0: differences of two systems that answered the same
    questions are paired when they are given as one column. A question without a value (NaN) counts for nothing.
    """
    n, n_metrics = values.shape
    if n == 0:
        return np.full((n_metrics, 2), np.nan)
    drawn = np.random.default_rng(SEED).integers(n, size=(RESAMPLES, n))
    weights = np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(float)
    known = np.isfinite(values)
    total, count = weights @ np.where(known, values, 0.0), weights @ known.astype(float)
    low_high = np.full((n_metrics, 2), np.nan)
    for column in range(n_metrics):
        filled = count[:, column] > 0
        if filled.any():
            means = total[filled, column] / count[filled, column]
            low_high[column] = np.percentile(means, (2.5, 97.5))
    return low_high

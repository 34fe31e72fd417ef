"""The scale on which every metric is shown: 0 = mean effect, 1 = a repeat of the experiment."""

import numpy as np

from cellgap.evaluate._catalog import METRICS

_LEAST_RATIO = 1e-3


def scale(value: float, zero: float, one: float) -> float:
    """Return ``(value - zero) / (one - zero)``, not clipped.

    Parameters
    ----------
    value
        Metric of a prediction.
    zero
        Metric of the baseline: the mean effect of the training conditions.
    one
        Metric of the replicate.

    Returns
    -------
    float
        0: no better than the baseline; 1: as good as repeating the experiment. NaN where the two anchors are equal.
    """
    return (value - zero) / (one - zero) if one != zero else float("nan")


def merit(values: object, name: str) -> np.ndarray:
    """Return the values of a metric turned so that higher is better; NaN stays NaN.

    As they are; negated where lower is better; ``-|log|`` where 1 is best (a ratio below 1/1000 counts as 1/1000).
    Scaling and comparing happen on this.

    Parameters
    ----------
    values
        Values of the metric.
    name
        Its name.
    """
    array = np.asarray(values, np.float64)
    better = METRICS[name].better
    if better == "higher":
        return array
    if better == "lower":
        return -array
    return -np.abs(np.log(np.maximum(array, _LEAST_RATIO)))

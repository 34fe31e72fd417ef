"""Why a cell has its label, or none, in one sentence."""

import numpy as np
from jaxtyping import Float

from cellgap.annotate._unseen import Thresholds

_CLOSE = 0.1


def reasons(
    best: np.ndarray,
    first: Float[np.ndarray, " cells"],
    second: np.ndarray,
    runner_up: Float[np.ndarray, " cells"],
    distance: Float[np.ndarray, " cells"],
    thresholds: Thresholds,
) -> np.ndarray:
    """Return a sentence for every cell; few different ones, so that they can be counted.

    Parameters
    ----------
    best, first
        Most probable class and its probability.
    second, runner_up
        The next one.
    distance
        To the nearest class.
    thresholds
        What is too far, and too unsure.
    """
    far, unsure = distance > thresholds.distance, first < thresholds.probability
    torn = runner_up >= _CLOSE
    between = best + " or " + second
    out = np.full(len(best), "clear", dtype=object)
    out[torn] = "most probable, but " + between[torn]
    out[unsure] = "unassigned: unsure, " + between[unsure]
    out[far] = "unassigned: far from all types, nearest " + best[far]
    both = far & unsure
    out[both] = "unassigned: far from all types, and unsure: " + between[both]
    return out

"""How often to look again, when looking costs privacy and waiting costs accuracy."""

from collections.abc import Callable


def best_interval(steps: int, growth: float, noise: Callable[[int], float]) -> int:
    """Return the r for which ``(r - 1) growth + noise(releases)`` is least, with ``releases = floor(steps / r)``.

    A statistic is computed at the steps r, 2 r, ... and repeated in between, where it lags by at most r - 1 steps.

    Parameters
    ----------
    steps
        The horizon T.
    growth
        By how much the truth may move in a step.
    noise
        Error of a release when there are so many; public numbers only.
    """
    best, least = 1, float("inf")
    r = 1
    while r <= steps:
        # Among intervals with the same number of releases the shortest is best.
        releases = steps // r
        error = (r - 1) * growth + noise(releases) if r > 1 else noise(releases)
        if error < least:
            best, least = r, error
        r = steps // releases + 1
    return best


def interval_in_words(every: int, steps: int) -> str:
    """Return how often something is computed, for a line of text."""
    return f"at each of {steps} steps" if every == 1 else f"every {every} steps of {steps}"

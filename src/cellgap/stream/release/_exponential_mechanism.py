"""Drawing an index whose probability grows exponentially with its score, exactly."""

from fractions import Fraction

import numpy as np

from cellgap.stream.release._exact_exponential import BAND, bernoulli_exp, uniform_below
from cellgap.stream.release._randomness import AbstractRandomness


def exponential_mechanism(
    scores: np.ndarray, rate: Fraction, randomness: AbstractRandomness, band: float = BAND
) -> int:
    """Return an index j with ``P(j)`` proportional to ``exp(rate * scores[j])``, exactly.

    An index is drawn uniformly and accepted with probability ``exp(-rate (max - scores[j]))``, until one is; at most as
    many tries as there are scores are expected.

    Parameters
    ----------
    scores
        Integers (int64 below 2^62 in size, or Python integers), (d,).
    rate
        ``epsilon / (2 sensitivity)``; ``epsilon / sensitivity`` where a donor moves all scores the same way.
    randomness
        Source of uniform integers.
    band
        See `bernoulli_exp`.

    Source
    ------
    McSherry & Talwar 2007; the draw by rejection is ours.
    """
    gaps = scores.max() - scores
    slope = float(rate)
    tries = int(min(max(64, len(scores)), 65536))
    while True:
        tried = uniform_below(len(scores), tries, randomness)
        gap = gaps[tried]

        def exact(i: int, gap: np.ndarray = gap) -> Fraction:
            return rate * int(gap[i])

        # Rate, gap and product are rounded once each: relative error below 2^-51.
        accepted = np.flatnonzero(bernoulli_exp(slope * gap.astype(np.float64), exact, randomness, band))
        if len(accepted):
            return int(tried[accepted[0]])

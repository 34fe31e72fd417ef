"""The number of donors beside a sum, and the means that follow from the two."""

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float

from cellgap.stream.release._interface import Estimate, Integers


@final
@dataclass(frozen=True)
class Counted:
    """A constant coordinate that is appended to every contribution, if it is.

    Parameters
    ----------
    weight
        What a donor adds to it, in lattice units; 0 where there is none.
    """

    weight: int

    @classmethod
    def beside(cls, bound: int, parts: int) -> "Counted":
        """Return a coordinate of weight ``bound / parts``, at least 1.

        A mean S / N suffers from the noise of both. For a vector that spends its norm C evenly over m features the
        variance of a mean is in proportion to ``(C^2 + w^2) (1 + C^2 / (m w^2))`` at weight w, which is least at
        ``C / m^(1/4)``; for sums of sizes (pure differential privacy) at ``C / m^(1/2)``.
        """
        return cls(max(1, bound // parts))

    @property
    def present(self) -> bool:
        """Whether there is one."""
        return self.weight > 0

    def weighted(self, total: Integers) -> Integers:
        """Return the sum of a step, whose last coordinate is the number of donors, in lattice units."""
        if self.present:
            total = total.copy()
            total[-1] *= self.weight
        return total


def sum_estimate(sums: Float[np.ndarray, " width"], sd: float, counted: Counted, step: float, bound: float) -> Estimate:
    """Return noisy sums in the unit of the contributions; with a count also donors and means.

    Parameters
    ----------
    sums
        In lattice units, the number of donors (times its weight) last if it is counted.
    sd
        Standard deviation of each, in lattice units.
    counted
        The constant coordinate.
    step
        Lattice step.
    bound
        By how much the sums of all steps and features may be off at 95 %, unit of the contributions.

    Returns
    -------
    Estimate
        With a count, `extra` holds `donors` and `donors_sd`, (1,), and `means`, `means_low` and `means_high`,
        (features,): bounds for the means of all steps and features together, at 95 %. They are Fieller's (1954): all mu
        with ``|S - mu N| <= z sqrt(sd_S^2 + mu^2 sd_N^2)``, z being `bound` over `sd`; infinite where N may be 0. Means
        are nan where the noisy number of donors is not above 0.
    """
    width = len(sums) - counted.present
    values = sums[:width] * step
    spread = np.full(width, sd * step)
    if not counted.present:
        return Estimate(values, spread)
    donors, donors_sd = float(sums[-1]) / counted.weight, sd / counted.weight
    means, low, high = np.full(width, math.nan), np.full(width, -math.inf), np.full(width, math.inf)
    if donors > 0.0:
        means = values / donors
    margin_s, margin_n = bound, bound / step / counted.weight
    a = donors**2 - margin_n**2
    if donors > 0.0 and a > 0.0:
        b = values * donors
        root = np.sqrt(np.maximum(donors**2 * margin_s**2 + values**2 * margin_n**2 - (margin_s * margin_n) ** 2, 0.0))
        low, high = (b - root) / a, (b + root) / a
    extra = {
        "donors": np.array([donors]),
        "donors_sd": np.array([donors_sd]),
        "means": means,
        "means_low": low,
        "means_high": high,
    }
    return Estimate(values, spread, extra)

"""From the disagreement of models to the error of a prediction: a bound that held on conditions nobody trained on."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float

from cellgap.errors import ConfigError
from cellgap.storage import storable


class Uncertainty(NamedTuple):
    """How far a predicted mean effect may be off, in the unit of the space.

    Parameters
    ----------
    effect
        Length of the predicted mean effect.
    spread
        Root mean squared distance of the members' mean effects from their mean.
    error
        Bound of the distance between predicted and measured mean effect; NaN where nothing calibrates it.
    coverage
        Share of unseen conditions for which the bound is meant to hold.
    extrapolates
        Why the answer extrapolates; empty where it does not.
    """

    effect: float
    spread: float
    error: float
    coverage: float
    extrapolates: tuple[str, ...]

    @property
    def relative(self) -> float:
        """Bound of the error as a share of the predicted effect: above 1 not even the direction is known."""
        return self.error / self.effect if self.effect > 0 else math.inf


@storable
class Calibration(eqx.Module):
    """Errors and spreads on conditions that the members had not seen, and the bound that they give.

    The bound is ``q (spread + s)``, with `s` the median spread of these conditions (so that members that agree by
    chance promise nothing) and `q` the conformal quantile of ``error / (spread + s)``.

    Parameters
    ----------
    conditions
        The conditions, as text.
    spread, error
        Spread of the members that had not seen the condition, and distance of their mean effect from the measured one.
    coverage
        Wanted share of conditions within the bound.
    held_out
        What the conditions are: "validation conditions", or "training conditions left out of the members".

    Source
    ------
    Split conformal prediction with a normalized score (Lei et al. 2018, section 5.2). Its guarantee is for
    exchangeable conditions: doses of one treatment are not, and conditions far from all trained ones are not.
    """

    conditions: tuple[str, ...] = eqx.field(static=True)
    spread: Float[np.ndarray, " k"]
    error: Float[np.ndarray, " k"]
    coverage: float = eqx.field(static=True)
    held_out: str = eqx.field(static=True)

    @property
    def offset(self) -> float:
        """Median spread."""
        return float(np.median(self.spread))

    @property
    def scores(self) -> Float[np.ndarray, " k"]:
        """Error in units of spread plus offset."""
        return np.asarray(self.error) / np.maximum(np.asarray(self.spread) + self.offset, 1e-12)

    @property
    def quantile(self) -> float:
        """The ``ceil((k + 1) coverage)``-th smallest score; the largest where there are too few conditions for that."""
        k = len(self.scores)
        rank = min(math.ceil((k + 1) * self.coverage), k)
        return float(np.sort(self.scores)[rank - 1])

    @property
    def attained(self) -> float:
        """Coverage that so few conditions can promise: at most ``k / (k + 1)``."""
        return min(self.coverage, len(self.scores) / (len(self.scores) + 1))

    def bound(self, spread: float) -> float:
        """Return the bound of the error for members with this spread."""
        return self.quantile * (spread + self.offset)

    def rank_correlation(self) -> float:
        """Return Spearman's correlation of spread and error: whether the spread tells good answers from bad ones."""
        from scipy.stats import spearmanr

        if len(self.error) < 3 or np.ptp(self.spread) == 0 or np.ptp(self.error) == 0:
            return float("nan")
        found: Any = spearmanr(self.spread, self.error)
        return float(found.statistic)


def spread_of(effects: Float[np.ndarray, "members d"]) -> float:
    """Return the root mean squared distance of mean effects from their mean, with ``members - 1`` degrees of freedom.

    Raises
    ------
    ConfigError
        There are fewer than two members.
    """
    if len(effects) < 2:
        raise ConfigError(f"a spread needs at least two members, found {len(effects)}.")
    deviation = effects - effects.mean(0)
    return float(np.sqrt((deviation**2).sum() / (len(effects) - 1)))

"""Running quantiles: a histogram over public bins that grows, summed along time and along bins at once."""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, final

import numpy as np
from jaxtyping import Float
from scipy.optimize import isotonic_regression

from cellgap.errors import ConfigError
from cellgap.stream.release import _factor
from cellgap.stream.release._bounds import DonorBounds
from cellgap.stream.release._declaration import (
    check_horizon,
    declared_bounds,
    declared_features,
    declared_loss,
    declared_steps,
    integers_up_to,
    l1_bound,
    loss_in_words,
    most_donors,
    written,
)
from cellgap.stream.release._interface import AbstractMechanism, Estimate, Integers, State
from cellgap.stream.release._noise import Backend
from cellgap.stream.release._noise_scale import gaussian_for
from cellgap.stream.release._randomness import AbstractRandomness

BETA = 0.05
"""One less the level of the intervals, which hold for all steps and bins together."""


@final
class KroneckerQuantile(AbstractMechanism):
    """Quantiles of the values of all donors so far, from noisy numbers of donors below each edge of a bin.

    ``N[t, v]``, the weight of donors up to step t in bins up to v, is a prefix sum in both directions. Step t publishes
    ``sum_(s <= t) f_T(t - s) (R_B x_s) + z_t``, where R_B is the integer square root of summation over bins, and N
    follows by the inverse series in both directions.

    Parameters
    ----------
    name, steps, bounds, rho
        See `AbstractMechanism`. A donor contributes a histogram, whose sum ``bounds.l1`` bounds.
    features
        Names of the bins, in order.
    edges
        Edges of the bins, one more than there are bins, increasing.
    quantiles
        Which, between 0 and 1.
    noise
        Who draws the noise, see `discrete_gaussian`.

    Raises
    ------
    UnboundedContribution
        Bins, steps or the bound of a histogram's sum are missing.
    ConfigError
        Edges do not increase or do not fit the bins, a quantile is not between 0 and 1, or rho is not positive.
    """

    kind = "kronecker_quantile"
    small_state = False

    def __init__(
        self,
        *,
        name: str,
        features: Sequence[str],
        edges: Sequence[float | int] | np.ndarray,
        steps: int,
        bounds: DonorBounds,
        rho: Fraction,
        quantiles: Sequence[float] | np.ndarray = (0.5,),
        noise: Backend = "auto",
    ) -> None:
        self.name = name
        self.features = declared_features(name, features)
        self.steps = declared_steps(name, steps)
        self.bounds = declared_bounds(name, bounds)
        self.rho = declared_loss(name, rho, None)
        self.edges = tuple(float(edge) for edge in edges)
        self.quantiles = tuple(float(level) for level in quantiles)
        bins = len(self.features)
        increasing = all(low < high for low, high in itertools.pairwise(self.edges))
        if len(self.edges) != bins + 1 or not increasing:
            raise ConfigError(f"The statistic {name!r} has {bins} bins: give {bins + 1} edges that increase.")
        if not self.quantiles or not all(0.0 < level < 1.0 for level in self.quantiles):
            raise ConfigError(f"The statistic {name!r} needs quantiles between 0 and 1 (both excluded).")
        k1 = l1_bound(name, bounds)
        self._time = _factor.integer_coefficients(steps)
        self._bins = _factor.integer_coefficients(bins)
        moved = _factor.kronecker_norm(self._time, self._bins, bounds.max_steps, bounds.min_separation)
        self.noise = gaussian_for(k1 * k1 * moved, self.rho, noise)
        self._time_inverse = _factor.inverse_series(self._time)
        self._bins_inverse = _factor.inverse_series(self._bins)
        self._time_variances = _factor.prefix_variances(self._time_inverse)
        self._bins_variances = _factor.prefix_variances(self._bins_inverse)
        most = most_donors(bounds) * k1 * int(self._time.sum()) * int(self._bins[0])
        self._type = integers_up_to(most + self.noise.reach)

    def public(self) -> dict[str, Any]:
        """Return the configuration as JSON-able values; `mechanism_of` builds the mechanism again."""
        return {
            **written(self.kind, self.name, self.features, self.steps, self.bounds),
            "rho": str(self.rho),
            "edges": list(self.edges),
            "quantiles": list(self.quantiles),
            "noise": self.noise.backend,
        }

    def start(self) -> State:
        """Return the state before the first step: no histograms."""
        return ()

    def absorb(self, state: State, t: int, total: Integers) -> State:
        """Return the state after step `t`: the histograms of all steps."""
        return (*state, total.astype(self._type))

    def draw(self, state: State, t: int, drawn: Sequence[Integers], randomness: AbstractRandomness) -> Integers:
        """Return the noisy mixture of the histograms, (bins,)."""
        check_horizon(self.name, t, self.steps)
        over_time = np.zeros(self.width, self._type)
        for total, coef in zip(state, reversed(self._time[:t].tolist()), strict=True):
            over_time += coef * total
        mixed = self.noise.draw(self.width, randomness).astype(self._type)
        for shift, coef in enumerate(self._bins.tolist()):
            mixed[shift:] += coef * over_time[: self.width - shift]
        return mixed

    def estimate(self, drawn: Sequence[Integers]) -> Estimate:
        """Return for each quantile the upper edge of the first bin that reaches it, (quantiles,).

        `extra` holds `cumulated`, the weight of donors up to each bin (made monotone), (bins,), and `low` and `high`,
        the edges between which the quantiles lie, at all steps together with 95 %; `high` is infinite where the last
        bin may not reach the quantile.
        """
        cumulated = self.cumulated(drawn)
        # The nearest monotone sequence; no farther from the truth, in the largest error, than the noisy one.
        monotone = np.asarray(isotonic_regression(np.maximum(cumulated, 0.0)).x)
        margin = self.bound(len(drawn), BETA) if len(drawn) else 0.0
        upper = np.array([*self.edges[1:], math.inf])
        last = len(self.features) - 1
        values, low, high = [], [], []
        for level in self.quantiles:
            goal = level * monotone[-1]
            values.append(upper[min(np.searchsorted(monotone, goal), last)])
            at = min(np.searchsorted(monotone, goal - (1.0 + level) * margin), last)
            low.append(self.edges[at])
            high.append(upper[np.searchsorted(monotone, goal + (1.0 + level) * margin)])
        extra = {"cumulated": monotone, "low": np.array(low), "high": np.array(high)}
        return Estimate(np.array(values), np.full(len(values), np.nan), extra)

    def cumulated(self, drawn: Sequence[Integers]) -> Float[np.ndarray, " bins"]:
        """Return the noisy weights of donors up to each bin, (bins,), without any repair."""
        mixed = np.zeros(self.width)
        for y, coef in zip(drawn, reversed(self._time_inverse[: len(drawn)].tolist()), strict=True):
            mixed += coef * y.astype(np.float64)
        return np.convolve(mixed, self._bins_inverse)[: self.width] * float(self.bounds.step)

    def cumulated_sd(self, t: int) -> Float[np.ndarray, " bins"]:
        """Return the standard deviations of `cumulated` at step `t`, (bins,)."""
        return float(self.bounds.step) * self.noise.sd * np.sqrt(self._time_variances[t - 1] * self._bins_variances)

    def bound(self, t: int, beta: float) -> float:
        """Return by how much the weights of donors may be off at step `t`, simultaneously for all steps and bins."""
        return _factor.simultaneous(float(self.cumulated_sd(t)[-1]), self.steps * len(self.features), beta)

    def describe(self) -> str:
        """Return in one line what the mechanism does."""
        return (
            f"{self.name}: running quantiles over {len(self.features)} bins by the factorized mechanism, "
            f"{self.steps} steps, {self.noise.in_words()}, {loss_in_words(self.rho, None)}"
        )

"""Running sums (and the number and means of donors) from noisy integers: the factorized mechanism and the tree."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, final

import numpy as np

from cellgap.stream.release import _factor, _tree
from cellgap.stream.release._bounds import DonorBounds
from cellgap.stream.release._counted import Counted, sum_estimate
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
    written_loss,
)
from cellgap.stream.release._interface import AbstractMechanism, Estimate, Integers, State
from cellgap.stream.release._noise import Backend
from cellgap.stream.release._noise_scale import gaussian_for, laplace_for
from cellgap.stream.release._randomness import AbstractRandomness

BETA = 0.05
"""One less the level of the bounds of means."""
LONGEST_FACTOR = 4096
"""Horizon up to which the factorized mechanism is chosen: it keeps the sums of all steps."""


@final
class FactorSum(AbstractMechanism):
    """Prefix sums by the integer square root of summation.

    Step t publishes ``y_t = sum_(s <= t) f(t - s) x_s + z_t`` with integer coefficients f near ``2^10 (1 - x)^(-1/2)``,
    and the prefix is ``sum_(s <= t) g(t - s) y_s`` with ``g = 1 / ((1 - x) f(x))``.

    Parameters
    ----------
    name, features, steps, bounds, rho
        See `AbstractMechanism`.
    count
        Whether the number of donors is released too. A donor then contributes a further coordinate, 1, which is
        weighted as `Counted` says; estimates have the donors and means.
    noise
        Who draws the noise, see `discrete_gaussian`.

    Raises
    ------
    UnboundedContribution
        Features or steps are missing.
    ConfigError
        A feature is named twice, or rho is not positive.
    """

    kind = "factor_sum"
    small_state = False

    def __init__(
        self,
        *,
        name: str,
        features: Sequence[str],
        steps: int,
        bounds: DonorBounds,
        rho: Fraction,
        count: bool = False,
        noise: Backend = "auto",
    ) -> None:
        self.name = name
        self.features = declared_features(name, features)
        self.steps = declared_steps(name, steps)
        self.bounds = declared_bounds(name, bounds)
        self.rho = declared_loss(name, rho, None)
        self.counted = Counted.beside(bounds.k2, round(len(self.features) ** 0.25)) if count else Counted(0)
        coefs = _factor.integer_coefficients(steps)
        squared = bounds.k2**2 + self.counted.weight**2
        moved = _factor.participation_norm(coefs, steps, bounds.max_steps, bounds.min_separation)
        self.noise = gaussian_for(squared * moved, self.rho, noise)
        self._coefs = coefs
        self._inverse = _factor.inverse_series(coefs)
        self._variances = _factor.prefix_variances(self._inverse)
        most = most_donors(bounds) * max(bounds.kinf, self.counted.weight) * int(coefs.sum())
        self._type = integers_up_to(most + self.noise.reach)

    @property
    def width(self) -> int:
        """Length of the integer vector that a donor contributes: with `count`, the last coordinate is 1."""
        return len(self.features) + self.counted.present

    def public(self) -> dict[str, Any]:
        """Return the configuration as JSON-able values; `mechanism_of` builds the mechanism again."""
        return {
            **written(self.kind, self.name, self.features, self.steps, self.bounds),
            "rho": str(self.rho),
            "count": self.counted.present,
            "noise": self.noise.backend,
        }

    def start(self) -> State:
        """Return the state before the first step: no sums."""
        return ()

    def absorb(self, state: State, t: int, total: Integers) -> State:
        """Return the state after step `t`: the sums of all steps."""
        return (*state, self.counted.weighted(total.astype(self._type)))

    def draw(self, state: State, t: int, drawn: Sequence[Integers], randomness: AbstractRandomness) -> Integers:
        """Return ``y_t``, (width,)."""
        check_horizon(self.name, t, self.steps)
        mixed = self.noise.draw(self.width, randomness).astype(self._type)
        for total, coef in zip(state, reversed(self._coefs[:t].tolist()), strict=True):
            mixed += coef * total
        return mixed

    def estimate(self, drawn: Sequence[Integers]) -> Estimate:
        """Return the sums of the steps so far."""
        t = len(drawn)
        sums = np.zeros(self.width)
        for y, coef in zip(drawn, reversed(self._inverse[:t].tolist()), strict=True):
            sums += coef * y.astype(np.float64)
        return sum_estimate(sums, self._sd(t), self.counted, float(self.bounds.step), self.bound(t, BETA) if t else 0.0)

    def bound(self, t: int, beta: float) -> float:
        """Return by how much the sums may be off at step `t`, simultaneously for all steps and features."""
        return float(self.bounds.step) * _factor.simultaneous(self._sd(t), self.steps * len(self.features), beta)

    def describe(self) -> str:
        """Return in one line what the mechanism does."""
        return (
            f"{self.name}: running sum of {len(self.features)} features by the factorized mechanism, "
            f"{self.steps} steps, {self.noise.in_words()}, {loss_in_words(self.rho, None)}"
        )

    def _sd(self, t: int) -> float:
        return self.noise.sd * math.sqrt(self._variances[t - 1]) if t else 0.0


@final
class TreeSum(AbstractMechanism):
    """Prefix sums from noisy sums over dyadic intervals, refined by one another.

    Step t publishes the nodes that close at it, from the leaf up. For `rho` the noise of a node is Gaussian, for
    `epsilon` (pure differential privacy) it is Laplace.

    Parameters
    ----------
    name, features, steps, bounds
        See `AbstractMechanism`.
    rho, epsilon
        What the horizon costs, one of the two; epsilon needs ``bounds.l1`` and is charged as ``epsilon^2 / 2``.
    count, noise
        As for `FactorSum`.

    Raises
    ------
    UnboundedContribution
        Features or steps are missing, or a bound of the sum of sizes for epsilon.
    ConfigError
        A feature is named twice, or not one of rho and epsilon is given and positive.
    """

    kind = "tree_sum"
    small_state = True

    def __init__(
        self,
        *,
        name: str,
        features: Sequence[str],
        steps: int,
        bounds: DonorBounds,
        rho: Fraction | None = None,
        epsilon: Fraction | None = None,
        count: bool = False,
        noise: Backend = "auto",
    ) -> None:
        self.name = name
        self.features = declared_features(name, features)
        self.steps = declared_steps(name, steps)
        self.bounds = declared_bounds(name, bounds)
        self.rho = declared_loss(name, rho, epsilon)
        self.epsilon = epsilon
        self.levels = _tree.levels(steps)
        if epsilon is None:
            self.counted = Counted.beside(bounds.k2, round(len(self.features) ** 0.25)) if count else Counted(0)
            moved = _tree.squared_sensitivity(steps, bounds.max_steps, bounds.min_separation)
            self.noise = gaussian_for((bounds.k2**2 + self.counted.weight**2) * moved, self.rho, noise)
        else:
            k1 = l1_bound(name, bounds)
            self.counted = Counted.beside(k1, round(math.sqrt(len(self.features)))) if count else Counted(0)
            entered = min(bounds.max_steps, -(-steps // bounds.min_separation))
            self.noise = laplace_for((k1 + self.counted.weight) * entered * self.levels, epsilon, noise)
        most = most_donors(bounds) * max(bounds.kinf, self.counted.weight) * steps
        self._type = integers_up_to(most + self.noise.reach)

    @property
    def width(self) -> int:
        """Length of the integer vector that a donor contributes: with `count`, the last coordinate is 1."""
        return len(self.features) + self.counted.present

    def public(self) -> dict[str, Any]:
        """Return the configuration as JSON-able values; `mechanism_of` builds the mechanism again."""
        return {
            **written(self.kind, self.name, self.features, self.steps, self.bounds),
            **written_loss(self.rho, self.epsilon),
            "count": self.counted.present,
            "noise": self.noise.backend,
        }

    def start(self) -> State:
        """Return the state before the first step: an empty node a level."""
        return (np.zeros((self.levels, self.width), self._type),)

    def absorb(self, state: State, t: int, total: Integers) -> State:
        """Return the state after step `t`: the sums of the nodes that hold it."""
        return (_tree.absorb(state[0], t, self.counted.weighted(total.astype(self._type))),)

    def draw(self, state: State, t: int, drawn: Sequence[Integers], randomness: AbstractRandomness) -> Integers:
        """Return the noisy nodes that close at step `t`, one after the other, from the leaf up."""
        check_horizon(self.name, t, self.steps)
        closed = state[0][: _tree.closing(t)].ravel()
        return closed + self.noise.draw(len(closed), randomness).astype(self._type)

    def estimate(self, drawn: Sequence[Integers]) -> Estimate:
        """Return the sums of the steps so far."""
        refinement = _tree.Refinement()
        for nodes in drawn:
            refinement.add(nodes.reshape(-1, self.width))
        sums = refinement.prefix() if len(drawn) else np.zeros(self.width)
        sd = self.noise.sd * math.sqrt(_tree.prefix_variance(len(drawn)))
        return sum_estimate(
            sums, sd, self.counted, float(self.bounds.step), self.bound(len(drawn), BETA) if len(drawn) else 0.0
        )

    def bound(self, t: int, beta: float) -> float:
        """Return by how much the sums may be off at step `t`, simultaneously for all steps and features."""
        count = self.steps * len(self.features)
        variance = _tree.prefix_variance(t)
        if self.noise.scale is None:
            units = _factor.simultaneous(self.noise.sd * math.sqrt(variance), count, beta)
        else:
            # Weights of the refined sum: their squares add up to its variance.
            units = _tree.laplace_bound(float(self.noise.scale), variance, count, beta)
        return float(self.bounds.step) * units

    def describe(self) -> str:
        """Return in one line what the mechanism does."""
        return (
            f"{self.name}: running sum of {len(self.features)} features by a tree of {self.levels} levels, "
            f"{self.steps} steps, {self.noise.in_words()} a node, {loss_in_words(self.rho, self.epsilon)}"
        )


def choose_sum(
    *,
    name: str,
    features: Sequence[str],
    steps: int,
    bounds: DonorBounds,
    rho: Fraction | None = None,
    epsilon: Fraction | None = None,
    count: bool = False,
    noise: Backend = "auto",
) -> FactorSum | TreeSum:
    """Return the running sum that public numbers recommend.

    The factorized mechanism errs least, and needs the sums of all steps: it is taken up to 4,096 steps. The tree is
    taken above, and for pure differential privacy.
    """
    if rho is not None and epsilon is None and steps <= LONGEST_FACTOR:
        return FactorSum(name=name, features=features, steps=steps, bounds=bounds, rho=rho, count=count, noise=noise)
    return TreeSum(
        name=name, features=features, steps=steps, bounds=bounds, rho=rho, epsilon=epsilon, count=count, noise=noise
    )

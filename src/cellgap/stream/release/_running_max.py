"""The largest of many running sums: looked up every few steps, read off noisy sums, or not looked at at all."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, final

import numpy as np

from cellgap.errors import ConfigError, UnboundedContribution
from cellgap.stream.release import _factor, _tree
from cellgap.stream.release._bounds import DonorBounds
from cellgap.stream.release._declaration import (
    check_horizon,
    declared_bounds,
    declared_features,
    declared_loss,
    declared_steps,
    growth,
    integers_up_to,
    loss_in_words,
    most_donors,
    written,
    written_loss,
)
from cellgap.stream.release._interface import AbstractMechanism, Estimate, Integers, State
from cellgap.stream.release._noise import Backend
from cellgap.stream.release._noise_scale import Noise, gaussian_for, laplace_for
from cellgap.stream.release._randomness import AbstractRandomness
from cellgap.stream.release._running_sum import FactorSum, TreeSum, choose_sum
from cellgap.stream.release._schedule import best_interval, interval_in_words

BETA = 0.05
"""Probability at which mechanisms are compared before the stream."""


@final
class RecomputedMax(AbstractMechanism):
    """The largest sum, computed at every r-th step with noise and repeated in between; 0 before the first.

    There are ``K = floor(T / r)`` releases, each of sensitivity ``k kinf``: a donor moves every sum, and so the
    largest, by at most that. The error is at most ``(r - 1) growth`` plus the noise.

    Parameters
    ----------
    name, features, steps, bounds
        See `AbstractMechanism`.
    rho, epsilon
        What the horizon costs, one of the two; Gaussian noise for rho, Laplace noise for epsilon.
    every
        The r; by default the one of the least bound, for which ``bounds.max_donors`` is needed.
    noise
        Who draws the noise, see `discrete_gaussian`.

    Raises
    ------
    UnboundedContribution
        Features or steps are missing, or donors a step where `every` is to be chosen.
    ConfigError
        A feature is named twice, `every` is not from 1 to `steps`, or not one of rho and epsilon is given.
    """

    kind = "recomputed_max"
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
        every: int | None = None,
        noise: Backend = "auto",
    ) -> None:
        self.name = name
        self.features = declared_features(name, features)
        self.steps = declared_steps(name, steps)
        self.bounds = declared_bounds(name, bounds)
        self.rho = declared_loss(name, rho, epsilon)
        self.epsilon = epsilon
        self._backend: Backend = noise
        self._growth = growth(bounds)
        if every is None:
            if math.isinf(self._growth):
                raise UnboundedContribution(
                    f"The statistic {name!r} needs DonorBounds(max_donors=...), or every=: how often to look."
                )
            every = best_interval(steps, self._growth, lambda k: self._margin(self._noise_of(k), k, BETA))
        if not 1 <= every <= steps:
            raise ConfigError(f"The statistic {name!r} looks every {every} steps: choose 1 to {steps}.")
        self.every = every
        self.releases = steps // every
        self.noise = self._noise_of(self.releases)
        self._type = integers_up_to(most_donors(bounds) * steps * bounds.kinf + self.noise.reach)

    def public(self) -> dict[str, Any]:
        """Return the configuration as JSON-able values; `mechanism_of` builds the mechanism again."""
        return {
            **written(self.kind, self.name, self.features, self.steps, self.bounds),
            **written_loss(self.rho, self.epsilon),
            "every": self.every,
            "noise": self.noise.backend,
        }

    def start(self) -> State:
        """Return the state before the first step: sums of 0."""
        return (np.zeros(self.width, self._type),)

    def absorb(self, state: State, t: int, total: Integers) -> State:
        """Return the state after step `t`: the running sums."""
        return (state[0] + total.astype(self._type),)

    def draw(self, state: State, t: int, drawn: Sequence[Integers], randomness: AbstractRandomness) -> Integers:
        """Return the noisy largest sum, (1,), at every r-th step, and nothing, (0,), at others."""
        check_horizon(self.name, t, self.steps)
        if t % self.every:
            return np.zeros(0, self._type)
        return state[0].max(keepdims=True) + self.noise.draw(1, randomness).astype(self._type)

    def estimate(self, drawn: Sequence[Integers]) -> Estimate:
        """Return the last largest sum, (1,)."""
        last = len(drawn) - len(drawn) % self.every
        if last == 0:
            return Estimate(np.zeros(1), np.zeros(1))
        step = float(self.bounds.step)
        return Estimate(drawn[last - 1].astype(np.float64) * step, np.array([self.noise.sd * step]))

    def bound(self, t: int, beta: float) -> float:
        """Return by how much the largest sum may be off, simultaneously for all steps."""
        waiting = (self.every - 1) * self._growth if self.every > 1 else 0.0
        return waiting + self._margin(self.noise, self.releases, beta)

    def describe(self) -> str:
        """Return in one line what the mechanism does."""
        return (
            f"{self.name}: largest running sum of {len(self.features)} features, computed "
            f"{interval_in_words(self.every, self.steps)}, {self.noise.in_words()}, "
            f"{loss_in_words(self.rho, self.epsilon)}"
        )

    def _noise_of(self, releases: int) -> Noise:
        entered = min(self.bounds.max_steps, -(-self.steps // self.bounds.min_separation))
        moved = entered * self.bounds.kinf
        if self.epsilon is None:
            return gaussian_for(releases * moved * moved, self.rho, self._backend)
        return laplace_for(releases * moved, self.epsilon, self._backend)

    def _margin(self, noise: Noise, releases: int, beta: float) -> float:
        if noise.scale is None:
            units = _factor.simultaneous(noise.sd, releases, beta)
        else:
            # P(|z| > x) = 2 exp(-(floor(x) + 1) / s) / (1 + exp(-1 / s)) < 2 exp(-x / s)
            units = float(noise.scale) * math.log(2.0 * releases / beta)
        return float(self.bounds.step) * units


@final
class CounterMax(AbstractMechanism):
    """The largest of the noisy running sums of another mechanism; costs nothing beyond it.

    Parameters
    ----------
    sums
        The mechanism of the sums.
    """

    kind = "counter_max"

    def __init__(self, *, sums: FactorSum | TreeSum) -> None:
        self.sums = sums
        self.name, self.features, self.steps = sums.name, sums.features, sums.steps
        self.bounds, self.rho, self.small_state = sums.bounds, sums.rho, sums.small_state

    @property
    def width(self) -> int:
        """Length of the integer vector that a donor contributes."""
        return self.sums.width

    def public(self) -> dict[str, Any]:
        """Return the configuration as JSON-able values; `mechanism_of` builds the mechanism again."""
        return {"kind": self.kind, "sums": self.sums.public()}

    def start(self) -> State:
        """Return the state of the sums before the first step."""
        return self.sums.start()

    def absorb(self, state: State, t: int, total: Integers) -> State:
        """Return the state of the sums after step `t`."""
        return self.sums.absorb(state, t, total)

    def draw(self, state: State, t: int, drawn: Sequence[Integers], randomness: AbstractRandomness) -> Integers:
        """Return what the sums publish."""
        return self.sums.draw(state, t, drawn, randomness)

    def estimate(self, drawn: Sequence[Integers]) -> Estimate:
        """Return the largest noisy sum, (1,); `extra` holds all `sums` and their `sums_sd`.

        The noise of a maximum is not of one scale: its standard deviation is nan.
        """
        found = self.sums.estimate(drawn)
        extra = {**found.extra, "sums": found.values, "sums_sd": found.sd}
        return Estimate(found.values.max(keepdims=True), np.full(1, np.nan), extra)

    def bound(self, t: int, beta: float) -> float:
        """Return by how much the largest sum may be off at step `t`: no more than a sum."""
        return self.sums.bound(t, beta)

    def describe(self) -> str:
        """Return in one line what the mechanism does."""
        return f"largest of the noisy sums of {self.sums.describe()}"


@final
class ZeroMax(AbstractMechanism):
    """The answer 0, which costs nothing and errs by no more than all donors can add: right for short streams.

    Parameters
    ----------
    name, features, steps, bounds
        See `AbstractMechanism`.
    """

    kind = "zero_max"
    small_state = True

    def __init__(self, *, name: str, features: Sequence[str], steps: int, bounds: DonorBounds) -> None:
        self.name = name
        self.features = declared_features(name, features)
        self.steps = declared_steps(name, steps)
        self.bounds = declared_bounds(name, bounds)
        self.rho = Fraction(0)

    def public(self) -> dict[str, Any]:
        """Return the configuration as JSON-able values; `mechanism_of` builds the mechanism again."""
        return written(self.kind, self.name, self.features, self.steps, self.bounds)

    def start(self) -> State:
        """Return the state before the first step: nothing."""
        return ()

    def absorb(self, state: State, t: int, total: Integers) -> State:
        """Return nothing."""
        return ()

    def draw(self, state: State, t: int, drawn: Sequence[Integers], randomness: AbstractRandomness) -> Integers:
        """Return nothing, (0,)."""
        return np.zeros(0, np.int64)

    def estimate(self, drawn: Sequence[Integers]) -> Estimate:
        """Return 0, (1,)."""
        return Estimate(np.zeros(1), np.zeros(1))

    def bound(self, t: int, beta: float) -> float:
        """Return by how much the largest sum may have grown."""
        return t * growth(self.bounds)

    def describe(self) -> str:
        """Return in one line what the mechanism does."""
        return f"{self.name}: largest running sum of {len(self.features)} features, answered by 0, which costs nothing"


def worst_bound(mechanism: AbstractMechanism, beta: float) -> float:
    """Return the largest `bound` of the horizon, found at its end or, for trees, where binary digits are all ones."""
    steps = {mechanism.steps, *(((mechanism.steps >> h) << h) - 1 for h in _tree.bits(mechanism.steps))}
    return max(mechanism.bound(t, beta) for t in steps if t > 0)


def choose_max(
    *,
    name: str,
    features: Sequence[str],
    steps: int,
    bounds: DonorBounds,
    rho: Fraction | None = None,
    epsilon: Fraction | None = None,
    noise: Backend = "auto",
) -> RecomputedMax | CounterMax | ZeroMax:
    """Return the largest sum by the mechanism of the least bound at 95 %, compared before the stream.

    Public numbers alone decide: the horizon, the features, the bounds and the loss. Counters are left out where pure
    differential privacy is asked for without ``bounds.l1``, the others without ``bounds.max_donors``.

    Raises
    ------
    UnboundedContribution
        The bounds allow none of them.
    """
    given: dict[str, Any] = {"name": name, "features": features, "steps": steps, "bounds": bounds}
    paid: dict[str, Any] = {**given, "rho": rho, "epsilon": epsilon, "noise": noise}
    declared_loss(name, rho, epsilon)
    found: list[RecomputedMax | CounterMax | ZeroMax] = []
    if epsilon is None or bounds.k1:
        found.append(CounterMax(sums=choose_sum(**paid)))
    if bounds.max_donors is not None:
        found += [RecomputedMax(**paid), ZeroMax(**given)]
    if not found:
        raise UnboundedContribution(f"The statistic {name!r} needs DonorBounds(max_donors=...) or DonorBounds(l1=...).")
    return min(found, key=lambda mechanism: worst_bound(mechanism, BETA))

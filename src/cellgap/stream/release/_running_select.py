"""The features with the largest running sums, drawn anew every few steps or read off noisy sums."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, final

import numpy as np

from cellgap.errors import ConfigError, UnboundedContribution
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
from cellgap.stream.release._exponential_mechanism import exponential_mechanism
from cellgap.stream.release._interface import AbstractMechanism, Estimate, Integers, State
from cellgap.stream.release._noise import Backend
from cellgap.stream.release._randomness import AbstractRandomness
from cellgap.stream.release._running_max import BETA, worst_bound
from cellgap.stream.release._running_sum import FactorSum, TreeSum, choose_sum
from cellgap.stream.release._schedule import best_interval, interval_in_words

_DIGITS = 60


@final
class RecomputedSelect(AbstractMechanism):
    """The `q` best features, drawn by the exponential mechanism at every r-th step and repeated in between.

    Each of the q draws of each of the ``K = floor(T / r)`` releases is without replacement and costs ``eps0^2 / 8``, or
    eps0 where pure differential privacy is asked for. Before the first release the first q features are named.

    Parameters
    ----------
    name, features, steps, bounds
        See `AbstractMechanism`. Where ``bounds.signed`` is False, a donor moves all sums the same way and half the
        noise is enough.
    rho, epsilon
        What the horizon costs, one of the two.
    q
        Features to name.
    every
        The r; by default the one of the least bound, for which ``bounds.max_donors`` is needed.

    Raises
    ------
    UnboundedContribution
        Features or steps are missing, or donors a step where `every` is to be chosen.
    ConfigError
        A feature is named twice, `q` or `every` is out of range, or not one of rho and epsilon is given.

    Source
    ------
    McSherry & Talwar 2007; Cesar & Rogers 2021 for the rho of a draw.
    """

    kind = "recomputed_select"
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
        q: int = 1,
        every: int | None = None,
    ) -> None:
        self.name = name
        self.features = declared_features(name, features)
        self.steps = declared_steps(name, steps)
        self.bounds = declared_bounds(name, bounds)
        self.rho = declared_loss(name, rho, epsilon)
        self.epsilon = epsilon
        self.q = checked_q(name, q, len(self.features))
        # Both the chosen and the best feature may move while nobody looks, unless sums only grow.
        self._growth = growth(bounds) * (2.0 if bounds.signed else 1.0)
        if every is None:
            if math.isinf(self._growth):
                raise UnboundedContribution(
                    f"The statistic {name!r} needs DonorBounds(max_donors=...), or every=: how often to look."
                )
            every = best_interval(steps, self._growth, lambda k: self._margin(self._rate(k), k, BETA))
        if not 1 <= every <= steps:
            raise ConfigError(f"The statistic {name!r} looks every {every} steps: choose 1 to {steps}.")
        self.every = every
        self.releases = steps // every
        self.rate = self._rate(self.releases)
        self._type = integers_up_to(most_donors(bounds) * steps * bounds.kinf)

    def public(self) -> dict[str, Any]:
        """Return the configuration as JSON-able values; `mechanism_of` builds the mechanism again."""
        return {
            **written(self.kind, self.name, self.features, self.steps, self.bounds),
            **written_loss(self.rho, self.epsilon),
            "q": self.q,
            "every": self.every,
        }

    def start(self) -> State:
        """Return the state before the first step: sums of 0."""
        return (np.zeros(self.width, self._type),)

    def absorb(self, state: State, t: int, total: Integers) -> State:
        """Return the state after step `t`: the running sums."""
        return (state[0] + total.astype(self._type),)

    def draw(self, state: State, t: int, drawn: Sequence[Integers], randomness: AbstractRandomness) -> Integers:
        """Return the chosen indices, best first, (q,), at every r-th step, and nothing, (0,), at others."""
        check_horizon(self.name, t, self.steps)
        if t % self.every:
            return np.zeros(0, np.int64)
        left = np.arange(self.width)
        chosen = []
        for _ in range(self.q):
            at = exponential_mechanism(state[0][left], self.rate, randomness)
            chosen.append(left[at])
            left = np.delete(left, at)
        return np.array(chosen, np.int64)

    def estimate(self, drawn: Sequence[Integers]) -> Estimate:
        """Return the last chosen indices, (q,) int64."""
        last = len(drawn) - len(drawn) % self.every
        values = drawn[last - 1].astype(np.int64) if last else np.arange(self.q)
        return Estimate(values, np.full(self.q, np.nan))

    def bound(self, t: int, beta: float) -> float:
        """Return by how much the sum of the i-th chosen may be below the i-th largest, at all steps."""
        waiting = (self.every - 1) * self._growth if self.every > 1 else 0.0
        return waiting + self._margin(self.rate, self.releases, beta)

    def describe(self) -> str:
        """Return in one line what the mechanism does."""
        return (
            f"{self.name}: {self.q} of {len(self.features)} features with the largest running sums, exponential "
            f"mechanism {interval_in_words(self.every, self.steps)}, {loss_in_words(self.rho, self.epsilon)}"
        )

    def _rate(self, releases: int) -> Fraction:
        """Return ``eps0 / (2 sensitivity)`` (``eps0 / sensitivity`` for one-way moves), eps0 rounded down."""
        draws = releases * self.q
        if self.epsilon is None:
            squared = 8 * self.rho / draws
            eps0 = Fraction(math.isqrt((squared.numerator << 2 * _DIGITS) // squared.denominator), 1 << _DIGITS)
        else:
            share = self.epsilon / draws
            eps0 = Fraction((share.numerator << _DIGITS) // share.denominator, 1 << _DIGITS)
        entered = min(self.bounds.max_steps, -(-self.steps // self.bounds.min_separation))
        moved = entered * self.bounds.kinf
        return eps0 / (2 * moved if self.bounds.signed else moved)

    def _margin(self, rate: Fraction, releases: int, beta: float) -> float:
        return float(self.bounds.step) * math.log(len(self.features) * releases * self.q / beta) / float(rate)


@final
class CounterSelect(AbstractMechanism):
    """The `q` largest of the noisy running sums of another mechanism; costs nothing beyond it.

    Parameters
    ----------
    sums
        The mechanism of the sums.
    q
        Features to name.
    """

    kind = "counter_select"

    def __init__(self, *, sums: FactorSum | TreeSum, q: int = 1) -> None:
        self.sums = sums
        self.name, self.features, self.steps = sums.name, sums.features, sums.steps
        self.bounds, self.rho, self.small_state = sums.bounds, sums.rho, sums.small_state
        self.q = checked_q(sums.name, q, len(sums.features))

    @property
    def width(self) -> int:
        """Length of the integer vector that a donor contributes."""
        return self.sums.width

    def public(self) -> dict[str, Any]:
        """Return the configuration as JSON-able values; `mechanism_of` builds the mechanism again."""
        return {"kind": self.kind, "sums": self.sums.public(), "q": self.q}

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
        """Return the indices of the largest noisy sums, best first, (q,); `extra` holds all `sums` and `sums_sd`."""
        found = self.sums.estimate(drawn)
        chosen = np.argsort(-found.values, kind="stable")[: self.q]
        return Estimate(chosen, np.full(self.q, np.nan), {**found.extra, "sums": found.values, "sums_sd": found.sd})

    def bound(self, t: int, beta: float) -> float:
        """Return by how much the sum of the i-th chosen may be below the i-th largest: twice the error of a sum."""
        return 2.0 * self.sums.bound(t, beta)

    def describe(self) -> str:
        """Return in one line what the mechanism does."""
        return f"{self.q} largest of the noisy sums of {self.sums.describe()}"


def checked_q(name: str, q: int, features: int) -> int:
    """Return `q`, how many of the features the statistic `name` chooses.

    Raises
    ------
    ConfigError
        It is not from 1 to the number of features.
    """
    if not 1 <= q <= features:
        raise ConfigError(f"The statistic {name!r} chooses q = {q} of {features} features: choose 1 to {features}.")
    return q


def choose_select(
    *,
    name: str,
    features: Sequence[str],
    steps: int,
    bounds: DonorBounds,
    rho: Fraction | None = None,
    epsilon: Fraction | None = None,
    q: int = 1,
    noise: Backend = "auto",
) -> RecomputedSelect | CounterSelect:
    """Return the selection by the mechanism of the least bound at 95 %, compared before the stream.

    Public numbers alone decide. Counters, which also give the chosen sums, are left out where pure differential privacy
    is asked for without ``bounds.l1``, recomputation without ``bounds.max_donors``.

    Raises
    ------
    UnboundedContribution
        The bounds allow neither.
    """
    paid: dict[str, Any] = {
        "name": name,
        "features": features,
        "steps": steps,
        "bounds": bounds,
        "rho": rho,
        "epsilon": epsilon,
    }
    declared_loss(name, rho, epsilon)
    found: list[RecomputedSelect | CounterSelect] = []
    if epsilon is None or bounds.k1:
        found.append(CounterSelect(sums=choose_sum(**paid, noise=noise), q=q))
    if bounds.max_donors is not None:
        found.append(RecomputedSelect(**paid, q=q))
    if not found:
        raise UnboundedContribution(f"The statistic {name!r} needs DonorBounds(max_donors=...) or DonorBounds(l1=...).")
    return min(found, key=lambda mechanism: worst_bound(mechanism, BETA))

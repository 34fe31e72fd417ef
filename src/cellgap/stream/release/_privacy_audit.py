"""Attacks on mechanisms: is a donor really hidden as well as is claimed? A search for errors, never a proof.

The pair of streams is the worst that the rules allow: nobody at all, against one donor who enters at the earliest and
closest steps with the largest vector, all of it on one coordinate. The attacker sees every integer that is published
and knows everything but whether the donor is there; what it knows about noise it learns from a few draws.
"""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import beta as beta_law

from cellgap.errors import ConfigError
from cellgap.stream.release import _tree
from cellgap.stream.release._accounting import epsilon_tight
from cellgap.stream.release._counted import Counted
from cellgap.stream.release._interface import AbstractMechanism, Integers
from cellgap.stream.release._noise_scale import Noise
from cellgap.stream.release._randomness import AbstractRandomness, SeededRandomness, SystemRandomness
from cellgap.stream.release._running_max import CounterMax, RecomputedMax
from cellgap.stream.release._running_quantile import KroneckerQuantile
from cellgap.stream.release._running_select import CounterSelect, RecomputedSelect
from cellgap.stream.release._running_sum import FactorSum, TreeSum

_PILOT = 2000
"""Runs without the donor from which the attacker learns how much each number varies."""
_CHUNK = 2**22
"""Numbers to hold at a time."""
_FEW = 20_000
"""Placements of a donor's steps that are all tried."""
_LOW = 16
"""Low bits are compared modulo this."""


@dataclass(frozen=True)
class Audit:
    """What the attacks found. An audit that is passed is no proof; one that fails is evidence of an error.

    Parameters
    ----------
    name, mechanism
        The statistic, and what its mechanism says of itself.
    rho, epsilon, delta
        What is claimed; delta is 0 for pure differential privacy.
    runs
        With the donor, and as many without.
    beta
        Probability that `epsilon_low` is above the true epsilon.
    epsilon_low
        What telling the two streams apart proves about epsilon.
    shift
        Difference of the mean score of the two streams, in standard deviations; None where noise is not Gaussian.
    shift_error
        Its standard error.
    shift_range
        Where it has to lie: too little noise is above, too much is below.
    integers
        Whether all that is published is integers, with the same low bits with and without the donor.
    """

    name: str
    mechanism: str
    rho: float
    epsilon: float
    delta: float
    runs: int
    beta: float
    epsilon_low: float
    shift: float | None
    shift_error: float | None
    shift_range: tuple[float, float] | None
    integers: bool

    @property
    def passed(self) -> bool:
        """Whether no attack found an error, which proves nothing."""
        return self.epsilon_low <= self.epsilon and self.shifts and self.integers

    @property
    def shifts(self) -> bool:
        """Whether the mean shift lies where it has to (True where there is none)."""
        if self.shift is None or self.shift_range is None:
            return True
        return self.shift_range[0] <= self.shift <= self.shift_range[1]

    def __str__(self) -> str:
        claimed = f"epsilon = {self.epsilon:.4g}" + (f" at delta = {self.delta:.2g}" if self.delta else "")
        said = "passed" if self.passed else "FAILED"
        lines = [
            f"{self.name}: {said} an audit of {self.runs:,} runs with and without a donor",
            f"  {self.mechanism}",
            f"  claimed {claimed} (rho = {self.rho:.4g}); an attacker proves epsilon >= {self.epsilon_low:.3g} "
            f"({100 * (1 - self.beta):g} %)" + ("" if self.epsilon_low <= self.epsilon else ": TOO LARGE"),
        ]
        if self.shift is not None and self.shift_range is not None:
            low, high = self.shift_range
            lines.append(
                f"  mean shift {self.shift:.4g} +- {self.shift_error:.2g}, expected from {low:.4g} to {high:.4g}"
                + ("" if self.shifts else ": NOT SO")
            )
        low_bits = "integers, with the same low bits in both cases" if self.integers else "NOT integers of equal bits"
        lines.append(f"  what is published is {low_bits}")
        lines.append("  an audit that is passed is no proof: it finds errors of the attacks that it knows")
        return "\n".join(lines)


def audit(
    mechanism: AbstractMechanism,
    runs: int = 40_000,
    beta: float = 0.05,
    delta: float = 1e-5,
    randomness: AbstractRandomness | None = None,
) -> Audit:
    """Attack a mechanism, and return whether its claim survived. A mechanism that passes may still be wrong.

    The mechanism itself is run, on made-up streams; no data are needed or touched. Take one of a short horizon (16 to
    256 steps): the time grows with runs, steps and what is published.

    Where noise is Gaussian, the scores of the two streams must differ by ``sqrt(2 rho)`` standard deviations, give or
    take four standard errors; that notices small errors, in both directions. For all mechanisms, epsilon is bounded
    from below by how often a threshold tells the streams apart: it is chosen on one half of the runs, and judged on
    the other. What is published has to be integers whose low bits are the same in both streams.

    Parameters
    ----------
    mechanism
        Any of the library's. Of a maximum or selection by counters, the counters are attacked.
    runs
        With the donor, and as many without; at least 1,000.
    beta
        Probability that the lower bound of epsilon is too high, so that a correct mechanism fails.
    delta
        At which epsilon is claimed.
    randomness
        Of the runs; the operating system's where it is left out.

    Raises
    ------
    ConfigError
        There are too few runs, `beta` is no probability, or the mechanism is of an unknown kind.

    Source
    ------
    The specification, section 23. Bounds of probabilities: Clopper & Pearson 1934, four at ``beta / 4`` each.
    """
    if runs < 1000 or not 0.0 < beta < 1.0:
        raise ConfigError(f"an audit needs 1,000 runs and a beta between 0 and 1, found {runs} and {beta}.")
    attacked = mechanism.sums if isinstance(mechanism, CounterMax | CounterSelect) else mechanism
    randomness = SystemRandomness() if randomness is None else randomness
    attack = _attack_on(attacked)
    noise: Noise | None = getattr(attacked, "noise", None)
    pure = getattr(attacked, "epsilon", None)
    if pure is not None:
        delta = 0.0
    epsilon = epsilon_tight(attacked.rho, delta) if pure is None else float(pure)

    score = _score_of(attack, noise, randomness)
    scores, integers, bits = [], True, []
    for present in (False, True):
        parts, seen = [], 0
        for published in attack.runs(present, runs, randomness):
            whole = _are_integers(published)
            integers &= whole
            if whole and noise is not None and noise.sd >= 2 * _LOW:
                low = (published % _LOW).astype(np.int64)
                seen = seen | np.bitwise_or.reduce(1 << low, axis=0)
            parts.append(score(published))
        scores.append(np.concatenate(parts))
        bits.append(seen)
    integers &= bool(np.all(bits[0] == bits[1]))

    shift = error = allowed = None
    if noise is not None and noise.variance is not None:
        expected = math.sqrt(2 * attacked.rho)
        sd = math.sqrt(0.5 * (scores[0].var(ddof=1) + scores[1].var(ddof=1)))
        gap = float(scores[1].mean() - scores[0].mean())
        shift = gap / sd if sd > 0 else math.inf
        error = math.sqrt(2 / runs * (1 + expected**2 / 4))
        allowed = (expected * math.sqrt(attack.reached) - 4 * error, expected + 4 * error)
    return Audit(
        name=mechanism.name,
        mechanism=mechanism.describe(),
        rho=float(attacked.rho),
        epsilon=epsilon,
        delta=delta,
        runs=runs,
        beta=beta,
        epsilon_low=_epsilon_low(scores[0], scores[1], beta, delta),
        shift=shift,
        shift_error=error,
        shift_range=allowed,
        integers=integers,
    )


# The pair of streams


@dataclass(frozen=True, eq=False)
class _Attack:
    """A donor, and the mechanism that is to hide it.

    Parameters
    ----------
    mechanism
        A copy, with as many features as the attack needs.
    donor
        What the donor adds to the total of a step, (features,).
    entered
        The steps that it enters.
    reached
        Which part of the squared sensitivity this donor makes use of.
    beside
        Whether many copies of the features may be put beside one another: their noise is independent and none moves
        another, so that one stream is as many runs as there are copies.
    """

    mechanism: Any
    donor: Integers
    entered: tuple[int, ...]
    reached: float
    beside: bool

    def runs(self, present: bool, runs: int, randomness: AbstractRandomness) -> Any:
        """Yield what is published in `runs` runs, some at a time, (runs, numbers)."""
        # An empty stream of a seeded copy shows how much a run publishes.
        each = max(1, _CHUNK // max(1, self.shape_of(False).size))
        for start in range(0, runs, each):
            yield self.published(self.mechanism, present, min(each, runs - start), randomness)

    def shape_of(self, present: bool) -> np.ndarray:
        """Return what a single run of seed 0 publishes, (numbers,)."""
        mechanism = copy.copy(self.mechanism)
        if getattr(mechanism, "noise", None) is not None and getattr(mechanism.noise, "backend", None) == "opendp":
            mechanism.noise = replace(mechanism.noise, backend="bulk")  # the law is the same, and it has a seed
        return self.published(mechanism, present, 1, SeededRandomness(0))[0]

    def published(self, mechanism: Any, present: bool, runs: int, randomness: AbstractRandomness) -> np.ndarray:
        """Return what is published in `runs` runs, (runs, numbers)."""
        copies = runs if self.beside else 1
        mechanism = copy.copy(mechanism)
        # The noise is that of the mechanism itself, whatever the number of features.
        mechanism.features = tuple(range(copies * len(self.donor)))
        donor = np.tile(self.donor, copies)
        state, states = mechanism.start(), []
        for t in range(1, mechanism.steps + 1):
            state = mechanism.absorb(state, t, donor if present and t in self.entered else np.zeros_like(donor))
            states.append(state)
        if not self.beside:
            if hasattr(mechanism, "noise"):
                mechanism.noise = _Pool(mechanism.noise)
            return np.stack([np.concatenate(_drawn(mechanism, states, randomness)) for _ in range(runs)])
        parts = [
            numbers.reshape(-1, runs, len(self.donor)).transpose(1, 0, 2).reshape(runs, -1)
            for numbers in _drawn(mechanism, states, randomness)
        ]
        return np.concatenate(parts, axis=1)


def _drawn(mechanism: Any, states: list[Any], randomness: AbstractRandomness) -> list[Integers]:
    drawn: list[Integers] = []
    for t, state in enumerate(states, 1):
        drawn.append(mechanism.draw(state, t, drawn, randomness))
    return drawn


class _Pool:
    """Noise that is drawn in bulk and handed out number by number, to mechanisms that ask for one at a time."""

    def __init__(self, noise: Noise) -> None:
        self._noise, self._pool, self._used = noise, np.zeros(0, np.int64), 0

    def draw(self, size: int, randomness: AbstractRandomness) -> np.ndarray:
        """Return `size` independent draws, (size,)."""
        if self._used + size > len(self._pool):
            self._pool, self._used = self._noise.draw(max(size, 2**14), randomness), 0
        self._used += size
        return self._pool[self._used - size : self._used]


def _attack_on(mechanism: AbstractMechanism) -> _Attack:
    """Return the donor that is hardest to hide.

    A vector's whole length lies on one coordinate, even where `linf` forbids it: Gaussian noise hides all directions
    alike. Where donors are counted, a second coordinate is the number of donors.
    """
    bounds = mechanism.bounds
    entered, reached = _worst_steps(mechanism)
    copied: Any = copy.copy(mechanism)
    match mechanism:
        case FactorSum() | TreeSum():
            length = bounds.k2 if getattr(mechanism, "epsilon", None) is None else bounds.k1
            assert length is not None
            counted = mechanism.counted
            copied.counted = Counted(0)  # what `weighted` does is in the donor already
            donor = [length, counted.weight] if counted.present else [length]
            return _Attack(copied, np.array(donor), entered, reached, True)
        case KroneckerQuantile():
            # One copy is all bins: the mixture over bins ends where the coefficients do.
            assert bounds.k1 is not None
            donor = np.zeros(mechanism.width, np.int64)
            donor[0] = bounds.k1
            return _Attack(copied, donor, entered, reached, True)
        case RecomputedMax():
            return _Attack(copied, np.array([bounds.kinf, 0]), entered, reached, False)
        case RecomputedSelect():
            # All sums are tied until the donor comes.
            columns = mechanism.q + 1
            opposite = min(bounds.kinf, math.isqrt(bounds.k2**2 // 2), (bounds.k1 or 2 * bounds.kinf) // 2)
            donor = np.zeros(columns, np.int64)
            donor[0] = bounds.kinf
            if bounds.signed and 2 * opposite > bounds.kinf:
                donor[:2] = opposite, -opposite
            return _Attack(copied, donor, entered, 1.0, False)
        case _:
            if mechanism.rho == 0:
                return _Attack(copied, np.array([bounds.kinf]), entered, 1.0, False)
            raise ConfigError(f"no attack on mechanisms like {mechanism.describe()!r} is known.")


def _worst_steps(mechanism: AbstractMechanism) -> tuple[tuple[int, ...], float]:
    """Return the steps at which a donor is hardest to hide, and which part of the squared sensitivity they reach.

    The earliest and closest ones are worst for factors; in a tree, those that share most nodes, among all placements
    where these are few, and among evenly spaced ones.
    """
    steps, b = mechanism.steps, mechanism.bounds.min_separation
    k = min(mechanism.bounds.max_steps, -(-steps // b))
    earliest = tuple(range(1, 1 + k * b, b))
    if isinstance(mechanism, RecomputedMax):
        known = [sum(s <= t for s in earliest) for t in range(mechanism.every, steps + 1, mechanism.every)]
        return earliest, sum(n * n for n in known) / (len(known) * k * k)
    if not isinstance(mechanism, TreeSum) or k == 1 or mechanism.epsilon is not None:
        return earliest, 1.0
    placements = [tuple(range(s, s + (k - 1) * b + 1, b)) for s in range(1, steps - (k - 1) * b + 1)]
    if math.comb(steps, k) <= _FEW:
        found = itertools.combinations(range(1, steps + 1), k)
        placements = [p for p in found if all(y - x >= b for x, y in itertools.pairwise(p))]
    worst = max(placements, key=lambda placed: _moved(placed, steps))
    return worst, _moved(worst, steps) / _tree.squared_sensitivity(steps, k, b)


def _moved(placed: tuple[int, ...], steps: int) -> int:
    """Return the sum over closed nodes of the squared number of these steps in them."""
    total = 0
    for h in range(_tree.levels(steps)):
        nodes = [(s - 1) >> h for s in placed if ((s - 1 >> h) + 1) << h <= steps]
        total += sum(nodes.count(node) ** 2 for node in set(nodes))
    return total


# What the attacker makes of a run


def _score_of(
    attack: _Attack, noise: Noise | None, randomness: AbstractRandomness
) -> Callable[[np.ndarray], Float[np.ndarray, " runs"]]:
    """Return the log-likelihood ratio of the two streams, or a number that grows with it."""
    if isinstance(attack.mechanism, RecomputedSelect):
        return lambda chosen: _selection_ratio(attack, chosen)
    if noise is None:
        return lambda published: np.zeros(len(published))
    # Noise of one seed is the same in both streams, and cancels.
    moved = (attack.shape_of(True) - attack.shape_of(False)).astype(np.float64)
    if noise.variance is None:
        assert noise.scale is not None
        scale = float(noise.scale)
        return lambda published: (np.abs(published) - np.abs(published - moved)).sum(axis=1) / scale
    pilot = np.concatenate([part.astype(np.float64) for part in attack.runs(False, _PILOT, randomness)])
    # What does not vary gives the donor away.
    weights = moved / np.maximum(pilot.var(axis=0), 1e-9 * max(1.0, float(np.abs(moved).max()) ** 2))
    return lambda published: published.astype(np.float64) @ weights


def _selection_ratio(attack: _Attack, chosen: np.ndarray) -> Float[np.ndarray, " runs"]:
    mechanism = attack.mechanism
    ratio = np.zeros(len(chosen))
    for i, t in enumerate(range(mechanism.every, mechanism.steps + 1, mechanism.every)):
        sums = attack.donor * sum(s <= t for s in attack.entered)
        odds = np.exp(float(mechanism.rate) * (sums - sums.max()))
        left = np.ones((len(chosen), len(odds)))
        for j in chosen[:, i * mechanism.q : (i + 1) * mechanism.q].T:
            # The chance of j among those left, against that of ties.
            ratio += np.log(odds[j] * left.sum(axis=1) / (left @ odds))
            left[np.arange(len(j)), j] = 0.0
    return ratio


def _are_integers(published: np.ndarray) -> bool:
    if published.dtype == object:
        return all(isinstance(number, int) for number in published.ravel().tolist())
    return published.dtype.kind in "iu"


def _epsilon_low(without: np.ndarray, with_: np.ndarray, beta: float, delta: float) -> float:
    """Return a lower bound of epsilon that holds with probability ``1 - beta``."""
    half = len(without) // 2
    best = 0.0
    for one, other in ((without, with_), (-with_, -without)):
        # A high score is more likely in the other stream than in the one.
        tried = np.unique(np.quantile(np.concatenate([one[:half], other[:half]]), np.linspace(0.0, 1.0, 401)))
        chosen = tried[int(np.argmax(_provable(one[:half], other[:half], tried, beta, delta)))]
        best = max(best, float(_provable(one[half:], other[half:], np.array([chosen]), beta, delta)[0]))
    return best


def _provable(
    one: np.ndarray, other: np.ndarray, thresholds: np.ndarray, beta: float, delta: float
) -> Float[np.ndarray, " thresholds"]:
    hits = [len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left") for scores in (one, other)]
    n = len(one)
    with np.errstate(invalid="ignore"):
        above = np.where(hits[0] == n, 1.0, beta_law.ppf(1 - beta / 4, hits[0] + 1, n - hits[0]))
        below = np.where(hits[1] == 0, 0.0, beta_law.ppf(beta / 4, hits[1], n - hits[1] + 1))
    return np.log(np.maximum(below - delta, 1e-300) / above)

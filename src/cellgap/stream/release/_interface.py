"""What a mechanism is: what is drawn at each step, and what is made of the draws. It keeps no state of its own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float

from cellgap.stream.release._bounds import DonorBounds
from cellgap.stream.release._randomness import AbstractRandomness

Integers = np.ndarray
"""Exact integers, int64 (or Python integers, dtype object, where they could overflow)."""

State = tuple[Integers, ...]
"""What a mechanism has to remember of the steps so far, exact and secret."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """What the draws up to a step say: public.

    Parameters
    ----------
    values
        Estimated statistics, in the unit of the contributions, (features,); for selections the indices of the chosen
        features, best first; for quantiles the upper edges of bins.
    sd
        Standard deviation of the noise of each value; nan where the noise is not of one scale (selections, quantiles).
    extra
        Further public arrays by name (noisy donors, cumulated histogram, lower and upper bounds of quantiles, ...).
    """

    values: np.ndarray
    sd: Float[np.ndarray, " values"]
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)


class AbstractMechanism(ABC):
    """A private running statistic over `steps` steps.

    Everything that a caller gives at construction is public and fixed before the stream begins. Between `absorb` and
    `draw` all numbers are exact integers; floats appear in `estimate` only, which sees nothing but draws.

    The neighbors are two streams of which one lacks all contributions of one donor; the guarantee of all draws
    together is `rho`-zCDP, also where later contributions were chosen after earlier draws were seen.
    """

    name: str
    """Of the statistic, unique in its budget."""
    features: tuple[str, ...]
    """Names of the coordinates of a contribution."""
    steps: int
    """The horizon T."""
    bounds: DonorBounds
    rho: Fraction
    """What the whole horizon costs, exactly."""
    small_state: bool
    """Whether the state replaces all contributions so far; else it is all of them."""

    @abstractmethod
    def public(self) -> dict[str, Any]:
        """Return the configuration as JSON-able values, ``kind`` first; `mechanism_of` builds the mechanism again."""

    @abstractmethod
    def start(self) -> State:
        """Return the state before the first step."""

    @abstractmethod
    def absorb(self, state: State, t: int, total: Integers) -> State:
        """Return the state after step `t` (1 is the first), whose contributions add up to `total`, (width,)."""

    @abstractmethod
    def draw(self, state: State, t: int, drawn: Sequence[Integers], randomness: AbstractRandomness) -> Integers:
        """Return the integers that step `t` publishes; the only place where chance enters.

        Parameters
        ----------
        state
            After `absorb` of this step.
        t
            The step.
        drawn
            What earlier steps published.
        randomness
            Source of uniform integers.
        """

    @abstractmethod
    def estimate(self, drawn: Sequence[Integers]) -> Estimate:
        """Return what the draws of the steps 1 to ``len(drawn)`` say; post-processing, costs nothing."""

    @abstractmethod
    def bound(self, t: int, beta: float) -> float:
        """Return by how much the estimates of all steps and features may be off, with probability `beta` of more.

        Simultaneous over the whole horizon; in the unit of the contributions (for selections: of the sum of the chosen
        against the largest; for quantiles: of ranks). Counts the noise and waiting for the next recomputation, not
        clipping.
        """

    @abstractmethod
    def describe(self) -> str:
        """Return in one line what the mechanism does: kind, noise, horizon."""

    @property
    def width(self) -> int:
        """Length of the integer vector that a donor contributes."""
        return len(self.features)

"""How much one donor may contribute: fixed in public, before the stream begins."""

import math
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field

from cellgap.settings import settings

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Unit = Literal["donor", "donor_plate", "cell"]


@settings
class DonorBounds:
    """Bounds of the vector that a donor contributes to a step, and of how often it may.

    Parameters
    ----------
    l2
        Largest Euclidean norm.
    linf
        Largest size of a coordinate; `l2` where it is left out.
    l1
        Largest sum of sizes; needed for pure differential privacy.
    max_steps
        Steps that a donor may enter (k).
    min_separation
        A donor that entered step s may enter again from step s + `min_separation` on (b).
    max_donors
        Donors a step at most; needed where the growth of a sum in one step counts (largest sums, selections).
    lattice
        Step of the lattice that contributions are rounded to (toward zero); ``l2 / 1024`` where it is left out.
    signed
        Whether coordinates may be negative.

    Raises
    ------
    ConfigError
        A bound is missing, not positive, or they contradict one another.
    """

    l2: Positive
    linf: Positive | None = None
    l1: Positive | None = None
    max_steps: Annotated[int, Field(ge=1)] = 1
    min_separation: Annotated[int, Field(ge=1)] = 1
    max_donors: Annotated[int, Field(ge=1, le=10**9)] | None = None
    lattice: Positive | None = None
    signed: bool = True

    @property
    def step(self) -> Fraction:
        """Step of the lattice, exactly."""
        return Fraction(self.l2) / 1024 if self.lattice is None else Fraction(self.lattice)

    @property
    def k2(self) -> int:
        """Bound of the Euclidean norm in lattice units."""
        return math.floor(Fraction(self.l2) / self.step)

    @property
    def kinf(self) -> int:
        """Bound of a coordinate in lattice units."""
        return self.k2 if self.linf is None else min(self.k2, math.floor(Fraction(self.linf) / self.step))

    @property
    def k1(self) -> int | None:
        """Bound of the sum of sizes in lattice units."""
        return None if self.l1 is None else math.floor(Fraction(self.l1) / self.step)

"""The dose of a treatment as a number."""

from collections.abc import Mapping
from typing import Literal

import equinox as eqx
import numpy as np
from jaxtyping import Float

from cellgap.encode._block import AbstractBlock
from cellgap.encode._fitted import FittedEncoder
from cellgap.encode._interface import AbstractEncoder
from cellgap.encode._joint import Joint, join
from cellgap.errors import ConditionError, ConfigError
from cellgap.settings import settings
from cellgap.storage import storable
from cellgap.study import Condition, Split, Treatment


@settings
class Dose(AbstractEncoder):
    """The dose, scaled so that the training doses lie between 0 and 1; doses outside of them are allowed.

    Where some training treatments have a dose and others have none, the latter get 0, and a second column says 1
    where there is a dose.

    Parameters
    ----------
    scale
        "log": log10 of the dose in the unit of the design. "linear": the dose itself.
    """

    scale: Literal["log", "linear"] = "log"

    @property
    def parts(self) -> tuple[AbstractEncoder, ...]:
        """Itself."""
        return (self,)

    def fit_blocks(self, split: Split) -> tuple[AbstractBlock, ...]:
        """Return the block of the doses of the training conditions.

        Raises
        ------
        ConfigError
            No training treatment has a dose, or their units do not convert to one.
        """
        treatments = [t for condition in split.train_conditions for t in condition.treatments]
        unit = next((t.unit for t in treatments if t.unit is not None), None)
        if unit is None:
            raise ConfigError("Dose() has nothing to encode: no training treatment has a dose; leave it out.")
        try:
            doses = [t.to_unit(unit).dose for t in treatments if t.dose is not None]
        except ConditionError as error:
            raise ConfigError(f"Dose() needs doses in units that convert to one: {error}") from None
        values = [_scaled(dose, self.scale) for dose in doses if dose is not None]
        mixed = len(values) < len(treatments)
        return (DoseBlock(self.scale, unit, min(values), max(values), mixed),)

    def fit(self, split: Split) -> FittedEncoder:
        """Return the fitted encoder, from the training conditions of a split."""
        return FittedEncoder(self.fit_blocks(split))

    def __or__(self, other: AbstractEncoder) -> Joint:
        return join(self, other)


@storable
class DoseBlock(AbstractBlock):
    """The scaled dose, and whether there is one.

    Parameters
    ----------
    scale
        "log" or "linear".
    unit
        Unit of the doses.
    low, high
        Smallest and largest training dose on that scale. Where they are equal, one unit of the scale is 1.
    mixed
        Whether treatments without a dose were trained on too.
    """

    scale: str = eqx.field(static=True)
    unit: str = eqx.field(static=True)
    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)
    mixed: bool = eqx.field(static=True)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        name = f"log10 dose in {self.unit}" if self.scale == "log" else f"dose in {self.unit}"
        return (name, "has dose") if self.mixed else (name,)

    @property
    def context_columns(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def is_dose(self) -> bool:
        """Yes."""
        return True

    @property
    def saw_held_out(self) -> bool:
        """No."""
        return False

    @property
    def notes(self) -> tuple[str, ...]:
        """None."""
        return ()

    def treatment(self, treatment: Treatment) -> Float[np.ndarray, " columns"]:
        """Return the scaled dose, and 1 where treatments without a dose were trained on too."""
        dose = treatment.to_unit(self.unit).dose
        if dose is None:
            if not self.mixed:
                raise ConditionError(
                    f"Dose() needs a dose of {treatment.name!r}, as every training treatment has one: write "
                    f"{treatment.name}@1000{self.unit}."
                )
            return np.zeros(2, np.float32)
        value = (_scaled(dose, self.scale) - self.low) / (self.high - self.low or 1.0)
        return np.array([value, 1.0] if self.mixed else [value], np.float32)

    def context(self, condition: Condition) -> Float[np.ndarray, " context_columns"]:
        """Return no columns."""
        return np.zeros(0, np.float32)

    def extrapolation(self, condition: Condition) -> tuple[str, ...]:
        """Return the doses outside of the training doses."""
        reasons = []
        for treatment in condition.treatments:
            dose = treatment.to_unit(self.unit).dose
            if dose is None:
                continue
            value, slack = _scaled(dose, self.scale), 1e-9 * max(1.0, abs(self.low), abs(self.high))
            if value < self.low - slack:
                reasons.append(f"the dose of {treatment} is below the training doses")
            elif value > self.high + slack:
                reasons.append(f"the dose of {treatment} is above the training doses")
        return tuple(reasons)

    def with_structures(self, smiles: Mapping[str, str]) -> "DoseBlock":
        """Return the block itself: molecules do not matter here."""
        return self


def _scaled(dose: float, scale: str) -> float:
    return float(np.log10(dose)) if scale == "log" else float(dose)

"""A treatment: a perturbation and its dose."""

from dataclasses import dataclass
from functools import total_ordering

import numpy as np

from cellgap.errors import ConditionError
from cellgap.study._dose import check_dose, convert, normalize_unit, write_number
from cellgap.study._quoting import quote


@total_ordering
@dataclass(frozen=True)
class Treatment:
    """A perturbation (drug, cytokine, gene knock-out, ...) and its dose.

    Treatments sort by name, then dose (none first), then unit, and print as ``trametinib@1000nM``.

    Parameters
    ----------
    name
        Name as it stands in the data; not empty.
    dose
        Finite number above 0, in ``unit``; None where the treatment has no dose.
    unit
        One of pM, nM, uM, mM, M, ng/mL, ug/mL, mg/mL (these convert), or another word of letters (which does not).
        None means the unit of the study, which ``Study.resolve`` fills in.

    Raises
    ------
    ConditionError
        The name is empty, the dose is not a positive number, or a unit comes without a dose.
    """

    name: str
    dose: float | None = None
    unit: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConditionError(f"A treatment needs a name that is a text and not empty, found {self.name!r}.")
        if self.dose is not None:
            dose = self.dose.item() if isinstance(self.dose, np.generic) else self.dose
            object.__setattr__(self, "dose", check_dose(dose, repr(self.name)))
        if self.unit is not None:
            if self.dose is None:
                raise ConditionError(f"Treatment {self.name!r} has the unit {self.unit!r} but no dose: give a dose.")
            object.__setattr__(self, "unit", normalize_unit(self.unit))

    @property
    def sort_key(self) -> tuple[str, float, str]:
        """What treatments are ordered by."""
        return self.name, -1.0 if self.dose is None else self.dose, self.unit or ""

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Treatment):
            return NotImplemented
        return self.sort_key < other.sort_key

    def to_unit(self, unit: str) -> "Treatment":
        """Return the same treatment with its dose in ``unit``; a dose without a unit is taken to be in ``unit``."""
        if self.dose is None:
            return self
        dose = self.dose if self.unit is None else convert(self.dose, self.unit, unit)
        return Treatment(self.name, dose, unit)

    def __str__(self) -> str:
        name = f'"{self.name}"' if self.name == "control" else quote(self.name)
        return name if self.dose is None else f"{name}@{write_number(self.dose)}{self.unit or ''}"

"""The fitted effect embedding: points of what was measured, and where everything else is placed."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

from cellgap.encode._block import AbstractBlock
from cellgap.encode._fitted import FittedEncoder
from cellgap.errors import ConditionError
from cellgap.storage import storable
from cellgap.study import Condition, Treatment
from cellgap.study._wording import close_to, listed


class Place(NamedTuple):
    """Where a treatment lies between measured points.

    Parameters
    ----------
    low, high
        Rows of the two points; the same where there is only one.
    weight
        Of `high`.
    outside
        "above" or "below" the doses measured; empty between them.
    """

    low: int
    high: int
    weight: float
    outside: str


@storable
class KnownEffects(eqx.Module):
    """Coordinates of the treatments that were measured, sorted by training or not, name and dose.

    Parameters
    ----------
    names
        Names, one a row.
    units
        Units of the doses; None where there is no dose.
    doses
        NaN where there is none, (rows,).
    held_out
        Whether a row was placed by held-out cells, (rows,).
    coordinates
        (rows, dim).
    """

    names: tuple[str, ...] = eqx.field(static=True)
    units: tuple[str | None, ...] = eqx.field(static=True)
    doses: Float[np.ndarray, " rows"]
    held_out: Bool[np.ndarray, " rows"]
    coordinates: Float[np.ndarray, "rows dim"]

    @classmethod
    def of(cls, trained: Sequence[Treatment], seen: Sequence[Treatment], coordinates: np.ndarray) -> "KnownEffects":
        """Return the coordinates of training treatments, then of held-out ones."""
        treatments = [*trained, *seen]
        return cls(
            names=tuple(t.name for t in treatments),
            units=tuple(t.unit for t in treatments),
            doses=np.array([np.nan if t.dose is None else t.dose for t in treatments]),
            held_out=np.arange(len(treatments)) >= len(trained),
            coordinates=coordinates.astype(np.float32),
        )

    def treatment(self, row: int) -> Treatment:
        """Return the treatment of a row."""
        dose = float(np.asarray(self.doses)[row])
        return Treatment(self.names[row]) if np.isnan(dose) else Treatment(self.names[row], dose, self.units[row])

    def locate(self, treatment: Treatment) -> Place | None:
        """Return where a treatment lies; None where none of this name was measured.

        Raises
        ------
        ConditionError
            The dose is missing, or given where none was measured, or its unit does not convert.
        """
        rows = [row for row, name in enumerate(self.names) if name == treatment.name]
        if not rows:
            return None
        doses = np.asarray(self.doses)[rows]
        if treatment.dose is None:
            without = [row for row, dose in zip(rows, doses, strict=True) if np.isnan(dose)]
            if not without:
                known = ", ".join(str(self.treatment(row)) for row in rows)
                raise ConditionError(f"Effect() needs a dose of {treatment.name!r}: measured were {known}.")
            return Place(without[0], without[0], 0.0, "")
        rows = [row for row, dose in zip(rows, doses, strict=True) if not np.isnan(dose)]
        if not rows:
            raise ConditionError(
                f"{str(treatment)!r} has a dose, but {treatment.name!r} was measured without: leave it out."
            )
        rows.sort(key=lambda row: float(np.asarray(self.doses)[row]))
        levels = np.log10(np.asarray(self.doses)[rows])
        at = np.log10(float(treatment.to_unit(str(self.units[rows[0]])).dose or np.nan))
        # Conversion of units may be off in the last digit.
        slack = 1e-9 * max(1.0, np.abs(levels).max())
        outside = "above" if at > levels[-1] + slack else "below" if at < levels[0] - slack else ""
        position = float(np.interp(at, levels, np.arange(len(levels))))
        if abs(position - round(position)) < 1e-6:
            position = round(position)
        low = int(position)
        return Place(rows[low], rows[min(low + 1, len(rows) - 1)], position - low, outside)


@storable
class EffectBlock(AbstractBlock):
    """See `Effect`.

    Parameters
    ----------
    known
        What was measured.
    structure
        Encoder that places what was not; None where nothing does.
    coefficients
        What the features of `structure` are multiplied by, (features, dim).
    error
        Squared error of `structure` on training treatments left out, over that of their mean; None where unknown.
    facts
        What there is to say about the fit.
    """

    known: KnownEffects
    structure: FittedEncoder | None
    coefficients: Float[np.ndarray, "features dim"] | None
    error: float | None = eqx.field(static=True)
    facts: tuple[str, ...] = eqx.field(static=True)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(f"effect {i + 1}" for i in range(self.known.coordinates.shape[1]))

    @property
    def context_columns(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def is_dose(self) -> bool:
        """No."""
        return False

    @property
    def saw_held_out(self) -> bool:
        """Whether held-out treated cells placed any treatment."""
        return bool(np.asarray(self.known.held_out).any()) or (
            self.structure is not None and self.structure.saw_held_out
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """How coordinates were found, which held-out cells were seen, and how well structure places treatments."""
        notes = list(self.facts)
        seen = [str(self.known.treatment(int(row))) for row in np.flatnonzero(np.asarray(self.known.held_out))]
        if seen:
            notes.append(f"held-out cells were seen to place {listed(seen)}: results on them are not predictions")
        if self.structure is not None:
            notes += [_quality(self.error), *self.structure.notes]
        return tuple(notes)

    def treatment(self, treatment: Treatment) -> Float[np.ndarray, " columns"]:
        """Return the coordinates of a treatment: measured, between measured doses, or by structure."""
        place = self.known.locate(treatment)
        if place is not None:
            coordinates = np.asarray(self.known.coordinates)
            low, high = coordinates[place.low], coordinates[place.high]
            return (low + np.float32(place.weight) * (high - low)).astype(np.float32)
        if self.structure is None or self.coefficients is None:
            raise ConditionError(
                f"Effect() cannot place the treatment {treatment.name!r}, of which it had no cells: "
                f"{close_to(treatment.name, tuple(dict.fromkeys(self.known.names)))} To place others by their "
                "molecule, use Effect(structure=Fingerprint())."
            )
        features = self.structure.vector(Condition.of((treatment,), ())).astype(np.float64)
        return (features @ np.asarray(self.coefficients, np.float64)).astype(np.float32)

    def context(self, condition: Condition) -> Float[np.ndarray, " context_columns"]:
        """Return no columns."""
        return np.zeros(0, np.float32)

    def extrapolation(self, condition: Condition) -> tuple[str, ...]:
        """Return which treatments were placed by held-out cells, outside of their doses, or by structure."""
        reasons: list[str] = []
        for treatment in condition.treatments:
            place = self.known.locate(treatment)
            if place is None:
                reasons.append(f"the effect of {treatment} is placed by structure alone; {_quality(self.error)}")
                if self.structure is not None:
                    reasons += self.structure.extrapolation(Condition.of((treatment,), ()))
                continue
            rows = {place.low} | ({place.high} if place.weight else set())
            if np.asarray(self.known.held_out)[list(rows)].any():
                reasons.append(f"the effect of {treatment} is placed by held-out cells: this is no prediction of it")
            if place.outside:
                nearest = self.known.treatment(place.low)
                reasons.append(
                    f"the dose of {treatment} is {place.outside} those measured: its effect is that of {nearest}"
                )
        return tuple(reasons)

    def with_structures(self, smiles: Mapping[str, str]) -> "EffectBlock":
        """Return the block whose structure encoder knows further molecules; itself where it reads none."""
        if self.structure is None:
            return self
        blocks = tuple(block.with_structures(smiles) for block in self.structure.blocks)
        if all(new is old for new, old in zip(blocks, self.structure.blocks, strict=True)):
            return self
        return EffectBlock(self.known, FittedEncoder(blocks), self.coefficients, self.error, self.facts)


def _quality(error: float | None) -> str:
    if error is None:
        return "how well structure places treatments is unknown, as there is only one to leave out"
    return (
        "of training treatments left out, structure explains "
        + (f"{1 - error:.0%}" if error < 1 else "nothing")
        + " of the squared distances to their mean"
    )

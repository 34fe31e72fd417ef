"""A design: which columns of an AnnData mean treatment, dose, context, donor, time, and where the counts are."""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tomli_w
from pydantic import BeforeValidator, ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from cellgap.errors import ConditionError, DesignError
from cellgap.study._dose import UNITS, normalize_unit, unit_of_column, write_number

_RESERVED = ("self", "treatments", "dose", "unit")


class Slot(NamedTuple):
    """One treatment column with what belongs to it."""

    column: str
    control: str
    dose: str | None
    unit: str | None


def text_of(value: object) -> str:
    """Return the text of one label: whole numbers without ``.0``, other numbers as their shortest text."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, float | np.floating):
        # str of the NumPy scalar is the shortest text of its own precision: 2.3324, not 2.332400083...
        return write_number(float(str(value)))
    return str(value)


def _texts(value: Any) -> Any:
    if isinstance(value, bool | int | float | np.generic) and not isinstance(value, str):
        return text_of(value)
    return tuple(_texts(v) for v in value) if isinstance(value, list | tuple) else value


def _tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _one_sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "?"
    if first["type"] == "unexpected_keyword_argument":
        known = ", ".join(f.name for f in fields(Design))
        return f"Design has no field {where!r}: expected one of {known}."
    return f"Design({where}=...) is wrong: {first['msg'].lower()}, found {first.get('input')!r}."


def _refuse_with_design_error(cls: Any) -> Any:
    """Make the constructor raise ``DesignError`` where pydantic would raise its own type."""
    init = cls.__init__

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *args, **kwargs)
        except ValidationError as error:
            cause = error.errors()[0].get("ctx", {}).get("error")
            raise DesignError(str(cause) if isinstance(cause, DesignError) else _one_sentence(error)) from None

    cls.__init__ = __init__
    return cls


@_refuse_with_design_error
@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Design:
    """Which columns of ``obs`` mean what, and where the raw counts are.

    Parameters
    ----------
    treatment
        Column of treatment names; several columns are the slots of a combination; none where no cell was treated: an
        atlas, whose cells differ in their context only. A value that reads as true or 1
        takes the name of its column (``icam2`` holding 0 and 1 gives the treatment ``icam2``); any other number is
        named ``column=value``.
    control
        Value that means "no treatment"; one for all slots, or one a slot. Compared as text; numbers and booleans
        compare by value. Needed wherever there is a treatment.
    dose
        Column of doses, one for all slots or one a slot ("" for a slot without doses). A dose of 0 is the control,
        whatever the name beside it.
    dose_unit
        Unit of the doses, one for all or one a slot; None takes it from the end of the column name (``dose_nM``).
    context
        Columns that say what the cells were before treatment: cell line, cell type, batch.
    donor
        Column of the donor; it belongs to the context and comes last in it.
    time
        Column of the time of measurement; numbers.
    counts
        None: ``X`` holds measurements that are not claimed to be counts. "X": ``X`` holds raw counts. Else the name
        of the layer that holds them.
    combine
        Separator of the members of a combination inside one treatment column; None (or "") means that names are
        taken whole. Control members are dropped (``geneA+ctrl`` is ``geneA``); the dose of a combination is one number
        for all members or numbers joined by the same separator.

    Raises
    ------
    DesignError
        A field is unknown or of the wrong type, a column is named twice, slots do not match, or a dose has no unit.
    """

    treatment: Annotated[str | tuple[str, ...], BeforeValidator(_texts)] = ()
    control: Annotated[str | tuple[str, ...], BeforeValidator(_texts)] = ()
    dose: str | tuple[str, ...] | None = None
    dose_unit: str | tuple[str, ...] | None = None
    context: Annotated[tuple[str, ...], BeforeValidator(_tuple)] = ()
    donor: str | None = None
    time: str | None = None
    counts: str | None = None
    combine: str | None = "+"

    def __post_init__(self) -> None:
        if self.combine == "":
            object.__setattr__(self, "combine", None)
        for field in ("treatment", "context", "donor", "time", "counts"):
            value = getattr(self, field)
            names = value if isinstance(value, tuple) else (value,)
            if "" in names:
                raise DesignError(f"Design({field}=...) must name a column, found {value!r}.")
        if self.treatment != () and self.control == ():
            raise DesignError(
                f"Design(treatment={self.treatment!r}) comes without its control: set Design(control=...) to the label "
                "of untreated cells."
            )
        if self.treatment == () and (self.control != () or self.dose is not None):
            raise DesignError("Design names a control or a dose without a treatment: add Design(treatment=...).")
        names = [*(slot.column for slot in self.slots), *self.context_names, *([self.time] if self.time else [])]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DesignError(f"Design names the column {twice[0]!r} twice: a column has one meaning.")
        reserved = [name for name in self.context_names if name in _RESERVED]
        if reserved:
            raise DesignError(f"A context cannot be called {reserved[0]!r}: rename the column, to {reserved[0]}_, say.")

    @functools.cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The treatment columns, each with its control value, dose column and unit."""
        columns = self.treatment if isinstance(self.treatment, tuple) else (self.treatment,)
        controls = self._parallel("control", self.control, len(columns))
        doses = self._parallel("dose", self.dose, len(columns))
        units = self._parallel("dose_unit", self.dose_unit, len(columns))
        slots = []
        for column, control, dose, unit in zip(columns, controls, doses, units, strict=True):
            slots.append(Slot(column, control or "", dose or None, self._unit(dose or None, unit or None)))
        return tuple(slots)

    def _parallel(self, field: str, value: str | tuple[str, ...] | None, n: int) -> tuple[str | None, ...]:
        if not isinstance(value, tuple):
            return (value,) * n
        if len(value) != n:
            raise DesignError(
                f"Design({field}=...) has {len(value)} values for {n} treatment columns: give one for all, or one each."
            )
        return value

    def _unit(self, dose: str | None, unit: str | None) -> str | None:
        if dose is None:
            if unit is not None and self.dose is None:
                raise DesignError(f"Design(dose_unit={unit!r}) comes without a dose column: add Design(dose=...).")
            return None
        found = unit_of_column(dose) if unit is None else unit
        if found is None:
            raise DesignError(
                f"A dose without a unit: the column {dose!r} does not end with one of {', '.join(UNITS)}; "
                'set Design(dose_unit="nM").'
            )
        try:
            return normalize_unit(found)
        except ConditionError as error:
            raise DesignError(f"Design(dose_unit={unit!r}): {error}") from None

    @property
    def context_names(self) -> tuple[str, ...]:
        """Names of the context, in order: ``context``, then ``donor``."""
        return self.context if self.donor is None else (*self.context, self.donor)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column of ``obs`` that the design names, each once."""
        named = [s.column for s in self.slots] + [s.dose for s in self.slots] + [*self.context_names, self.time]
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are set, as plain values that TOML and JSON hold; None for ``combine`` is ""."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["combine"] = values["combine"] or ""
        kept = {k: v for k, v in values.items() if v is not None and not (k in ("treatment", "control") and v == ())}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Design":
        """Return the design that ``to_dict`` wrote.

        Raises
        ------
        DesignError
            A name is unknown, or ``control`` is missing.
        """
        return cls(**values)

    def to_toml(self) -> str:
        """Return the design as TOML; ``from_toml`` gives back an equal design."""
        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str) -> "Design":
        """Return the design that a TOML text holds.

        Raises
        ------
        DesignError
            The text is not TOML, or does not describe a design.
        """
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise DesignError(f"The design is not valid TOML: {error}.") from None
        return cls.from_dict(values)

    def write(self, path: str | Path) -> None:
        """Write the design as a TOML file."""
        Path(path).write_text(self.to_toml(), encoding="utf-8")

    @classmethod
    def read(cls, path: str | Path) -> "Design":
        """Return the design in a TOML file.

        Raises
        ------
        DesignError
            The file is missing, or does not describe a design.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DesignError(f"Cannot read the design {str(path)!r}: {error}.") from None
        try:
            return cls.from_toml(text)
        except DesignError as error:
            raise DesignError(f"{path}: {error}") from None

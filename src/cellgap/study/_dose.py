"""Doses: how a number and its unit are written, read and converted."""

import math
import re

from cellgap.errors import ConditionError

# unit -> (what it measures, power of ten relative to the base unit of that kind)
_UNITS = {
    "pM": ("amount per volume", -12),
    "nM": ("amount per volume", -9),
    "uM": ("amount per volume", -6),
    "mM": ("amount per volume", -3),
    "M": ("amount per volume", 0),
    "ng/mL": ("mass per volume", -9),
    "ug/mL": ("mass per volume", -6),
    "mg/mL": ("mass per volume", -3),
}
UNITS = tuple(_UNITS)
_FORM = re.compile(r"[A-Za-z%][A-Za-z%/]*")
_WRITTEN = re.compile(r"([0-9]*\.?[0-9]+(?:[eE]-?[0-9]+)?|[0-9]+\.)\s*(\S*)")
_SUFFIX = re.compile(r"[_\s(\[]([A-Za-zµμ]+(?:(?:/|_per_|_)mL)?)[)\]]?$")


def normalize_unit(unit: str) -> str:
    """Return the house spelling of a unit: micro signs become ``u``.

    A unit outside ``UNITS`` (gray, percent, ...) is kept, and compares only with itself.

    Raises
    ------
    ConditionError
        The text is no unit, or differs from a known unit only in its case (``nm`` for ``nM``).
    """
    text = unit.strip().replace("µ", "u").replace("μ", "u")
    if text in _UNITS:
        return text
    alike = [known for known in UNITS if known.lower() == text.lower()]
    if alike:
        raise ConditionError(f"Unknown unit {unit!r}: units are case-sensitive, write {' or '.join(alike)}.")
    if not _FORM.fullmatch(text):
        raise ConditionError(
            f"{unit!r} is not a unit: expected one of {', '.join(UNITS)}, or letters, '%' and '/' only."
        )
    return text


def unit_of_column(column: str) -> str | None:
    """Return the unit that a column name ends with (``dose_nM``, ``dose_ug_per_mL``, ``dose (uM)``), or None."""
    found = _SUFFIX.search(column)
    if found is None:
        return None
    text = found[1].replace("_per_", "/").replace("_mL", "/mL").replace("µ", "u").replace("μ", "u")
    return text if text in _UNITS else None


def convert(dose: float, unit: str, to: str) -> float:
    """Return ``dose`` given in ``unit`` as a number in the unit ``to``.

    Raises
    ------
    ConditionError
        The two units do not measure the same thing.
    """
    unit, to = normalize_unit(unit), normalize_unit(to)
    if unit == to:
        return dose
    kind, power = _UNITS.get(unit, (unit, 0))
    kind_to, power_to = _UNITS.get(to, (to, 0))
    if kind != kind_to:
        raise ConditionError(f"Cannot convert a dose from {unit} to {to}: give it in {to}.")
    # Powers of ten up to 10**22 are exact in floating point, so one operation rounds once.
    shift = power - power_to
    return dose * 10.0**shift if shift >= 0 else dose / 10.0**-shift


def check_dose(dose: float, what: str) -> float:
    """Return ``dose`` as a float; it must be finite and above 0 (0 is the control, and has no treatment)."""
    if isinstance(dose, bool) or not isinstance(dose, int | float) or not math.isfinite(dose) or dose <= 0:
        raise ConditionError(
            f"The dose of {what} must be a finite number above 0, found {dose!r}; "
            "a dose of 0 is the control, which is written without the treatment."
        )
    return float(dose)


def write_number(value: float) -> str:
    """Return the shortest text that reads back as exactly ``value``, without ``+`` and without a trailing ``.0``."""
    text = repr(float(value)).replace("e+", "e")
    return text[:-2] if text.endswith(".0") else text


def read_dose(text: str) -> tuple[float, str | None]:
    """Return the number and the unit (None where none is written) of ``1000nM``, ``0.2 uM`` or ``5``.

    Raises
    ------
    ConditionError
        The text does not start with a number, or what follows is no unit.
    """
    found = _WRITTEN.fullmatch(text.strip())
    if found is None:
        raise ConditionError(f"{text!r} is not a dose: expected a number and a unit such as 1000nM.")
    return float(found[1]), normalize_unit(found[2]) if found[2] else None

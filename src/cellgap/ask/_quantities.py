"""Doses and times as questions and tables write them, and numbers as answers print them."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cellgap.errors import ConditionError
from cellgap.study._dose import convert, normalize_unit

_MOLAR = ("pM", "nM", "uM", "mM", "M")
_MASS = ("ng/mL", "ug/mL", "mg/mL")
_NUMBER = (
    r"(?:10\s?\^\s?[-\u2212+]?\d+|(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?|\.\d+)"
    r"(?:\s?[x\u00d7*]\s?10\s?\^?\s?[-\u2212+]?\d+|[eE][-\u2212+]?\d+)?)"
)
_WORDS = {"pico": "pM", "nano": "nM", "micro": "uM", "milli": "mM", "": "M"}
_DOSE_UNIT = (
    r"(?:(?i:(?:pico|nano|micro|milli)?molar)|(?i:[nm]g|[µμu]g)\s?(?:/|(?i:per)\s)\s?(?i:ml)"
    r"|(?i:[µμu]m)|[nN][mM]|[mM]M|pM|M)"
)
_TIME_UNIT = r"(?:(?i:hours?|hrs?|h)|(?i:minutes?|mins?)|(?i:days?)|d|(?i:weeks?|wks?))"
_HOURS = {"h": 1.0, "m": 1.0 / 60.0, "d": 24.0, "w": 168.0}
_AT_LEAST = re.compile(r"(?:at\s+least|starting\s+(?:at|from)|from|≥|>=)\s*$", re.IGNORECASE)
_MORE = re.compile(r"(?:above|over|(?:more|greater|higher|longer)\s+than|exceeding|beyond|>)\s*$", re.IGNORECASE)
_AT_MOST = re.compile(r"(?:up\s+to|at\s+most|no\s+more\s+than|until|within|≤|<=)\s*$", re.IGNORECASE)
_LESS = re.compile(r"(?:below|under|(?:less|lower|shorter)\s+than|<)\s*$", re.IGNORECASE)
_OR_MORE = re.compile(r"\s*(?:or|and)\s+(?:more|above|higher|longer|over)\b", re.IGNORECASE)
_OR_LESS = re.compile(r"\s*(?:or|and)\s+(?:less|below|lower|shorter|under)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Range:
    """Doses or times that a question binds: one value, or all between two.

    Parameters
    ----------
    low, high
        In the base unit; equal for one value.
    unit
        ``"uM"``, ``"ug/mL"``, ``"h"``, or a unit that does not convert.
    start, end
        Characters of the question that say so.
    above, below
        Whether `low` and `high` themselves are left out.
    """

    low: float
    high: float
    unit: str
    start: int
    end: int
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Return whether `value`, in the base unit, is meant."""
        tolerance = 1e-9 * abs(value)
        low = value > self.low + tolerance if self.above else value >= self.low - tolerance
        return low and (value < self.high - tolerance if self.below else value <= self.high + tolerance)

    @property
    def words(self) -> str:
        """The range in words, in the base unit."""
        if self.low == self.high:
            return f"{plain(self.low)} {self.unit}"
        if math.isinf(self.high):
            return f"{'above' if self.above else 'at least'} {plain(self.low)} {self.unit}"
        if math.isinf(self.low):
            return f"{'below' if self.below else 'at most'} {plain(self.high)} {self.unit}"
        return f"{plain(self.low)} to {plain(self.high)} {self.unit}"


def base_dose(dose: float, unit: str) -> tuple[float, str]:
    """Return a dose in the base unit of its kind (uM, ug/mL), to twelve digits: equal doses become equal numbers.

    Raises
    ------
    ConditionError
        `unit` is no unit.
    """
    unit = normalize_unit(unit)
    base = "uM" if unit in _MOLAR else "ug/mL" if unit in _MASS else unit
    return float(f"{convert(dose, unit, base):.12g}"), base


def plain(value: float) -> str:
    """Return a number in at most twelve digits, without trailing zeros: ``0.1``, ``10000``, ``1e-5``."""
    return _exponent(f"{value:.12g}")


def signed(value: float, decimals: int, threshold: float) -> str:
    """Return an effect with its sign; digits are added where rounding would carry it across the threshold."""
    while decimals < 9 and (abs(value) >= threshold) != (round(abs(value), decimals) >= threshold):
        decimals += 1
    text = f"{value:+.{decimals}f}"
    return text.replace("-", "+") if not float(text) else text


def small(value: float, threshold: float) -> str:
    """Return a q value in three digits; more where rounding would carry it across the threshold."""
    digits = 3
    while digits < 12 and (value <= threshold) != (float(f"{value:.{digits}g}") <= threshold):
        digits += 1
    return _exponent(f"{value:.{digits}g}")


def read_doses(text: str, units: Sequence[str] = ()) -> tuple[Range, ...]:
    """Return the doses in a question: ``10 uM``, ``1e-5 M``, ``1 and 10 micromolar``, ``above 500 nM``.

    Parameters
    ----------
    text
        The question.
    units
        Further units that the tables use, such as ``"Gy"``.
    """
    others = sorted((u for u in units if u not in _MOLAR + _MASS), key=lambda u: (-len(u), u))
    unit = "|".join([_DOSE_UNIT, *(re.escape(u) for u in others)])

    def value(number: str, written: str) -> tuple[float, str]:
        return base_dose(read_number(number), written if written in others else _unit_of(written))

    return _ranges(text, f"(?:{unit})", value)


def read_times(text: str) -> tuple[Range, ...]:
    """Return the times in a question, in hours: ``24h``, ``1 day``, ``90 min``, ``day 3``."""

    def value(number: str, written: str) -> tuple[float, str]:
        return hours(read_number(number), written), "h"

    found = list(_ranges(text, _TIME_UNIT, value))
    for match in re.finditer(r"\b(day|hour|week)\s+(\d+(?:\.\d+)?)(?![\w.])", text, re.IGNORECASE):
        at = hours(float(match[2]), match[1])
        if all(match.end() <= r.start or match.start() >= r.end for r in found):
            found.append(Range(at, at, "h", match.start(), match.end()))
    return tuple(found)


def hours(number: float, unit: str) -> float:
    """Return a time in hours, `unit` being any word for hours, minutes, days or weeks."""
    return float(f"{number * _HOURS[unit[0].lower()]:.12g}")


def time_of_text(text: str) -> float | None:
    """Return the hours that a table's cell such as ``24h`` or ``day 3`` says, or None where it says none."""
    found = read_times(text)
    return found[0].low if len(found) == 1 and found[0].low == found[0].high else None


def read_number(text: str) -> float:
    """Return the number that ``1,000``, ``1e-5``, ``10^-5`` or ``2 x 10^-6`` writes."""
    text = re.sub(r"\s", "", text).replace("\u2212", "-").replace(",", "")
    power = re.fullmatch(r"(.+?)[x\u00d7*]10\^?([-+]?\d+)", text) or re.fullmatch(r"()10\^([-+]?\d+)", text)
    return float(f"{power[1] or 1}e{power[2]}") if power else float(text)


def _unit_of(written: str) -> str:
    word = re.fullmatch(r"(pico|nano|micro|milli|)molar", written, re.IGNORECASE)
    if word:
        return _WORDS[word[1].lower()]
    text = re.sub(r"\s|per", "", written.replace("µ", "u").replace("μ", "u"), flags=re.IGNORECASE)
    if text.lower().endswith("ml"):
        return f"{text[:2].lower()}/mL"
    return text if text in ("M", "pM") else f"{text[0].lower()}M"


def _ranges(text: str, unit: str, value: Callable[[str, str], tuple[float, str]]) -> tuple[Range, ...]:
    """Return the ranges that numbers with a unit write; what one list says shares its characters."""
    joint = r"(,\s*and\b|,\s*or\b|,(?!\d{3}(?!\d))|and\b|or\b|to\b|-|\u2013|/)"
    element = rf"({_NUMBER})(?:[\s-]?({unit})(?![A-Za-z0-9%]))?\s*{joint}\s*"
    listed = element.replace("(", "(?:").replace("(?:?", "(?")
    whole = re.compile(rf"(?<![\w.])(?<![A-Za-z]-)((?:{listed})*)({_NUMBER})[\s-]?({unit})(?![A-Za-z0-9%])")
    found = []
    for match in whole.finditer(text):
        parts = re.findall(element, match[1])
        units = [*(u for _, u, _ in parts), match[3]]
        # A number without a unit has the one that follows next.
        units = [next(u for u in units[i:] if u) for i in range(len(units))]
        try:
            values = [value(n, u) for n, u in zip([*(n for n, _, _ in parts), match[2]], units, strict=True)]
        except (ConditionError, OverflowError):
            continue
        found += _said(text, match, values, [joint for _, _, joint in parts])
    return tuple(found)


def _said(text: str, match: re.Match[str], values: list[tuple[float, str]], joints: list[str]) -> list[Range]:
    before, after, span = text[: match.start()], text[match.end() :], (match.start(), match.end())
    (low, unit), (high, unit_last) = values[0], values[-1]
    between = re.search(r"\bbetween\s*$", before, re.IGNORECASE) and joints == ["and"]
    if len(values) == 2 and unit == unit_last and (between or joints[0] in ("to", "-", "\u2013")):
        return [Range(min(low, high), max(low, high), unit, *span)]
    if len(values) == 1:
        if _AT_LEAST.search(before) or _OR_MORE.match(after):
            return [Range(low, math.inf, unit, *span)]
        if _MORE.search(before):
            return [Range(low, math.inf, unit, *span, above=True)]
        if _AT_MOST.search(before) or _OR_LESS.match(after):
            return [Range(-math.inf, low, unit, *span)]
        if _LESS.search(before):
            return [Range(-math.inf, low, unit, *span, below=True)]
    return [Range(v, v, u, *span) for v, u in values]


def _exponent(text: str) -> str:
    return re.sub(r"e([-+])0*(\d)", lambda m: f"e{m[1] if m[1] == '-' else ''}{m[2]}", text)

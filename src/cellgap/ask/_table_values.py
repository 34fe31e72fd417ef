"""Values of an effect table: checked, in one shape, and identified."""

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from cellgap.ask._answer import Notice
from cellgap.ask._passage import clean
from cellgap.ask._quantities import base_dose, hours, time_of_text
from cellgap.ask._table_columns import Columns
from cellgap.errors import ConditionError, DataError
from cellgap.study import Condition
from cellgap.study._wording import listed

SOURCES = ("measured", "predicted")
_MISSING = ("", "na", "n/a", "nan", "none", "null", "<na>")
_LONGEST = 200
_JOINED = re.compile(r"\s+\+\s+|(?<=[\w)])\+(?=[\w(])")


@dataclass(frozen=True)
class Place:
    """Where rows stand, for errors.

    Parameters
    ----------
    where
        File or table.
    counts
        ``"line"`` or ``"row"``.
    numbers
        Of every row.
    """

    where: str
    counts: str
    numbers: np.ndarray

    def refuse(self, row: int, column: str, wrong: str) -> NoReturn:
        """Raise a ``DataError`` about a cell."""
        raise DataError(f"{self.where}, {self.counts} {self.numbers[row]}, column {column!r}: {wrong}.")


def canonical_frame(
    frame: pd.DataFrame, columns: Columns, place: Place
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray, list[Notice]]:
    """Return the rows in one shape, their doses in base units and those units, their positions, and what is unusual.

    Raises
    ------
    DataError
        There is no row, or a value is not what its column holds.
    """
    if not len(frame):
        raise DataError(f"{place.where} has no rows: expected one row an effect.")
    notices = []

    def numbers(name: str, check: Callable[[np.ndarray], np.ndarray], said: str, needed: bool = False) -> np.ndarray:
        if name not in columns.named:
            return np.full(len(frame), np.nan)
        column = columns.named[name]
        values, unread = _numbers(pd.Series(frame[column]))
        wrong = unread | np.isinf(values) | (~np.isnan(values) & ~check(values)) | (needed & np.isnan(values))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            place.refuse(row, column, f"expected {said}, found {_said(frame[column].iloc[row]) or 'nothing'!r}")
        return values

    def texts(name: str, needed: bool = False) -> np.ndarray:
        if name not in columns.named:
            return np.full(len(frame), "", dtype=object)
        return _texts(pd.Series(frame[columns.named[name]]), columns.named[name], place, needed)

    doses = numbers("dose", lambda v: v >= 0, "a dose of at least 0")
    doses_units = _units(doses, texts("unit"), columns, place)
    treatments = _mapped(texts("treatment", needed=True), _treatment)
    made: dict[str, Any] = dict(zip(("treatment", "dose", "unit"), _named(treatments, doses, doses_units), strict=True))
    for name, column in columns.context:
        made[name] = _texts(pd.Series(frame[column]), column, place, needed=False)
    made["time_h"] = _times(frame, columns, place)
    made["readout"] = texts("readout", needed=True)
    made["effect"] = numbers("effect", np.isfinite, "a finite number", needed=True)
    made["se"] = numbers("se", lambda v: v >= 0, "a standard error of at least 0")
    made["q"] = numbers("q", lambda v: (v >= 0) & (v <= 1), "a number between 0 and 1", needed=True)
    made["n_cells"] = numbers("n_cells", lambda v: v >= 0, "a number of cells, at least 0")
    made["n_control"] = numbers("n_control", lambda v: v >= 0, "a number of cells, at least 0")
    made["source"] = _sources(texts("source"), columns, place)
    made["dataset"], made["model"] = texts("dataset"), texts("model")
    made["extrapolates"] = _mapped(texts("extrapolates"), _extrapolates)
    if columns.time_assumed and not np.isnan(made["time_h"]).all():
        column = columns.named["time_h"]
        notices.append(Notice("time_unit", f"{place.where}: numbers of the column {column!r} are read as hours."))
    if columns.unused:
        said = f"{place.where}: columns that are not used: {listed(columns.unused)}."
        notices.append(Notice("unused_columns", said))
    control = made["dose"] == 0
    if control.any():
        said = f"{place.where}: {control.sum():,} rows with a dose of 0 are controls and left out."
        notices.append(Notice("controls", said))
    kept = np.flatnonzero(~control)
    if not len(kept):
        raise DataError(f"{place.where} has rows with a dose of 0 only, which are controls: expected treated cells.")
    rows = pd.DataFrame(made).iloc[kept].reset_index(drop=True)
    doses, units = _in_base_units(rows["dose"].to_numpy(float), rows["unit"].to_numpy(object))
    return rows, doses, units, kept, notices


def identified(
    rows: pd.DataFrame,
    doses: np.ndarray,
    units: np.ndarray,
    context: Sequence[str],
    name: str,
    place: Place,
    origin: np.ndarray,
) -> tuple[pd.DataFrame, np.ndarray, list[Notice]]:
    """Return the rows without repeats and with ``row_id``, positions of those kept, and what was found.

    The identifier is a hash of data set and key: treatment, dose in its base unit, context, time, readout, model and
    source. Rows of one key with other values have the values in the hash as well.
    """
    dataset = rows["dataset"].where(rows["dataset"] != "", name)
    text = [dataset, rows["treatment"], _written(doses), pd.Series(units)]
    text += [rows[c] for c in context] + [_written(rows["time_h"].to_numpy(float)), rows["readout"]]
    text += [rows["model"], rows["source"]]
    keys = ["\x1f".join(row) for row in zip(*(t.tolist() for t in text), strict=True)]
    numbers = [_written(rows[c].to_numpy(float)) for c in ("effect", "se", "q", "n_cells", "n_control")]
    values = list(zip(*(t.tolist() for t in (*numbers, rows["extrapolates"])), strict=True))
    found: dict[str, dict[tuple[str, ...], int]] = {}
    repeats: list[int] = []
    for i, (key, value) in enumerate(zip(keys, values, strict=True)):
        first = found.setdefault(key, {}).setdefault(value, i)
        if first != i:
            # Which of two equal doses in other units is printed must not hang on the order of rows.
            if (rows["unit"].iat[i], i) < (rows["unit"].iat[first], first):
                found[key][value] = i
                first, i = i, first
            repeats.append(i)
    notices = []
    if repeats:
        lines = [place.numbers[origin[i]] for i in sorted(repeats)]
        said = f"{place.where}: {len(repeats):,} rows repeat another and are left out, {place.counts} {_some(lines)}."
        notices.append(Notice("duplicate_rows", said))
    unlike = sorted(i for same in found.values() if len(same) > 1 for i in same.values())
    if unlike:
        lines = [place.numbers[origin[i]] for i in unlike]
        rows_at = f"{place.counts} {_some(lines)}"
        said = f"{place.where}: {len(unlike):,} rows share a key and differ in their values, {rows_at}."
        notices.append(Notice("key_not_unique", said))
    kept = np.array(sorted(i for same in found.values() for i in same.values()), dtype=np.int64)
    made = rows.iloc[kept].reset_index(drop=True)
    unique = [keys[i] if len(found[keys[i]]) == 1 else "\x1e".join((keys[i], *values[i])) for i in kept.tolist()]
    made["row_id"] = [hashlib.sha256(key.encode()).hexdigest()[:16] for key in unique]
    return made, kept, notices


def _some(lines: Sequence[object]) -> str:
    return ", ".join(str(line) for line in lines[:5]) + (", ..." if len(lines) > 5 else "")


def _written(values: np.ndarray) -> pd.Series:
    unique, where = np.unique(values, return_inverse=True)
    texts = np.array(["" if math.isnan(v) else f"{v + 0.0:.12g}" for v in unique.tolist()], dtype=object)
    return pd.Series(texts[where.reshape(-1)])


def _mapped(values: np.ndarray, change: Callable[[str], str]) -> np.ndarray:
    codes, unique = pd.factorize(values)
    return np.array([change(v) for v in unique], dtype=object)[codes]


def _texts(column: pd.Series, name: str, place: Place, needed: bool) -> np.ndarray:
    codes, unique = pd.factorize(column, use_na_sentinel=False)
    texts = []
    for code, value in enumerate(unique):
        missing = value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA
        if isinstance(value, float) and not missing and value.is_integer():
            value = int(value)
        text = "" if missing else clean(str(value)).replace("\n", " ").replace("\t", " ")
        if len(text) > _LONGEST and name not in ("extrapolates", "extrapolation"):
            row = int(np.flatnonzero(codes == code)[0])
            place.refuse(row, name, f"expected a name of at most {_LONGEST} characters, found {len(text):,}")
        texts.append(text[:_LONGEST])
    values = np.array(texts, dtype=object)[codes]
    if needed and "" in texts:
        place.refuse(int(np.flatnonzero(values == "")[0]), name, "expected a name, found nothing")
    return values


def _numbers(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of a column, NaN where there is none, and which cells hold something that is no number."""
    if column.dtype == bool:
        return np.full(len(column), np.nan), np.full(len(column), True)
    values = pd.Series(pd.to_numeric(column, errors="coerce")).to_numpy(float, na_value=np.nan)
    unread = np.full(len(column), False)
    if column.dtype == object:
        # pandas reads true as 1; in a column of numbers it is a mistake.
        unread |= np.array([isinstance(v, bool | np.bool_) for v in column.tolist()])
    unknown = np.flatnonzero(np.isnan(values))
    unread[unknown] = [_said(v).lower() not in _MISSING for v in column.iloc[unknown].tolist()]
    return values, unread


def _said(value: object) -> str:
    return "" if value is None or value is pd.NA else str(value).strip()


def _times(frame: pd.DataFrame, columns: Columns, place: Place) -> np.ndarray:
    if "time_h" not in columns.named:
        return np.full(len(frame), np.nan)
    name = columns.named["time_h"]
    codes, unique = pd.factorize(frame[name], use_na_sentinel=False)
    read = []
    for code, value in enumerate(unique):
        text = _said(value)
        if text.lower() in _MISSING:
            read.append(math.nan)
            continue
        number: float | None
        try:
            number = hours(float(text), columns.time)
        except ValueError:
            number = time_of_text(text)
        if number is None or not math.isfinite(number) or number < 0:
            row = int(np.flatnonzero(codes == code)[0])
            place.refuse(row, name, f"expected a time such as 24 or 24h, at least 0, found {text!r}")
        read.append(number)
    return np.array(read, dtype=float)[codes]


def _units(doses: np.ndarray, given: np.ndarray, columns: Columns, place: Place) -> np.ndarray:
    has = ~np.isnan(doses)
    units = np.where(has, given, "").astype(object)
    if columns.unit:
        stated = np.flatnonzero(has & (units != "") & (units != columns.unit))
        if len(stated):
            said = f"found {units[stated[0]]!r}, but the column {columns.named['dose']!r} says {columns.unit}"
            place.refuse(int(stated[0]), columns.named["unit"], said)
        units[has] = columns.unit
    without = np.flatnonzero(has & (units == ""))
    if len(without):
        row = int(without[0])
        place.refuse(
            row,
            columns.named["dose"],
            f"the dose {doses[row]:g} has no unit: name the column dose_uM, or give a column dose_unit",
        )
    for unit in sorted(set(units[has].tolist())):
        try:
            base_dose(1.0, unit)
        except ConditionError as error:
            row = int(np.flatnonzero(units == unit)[0])
            place.refuse(row, columns.named.get("unit", "dose"), str(error).rstrip("."))
    return _mapped(units, lambda u: u.replace("μ", "u").replace("µ", "u"))


def _in_base_units(doses: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    codes, unique = pd.factorize(units)
    made, bases = np.full(len(doses), np.nan), np.full(len(doses), "", dtype=object)
    for code, unit in enumerate(unique):
        if unit:
            mine = codes == code
            values, where = np.unique(doses[mine], return_inverse=True)
            scaled = [base_dose(float(v), unit) for v in values]
            made[mine] = np.array([v for v, _ in scaled])[where.reshape(-1)]
            bases[mine] = scaled[0][1]
    return made, bases


def _sources(given: np.ndarray, columns: Columns, place: Place) -> np.ndarray:
    texts = _mapped(given, lambda text: text.lower() or "measured")
    wrong = np.flatnonzero(~np.isin(texts.astype(str), SOURCES))
    if len(wrong):
        row = int(wrong[0])
        place.refuse(row, columns.named["source"], f"expected measured or predicted, found {given[row]!r}")
    return texts


def _named(treatments: np.ndarray, doses: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return treatments, doses and units, those of ``trametinib@1000nM`` taken from its name."""
    for text in sorted({t for t in treatments.tolist() if "@" in t and " + " not in t}):
        try:
            (one,) = Condition.parse(text).treatments
        except (ConditionError, ValueError):
            continue
        mine = (treatments == text) & np.isnan(doses)
        if one.dose is not None and one.unit:
            treatments = np.where(mine, one.name, treatments)
            doses, units = np.where(mine, one.dose, doses), np.where(mine, one.unit, units)
    return treatments, doses, units


def _treatment(text: str) -> str:
    """Return a treatment's name; the names of a combination in order, so that ``b+a`` is ``a + b``."""
    return text if "@" in text else " + ".join(sorted(_JOINED.split(text)))


def _extrapolates(text: str) -> str:
    if text.lower() in ("false", "0", "no", *_MISSING):
        return ""
    return "no row of this combination was seen by the model" if text.lower() in ("true", "1", "yes") else text

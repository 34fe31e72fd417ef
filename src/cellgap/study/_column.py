"""One column of ``obs`` as codes and distinct labels, and what a label means: control, name, dose."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd

from cellgap.errors import DesignError
from cellgap.study._design import text_of


@dataclass(frozen=True)
class Column:
    """A column as codes (n_obs,) into its distinct values (as text, and as they stand); -1 is missing."""

    codes: np.ndarray
    texts: list[str]
    values: list[object]

    @property
    def missing(self) -> np.ndarray:
        """Mask (n_obs,) of the cells without a label: missing, or blank."""
        blank = [i for i, text in enumerate(self.texts) if not text.strip()]
        return np.isin(self.codes, [-1, *blank])


def labels_in(obs: pd.DataFrame, name: str) -> pd.Series:
    """Return one column of ``obs``; it must be there, once."""
    return cast("pd.Series", obs[name])


def factor(series: pd.Series) -> Column:
    """Return a column as codes and distinct values; categories without a cell are left out.

    Raises
    ------
    DesignError
        The column holds objects that are no labels, such as lists.
    """
    if isinstance(series.dtype, pd.CategoricalDtype):
        all_codes = series.cat.codes.to_numpy()
        used = np.zeros(len(series.cat.categories), bool)
        used[all_codes[all_codes >= 0]] = True
        place = np.append(np.where(used, np.cumsum(used) - 1, -1), -1)  # the last entry serves code -1
        values = [v for v, u in zip(series.cat.categories, used, strict=True) if u]
        return Column(place[all_codes].astype(np.int64), [text_of(v) for v in values], values)
    try:
        codes, uniques = pd.factorize(series.to_numpy() if isinstance(series.dtype, np.dtype) else series)
    except TypeError:
        raise DesignError(
            f'obs["{series.name}"] holds {type(series.iloc[0]).__name__} values: expected texts, numbers or booleans.'
        ) from None
    values = list(uniques)
    return Column(codes.astype(np.int64), [text_of(v) for v in values], values)


def domain_mask(series: pd.Series, values: list[str]) -> np.ndarray:
    """Return the mask (n_obs,) of the cells whose label is one of ``values``."""
    column = factor(series)
    return np.isin(column.codes, [i for i, text in enumerate(column.texts) if text in values])


def as_number(label: object) -> float | None:
    """Return the number that a label reads as, or None; NaN and infinity do not count as numbers."""
    if isinstance(label, bool | np.bool_):
        return None
    try:
        # Through the text, so that a float32 2.3324 is 2.3324 and not 2.332400083.
        number = float(str(label).replace("_", "x"))  # Python would read 1_000
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _as_value(text: str) -> float | None:
    """Return the number that a label reads as, with true as 1 and false as 0, or None."""
    truth = text.strip().lower()
    return float(truth == "true") if truth in ("true", "false") else as_number(text)


def is_control_label(text: str, control: str) -> bool:
    """Return whether a label is the control value; numbers and booleans compare by value."""
    if text == control:
        return True
    value = _as_value(control)
    return value is not None and _as_value(text) == value


def name_of(text: str, column: str) -> str:
    """Return the treatment name of a label: as it stands, or after its column where it reads as a number."""
    value = _as_value(text)
    if value is None:
        return text
    return column if value == 1 else f"{column}={text}"


def doses_of(column: Column, combine: str | None) -> tuple[list[tuple[float, ...]], list[str]]:
    """Return the doses (one, or one a member) of each distinct value, and the texts that are not doses."""
    doses: list[tuple[float, ...]] = []
    wrong = []
    for value, text in zip(column.values, column.texts, strict=True):
        parts = [as_number(value)]
        if parts == [None] and combine is not None and isinstance(value, str):
            parts = [as_number(part) for part in value.split(combine)]
        good = tuple(p for p in parts if p is not None and p >= 0)
        if len(good) < len(parts):
            wrong.append(text)
            good = ()
        doses.append(good)
    return doses, wrong

"""From the columns of ``obs`` to one condition a cell, without a Python loop over cells."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cellgap.errors import CellgapError, ConditionError, DesignError
from cellgap.study._condition import Condition
from cellgap.study._design import Design, Slot, text_of
from cellgap.study._treatment import Treatment

_USUAL_CONTROLS = (
    "dmso", "vehicle", "control", "ctrl", "untreated", "none", "unstimulated", "pbs", "mock", "non-targeting", "0",
)  # fmt: skip
_SHOWN = 5


@dataclass
class Labels:
    """The condition of every cell, and what is wrong with the labels.

    ``codes`` (n_obs,) int32 indexes ``conditions`` (controls first, both parts sorted); -1 is a cell without a label.
    """

    conditions: tuple[Condition, ...] = ()
    n_controls: int = 0
    codes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    errors: list[CellgapError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Column:
    """A column as codes (n_obs,) into its distinct values (as text, and as they stand); -1 is missing."""

    codes: np.ndarray
    texts: list[str]
    values: list[object]


def listed(names: Sequence[object], shown: int = _SHOWN) -> str:
    """Return names in double quotes with commas, cut after ``shown``."""
    some = ", ".join(f'"{name}"' for name in names[:shown])
    return some + (f" and {len(names) - shown} more" if len(names) > shown else "")


def close_to(name: str, known: Sequence[str]) -> str:
    """Return a sentence part that names the known names close to ``name``, or all of them where none is close."""
    by_lower = {other.lower(): other for other in known}
    close = [by_lower[m] for m in difflib.get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.6)]
    if close:
        return f"did you mean {' or '.join(repr(m) for m in close)}?"
    return f"expected one of {listed(sorted(known))}." if known else "there is none."


def read_labels(obs: pd.DataFrame, design: Design) -> Labels:
    """Return the condition of every row of ``obs``, with every error and warning on the way."""
    labels = Labels(codes=np.full(len(obs), -1, np.int32))
    known = [str(c) for c in obs.columns]
    for name in design.columns:
        if name not in obs.columns:
            labels.errors.append(
                DesignError(f"obs has no column {name!r} that the design names: {close_to(name, known)}")
            )
        elif isinstance(obs[name], pd.DataFrame):
            labels.errors.append(DesignError(f"obs has the column {name!r} more than once: rename one."))
    if labels.errors or len(obs) == 0:
        return labels
    columns = {name: _factor(obs[name]) for name in design.columns if name != design.time}
    if design.time is not None:
        labels.errors.extend(_check_time(obs[design.time], design.time))
    for slot in design.slots:
        if slot.dose is not None:
            _, wrong = _numbers(columns[slot.dose], design.combine)
            if wrong:
                labels.errors.append(
                    DesignError(f'obs["{slot.dose}"] is a dose column but holds {listed(wrong)}: expected numbers.')
                )
    required = [slot.column for slot in design.slots] + list(design.context_names)
    for name in required:
        _warn_about_labels(labels, name, columns[name], obs[name])
        missing = np.isin(columns[name].codes, [-1, *(i for i, t in enumerate(columns[name].texts) if not t.strip())])
        if missing.any():
            labels.errors.append(
                DesignError(
                    f'obs["{name}"] has no label in {missing.sum()} of {len(obs)} cells (first: '
                    f'"{obs.index[int(np.argmax(missing))]}"): fill it, or remove these cells.'
                )
            )
    if labels.errors:
        return labels
    _build(labels, columns, design)
    _check_controls(labels, columns, design)
    return labels


def _factor(series: pd.Series) -> _Column:
    """Return a column as codes and distinct values; categories without a cell are left out."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        all_codes = series.cat.codes.to_numpy()
        used = np.zeros(len(series.cat.categories), bool)
        used[all_codes[all_codes >= 0]] = True
        place = np.append(np.where(used, np.cumsum(used) - 1, -1), -1)  # the last entry serves code -1
        codes = place[all_codes]
        values = [v for v, u in zip(series.cat.categories, used, strict=True) if u]
    else:
        raw = series.to_numpy() if isinstance(series.dtype, np.dtype) else series
        codes, uniques = pd.factorize(raw)
        values = list(uniques)
    return _Column(codes.astype(np.int64), [text_of(v) for v in values], values)


def _as_number(value: object) -> float | None:
    """Return the number that a label reads as (true is 1, false is 0), or None."""
    text = str(value).strip().lower()
    if text in ("true", "false"):
        return float(text == "true")
    try:
        # Through the text, so that a float32 2.3324 is 2.3324 and not 2.332400083.
        return float(text)
    except ValueError:
        return None


def _numbers(column: _Column, combine: str | None) -> tuple[list[tuple[float, ...]], list[str]]:
    """Return the doses (one, or one a member) of each distinct value, and the texts that are not doses."""
    doses: list[tuple[float, ...]] = []
    wrong = []
    for value, text in zip(column.values, column.texts, strict=True):
        one = None if text.lower() in ("true", "false") else _as_number(value)
        parts = [one]
        if one is None and combine is not None and isinstance(value, str):
            parts = [_as_number(part) for part in value.split(combine)]
        if any(p is None or not np.isfinite(p) or p < 0 for p in parts):
            wrong.append(text)
            doses.append(())
        else:
            doses.append(tuple(p for p in parts if p is not None))
    return doses, wrong


def _check_time(series: pd.Series, name: str) -> list[CellgapError]:
    numbers = pd.to_numeric(series.astype(object), errors="coerce").to_numpy(dtype=float)
    bad = ~np.isfinite(numbers)
    if not bad.any():
        return []
    first = int(np.argmax(bad))
    return [
        DesignError(
            f'obs["{name}"] is the time column but has no finite number in {bad.sum()} cells '
            f'(first: "{series.index[first]}" holds {series.iloc[first]!r}): expected numbers.'
        )
    ]


def _warn_about_labels(labels: Labels, name: str, column: _Column, series: pd.Series) -> None:
    alike: dict[str, list[str]] = {}
    for text in column.texts:
        alike.setdefault(text.strip().lower(), []).append(text)
    for group in alike.values():
        if len(group) > 1:
            labels.warnings.append(f'obs["{name}"] has {listed(group)}: labels that differ only in case or spaces.')
    for text in column.texts:
        if text.strip().lower() in ("nan", "na", "<na>", "null"):
            labels.warnings.append(f'obs["{name}"] has the label "{text}": a missing value written as text?')
    if isinstance(series.dtype, pd.CategoricalDtype):
        known = set(column.texts)
        unused = [text_of(c) for c in series.cat.categories if text_of(c) not in known]
        if unused:
            labels.warnings.append(f'obs["{name}"] has categories without a cell: {listed(unused)}.')


def is_control_label(text: str, control: str) -> bool:
    """Return whether a label is the control value; numbers and booleans compare by value."""
    if text == control:
        return True
    number = _as_number(control)
    return number is not None and _as_number(text) == number


def _name_of(text: str, column: str) -> str:
    """Return the treatment name of a label: as it stands, or after its column where it reads as a number."""
    number = _as_number(text)
    if number is None or not np.isfinite(number):
        return text
    return column if number == 1 else f"{column}={text}"


def _treatments(text: str, doses: tuple[float, ...] | None, slot: Slot, combine: str | None) -> list[Treatment]:
    """Return the treatments of one label of a slot; ``doses`` is None where there is none.

    Raises
    ------
    DesignError
        A treatment has no dose in a column of doses, or the doses do not match the members of a combination.
    """
    if is_control_label(text, slot.control):
        return []
    members = [part.strip() for part in text.split(combine)] if combine is not None else [text]
    if slot.dose is None:
        given: list[float | None] = [None] * len(members)
    elif not doses:
        raise DesignError(f'obs["{slot.dose}"] has no dose for cells with "{text}" in obs["{slot.column}"]: give one.')
    elif len(doses) in (1, len(members)):
        given = list(doses) * (len(members) // len(doses))
    else:
        raise DesignError(
            f'obs["{slot.dose}"] has {len(doses)} doses for the {len(members)} members of "{text}": '
            "give one number, or one a member."
        )
    found = []
    for member, dose in zip(members, given, strict=True):
        if dose == 0 or is_control_label(member, slot.control):
            continue
        if not member:
            raise DesignError(
                f'obs["{slot.column}"] holds "{text}", a combination with an empty name: '
                "set Design(combine=None) if the separator belongs to the name."
            )
        found.append(Treatment(_name_of(member, slot.column), dose, slot.unit if dose is not None else None))
    return found


def _build(labels: Labels, columns: dict[str, _Column], design: Design) -> None:
    """Set the codes and the conditions: one Python step for each distinct row of labels, not for each cell."""
    code = np.zeros(len(labels.codes), np.int64)
    for column in columns.values():
        code, _ = pd.factorize(code * (len(column.texts) + 1) + column.codes + 1)
    code = code.astype(np.int64)
    n_rows = int(code.max()) + 1
    first = np.empty(n_rows, np.int64)
    first[code[::-1]] = np.arange(len(code))[::-1]
    doses = {s.dose: _numbers(columns[s.dose], design.combine)[0] for s in design.slots if s.dose is not None}
    found: list[Condition | None] = []
    told: set[str] = set()
    for row in first:
        try:
            found.append(_condition_at(int(row), columns, doses, design, labels, told))
        except (DesignError, ConditionError) as error:
            if str(error) not in told:
                told.add(str(error))
                labels.errors.append(error if isinstance(error, DesignError) else DesignError(f"In obs: {error}"))
            found.append(None)
    distinct = {c for c in found if c is not None}
    controls, treated = sorted(c for c in distinct if c.is_control), sorted(c for c in distinct if not c.is_control)
    labels.conditions, labels.n_controls = (*controls, *treated), len(controls)
    index = {c: i for i, c in enumerate(labels.conditions)}
    labels.codes = np.array([-1 if c is None else index[c] for c in found], np.int32)[code]


def _condition_at(
    row: int,
    columns: dict[str, _Column],
    doses: dict[str, list[tuple[float, ...]]],
    design: Design,
    labels: Labels,
    told: set[str],
) -> Condition:
    treatments = []
    for slot in design.slots:
        column = columns[slot.column]
        text = column.texts[column.codes[row]]
        dose = None
        if slot.dose is not None and columns[slot.dose].codes[row] >= 0:
            dose = doses[slot.dose][columns[slot.dose].codes[row]]
        if dose and max(dose) > 0 and is_control_label(text, slot.control) and slot.column != slot.dose:
            note = (
                f'obs["{slot.dose}"] has the dose {max(dose):g} beside the control "{text}": '
                "these cells are taken as controls."
            )
            if len(design.slots) == 1 and note not in told:
                told.add(note)
                labels.warnings.append(note)
        treatments.extend(_treatments(text, dose, slot, design.combine))
    context = [(name, columns[name].texts[columns[name].codes[row]]) for name in design.context_names]
    return Condition.of(treatments, context)


def _check_controls(labels: Labels, columns: dict[str, _Column], design: Design) -> None:
    """Add an error where there is no control at all, or none in a context that has treated cells."""
    controls = set(labels.conditions[: labels.n_controls])
    treated = labels.conditions[labels.n_controls :]
    if not treated and controls:
        labels.warnings.append("Every cell is a control: nothing can be learned about a treatment.")
    if not controls and treated:
        if len(design.slots) > 1:
            looked = ", ".join(f'{s.column} = "{s.control}"' for s in design.slots)
            labels.errors.append(
                DesignError(f"obs has no control cells: looked for cells with {looked}. Set Design(control=...).")
            )
            return
        slot = design.slots[0]
        texts = sorted(columns[slot.column].texts)
        usual = [t for t in texts if t.lower() in _USUAL_CONTROLS]
        advice = f'Set Design(control="{usual[0]}").' if usual else "Set Design(control=...) to the untreated label."
        labels.errors.append(
            DesignError(
                f'obs["{slot.column}"] has no control cells: looked for "{slot.control}", found {listed(texts)}. {advice}'
            )
        )
        return
    without = sorted({c.control for c in treated if c.control not in controls})
    if without:
        names = ", ".join(design.context_names)
        labels.errors.append(
            DesignError(
                f"{len(without)} contexts have treated cells but no control cells, the first is "
                f'"{repr(without[0]).removeprefix("control | ")}": remove these cells, or take fewer columns than '
                f"({names}) as context."
            )
        )

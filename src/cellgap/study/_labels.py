"""From the columns of ``obs`` to one condition a cell, without a Python loop over cells."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pandas as pd

from cellgap.errors import CellgapError, ConditionError, DesignError
from cellgap.study._column import Column, doses_of, factor, is_control_label, labels_in, name_of
from cellgap.study._condition import Condition
from cellgap.study._design import Design, Slot, text_of
from cellgap.study._treatment import Treatment
from cellgap.study._wording import close_to, listed

_USUAL_CONTROLS = (
    "dmso", "vehicle", "control", "ctrl", "untreated", "none", "unstimulated", "pbs", "mock", "non-targeting", "0",
)  # fmt: skip
_Known = dict[tuple[int, int, int], list[Treatment]]
_MISSING_WORDS = ("nan", "na", "<na>", "null")


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


def read_labels(obs: pd.DataFrame, design: Design) -> Labels:
    """Return the condition of every row of ``obs``, with every error and warning on the way."""
    labels = Labels(codes=np.full(len(obs), -1, np.int32))
    labels.errors.extend(_check_columns(obs, design))
    if labels.errors or len(obs) == 0:
        return labels
    columns: dict[str, Column] = {}
    for name in design.columns:
        try:
            columns[name] = factor(labels_in(obs, name))
        except DesignError as error:
            labels.errors.append(error)
    if labels.errors:
        return labels
    if design.time is not None:
        labels.errors.extend(_check_time(labels_in(obs, design.time), design.time))
    for name in dict.fromkeys(slot.dose for slot in design.slots if slot.dose is not None):
        _, wrong = doses_of(columns[name], design.combine)
        if wrong:
            labels.errors.append(
                DesignError(
                    f'obs["{name}"] is a dose column but holds {listed(wrong)}: '
                    "expected finite numbers of 0 or more (controls may be left empty)."
                )
            )
    for name in (*(slot.column for slot in design.slots), *design.context_names):
        labels.warnings.extend(_suspicious(name, columns[name], labels_in(obs, name)))
        missing = columns[name].missing
        if missing.any():
            labels.errors.append(
                DesignError(
                    f'obs["{name}"] has no label in {missing.sum()} of {len(obs)} cells (first: '
                    f'"{obs.index[int(np.argmax(missing))]}"): fill it, or remove these cells.'
                )
            )
    if not labels.errors:
        _build(labels, columns, design)
    if not labels.errors:
        _check_controls(labels, columns, design)
    return labels


def _check_columns(obs: pd.DataFrame, design: Design) -> Iterable[CellgapError]:
    known = [str(c) for c in obs.columns]
    for name in design.columns:
        if name not in known:
            yield DesignError(f"obs has no column {name!r} that the design names: {close_to(name, known)}")
        elif known.count(name) > 1:
            yield DesignError(f"obs has the column {name!r} more than once: rename one.")


def _check_time(series: pd.Series, name: str) -> Iterable[CellgapError]:
    if not pd.api.types.is_numeric_dtype(series.dtype):
        series = cast("pd.Series", pd.to_numeric(series.astype(object), errors="coerce"))
    bad = ~np.isfinite(series.to_numpy(dtype=float, na_value=np.nan))
    if bad.any():
        first = int(np.argmax(bad))
        yield DesignError(
            f'obs["{name}"] is the time column but has no finite number in {bad.sum()} cells '
            f'(first: "{series.index[first]}"): expected numbers.'
        )


def _suspicious(name: str, column: Column, series: pd.Series) -> Iterable[str]:
    """Yield warnings about labels that may be mistakes."""
    alike: dict[str, list[str]] = {}
    for text in sorted(column.texts):
        alike.setdefault(text.strip().lower(), []).append(text)
    for folded, group in alike.items():
        if len(group) > 1:
            yield f'obs["{name}"] has the labels {listed(group)}, which differ only in case or spaces.'
        if folded in _MISSING_WORDS:
            yield f'obs["{name}"] has the label "{group[0]}": is it a missing value written as text?'
    if isinstance(series.dtype, pd.CategoricalDtype):
        used = set(column.texts)
        unused = [text_of(c) for c in series.cat.categories if text_of(c) not in used]
        if unused:
            yield f'obs["{name}"] has categories without a cell: {listed(unused)}.'


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
        given: Sequence[float | None] = [None] * len(members)
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
        found.append(Treatment(name_of(member, slot.column), dose, slot.unit if dose is not None else None))
    return found


def _build(labels: Labels, columns: dict[str, Column], design: Design) -> None:
    """Set the codes and the conditions: one Python step for each distinct row of labels, not for each cell."""
    used = [name for name in columns if name != design.time]
    code = np.zeros(len(labels.codes), np.int64)
    for name in used:  # after each column the codes are numbered anew, so that they never overflow
        code, _ = pd.factorize(code * (len(columns[name].texts) + 1) + columns[name].codes + 1)
    first = np.empty(int(code.max()) + 1, np.int64)
    first[code[::-1]] = np.arange(len(code))[::-1]
    doses = {s.dose: doses_of(columns[s.dose], design.combine)[0] for s in design.slots if s.dose is not None}
    found: list[Condition | None] = []
    told: set[str] = set()
    known: _Known = {}
    rows: list[Any] = pd.DataFrame({name: columns[name].codes[first] for name in used}).to_dict("records")
    for here in rows or [{}]:  # a design that names times alone has one condition: nothing was done to any cell
        try:
            found.append(_condition_at(here, columns, doses, design, known))
        except (DesignError, ConditionError) as error:
            found.append(None)
            text = str(error) if isinstance(error, DesignError) else f"obs holds a wrong condition: {error}"
            if text not in told:
                told.add(text)
                labels.errors.append(DesignError(text))
        for note in _dosed_controls(here, columns, doses, design):
            if note not in told:
                told.add(note)
                labels.warnings.append(note)
    distinct = sorted({c for c in found if c is not None}, key=lambda c: c.sort_key)  # controls first
    labels.conditions, labels.n_controls = tuple(distinct), sum(c.is_control for c in distinct)
    index = {condition: i for i, condition in enumerate(distinct)}
    labels.codes = np.array([-1 if c is None else index[c] for c in found], np.int32)[code]


def _condition_at(
    here: dict[Any, int],
    columns: dict[str, Column],
    doses: dict[str, list[tuple[float, ...]]],
    design: Design,
    known: _Known,
) -> Condition:
    """Return the condition of one distinct row of labels, given as a code in each column.

    ``known`` keeps the treatments of each label and dose of a slot: they come back in every context.
    """
    treatments: list[Treatment] = []
    for i, slot in enumerate(design.slots):
        code, dose_code = here[slot.column], -1 if slot.dose is None else here[slot.dose]
        if (i, code, dose_code) not in known:
            dose = None if slot.dose is None or dose_code < 0 else doses[slot.dose][dose_code]
            known[i, code, dose_code] = _treatments(columns[slot.column].texts[code], dose, slot, design.combine)
        treatments.extend(known[i, code, dose_code])
    return Condition.of(treatments, [(name, columns[name].texts[here[name]]) for name in design.context_names])


def _dosed_controls(
    here: dict[Any, int], columns: dict[str, Column], doses: dict[str, list[tuple[float, ...]]], design: Design
) -> Iterable[str]:
    """Yield a warning where a control label stands beside a dose; with several slots a dose may belong to another."""
    if len(design.slots) != 1:
        return
    slot = design.slots[0]
    if slot.dose is None or slot.dose == slot.column or here[slot.dose] < 0:
        return
    text, dose = columns[slot.column].texts[here[slot.column]], max(doses[slot.dose][here[slot.dose]])
    if dose > 0 and is_control_label(text, slot.control):
        yield f'obs["{slot.dose}"] has the dose {dose:g} beside the control "{text}": these cells count as controls.'


def _check_controls(labels: Labels, columns: dict[str, Column], design: Design) -> None:
    """Add an error where there is no control at all, or none in a context that has treated cells."""
    # Within a study the context names stand in one order, so that the pairs can be compared as they are.
    controls = {c.context for c in labels.conditions[: labels.n_controls]}
    treated = {c.context for c in labels.conditions[labels.n_controls :]}
    for slot in design.slots:
        texts = columns[slot.column].texts
        if controls and slot.dose is not None and not any(is_control_label(t, slot.control) for t in texts):
            labels.warnings.append(
                f'obs["{slot.column}"] never holds the control "{slot.control}": only cells of dose 0 are controls; '
                f"it holds {listed(sorted(texts))}."
            )
    if not treated and design.slots:
        labels.warnings.append("Every cell is a control: nothing can be learned about a treatment.")
    elif treated and not controls:
        labels.errors.append(DesignError(_no_control(columns, design)))
    else:
        without = sorted(treated - controls)
        if without:
            contexts = [repr(Condition.of((), context)).removeprefix("control | ") for context in without]
            labels.errors.append(
                DesignError(
                    f"There are treated cells but no control cells in {len(without)} of {len(treated)} contexts "
                    f"({listed(contexts)}): remove these cells, or take fewer columns than "
                    f"{', '.join(design.context_names)} as context."
                )
            )


def _no_control(columns: dict[str, Column], design: Design) -> str:
    if len(design.slots) > 1:
        looked = ", ".join(f'{slot.column} = "{slot.control}"' for slot in design.slots)
        return f"obs has no control cells: looked for cells with {looked}. Set Design(control=...), one value a column."
    slot = design.slots[0]
    texts = sorted(columns[slot.column].texts)
    usual = [text for text in texts if text.lower() in _USUAL_CONTROLS]
    advice = (
        f'Set Design(control="{usual[0]}").' if usual else "Set Design(control=...) to the label of untreated cells."
    )
    return f'obs["{slot.column}"] has no control cells: looked for "{slot.control}", found {listed(texts)}. {advice}'

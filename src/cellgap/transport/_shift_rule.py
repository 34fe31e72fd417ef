"""Simple rules for the mean effect of a condition, from the mean effects of the training conditions."""

from typing import Literal, NamedTuple

import numpy as np

from cellgap.errors import ConditionError
from cellgap.study import Condition

Rule = Literal["own", "all", "nearest", "dose", "additive", "ridge"]
NAMES: dict[Rule, str] = {
    "own": "mean shift",
    "all": "mean effect",
    "nearest": "nearest condition",
    "dose": "dose interpolation",
    "additive": "additive",
    "ridge": "ridge mean shift",
}


class Known(NamedTuple):
    """What rules read.

    Parameters
    ----------
    conditions
        Training conditions.
    vectors
        Their features, scaled by `scale`, shape (k, p).
    scale
        Scale of every feature.
    shifts
        Their mean effects, shape (k, d).
    """

    conditions: tuple[Condition, ...]
    vectors: np.ndarray
    scale: np.ndarray
    shifts: np.ndarray


def shift_by_rule(rule: str, condition: Condition, features: np.ndarray | None, known: Known) -> np.ndarray:
    """Return the mean effect of a condition by a rule other than ``"ridge"``, shape (d,).

    Parameters
    ----------
    rule
        See `MeanShift`.
    condition, features
        The condition; only ``"nearest"`` reads its features.
    known
        The training conditions.

    Raises
    ------
    ConditionError
        The rule has no answer for the condition.
    """
    if rule == "all":
        return known.shifts.mean(0)
    if rule == "nearest" and features is not None:
        gaps = np.linalg.norm(known.vectors - features / known.scale, axis=1)
        # Conditions that the descriptor does not tell apart (such as two donors) count equally.
        return known.shifts[gaps <= gaps.min() + 1e-6].mean(0)
    if rule == "dose":
        return _by_dose(condition, known.conditions, known.shifts)
    if rule == "additive":
        return _additive(condition, known.conditions, known.shifts)
    if condition not in known.conditions:
        raise ConditionError(f"{str(condition)!r} was not trained on, so its own mean shift is unknown.")
    return known.shifts[known.conditions.index(condition)]


def _same_context(condition: Condition, candidates: list[int], known: tuple[Condition, ...]) -> list[int]:
    """Return the candidates in the context of the condition, or all where there is none."""
    here = [i for i in candidates if known[i].control == condition.control]
    return here or candidates


def _by_dose(condition: Condition, known: tuple[Condition, ...], shifts: np.ndarray) -> np.ndarray:
    if len(condition.treatments) != 1 or condition.treatments[0].dose is None:
        raise ConditionError(f"{str(condition)!r} is not one treatment with a dose: nothing to interpolate.")
    wanted = condition.treatments[0]
    candidates = [i for i, c in enumerate(known) if c.names == condition.names and c.treatments[0].dose is not None]
    candidates = _same_context(condition, candidates, known)
    if not candidates:
        raise ConditionError(f"{wanted.name!r} was not trained on at any dose: nothing to interpolate.")
    doses = np.asarray([known[i].treatments[0].dose for i in candidates], float)
    levels = np.unique(doses)
    means = np.stack([shifts[np.asarray(candidates)[doses == level]].mean(0) for level in levels])
    at = np.log10(float(wanted.dose or 0.0))
    position = np.clip(np.interp(at, np.log10(levels), np.arange(len(levels))), 0, len(levels) - 1)
    low = int(np.floor(position))
    high = min(low + 1, len(levels) - 1)
    return means[low] + (position - low) * (means[high] - means[low])


def _additive(condition: Condition, known: tuple[Condition, ...], shifts: np.ndarray) -> np.ndarray:
    if len(condition.treatments) < 2:
        raise ConditionError(f"{str(condition)!r} is not a combination: nothing to add.")
    total = np.zeros(shifts.shape[1])
    for treatment in condition.treatments:
        candidates = [i for i, c in enumerate(known) if c.treatments == (treatment,)]
        if not candidates:
            raise ConditionError(f"{treatment} was not trained on alone: the additive rule has no answer.")
        total += shifts[_same_context(condition, candidates, known)].mean(0)
    return total

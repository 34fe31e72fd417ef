"""A first training that leaves conditions out: how long a network may train and still help where nobody measured.

Held-out cells of training conditions do not say it: what fits the measured conditions better may be worse for others.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from cellgap.errors import ConditionError
from cellgap.study import Condition, Role
from cellgap.transport._closed_form import ClosedForm, Effects, identity, left_out_together, paths, rules
from cellgap.transport._codes import Codes
from cellgap.transport._inner_folds import inner_folds, novelty_of
from cellgap.transport._problem import Problem
from cellgap.transport._start import StartMap
from cellgap.transport._training_data import VALID_CELLS, training_problem

Judge = Literal["conditions", "cells"]
# Conditions left out: a quarter, never fewer than this, never half of them.
_SHARE = 0.25
_FEWEST = 3


class Trial(NamedTuple):
    """A training problem without some training conditions, and those to judge it on.

    Parameters
    ----------
    problem, valid
        Training cells of the others; cells of those that are left out.
    left_out
        How many are left out.
    """

    problem: Problem
    valid: Problem
    left_out: int


def trial_of(codes: Codes, start: StartMap) -> Trial | None:
    """Return the problem that leaves training conditions out in the manner of the split.

    None where it need not (nothing is new about the test conditions, or the split has validation conditions) or cannot
    (too few conditions).

    Parameters
    ----------
    codes
        Encoded cells.
    start
        The closed form of the whole fit; the same forms are fitted to the other conditions.
    """
    split = codes.split
    if split.valid_conditions or novelty_of(split) == "nothing":
        return None
    fold = _left_out(inner_folds(split), len(split.train_conditions))
    if fold is None:
        return None
    held = tuple(split.train_conditions[i] for i in fold)
    others = tuple(c for c in split.train_conditions if c not in held)
    inner = _without(codes, held, others)
    fitted = _refitted(inner, start)
    # Controls are moved as they are moved for whoever asks later: all of them judge, also those that trained.
    judged = tuple(c for c in held if len(codes.rows(c.control, *_OWN)) > 1 and len(codes.rows(c, *_OWN)) > 1)
    if len(judged) < _FEWEST:
        return None
    everything = _without(codes, (*held, *(c.control for c in held)), others)
    return Trial(
        training_problem(inner, others, Role.TRAIN, fitted),
        training_problem(everything, judged, Role.VALID, fitted, most=VALID_CELLS),
        len(held),
    )


_OWN = (Role.TRAIN, Role.VALID)


def _without(codes: Codes, populations: Sequence[Condition], others: tuple[Condition, ...]) -> Codes:
    """Return the same cells under a split that trains on the other conditions, and on no cell of some populations."""
    roles = codes.split.roles.copy()
    for population in populations:
        roles[codes.rows(population, Role.TRAIN)] = Role.VALID
    return dataclasses.replace(codes, split=dataclasses.replace(codes.split, roles=roles, train_conditions=others))


def _left_out(folds: list[np.ndarray], n_conditions: int) -> np.ndarray | None:
    """Return the conditions of the fewest folds, evenly spaced, that are enough to judge by."""
    enough = max(_FEWEST, _SHARE * n_conditions)
    for n in range(1, len(folds)):
        chosen = ((np.arange(n) + 0.5) * len(folds) / n).astype(int)
        fold = np.unique(np.concatenate([folds[i] for i in chosen]))
        if len(fold) >= enough:
            return fold if 2 * len(fold) < n_conditions else None
    return None


def _refitted(codes: Codes, start: StartMap) -> StartMap:
    """Return the same closed forms, fitted to the training conditions of `codes`."""
    effects, novelty = Effects.of(codes), novelty_of(codes.split)
    measured = paths(effects, left_out_together(effects.conditions, novelty))
    shape = next((f.path for f in measured if f.name == "smooth Gaussian"), None)
    forms = {form.name: form for form in (identity(), *rules(effects, shape), *measured)}
    seen, unseen = (_named(forms, form.name) for form in (start.seen, start.unseen))
    return dataclasses.replace(
        start, seen=seen, unseen=unseen, shifts=effects.shifts, control_means=effects.control_means
    )


def _named(forms: dict[str, ClosedForm], name: str) -> ClosedForm:
    if name not in forms:
        raise ConditionError(f"the closed form {name!r} needs conditions that are left out.")
    return forms[name]

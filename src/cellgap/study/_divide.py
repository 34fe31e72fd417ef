"""Giving every cell of a study its role."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cellgap.errors import SplitError
from cellgap.study._condition import Condition
from cellgap.study._split import Role, Split, count_roles
from cellgap.study._study import Study

_SHARE = 0.25  # of the controls of a context with test conditions: to SOURCE, and as many to REFERENCE


class Options(NamedTuple):
    """What every kind of split takes."""

    valid: float
    valid_conditions: Iterable[Condition | str]
    seed: int
    min_cells: int


def check_fraction(name: str, value: float, *, zero: bool) -> None:
    """Raise where ``value`` is not a fraction below 1; ``zero`` says whether 0 is allowed."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < 1 or (zero and value == 0)):
        raise SplitError(
            f"{name} is a fraction of the cells, {'from 0' if zero else 'above 0'} and below 1; found {value!r}."
        )


def divide(
    study: Study,
    kind: str,
    params: dict[str, Any],
    options: Options,
    *,
    conditions: Iterable[Condition] = (),
    unused: Iterable[Condition] = (),
    fraction: float = 0.0,
    domain: np.ndarray | None = None,
) -> Split:
    """Return the split that gives every cell its role.

    Treated cells are tested by condition (``conditions``, whole), by ``fraction`` (of every condition) or by
    ``domain`` (a mask of cells).

    Raises
    ------
    SplitError
        An option is wrong, a validation condition is unknown or held out, nothing is held out, nothing is left to
        train on, or nothing can be scored.
    """
    _check_options(options)
    held, left_out = set(conditions), set(unused)
    chosen = _validation(study, options.valid_conditions, held | left_out)
    draw = np.random.Generator(np.random.PCG64(options.seed))
    roles = np.zeros(study.n_obs, np.int8)
    for condition in study.conditions:
        rows = study.populations[condition]
        if condition in held:
            roles[rows] = Role.TEST
        elif condition in left_out:
            continue
        else:
            is_test = np.zeros(len(rows), bool) if domain is None else domain[rows]
            if fraction and condition not in chosen:
                n_test = min(max(1, round(fraction * len(rows))), len(rows) - 1)
                is_test[draw.permutation(len(rows))[:n_test]] = True
            roles[rows[is_test]] = Role.TEST
            if condition in chosen:
                roles[rows[~is_test]] = Role.VALID
            else:
                _train(roles, rows[~is_test], options.valid, draw)
    n_controls = len(study.controls)
    used = count_roles(study, roles)[n_controls:]
    tested = tuple(study.conditions[i] for i in np.flatnonzero(used[:, Role.TEST]))
    train = tuple(study.conditions[i] for i in np.flatnonzero(used[:, Role.TRAIN]))
    atlas = not study.design.slots
    if not atlas:
        _check_enough(kind, tested, train, chosen)
    contexts = {c.context for c in tested}
    for control in study.controls:
        rows = study.populations[control]
        if domain is not None:
            _serve_all(roles, rows[domain[rows]], draw)
            _train(roles, rows[~domain[rows]], options.valid, draw)
        elif atlas and fraction:
            order = draw.permutation(len(rows))
            n_test = min(max(1, round(fraction * len(rows))), len(rows) - 1)
            _serve_all(roles, rows[order[:n_test]], draw)
            _train(roles, rows[np.sort(order[n_test:])], options.valid, draw)
        elif control.context in contexts:
            rest = _serve_some(roles, rows, draw)
            _train(roles, rest, options.valid, draw)
        else:
            _train(roles, rows, options.valid, draw)
    unscored = _unscored(study, roles, options.min_cells)
    common = {"valid": float(options.valid), "min_cells": int(options.min_cells), "unscored": unscored}
    split = Split(
        study=study,
        kind=kind,
        seed=int(options.seed),
        roles=roles,
        test_conditions=tested,
        valid_conditions=tuple(sorted(chosen)),
        train_conditions=train,
        params=params | common,
    )
    if atlas and not np.isin(roles, [Role.SOURCE, Role.REFERENCE]).any():
        raise SplitError(
            f"The split {kind!r} holds out no cell of a study without treatments: take in_distribution, "
            "leave_one_domain_out, or everything."
        )
    if not atlas and not split.scored_conditions:
        largest = used[:, Role.TEST].max()
        raise SplitError(
            f"No held-out condition can be scored (the first: {next(iter(unscored.values()))}); the largest has "
            f"{largest} test cells and min_cells is {options.min_cells}: lower min_cells, or hold out more."
        )
    split.check_leaks()
    return split


def train_on_everything(study: Study, options: Options) -> Split:
    """Return the split without held-out cells.

    Raises
    ------
    SplitError
        An option is wrong.
    """
    _check_options(options)
    draw = np.random.Generator(np.random.PCG64(options.seed))
    roles = np.zeros(study.n_obs, np.int8)
    for condition in study.all_conditions:
        _train(roles, study.populations[condition], options.valid, draw)
    params = {"valid": float(options.valid), "unscored": {}}
    return Split(study, "everything", int(options.seed), roles, (), (), study.conditions, params)


def _check_options(options: Options) -> None:
    check_fraction("valid", options.valid, zero=True)
    for name, value, low in (("seed", options.seed, 0), ("min_cells", options.min_cells, 1)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
            raise SplitError(f"{name} is a whole number of {low} or more; found {value!r}.")


def _validation(study: Study, given: Iterable[Condition | str], held: set[Condition]) -> set[Condition]:
    """Return the conditions that validate: known, treated, and not held out for the test."""
    if isinstance(given, str | Condition):
        given = (given,)
    chosen = {study.resolve(condition) for condition in given}
    for condition in sorted(chosen):
        if condition not in study.populations or condition.is_control:
            raise SplitError(f"{str(condition)!r} cannot validate: it is not a treated condition that was measured.")
        if condition in held:
            raise SplitError(f"{str(condition)!r} is held out for the test: choose another condition to validate.")
    return chosen


def _train(roles: np.ndarray, rows: np.ndarray, valid: float, draw: np.random.Generator) -> None:
    """Give cells the roles TRAIN (at least one) and, a fraction of them, VALID."""
    order = draw.permutation(len(rows))
    n_valid = min(round(valid * len(rows)), max(0, len(rows) - 1))
    roles[rows[order[n_valid:]]] = Role.TRAIN
    roles[rows[order[:n_valid]]] = Role.VALID


def _serve_some(roles: np.ndarray, rows: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Give a share of the controls to SOURCE, as many to REFERENCE (at least one each); return the rest."""
    order = draw.permutation(len(rows))
    n = max(1, int(_SHARE * len(rows)))
    roles[rows[order[:n]]] = Role.SOURCE
    roles[rows[order[n : 2 * n]]] = Role.REFERENCE
    return rows[np.sort(order[2 * n :])]


def _serve_all(roles: np.ndarray, rows: np.ndarray, draw: np.random.Generator) -> None:
    """Give half of the controls to SOURCE and the others to REFERENCE: nothing of a left-out domain is trained on."""
    order = draw.permutation(len(rows))
    n = (len(rows) + 1) // 2
    roles[rows[order[:n]]] = Role.SOURCE
    roles[rows[order[n:]]] = Role.REFERENCE


def _check_enough(
    kind: str, tested: Sequence[Condition], train: Sequence[Condition], chosen: Collection[Condition]
) -> None:
    if not tested:
        raise SplitError(f"The split {kind!r} holds out no treated cell: there is nothing to score.")
    if not train:
        also = f" ({len(chosen)} more validate)" if chosen else ""
        raise SplitError(
            f"The split {kind!r} holds out every treated condition{also}: nothing is left to train on; hold out fewer."
        )


def _unscored(study: Study, roles: np.ndarray, min_cells: int) -> dict[str, str]:
    """Return the test conditions that cannot be scored, with the reason."""
    used = count_roles(study, roles)
    n_controls = len(study.controls)
    served = {
        c.context for c, row in zip(study.controls, used, strict=False) if row[Role.SOURCE] and row[Role.REFERENCE]
    }
    found = {}
    for i in np.flatnonzero(used[n_controls:, Role.TEST]):
        condition, n_test = study.conditions[i], used[n_controls + i, Role.TEST]
        if n_test < min_cells:
            found[repr(condition)] = f"{n_test} test cells, fewer than {min_cells}"
        elif condition.context not in served:
            found[repr(condition)] = "fewer than two controls to predict from and compare with"
    return found

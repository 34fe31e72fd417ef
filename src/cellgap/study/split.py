"""The kinds of split: what is held out, and so which question a score answers.

=======================  ==========================================================  ==========================
split                    held out                                                    question
=======================  ==========================================================  ==========================
in_distribution          a fraction of the cells of every condition                  does it fit?
unseen_dose              one or more doses of known treatments                       does it follow the dose?
unseen_treatment         all doses of some treatments                                does it use the descriptor?
unseen_combination       combinations whose members are seen alone                   does it compose?
unseen_conditions        conditions given by name (a dose and a drug at once)        several of these at once?
unseen_context           treatments in one context, seen in others                   does it transfer?
leave_one_domain_out     one donor, batch or laboratory                              does it generalize?
everything               nothing                                                     none: a last fit on all cells
=======================  ==========================================================  ==========================

All take ``valid`` (fraction of the training cells set aside to choose hyper-parameters), ``valid_conditions``
(conditions held out whole for the same purpose), ``seed``, and ``min_cells`` (fewer test cells than this, and a
condition is listed in ``params["unscored"]`` and not scored; 1 for wells).

Controls are split too. In a context that has test conditions, a quarter of the controls is the SOURCE of predictions
and another quarter the REFERENCE of effects; the rest trains. The controls of a domain that is left out are SOURCE and
REFERENCE only. Where no cell was treated (an atlas), the cells that ``in_distribution`` and ``leave_one_domain_out``
hold out are SOURCE and REFERENCE. The same study and seed give the same split on every platform (PCG64).
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cellgap.errors import ConditionError, SplitError
from cellgap.study._column import domain_mask, factor, labels_in
from cellgap.study._condition import Condition
from cellgap.study._design import text_of
from cellgap.study._divide import Options, check_fraction, divide, train_on_everything
from cellgap.study._dose import check_dose, read_dose
from cellgap.study._rules import KINDS, breaks_rule
from cellgap.study._split import Split
from cellgap.study._study import Study
from cellgap.study._treatment import Treatment
from cellgap.study._wording import close_to, listed

__all__ = [
    "by_name",
    "everything",
    "in_distribution",
    "leave_one_domain_out",
    "unseen_combination",
    "unseen_conditions",
    "unseen_context",
    "unseen_dose",
    "unseen_treatment",
]


def in_distribution(
    study: Study,
    *,
    test: float = 0.2,
    valid: float = 0.1,
    valid_conditions: Iterable[Condition | str] = (),
    seed: int = 0,
    min_cells: int = 50,
) -> Split:
    """Return a split that holds out a fraction of the cells of every treated condition.

    Parameters
    ----------
    study
        The study.
    test
        Fraction of the cells of each treated condition to hold out, between 0 and 1: at least one cell; the only cell
        of a condition is trained on.
    valid, valid_conditions, seed, min_cells
        As in the text of this module.

    Raises
    ------
    SplitError
        A fraction is out of range, or no condition has ``min_cells`` test cells.
    """
    check_fraction("test", test, zero=False)
    options = Options(valid, valid_conditions, seed, min_cells)
    return divide(study, "in_distribution", {"test": float(test)}, options, fraction=test)


def unseen_dose(
    study: Study,
    doses: float | str | Iterable[float | str],
    *,
    treatments: str | Iterable[str] | None = None,
    valid: float = 0.1,
    valid_conditions: Iterable[Condition | str] = (),
    seed: int = 0,
    min_cells: int = 50,
) -> Split:
    """Return a split that holds out one or more doses of treatments whose other doses are trained on.

    ``params["interpolation"]`` and ``params["extrapolation"]`` list the held-out conditions whose dose lies between
    doses trained on (of the same treatments, in the same context) and those whose dose lies outside of them. Dose 0,
    the control, does not count as a dose here: below the smallest dose trained on is extrapolation.

    Parameters
    ----------
    study
        The study.
    doses
        Numbers in the unit of the study, or texts with a unit (``"1uM"``).
    treatments
        Names of the treatments that lose these doses; None means all that have them.
    valid, valid_conditions, seed, min_cells
        As in the text of this module.

    Raises
    ------
    SplitError
        A dose was not measured, or a treatment would lose all its doses.
    ConditionError
        A treatment is unknown.
    """
    names = _names(study, treatments)
    wanted = [doses] if isinstance(doses, int | float | str) else list(doses)
    held: set[float] = set()
    for dose in wanted:
        held |= _measured_doses(study, dose, names)
    names = [n for n in names if any(t.dose in held for t in study.treatments[n])]
    for name in names:
        if all(t.dose in held for t in study.treatments[name]):
            raise SplitError(
                f"Every dose of {name!r} would be held out: leave one to train on, or use unseen_treatment."
            )
    options = Options(valid, valid_conditions, seed, min_cells)
    params: dict[str, Any] = {"doses": sorted(held), "treatments": names}
    test = _held_by_rule(study, "unseen_dose", params)
    split = divide(study, "unseen_dose", params, options, conditions=test)
    between = {c for c in split.test_conditions if _between(c, split.train_conditions, params)}
    apart = {
        "interpolation": [repr(c) for c in split.test_conditions if c in between],
        "extrapolation": [repr(c) for c in split.test_conditions if c not in between],
    }
    return dataclasses.replace(split, params={**split.params, **apart})


def unseen_treatment(
    study: Study,
    names: str | Iterable[str],
    *,
    valid: float = 0.1,
    valid_conditions: Iterable[Condition | str] = (),
    seed: int = 0,
    min_cells: int = 50,
) -> Split:
    """Return a split that holds out every condition with one of these treatments, at any dose, alone or combined.

    Parameters
    ----------
    study
        The study.
    names
        Names of the treatments.
    valid, valid_conditions, seed, min_cells
        As in the text of this module.

    Raises
    ------
    SplitError
        Nothing is left to train on.
    ConditionError
        A treatment is unknown.
    """
    options = Options(valid, valid_conditions, seed, min_cells)
    params: dict[str, Any] = {"names": _names(study, names)}
    test = _held_by_rule(study, "unseen_treatment", params)
    return divide(study, "unseen_treatment", params, options, conditions=test)


def unseen_combination(
    study: Study,
    combinations: Iterable[Iterable[str]],
    *,
    valid: float = 0.1,
    valid_conditions: Iterable[Condition | str] = (),
    seed: int = 0,
    min_cells: int = 50,
) -> Split:
    """Return a split that holds out combinations whose members are trained on alone.

    Every condition with exactly these treatments, at any dose, is tested. Larger combinations that contain a held-out
    one are left unused (``params["unused"]``): they would show the answer.

    Parameters
    ----------
    study
        The study.
    combinations
        Each the names of at least two treatments: ``[("icam2", "u0126")]``.
    valid, valid_conditions, seed, min_cells
        As in the text of this module.

    Raises
    ------
    SplitError
        A combination was not measured, or one of its members was not measured alone.
    ConditionError
        A treatment is unknown.
    """
    combinations = list(combinations)
    if not combinations:
        raise SplitError("Nothing to hold out: name at least one combination, such as [('a', 'b')].")
    if any(isinstance(members, str) for members in combinations):
        raise SplitError(
            f"Expected combinations as a list of names each, such as [('a', 'b')], found {combinations!r}."
        )
    wanted = [_names(study, members) for members in combinations]
    for members in wanted:
        if len(members) < 2:
            raise SplitError(f"A combination has at least two treatments, found {members}: use unseen_treatment.")
        if not any(set(c.names) == set(members) for c in study.conditions):
            raise SplitError(f"No cell was measured under {' + '.join(members)}: {_measured_combinations(study)}")
    sets = [frozenset(members) for members in wanted]
    test = [c for c in study.conditions if frozenset(c.names) in sets]
    unused = [c for c in study.conditions if c not in test and any(s < set(c.names) for s in sets)]
    options = Options(valid, valid_conditions, seed, min_cells)
    params: dict[str, Any] = {"combinations": wanted, "unused": [repr(c) for c in unused]}
    split = divide(study, "unseen_combination", params, options, conditions=test, unused=unused)
    alone = {c.names[0] for c in split.train_conditions if len(c.names) == 1}
    for members in wanted:
        lacking = [name for name in members if name not in alone]
        if lacking:
            raise SplitError(
                f"{lacking[0]!r} of the combination {' + '.join(members)} is not trained on alone: "
                "hold out combinations whose members were also measured alone."
            )
    return split


def unseen_conditions(
    study: Study,
    conditions: str | Condition | Iterable[str | Condition],
    *,
    valid: float = 0.1,
    valid_conditions: Iterable[Condition | str] = (),
    seed: int = 0,
    min_cells: int = 50,
) -> Split:
    """Return a split that holds out exactly these conditions: several questions in one run.

    Nothing else is held out, so it is for the caller to also name what would show the answer, such as every dose of a
    treatment that is meant to be unseen, and its combinations.

    Parameters
    ----------
    study
        The study.
    conditions
        Measured, treated conditions, as such or as text: ``["trametinib@1000nM | A549"]``.
    valid, valid_conditions, seed, min_cells
        As in the text of this module.

    Raises
    ------
    SplitError
        There is none, a control is among them, or nothing is left to train on.
    ConditionError
        A condition is unknown, or was not measured.
    """
    wanted = [conditions] if isinstance(conditions, str | Condition) else list(conditions)
    if not wanted:
        raise SplitError("Nothing to hold out: name at least one condition, such as 'trametinib@1000nM'.")
    held = sorted({study.resolve(condition) for condition in wanted})
    for condition in held:
        study.rows(condition)
        if condition.is_control:
            raise SplitError(f"{str(condition)!r} is a control: only treated conditions can be held out.")
    options = Options(valid, valid_conditions, seed, min_cells)
    params: dict[str, Any] = {"conditions": [repr(c) for c in held]}
    return divide(study, "unseen_conditions", params, options, conditions=held)


def unseen_context(
    study: Study,
    treatments: str | Iterable[str] | None,
    context: Mapping[str, str | Sequence[str]],
    *,
    valid: float = 0.1,
    valid_conditions: Iterable[Condition | str] = (),
    seed: int = 0,
    min_cells: int = 50,
) -> Split:
    """Return a split that holds out treatments in one context, trained on in the others.

    The controls of that context are known: half of them are trained on.

    Parameters
    ----------
    study
        The study.
    treatments
        Names of the treatments; None means all that were measured there.
    context
        Names and values, ``{"cell_line": "A549"}``; several values of one name are alternatives.
    valid, valid_conditions, seed, min_cells
        As in the text of this module.

    Raises
    ------
    SplitError
        No treated cell is in that context, or a treatment was not measured in another.
    ConditionError
        A treatment, a context name or a context value is unknown.
    """
    if not context:
        raise SplitError('unseen_context needs a context to hold out, such as {"cell_line": "A549"}, found none.')
    where: dict[str, list[str]] = {}
    for name, value in context.items():
        if name not in study.context_names:
            raise ConditionError(f"Unknown context name {name!r}: {close_to(name, study.context_names)}")
        where[name] = [value] if isinstance(value, str) else list(value)
        for one in where[name]:
            if one not in study.context_values[name]:
                raise ConditionError(f"Unknown {name} {one!r}: {close_to(str(one), study.context_values[name])}")
    names = _names(study, treatments)
    if treatments is None:
        here = [c for c in study.conditions if all(dict(c.context)[k] in v for k, v in where.items())]
        names = [n for n in names if any(n in c.names for c in here)]
    options = Options(valid, valid_conditions, seed, min_cells)
    params: dict[str, Any] = {"treatments": names, "context": where}
    test = _held_by_rule(study, "unseen_context", params)
    if not test:
        raise SplitError(f"No cell treated with {listed(names)} is in {where}: choose a context where some are.")
    split = divide(study, "unseen_context", params, options, conditions=test)
    for name in names:
        if not any(name in c.names for c in split.train_conditions):
            raise SplitError(f"{name!r} is not trained on in any other context: leave it out, or use unseen_treatment.")
    return split


def leave_one_domain_out(
    study: Study,
    column: str,
    held_out: str | int | float | Iterable[str | int | float],
    *,
    valid: float = 0.1,
    valid_conditions: Iterable[Condition | str] = (),
    seed: int = 0,
    min_cells: int = 50,
) -> Split:
    """Return a split that holds out every cell of one domain: a donor, a batch, a laboratory.

    Its treated cells are tested; its controls are SOURCE and REFERENCE, half each, and none is trained on.

    Parameters
    ----------
    study
        The study.
    column
        Column of ``obs`` that names the domain; in the context of the design or not.
    held_out
        Value, or values, of that column.
    valid, valid_conditions, seed, min_cells
        As in the text of this module.

    Raises
    ------
    SplitError
        The column or the value is unknown, the domain has no treated cells, or nothing is left to train on.
    """
    obs = study.obs
    if column not in obs.columns:
        raise SplitError(f"obs has no column {column!r}: {close_to(column, [str(c) for c in obs.columns])}")
    labels = factor(labels_in(obs, column))
    values = sorted({text_of(v) for v in ([held_out] if isinstance(held_out, str | int | float) else held_out)})
    if not values:
        raise SplitError("Nothing to hold out: name at least one domain.")
    for value in values:
        if value not in labels.texts:
            raise SplitError(f'obs["{column}"] has no value {value!r}: {close_to(value, labels.texts)}')
    options = Options(valid, valid_conditions, seed, min_cells)
    params: dict[str, Any] = {"column": column, "held_out": values}
    domain = domain_mask(labels_in(obs, column), values)
    return divide(study, "leave_one_domain_out", params, options, domain=domain)


def everything(study: Study, *, valid: float = 0.1, seed: int = 0) -> Split:
    """Return a split that trains on every cell but those that choose when to stop: nothing can be scored on it.

    Parameters
    ----------
    study
        The study.
    valid
        Fraction of the cells of every population to set aside.
    seed
        Of the random choice.

    Raises
    ------
    SplitError
        The fraction is out of range.
    """
    options = Options(valid, (), seed, 1)
    return train_on_everything(study, options)


def by_name(kind: str, study: Study, **params: Any) -> Split:
    """Return the split of a kind given by name, with its arguments by name: for run files.

    Raises
    ------
    SplitError
        The kind is unknown, or an argument is missing or unknown.
    """
    if kind not in KINDS:
        raise SplitError(f"Unknown kind of split {kind!r}: {close_to(str(kind), KINDS)}")
    make: Callable[..., Split] = globals()[kind]
    try:
        inspect.signature(make).bind(study, **params)
    except TypeError as error:
        raise SplitError(f"The split {kind!r} was given wrong arguments: {error}.") from None
    return make(study, **params)


def _names(study: Study, names: str | Iterable[str] | None) -> list[str]:
    """Return treatment names, sorted, each known to the study."""
    if names is None:
        return list(study.treatments)
    wanted = sorted({names} if isinstance(names, str) else set(names))
    if not wanted:
        raise SplitError("Nothing to hold out: name at least one treatment.")
    for name in wanted:
        if name not in study.treatments:
            raise ConditionError(f"Unknown treatment {name!r}: {close_to(str(name), list(study.treatments))}")
    return wanted


def _measured_doses(study: Study, dose: float | str, names: list[str]) -> set[float]:
    """Return the measured doses of these treatments that equal a dose given as number or text."""
    number, unit = read_dose(dose) if isinstance(dose, str) else (check_dose(dose, "a held-out dose"), None)
    found = set()
    for name in names:
        for treatment in study.treatments[name]:
            if treatment.dose is None or treatment.unit is None:
                continue
            asked = Treatment(name, number, unit).to_unit(treatment.unit).dose
            if asked is not None and np.isclose(asked, treatment.dose, rtol=1e-9, atol=0):
                found.add(treatment.dose)
    if not found:
        doses = sorted({t for n in names for t in study.treatments[n] if t.dose is not None})
        raise SplitError(f"No cell was measured at the dose {dose!r}: measured are {listed(doses)}.")
    return found


def _measured_combinations(study: Study) -> str:
    found = sorted({" + ".join(c.names) for c in study.conditions if len(c.names) > 1})
    return f"measured combinations are {listed(found)}." if found else "the study has no combinations."


def _held_by_rule(study: Study, kind: str, params: Mapping[str, Any]) -> list[Condition]:
    return [c for c in study.conditions if breaks_rule(kind, params, c)]


def _between(condition: Condition, train: Iterable[Condition], params: Mapping[str, Any]) -> bool:
    """Return whether every held-out dose of a condition lies between two doses trained on."""
    same = [c for c in train if c.names == condition.names and c.control == condition.control]
    for i, treatment in enumerate(condition.treatments):
        if treatment.name in params["treatments"] and treatment.dose in params["doses"]:
            others = [c.treatments[i].dose or 0.0 for c in same]
            if not others or not min(others) < (treatment.dose or 0.0) < max(others):
                return False
    return True

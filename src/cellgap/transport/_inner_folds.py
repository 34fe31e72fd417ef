"""Training conditions held out in turn, in the way in which a split holds out its test conditions.

Which rule is right for conditions that nobody measured can be asked of the training conditions: leave some out in the
manner of the split, predict them from the others. Only names of conditions are read here, no cell.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from cellgap.study import Condition, Split

Novelty = Literal["nothing", "dose", "treatment", "combination", "context"]
_FOLDS = 8
_KINDS: dict[str, Novelty] = {
    "in_distribution": "nothing",
    "unseen_dose": "dose",
    "unseen_treatment": "treatment",
    "unseen_combination": "combination",
    "unseen_context": "context",
}


def novelty_of(split: Split) -> Novelty:
    """Return what is new about the test conditions of a split.

    A domain that is left out is a new context where its column is part of the context, and nothing new to a model that
    does not see it. Conditions held out by name are what most of them are.
    """
    if split.kind == "leave_one_domain_out":
        return "context" if split.params["column"] in split.study.context_names else "nothing"
    if split.kind in _KINDS:
        return _KINDS[split.kind]
    found: list[Novelty] = [_novelty(c, split.train_conditions) for c in split.test_conditions]
    return max(found, key=found.count) if found else "nothing"


def inner_folds(split: Split) -> list[np.ndarray]:
    """Return which training conditions to leave out together, by position; empty where none can be.

    - treatment: every treatment in turn, at all doses, alone and combined;
    - dose: every dose in turn, of treatments with others; between, below or above the others, as the test doses are;
    - combination: every combination in turn whose members are measured alone;
    - context: every context in turn, of treatments that are measured in others too.

    More than 8 are dealt onto 8 folds.
    """
    conditions, kind = split.train_conditions, novelty_of(split)
    if kind == "treatment":
        folds = _by_treatment(conditions)
    elif kind == "dose":
        sides = {_side(c, conditions) for c in split.test_conditions}
        folds = _by_dose(conditions, {**split.params, "sides": sides})
    elif kind == "combination":
        folds = _by_combination(conditions)
    elif kind == "context":
        folds = _by_context(conditions, split.params)
    else:
        folds = []
    return [np.asarray(sorted(fold)) for fold in folds if 0 < len(fold) < len(conditions)]


def _novelty(condition: Condition, train: Sequence[Condition]) -> Novelty:
    names = {name for c in train for name in c.names}
    if not set(condition.names) <= names:
        return "treatment"
    if len(condition.names) > 1 and condition.names not in {c.names for c in train}:
        return "combination"
    same = [c for c in train if c.names == condition.names]
    if all(c.treatments != condition.treatments for c in same):
        return "dose"
    return "nothing" if condition in same else "context"


def _dealt(members: Iterable[Iterable[int]]) -> list[set[int]]:
    """Return groups dealt onto at most `_FOLDS` folds in turn."""
    groups = [set(group) for group in members]
    folds: list[set[int]] = [set() for _ in range(min(_FOLDS, len(groups)))]
    for i, group in enumerate(groups):
        folds[i % len(folds)] |= group
    return folds


def _by_treatment(conditions: Sequence[Condition]) -> list[set[int]]:
    names = sorted({name for c in conditions for name in c.names})
    return _dealt({i for i, c in enumerate(conditions) if name in c.names} for name in names)


def _by_combination(conditions: Sequence[Condition]) -> list[set[int]]:
    alone = {c.names[0] for c in conditions if len(c.names) == 1}
    sets = sorted({c.names for c in conditions if len(c.names) > 1 and set(c.names) <= alone})
    return _dealt({i for i, c in enumerate(conditions) if set(names) <= set(c.names)} for names in sets)


def _by_context(conditions: Sequence[Condition], params: Mapping[str, Any]) -> list[set[int]]:
    names = list(params.get("context", ())) or ([params["column"]] if "column" in params else [])
    values = [tuple(pair for pair in c.context if pair[0] in names or not names) for c in conditions]
    elsewhere = [
        {v for c, v in zip(conditions, values, strict=True) if c.treatments == one.treatments} for one in conditions
    ]
    return _dealt(
        {i for i in range(len(conditions)) if values[i] == value and len(elsewhere[i]) > 1}
        for value in dict.fromkeys(values)
    )


def _by_dose(conditions: Sequence[Condition], params: Mapping[str, Any]) -> list[set[int]]:
    """Leave out a dose of all treatments where the split takes it from most of them, else of each in another fold."""
    levels = {c.names: sorted({d.treatments for d in conditions if d.names == c.names}, key=_doses) for c in conditions}
    kinds = set(params["sides"]) if "sides" in params else {"below", "between", "above"}
    kept = [i for i, c in enumerate(conditions) if _side(c, conditions) in kinds]
    names = sorted({conditions[i].names for i in kept})
    if len(params.get("treatments", ())) * 2 > len(names):
        doses = sorted({_doses(conditions[i].treatments) for i in kept})
        return _dealt({i for i in kept if _doses(conditions[i].treatments) == dose} for dose in doses)
    # A fold holds one dose of a treatment at most, as long as there are no more doses than folds.
    n = min(_FOLDS, max([len(names), *(len(levels[name]) for name in names)]))
    folds: list[set[int]] = [set() for _ in range(n)]
    for i in kept:
        c = conditions[i]
        folds[(names.index(c.names) + levels[c.names].index(c.treatments)) % n].add(i)
    return folds


def _side(condition: Condition, known: Sequence[Condition]) -> str:
    """Return where the doses of a condition lie relative to the other known doses of the same treatments."""
    own = _doses(condition.treatments)
    others = [
        _doses(c.treatments) for c in known if c.names == condition.names and c.treatments != condition.treatments
    ]
    if not others:
        return "alone"
    below = any(all(a <= b for a, b in zip(other, own, strict=True)) for other in others)
    above = any(all(a >= b for a, b in zip(other, own, strict=True)) for other in others)
    return "between" if below and above else "above" if below else "below"


def _doses(treatments: Iterable[Any]) -> tuple[float, ...]:
    return tuple(t.dose or 0.0 for t in treatments)

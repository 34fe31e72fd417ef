"""The conditions that a question binds, so that a model can predict those that no table has."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from cellgap.ask._effect_table import EffectTable
from cellgap.ask._question import Question
from cellgap.study import Condition, Treatment

MOST_ASKED = 24
"""Conditions that are predicted for one question."""


def conditions_asked(question: Question, tables: Sequence[EffectTable]) -> tuple[Condition, ...]:
    """Return the conditions of a question that no table has a row of, at most 24.

    Every treatment at the doses that the question gives, or else at the doses that were tested, in every context that
    it does not exclude. None where it binds no dose and no context, something that the tables have no word for, or only
    a range of doses.

    Parameters
    ----------
    question
        As read with these tables.
    tables
        What is known already, and the words of it.
    """
    if question.unknown or question.intent == "list" or not (question.doses or question.doses_of or question.context):
        return ()
    known = {key for table in tables for key in _keys(table)}
    contexts = list(itertools.product(*_axes(question, tables)))
    asked = []
    for place, names in enumerate(question.treatments):
        for treatments in itertools.product(*(_dosed(name, place, question, tables) for name in sorted(names))):
            for context in contexts:
                condition = Condition.of(treatments, context)
                if _key(condition) not in known:
                    asked.append(condition)
    return tuple(dict.fromkeys(asked))[:MOST_ASKED]


def _axes(question: Question, tables: Sequence[EffectTable]) -> Iterator[list[tuple[str, str]]]:
    for name in dict.fromkeys(name for table in tables for name in table.context):
        values = question.context.get(name)
        if values is None:
            values = tuple(dict.fromkeys(v for t in tables if name in t.context for v in t.codes(name)[1] if v))
        left_out = question.excluded.get(name, ())
        yield [(name, value) for value in values if value not in left_out]


def _dosed(name: str, place: int, question: Question, tables: Sequence[EffectTable]) -> list[Treatment]:
    ranges = question.doses_of.get(place, question.doses)
    if ranges:
        return [Treatment(name, r.low, r.unit) for r in ranges if r.low == r.high]
    return sorted({t for table in tables for key in _conditions(table) for t in key.treatments if t.name == name})


def _conditions(table: EffectTable) -> tuple[Condition, ...]:
    columns = ["treatment", "dose", "unit", *table.context]
    firsts = np.flatnonzero(~table.frame.duplicated(columns).to_numpy())
    return tuple(dict.fromkeys(table.condition(int(row)) for row in firsts))


def _keys(table: EffectTable) -> Iterator[tuple[object, ...]]:
    return map(_key, _conditions(table))


def _key(condition: Condition) -> tuple[object, ...]:
    """Return what two conditions share that differ in the unit of a dose only."""
    treatments = []
    for treatment in condition.treatments:
        try:
            same = treatment.to_unit("uM") if treatment.unit else treatment
        except ValueError:
            same = treatment
        dose = None if same.dose is None else float(f"{same.dose:.9g}")
        treatments.append((same.name, dose, same.unit))
    return tuple(treatments), tuple(sorted(condition.context))

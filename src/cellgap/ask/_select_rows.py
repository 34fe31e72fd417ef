"""Rows of effect tables that a question binds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from cellgap.ask._calls import CallRule
from cellgap.ask._effect_table import EffectTable
from cellgap.ask._question import Question

_TEXTS = ("treatment", "unit", "readout", "source", "dataset", "model", "extrapolates", "row_id")
_NUMBERS = ("dose", "time_h", "effect", "q", "n_cells")


@dataclass(frozen=True)
class Rows:
    """Rows of several tables, by column.

    Parameters
    ----------
    tables
        As given.
    context
        Names of the contexts of all tables, in the order they come first.
    columns
        Columns of the tables, a context that a table lacks being empty, with ``table`` and ``row`` (where each comes
        from), ``group`` (the treatment asked for, its place in the question), ``base_dose``, ``base_unit``, ``call``,
        and ``named`` (the data set, or the table where it names none).
    """

    tables: tuple[EffectTable, ...]
    context: tuple[str, ...]
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.columns["row"])

    def __getitem__(self, column: str) -> np.ndarray:
        return self.columns[column]

    def text(self, column: str, at: int | np.integer) -> str:
        """Return a text."""
        return str(self.columns[column][at])

    def number(self, column: str, at: int | np.integer) -> float:
        """Return a number, NaN where it is not known."""
        return float(self.columns[column][at])

    def values(self, column: str, at: Sequence[int]) -> list[str]:
        """Return the texts that some rows have, in order, each once and none empty."""
        return sorted({str(self.columns[column][i]) for i in at} - {""})

    def codes(self, names: Sequence[str], at: Int[np.ndarray, " n"] | None = None) -> Int[np.ndarray, " n"]:
        """Return numbers, from 0, that rows share where their values of columns are the same."""
        at = np.arange(len(self)) if at is None else at
        codes = np.zeros(len(at), dtype=np.int64)
        for name in names:
            numbers, values = pd.factorize(self.columns[name][at], use_na_sentinel=False)
            _, codes = np.unique(codes * max(len(values), 1) + numbers, return_inverse=True)
        return codes

    def grouped(self, names: Sequence[str]) -> list[Int[np.ndarray, " m"]]:
        """Return the positions of rows that share their values of columns, a group each."""
        if not len(self):
            return []
        codes = self.codes(names)
        order = np.argsort(codes, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)

    def kept(self, mask: Bool[np.ndarray, " rows"]) -> "Rows":
        """Return some of the rows."""
        return Rows(self.tables, self.context, {name: values[mask] for name, values in self.columns.items()})


def select(question: Question, tables: Sequence[EffectTable], rule: CallRule, *, bound: bool = True) -> Rows:
    """Return the rows that a question is about.

    Parameters
    ----------
    question
        As read.
    tables
        Where to look.
    rule
        Calls the rows.
    bound
        False: all rows of its treatments, whatever else it binds.
    """
    context = tuple(dict.fromkeys(name for table in tables for name in table.context))
    listed = question.intent == "list"
    wanted = {t: 0 for table in tables for t in table.members} if listed else targets(question, tables)
    parts = [_of_table(i, table, question, rule, context, bound, wanted) for i, table in enumerate(tables)]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = Rows(tuple(tables), context, columns)
    if len(parts) == 1:
        return rows
    # The same row of two tables is one piece of evidence.
    same = pd.DataFrame({name: columns[name] for name in ("row_id", "effect", "q", "n_cells")}).duplicated()
    return rows.kept(~same.to_numpy(bool))


def targets(question: Question, tables: Sequence[EffectTable]) -> dict[str, int]:
    """Return the treatments of the tables that a question means, with their place in the question.

    A name means the treatment alone; where the tables have it in combinations only, it means these.
    """
    known = {t: members for table in tables for t, members in table.members.items()}
    found: dict[str, int] = {}
    for place, wanted in enumerate(question.treatments):
        exact = sorted(t for t, members in known.items() if members == wanted)
        within = [] if len(wanted) > 1 else sorted(t for t, members in known.items() if wanted < members)
        for t in exact or within:
            found.setdefault(t, place)
    return found


def _of_table(
    number: int,
    table: EffectTable,
    question: Question,
    rule: CallRule,
    context: tuple[str, ...],
    bound: bool,
    wanted: Mapping[str, int],
) -> dict[str, np.ndarray]:
    codes, treatments = table.codes("treatment")
    group = np.array([wanted.get(t, -1) for t in treatments], dtype=np.int64)[codes]
    kept = group >= 0
    if bound:
        kept &= _bound(table, question, group, bool(context))
    at = np.flatnonzero(kept)
    columns = {name: table.column(name)[at] for name in (*_TEXTS, *_NUMBERS)}
    empty = np.full(len(at), "", dtype=object)
    columns |= {name: table.column(name)[at] if name in table.context else empty for name in context}
    columns |= {"table": np.full(len(at), number), "row": at, "group": group[at]}
    columns |= {"base_dose": table.base_dose[at], "base_unit": table.base_unit[at]}
    columns["named"] = np.where(columns["dataset"] == "", table.name, columns["dataset"])
    columns["call"] = rule.calls(columns["effect"], columns["q"], columns["n_cells"])
    return columns


def _bound(table: EffectTable, question: Question, group: np.ndarray, known_context: bool) -> np.ndarray:
    kept = np.ones(len(table), dtype=bool)
    wanted = [("readout", question.readouts), ("dataset", question.datasets)]
    wanted += [("source", (question.source,) if question.source else ()), *question.context.items()]
    for name, values in wanted:
        if values:
            kept &= _among(table, name, values)
    for name, values in question.excluded.items():
        kept &= ~_among(table, name, values)
    if question.unknown and not question.context and known_context:
        kept &= False
    if question.times:
        times, where = np.unique(table.column("time_h"), return_inverse=True)
        kept &= np.array([any(r.holds(t) for r in question.times) for t in times.tolist()])[where.reshape(-1)]
    for place in np.unique(group[kept]).tolist():
        doses = question.doses_of.get(place, () if question.doses_of else question.doses)
        if doses:
            mine = np.flatnonzero(kept & (group == place))
            pairs = zip(table.base_dose[mine].tolist(), table.base_unit[mine].tolist(), strict=True)
            kept[mine] = [any(r.unit == unit and r.holds(dose) for r in doses) for dose, unit in pairs]
    return kept


def _among(table: EffectTable, column: str, wanted: Sequence[str]) -> np.ndarray:
    if column not in (*table.context, "readout", "dataset", "source"):
        return np.zeros(len(table), dtype=bool)
    codes, values = table.codes(column)
    return np.array([v in wanted for v in values], dtype=bool)[codes]

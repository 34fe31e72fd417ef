"""Answers from effect tables: exact, by filter and template, without a model (the structured route)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from cellgap.ask._answer import Answer, Answers, Citation, Notice
from cellgap.ask._calls import CALLS, CallRule, gap
from cellgap.ask._drug_notes import DrugNotes
from cellgap.ask._effect_table import EffectTable, treatments_of
from cellgap.ask._quantities import plain
from cellgap.ask._question import Question, read_question
from cellgap.ask._select_rows import Rows, select, targets
from cellgap.ask._split_rows import Finding, find
from cellgap.ask._untested import Place, not_tested
from cellgap.ask._verdict_text import Writer, condition_sentence, place_words
from cellgap.errors import ConfigError
from cellgap.study import Condition

MOST_LISTED = 10
"""Most readouts, or treatments, that one answer lists."""
_MOST_CITED = 200
_UP, _DOWN, _FEW = CALLS.index("up"), CALLS.index("down"), CALLS.index("insufficient")
_REPORTED = ("duplicate_rows", "key_not_unique")


def answer_from_tables(
    question: str,
    tables: Sequence[EffectTable],
    rule: CallRule = CallRule(),  # noqa: B008, frozen
    *,
    k_max: int | None = None,
    cite: Callable[[EffectTable, int], Citation] | None = None,
    notes: DrugNotes | None = None,
) -> Answers | None:
    """Return what effect tables say to a question, one answer a context and time.

    Parameters
    ----------
    question
        In plain words. Treatments, readouts, contexts, doses and times are found by the names of the tables.
    tables
        Where to look.
    rule
        When a row counts as a change.
    k_max
        Most answers, strongest first; what is left out is listed in ``trace["omitted"]``. None for all.
    cite
        Cites a row of a table; by default as its values.
    notes
        What drugs are: synonyms that the question may use, and words that are added to the answer.

    Returns
    -------
    answers
        None where the question names no treatment of the tables and asks for no list of them.

    Raises
    ------
    ConfigError
        `k_max` is not above 0.
    """
    if k_max is not None and k_max < 1:
        raise ConfigError(f"k_max must be at least 1, or None for all answers, found {k_max!r}.")
    read = read_question(question, tables, notes.lexicon(tables) if notes else None) if tables else None
    if read is None or read.intent is None:
        return None
    route = _Route(read, select(read, tables, rule), rule, cite or EffectTable.cite, notes)
    return route.answers(k_max)


@dataclass(frozen=True)
class _Route:
    question: Question
    rows: Rows
    rule: CallRule
    cite: Callable[[EffectTable, int], Citation]
    notes: DrugNotes | None

    @property
    def beside(self) -> bool:
        """Whether several treatments stand in one answer."""
        return self.question.intent in ("comparison", "list")

    def answers(self, k_max: int | None) -> Answers:
        places = self._places()
        missing = not_tested(self.question, self.rows, self.rule, self._cited)
        most = len(places) + len(missing) if k_max is None else k_max
        named = len({place.treatment for place, _ in places}) > 1
        # Of what was asked for by name, that it is missing is said before the strongest of many.
        shown = places[: max(most - len(missing), 0)]
        made = [self._answer(place, at, named) for place, at in shown] + missing[:most]
        omitted = [place.words for place, _ in places[len(shown) :]] + [a.condition for a in missing[most:]]
        trace = {
            "route": "tables",
            "read_as": list(self.question.read_as),
            "intent": self.question.intent,
            "bound": self.question.bound,
            "unread": list(self.question.unread),
            "rule": self.rule.words,
            "rows": len(self.rows),
            "omitted": omitted,
        }
        return Answers(self.question.text, tuple(made), degraded=tuple(self._notices()), trace=trace)

    def _notices(self) -> list[Notice]:
        q = self.question
        made = [n for table in self.rows.tables for n in table.notices if n.code in _REPORTED]
        made += [Notice("read_as", text) for text in q.read_as]
        if q.unknown and not self.rows.context:
            said = f"The tables do not say which cells they are about: {', '.join(q.unknown)} narrows nothing."
            made.append(Notice("unknown_context", said))
        if q.compared and len(q.treatments) == 1 and q.unread:
            said = f"Only one of what is compared is in the tables; not read: {', '.join(q.unread[:5])}."
            made.append(Notice("unknown_treatment", said))
        if q.intent == "open" and q.unread and q.direction:
            said = f"No readout of the tables is named ({', '.join(q.unread[:5])}): all readouts are looked at."
            made.append(Notice("unknown_readout", said))
        return made

    def _places(self) -> list[tuple[Place, Int[np.ndarray, " n"]]]:
        """Return the rows by place, the strongest call first, ties in the order of names and times."""
        rows = self.rows
        made = []
        for at in rows.grouped([*([] if self.beside else ["treatment"]), *rows.context, "time_h"]):
            treatment = "" if self.beside else rows.text("treatment", at[0])
            context = tuple((name, rows.text(name, at[0])) for name in rows.context if rows.text(name, at[0]))
            made.append((Place(treatment, context, rows.number("time_h", at[0])), at))

        def order(found: tuple[Place, Int[np.ndarray, " n"]]) -> tuple[float, str, tuple[tuple[str, str], ...], float]:
            place, at = found
            time = -1.0 if math.isnan(place.time) else place.time
            return -float(self._strengths(at).max()), place.treatment, place.context, time

        return sorted(made, key=order)

    def _strengths(self, at: Int[np.ndarray, " n"]) -> np.ndarray:
        """Return the absolute effect of rows with a call, 0 for others; of a list, with the call it asks for."""
        wanted = {"up": (_UP,), "down": (_DOWN,)}.get(self.question.direction, (_UP, _DOWN))
        wanted = wanted if self.question.intent == "list" else (_UP, _DOWN)
        return np.where(np.isin(self.rows["call"][at], wanted), np.abs(self.rows["effect"][at]), 0.0)

    def _findings(self, at: Int[np.ndarray, " n"]) -> tuple[list[Finding], int, int]:
        """Return what is told of a place, and how many findings with and without a call are left out."""
        q, rows = self.question, self.rows
        codes = rows.codes(["group", "treatment", "readout"], at)
        _, firsts = np.unique(codes, return_index=True)
        strengths = np.zeros(len(firsts))
        np.maximum.at(strengths, codes, self._strengths(at))
        everything = q.intent != "list" and (bool(q.readouts) or len(firsts) <= MOST_LISTED)
        n_active = int((strengths > 0).sum())
        least = 0.0
        if not everything and n_active:
            # Thousands of readouts are not put in the order of their names to tell of ten.
            least = max(np.sort(strengths)[-min(MOST_LISTED, len(strengths))], strengths[strengths > 0].min())
        looked = np.flatnonzero(strengths >= least).tolist()
        if self._quiet(at, len(firsts), n_active):
            looked = [int(codes[np.argmax(self._sizes(at))])]
        names = {c: self._named(int(at[firsts[c]])) for c in looked}
        ranked = sorted(looked, key=lambda c: (-strengths[c], names[c]))
        chosen = ranked if everything else ranked[:MOST_LISTED]
        left = len(firsts) - len(chosen)
        left_active = n_active - sum(bool(strengths[c] > 0) for c in chosen)
        if self.beside:
            # What is said of one treatment stands together; a comparison keeps the order of the question.
            first = {names[c][1]: n for n, c in reversed(list(enumerate(chosen)))}
            by_place = q.intent == "comparison"
            chosen = sorted(chosen, key=lambda c: (names[c][0] if by_place else 0, first[names[c][1]]))
        found = [find(names[c][1], names[c][2], rows, at[codes == c].tolist()) for c in chosen]
        return found, left_active, left - left_active

    def _quiet(self, at: Int[np.ndarray, " n"], n_findings: int, n_active: int) -> bool:
        """Return whether many readouts were looked at and none changes: one sentence says so."""
        return (
            self.question.intent == "open"
            and n_findings > MOST_LISTED
            and n_active == 0
            and bool((self.rows["call"][at] != _FEW).any())
        )

    def _sizes(self, at: Int[np.ndarray, " n"]) -> np.ndarray:
        """Return the absolute effect of rows, -1 of those with too few cells."""
        return np.where(self.rows["call"][at] == _FEW, -1.0, np.abs(self.rows["effect"][at]))

    def _named(self, row: int) -> tuple[int, str, str]:
        """Return the place in the question, the treatment and the readout of a row."""
        return int(self.rows["group"][row]), self.rows.text("treatment", row), self.rows.text("readout", row)

    def _answer(self, place: Place, at: Int[np.ndarray, " n"], named: bool) -> Answer:
        q, rows = self.question, self.rows
        findings, more, silent = self._findings(at)
        words = self.notes.words({f.treatment for f in findings}) if self.notes else {}
        untested = self._untested(at)
        said = [f"{t} was not tested on {r}" if r else f"{t} was not tested" for t, r in untested]
        writer = Writer(rows, self.rule, words, bool(q.doses), q.intent == "threshold")
        where = place_words(place.context, place.time)
        quiet = self._quiet(at, len(findings) + more + silent, more + sum(f.strength > 0 for f in findings))
        if quiet:
            text = writer.quiet(where, findings[0], int(at[np.argmax(self._sizes(at))]))
        else:
            text = writer.answer(where, findings, said)
        if q.intent == "list" and not self._strengths(at).any():
            text = self._nothing(place)
        behind = [row for finding in findings for row in finding.rows]
        cited = list(self._cited(rows, behind)) + (self.notes.citations(words) if self.notes else [])
        verdict = {self._name(f.treatment, f.readout): f.verdict for f in findings}
        verdict |= {self._name(t, r): "not_tested" for t, r in untested if r}
        flags = self._flags(behind, findings)
        flags += [f"{more} more with a call left out."] if more else []
        if quiet:
            flags.append(f"{silent + 1} readouts were looked at; the one with the largest effect is told.")
        elif silent:
            flags.append(f"{silent} more without a call left out.")
        return Answer(
            self._condition(place, at, named),
            text,
            tuple(cited),
            1.0,
            self._key(place, at),
            self._attributes(place, behind),
            verdict,
            any(f.conflict for f in findings),
            tuple(flags),
            gap(rows.codes(["treatment", "readout"]), rows["call"]),
        )

    def _cited(self, rows: Rows, at: Sequence[int]) -> tuple[Citation, ...]:
        made = (self.cite(rows.tables[int(rows["table"][i])], int(rows["row"][i])) for i in at[:_MOST_CITED])
        return tuple(dict.fromkeys(made))

    def _nothing(self, place: Place) -> str:
        verb = {"up": "raises", "down": "lowers"}.get(self.question.direction, "changes")
        what = " or ".join(self.question.readouts) or "any readout"
        where = place_words(place.context, place.time)
        return f"{where}{'no' if where else 'No'} tested treatment {verb} {what}."

    def _name(self, treatment: str, readout: str) -> str:
        return f"{treatment}: {readout}" if self.beside else readout

    def _untested(self, at: Int[np.ndarray, " n"]) -> list[tuple[str, str]]:
        """Return the treatments, and readouts, that the question names and this place has no row of."""
        q, rows = self.question, self.rows
        if q.intent == "list":
            return []
        have = {(rows.text("treatment", i), rows.text("readout", i)) for i in at}
        if not self.beside:
            treatment = rows.text("treatment", at[0])
            return [(treatment, r) for r in q.readouts if (treatment, r) not in have]
        meant = targets(q, rows.tables)
        found = []
        for place, wanted in enumerate(q.treatments):
            mine = [t for t, p in meant.items() if p == place]
            name = " or ".join(mine or [" + ".join(sorted(wanted))])
            if not any(t in mine for t, _ in have):
                found += [(name, r) for r in q.readouts or ("",)]
            else:
                found += [(name, r) for r in q.readouts if not any((t, r) in have for t in mine)]
        return found

    def _condition(self, place: Place, at: Int[np.ndarray, " n"], named: bool) -> str:
        rows, dose, dataset = self.rows, "", ""
        if self.question.doses and len({(rows.number("base_dose", i), rows.text("base_unit", i)) for i in at}) == 1:
            first = min(at.tolist(), key=lambda i: (rows.text("unit", i), rows.text("row_id", i)))
            dose = f"{plain(rows.number('dose', first))} {rows.text('unit', first)}"
        if not place.context and math.isnan(place.time):
            data = rows.values("dataset", at.tolist())
            dataset = data[0] if len(data) == 1 else ""
        treatment = place.treatment if named else ""
        return condition_sentence(place.context, place.time, treatment=treatment, dose=dose, dataset=dataset)

    def _key(self, place: Place, at: Int[np.ndarray, " n"]) -> Condition | None:
        if not place.treatment:
            return None
        doses = {
            (rows_dose, unit) for rows_dose, unit in zip(self.rows["dose"][at], self.rows["unit"][at], strict=True)
        }
        dose, unit = next(iter(doses)) if len(doses) == 1 else (math.nan, "")
        return Condition.of(treatments_of(place.treatment, float(dose), str(unit)), place.context)

    def _attributes(self, place: Place, at: Sequence[int]) -> dict[str, str]:
        made = place.attributes
        for name in ("treatment", "readout", "source", "dataset", "model"):
            values = self.rows.values(name, at)
            if values:
                made[name] = ", ".join(values)
        return made | {"rule": self.rule.words}

    def _flags(self, at: Sequence[int], findings: Sequence[Finding]) -> list[str]:
        parts: dict[str, list[str]] = {}
        for finding in findings:
            if finding.disagrees:
                parts.setdefault(finding.disagrees, []).append(self._name(finding.treatment, finding.readout))
        flags = [f"The evidence on {_some(names)} disagrees ({said})." for said, names in parts.items()]
        sources = self.rows.values("source", at)
        what = "extrapolation" if sources == ["predicted"] else "extrapolation of the predicted rows"
        flags += [f"{what}: {text}" for text in self.rows.values("extrapolates", at)]
        if sources == ["predicted"]:
            flags.append("All of this is predicted, nothing of it was measured.")
        few = sum(int(self.rows["call"][i]) == _FEW for i in at)
        if few:
            flags.append(f"{few} of {len(at)} rows have fewer than {self.rule.min_cells} cells, and no call.")
        asked = {" + ".join(sorted(names)) for names in self.question.treatments}
        if asked and any(f.treatment not in asked and " + " in f.treatment for f in findings):
            flags.append("The treatment was tested in combinations only.")
        return flags


def _some(names: Sequence[str], shown: int = 3) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")

"""Sentences about findings: templates into which numbers are copied from rows, never made."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cellgap.ask._calls import CallRule
from cellgap.ask._quantities import plain, signed, small
from cellgap.ask._select_rows import Rows
from cellgap.ask._split_rows import Finding, Ladder, Step

_CELLS = ("cell_line", "cellline", "cell_type", "celltype", "cell", "cells", "cell_name", "tissue", "organ")
_VERB = {"up": "raises", "down": "lowers"}


@dataclass(frozen=True)
class Writer:
    """Writes sentences about rows.

    Parameters
    ----------
    rows
        The rows selected; steps name them by position.
    rule
        The rule of the calls.
    notes
        Treatment to a word on what it is, such as ``"HDAC1 inhibitor"``.
    narrowed
        Whether the question binds doses, so that others may have been tested.
    threshold
        Whether the question asks for a dose, which then comes first.
    """

    rows: Rows
    rule: CallRule
    notes: Mapping[str, str]
    narrowed: bool = False
    threshold: bool = False

    def answer(self, place: str, findings: Sequence[Finding], missing: Sequence[str] = ()) -> str:
        """Return one sentence on several findings at one place (``"In A549 at 24 h, "`` or nothing).

        Parameters
        ----------
        place
            Start of the sentence.
        findings
            Those of one treatment stand together.
        missing
            Clauses on what was not tested, each with its subject.
        """
        clauses = []
        before = None
        for finding in findings:
            clauses.append(self._clause(finding, named=finding.treatment != before))
            before = finding.treatment
        clauses += missing
        if len(clauses) < 3:
            # A comma outside of brackets would take the next clause into its own.
            joint = ", and " if any(", " in re.sub(r"\([^()]*\)", "", clause) for clause in clauses) else " and "
            return f"{place}{joint.join(clauses)}."
        return f"{place}{'; '.join(clauses[:-1])}; and {clauses[-1]}."

    def quiet(self, place: str, finding: Finding, row: int) -> str:
        """Return a sentence that no readout changes, with the largest effect.

        Parameters
        ----------
        place
            Start of the sentence.
        finding
            Of the readout with the largest effect.
        row
            Position of its row.
        """
        note = self.notes.get(finding.treatment)
        subject = self._subject(finding) + (f" ({note})" if note else "")
        step = Step("none", row)
        at = "" if math.isnan(self._number(step, "dose")) else f" {self._span([step])}"
        largest = f"the largest effect is that on {finding.readout}{at} ({self._evidence(step)})"
        return f"{place}{subject} changes none of the readouts; {largest}."

    def _clause(self, finding: Finding, named: bool) -> str:
        subject = ""
        if named:
            note = self.notes.get(finding.treatment)
            subject = f"{self._subject(finding)} ({note}) " if note else f"{self._subject(finding)} "
        if self.threshold and named and len(finding.ladders) == 1:
            lead, rest = self._ladder(finding.ladders[0], finding.readout, first=True)
            return f"{lead}{subject}{rest}"
        parts = []
        for ladder in finding.ladders:
            _, rest = self._ladder(ladder, finding.readout, first=False)
            parts.append(f"{rest} in {ladder.label}" if ladder.label else rest)
        joint = ", but " if any(ladder.label for ladder in finding.ladders) else " and "
        return subject + joint.join(parts)

    def _subject(self, finding: Finding) -> str:
        """Return the treatment's name; of a gene, with a word on what was done to it."""
        table = self.rows.tables[int(self.rows["table"][finding.rows[0]])]
        word = table.treatment_word
        if not word and finding.treatment in table.codes("readout")[1]:
            word = "perturbation"
        return f"{finding.treatment} {word}".rstrip()

    def _ladder(self, ladder: Ladder, readout: str, first: bool) -> tuple[str, str]:
        """Return what comes before the subject, and the words from the verb on."""
        steps, verdict = ladder.steps, ladder.verdict
        if verdict == "insufficient":
            where = self._over(steps)
            return "", f"rests on too few cells for a call on {readout}{where} ({self._evidence_of(ladder)})"
        few = [s for s in steps if s.call == "insufficient"]
        steps = tuple(s for s in steps if s.call != "insufficient")
        tail = f", too few cells for a call {self._spans(few)}" if few else ""
        if verdict == "no_change":
            return "", f"does not change {readout}{self._unchanged(steps, ladder)}{tail}"
        runs = _runs(steps)
        if verdict == "mixed":
            return "", f"has mixed effects on {readout}: {self._mixed(runs)}{tail}"
        verb = _VERB["up" if verdict == "raises" else "down"]
        start = runs[-1][0]
        evidence = f"({self._evidence(start)})"
        if math.isnan(self._number(start, "dose")):
            return "", f"{verb} {readout} {evidence}{tail}"
        if len(steps) == 1 or (self.narrowed and len(runs) == 1):
            only = "" if self.narrowed or few or len(ladder.steps) > 1 else ", the only tested dose"
            return "", f"{verb} {readout} {self._span(runs[0])}{only} {evidence}{tail}"
        active = [run for run in runs if run[0].call != "none"]
        if len(active) == 1 and runs[-1] is active[0]:
            lower = ", lower doses have no clear effect" if len(runs) == 2 else ""
            if first:
                return f"from {self._dose(start)}, ", f"{verb} {readout} {evidence}{lower}{tail}"
            return "", f"{verb} {readout} from {self._dose(start)} {evidence}{lower}{tail}"
        shown = " and ".join(f"{self._span(run)} ({self._evidence(run[0])})" for run in active)
        without = self._spans([step for run in runs if run[0].call == "none" for step in run], runs)
        return "", f"{verb} {readout} {shown}, with no clear effect {without}{tail}"

    def _unchanged(self, steps: Sequence[Step], ladder: Ladder) -> str:
        if math.isnan(self._number(steps[0], "dose")):
            return f" ({self._evidence(steps[0])})"
        if len(steps) == 1:
            only = "" if self.narrowed or len(ladder.steps) > 1 else ", the only tested dose"
            return f" at {self._dose(steps[0])}{only} ({self._evidence(steps[0])})"
        if self.narrowed:
            return f" {self._span(steps)} ({self._evidence_of(ladder)})"
        return f" at any tested dose ({self._interval(steps)}; {self._evidence_of(ladder)})"

    def _mixed(self, runs: Sequence[Sequence[Step]]) -> str:
        said = []
        for run in runs:
            call, first = run[0].call, run[0]
            span = "" if math.isnan(self._number(first, "dose")) else f" {self._span(run)}"
            if call in _VERB:
                said.append(f"{_VERB[call]} it{span} ({self._evidence(first)})")
            elif call == "contested":
                said.append(f"rows disagree{span} ({self._evidence(first)}, against others)")
        none = [run for run in runs if run[0].call == "none"]
        tail = f", with no clear effect {' and '.join(self._span(run) for run in none)}" if none else ""
        return " and ".join(said) + tail

    def _evidence(self, step: Step) -> str:
        table = self.rows.tables[int(self._number(step, "table"))]
        effect = signed(self._number(step, "effect"), table.decimals, self.rule.min_effect)
        parts = [f"{table.effect_word} {effect}", f"q = {small(self._number(step, 'q'), self.rule.max_q)}"]
        n = self._number(step, "n_cells")
        if not math.isnan(n):
            parts.append(f"{plain(n)} cells")
        return ", ".join([*parts, self.rows.text("source", step.row)])

    def _evidence_of(self, ladder: Ladder) -> str:
        """Return the numbers of cells and the sources of all rows of a ladder."""
        counts = [self.rows.number("n_cells", i) for i in ladder.rows]
        known = [n for n in counts if not math.isnan(n)]
        parts = []
        if known:
            low, high = plain(min(known)), plain(max(known))
            parts.append(f"{low} cells" if low == high else f"{low} to {high} cells")
        return ", ".join([*parts, " and ".join(self.rows.values("source", ladder.rows))])

    def _number(self, step: Step, column: str) -> float:
        return self.rows.number(column, step.row)

    def _dose(self, step: Step) -> str:
        return f"{plain(self._number(step, 'dose'))} {self.rows.text('unit', step.row)}"

    def _interval(self, steps: Sequence[Step]) -> str:
        low, high = self._dose(steps[0]), self._dose(steps[-1])
        same = self.rows.text("unit", steps[0].row) == self.rows.text("unit", steps[-1].row)
        return f"{low.split(' ')[0] if same else low} to {high}"

    def _span(self, steps: Sequence[Step]) -> str:
        return f"at {self._dose(steps[0])}" if len(steps) == 1 else f"from {self._interval(steps)}"

    def _spans(self, steps: Sequence[Step], runs: Sequence[Sequence[Step]] | None = None) -> str:
        if runs is None:
            return " and ".join(self._span([step]) for step in steps)
        return " and ".join(self._span(run) for run in runs if run[0] in steps)

    def _over(self, steps: Sequence[Step]) -> str:
        return "" if math.isnan(self._number(steps[0], "dose")) else f" {self._span(steps)}"


def condition_sentence(
    context: Sequence[tuple[str, str]], time: float, *, treatment: str = "", dose: str = "", dataset: str = ""
) -> str:
    """Return the condition as a sentence: ``"A549 cells (donor d1) treated with 10 uM for 24 h."``."""
    cells, others = _cells(context)
    if cells:
        who = cells if cells.casefold().endswith(("cell", "cells")) else f"{cells} cells"
        who += f" ({', '.join(others)})" if others else ""
    elif others:
        who = f"Cells of {', '.join(others)}"
    elif dataset:
        who = f"Cells of data set {dataset}"
    else:
        who = "" if not math.isnan(time) or treatment or dose else "All cells measured"
    with_what = " with " + " ".join(part for part in (dose, treatment) if part) if treatment or dose else ""
    how_long = "" if math.isnan(time) else f" for {plain(time)} h"
    if not (with_what or how_long):
        return f"{who}."
    return f"{who or 'Cells'} treated{with_what}{how_long}."


def place_words(context: Sequence[tuple[str, str]], time: float) -> str:
    """Return the start of an answer: ``"In A549 (donor d1) at 24 h, "``; empty where nothing is known."""
    cells, others = _cells(context)
    inside = f"{cells} ({', '.join(others)})" if cells and others else cells or ", ".join(others)
    where = f"in {inside} " if inside else ""
    where += "" if math.isnan(time) else f"at {plain(time)} h "
    return f"{where[:1].upper()}{where[1:].rstrip()}, " if where else ""


def _cells(context: Sequence[tuple[str, str]]) -> tuple[str, list[str]]:
    held = {name: value for name, value in context if value}
    main = next((name for name in _CELLS if name in held), "")
    others = [f"{name.replace('_', ' ')} {value}" for name, value in held.items() if name != main]
    return held.get(main, ""), others


def _runs(steps: Sequence[Step]) -> list[list[Step]]:
    runs: list[list[Step]] = []
    for step in steps:
        if runs and runs[-1][0].call == step.call and step.call != "contested":
            runs[-1].append(step)
        else:
            runs.append([step])
    return runs

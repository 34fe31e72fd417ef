"""Answers with everything that a page has to show, and with text that would like to be more than text."""

import dataclasses
import hashlib
import json
import threading
from typing import Any

from cellgap.ask._answer import Answer, Answers, Citation, Notice, Usage
from cellgap.ask._passage import Passage
from cellgap.errors import ConfigError
from cellgap.study import Condition

HOSTILE = "</script></style><img src=x onerror=alert(1)><script>alert(2)</script>"
LONG = "Donaudampfschifffahrtselektrizitaetenhauptbetriebswerkbauunterbeamtengesellschaft" * 2
PASSAGE = Passage(
    "Vorinostat in leukemia lines",
    "Vorinostat inhibits histone deacetylases. In K562 cells, 10 uM for 24 h raised the apoptosis score by 1.8. In "
    "A549 cells the same dose did not.",
    source="notes.jsonl, line 12",
)
QUOTE = "In K562 cells, 10 uM for 24 h raised the apoptosis score by 1.8."
_FIRST = PASSAGE.text.index(QUOTE)
RULE = {"rule": "q <= 0.05"}
ROW = {"treatment": "vorinostat", "dose": 1.0, "unit": "uM", "effect": 1.34, "se": None, "model": "", "row_id": "r1"}


def from_passage() -> Citation:
    span = (_FIRST, _FIRST + len(QUOTE))
    return Citation(PASSAGE.id, PASSAGE.title, QUOTE, 3, span, source=PASSAGE.source, sha256=PASSAGE.sha256)


def from_row() -> Citation:
    return Citation(
        "r1", "screen row r1", "vorinostat at 1 uM: apoptosis score +1.34.", rows=("r1",), source="screen.csv"
    )


def line(number: int, **more: Any) -> dict[str, Any]:
    """Return the values of a row of a screen, all rows of which share treatment, cell line and source."""
    same = {"treatment": "vorinostat", "cell_line": "A549", "source": "measured", "model": "", "se": None}
    own = {"readout": f"gene{number}", "dose": 1000.0, "unit": "nM", "time_h": 24.0 * (1 + number % 2)}
    return same | own | {"effect": -0.0612345, "q": 4.27e-32, "n_cells": 100.0 + number, "row_id": f"l{number}"} | more


LINES = {f"l{number}": line(number, readout=HOSTILE if number == 2 else f"gene{number}") for number in range(12)}
GONE, CHANGED = "l3", "l4"


def from_line(number: int) -> Citation:
    """Return the citation of a row; one is not at hand any more, and one has changed since."""
    values = LINES[f"l{number}"]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    said = f"vorinostat in A549: {values['readout']} score -0.06."
    return Citation(f"l{number}", f"screen row l{number}", said, rows=(f"l{number}",), source="s.csv", sha256=digest)


def evidence(identifier: str) -> Any:
    at_hand = {k: v for k, v in LINES.items() if k != GONE} | {CHANGED: line(4, effect=9.0)}
    return ({PASSAGE.id: PASSAGE, "r1": ROW} | at_hand).get(identifier)


def several(question: str = "Does vorinostat induce apoptosis?") -> Answers:
    answers = (
        Answer(
            "In K562 cells after 24 h, from 1 uM", "It raises the apoptosis score from 1 uM on.",
            (from_row(), from_passage()), 1.0, Condition("vorinostat", dose=10, unit="uM", cell_line="K562"),
            {"time": "24 h", "source": "measured"} | RULE,
            {"apoptosis score": "raises", "G2M score": "lowers"}, gap=0.375,
        ),
        Answer(
            "In A549 cells after 24 h", "It does not change the apoptosis score.", (*map(from_line, range(1, 5)),),
            0.94, None, RULE,
            {"apoptosis score": "no_change", "G2M score": "mixed"}, True,
            ("1,148 more without a call left out.", "Extrapolation: never seen there."), 0.375,
        ),
        Answer(
            "In MCF7 cells after 72 h", "Not tested.", (), 0.0, None, RULE,
            {"apoptosis score": "not_tested", "G2M score": "insufficient"}, gap=0.375,
        ),
        Answer(
            f"Read in a text: {LONG}", f"An answer {HOSTILE}\nof two lines.", (from_passage(),),
            float("nan"), None, RULE,
        ),
    )  # fmt: skip
    return Answers(
        question, answers, Notice("budget", "The budget of 3 requests is used up."),
        (Notice("no_encoder", f"Ranked by words alone {HOSTILE}."),), Usage(3, 1, 2, 4210, 388, True, None, 1.25),
        {"read_as": {"treatment": "vorinostat"}, "retrieved": [{"title": HOSTILE, "score": 0.81234}], "omitted": ()},
    )  # fmt: skip


def many(question: str = "What does vorinostat do to many genes?") -> Answers:
    """Return answers with more readouts than fit side by side, and a row of a table for each."""
    quiet = {f"gene{number}": "no_change" for number in range(12)}
    first = Answer("In A549 cells", "It does little.", (*map(from_line, range(12)),), 1.0, None, RULE, quiet, gap=0.004)
    called = quiet | {"gene7": "raises", "gene9": "mixed"}
    return Answers(question, (first, dataclasses.replace(first, condition="In K562 cells", verdict=called)))


class FakeAsker:
    """Answers by what the question says, and remembers what it was asked."""

    def __init__(self, **described: Any) -> None:
        self.asked: list[str] = []
        self.gate = threading.Event()
        self.described = {
            "passages": 1240, "tables": [{"name": f"screen {HOSTILE}", "rows": 31200}], "answerer": "extraction",
            "encoder": False, "examples": ["Does vorinostat induce apoptosis?", HOSTILE],
        } | described  # fmt: skip

    def describe(self) -> dict[str, Any]:
        return self.described

    def evidence(self, identifier: str) -> Any:
        return evidence(identifier)

    def ask(self, question: str) -> Answers:
        self.asked.append(question)
        if question == "slow":
            self.gate.wait(10)
        if "nothing" in question:
            return Answers(question, (), Notice("no_evidence", f"No passage is about this {HOSTILE}."))
        if "wrong" in question:
            raise ConfigError("k_max has to be 1 or more,\nnot 0.")
        if "broken" in question:
            raise ZeroDivisionError("a secret of the inside")
        return many(question) if "many" in question else several(question)

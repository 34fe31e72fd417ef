"""Answers in the words of a page: one place that says what a card shows, for pages with and without a script."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cellgap.ask._answer import VERDICTS, Answer, Answers, Citation, Usage
from cellgap.ask._passage import Passage
from cellgap.report._words import count, flatten

FindPassage = Callable[[str], Passage | None]
"""Returns the passage of an identifier, or None where it is not at hand."""

WORDS = dict(zip(VERDICTS, ("raises", "lowers", "no change", "mixed", "not tested", "insufficient"), strict=True))
# Told apart by shape as well as by color and word.
MARKS = dict(zip(VERDICTS, ("▲", "▼", "=", "↕", "○", "…"), strict=True))
_CONFLICT = "The evidence under this condition disagrees: open the sources before you rely on it."
_CELL = re.compile(r"([^=:]{1,60}?)\s*(?:=|:\s)\s*(.*)", re.DOTALL)
_TRACED = 60


def answers_view(answers: Answers, passage: FindPassage | None = None) -> dict[str, Any]:
    """Return what a page shows of `answers`, in plain values.

    Parameters
    ----------
    answers
        To a question.
    passage
        Finds the passage of a citation, so that its quote can be shown where it stands; None: quotes stand alone.
    """
    n = len(answers)
    if n:
        said = "One answer." if n == 1 else f"{n} answers, each under its own condition."
    else:
        said = "Not answered."
    return {
        "question": answers.question,
        "said": said,
        "not_answered": None if n else _reason(answers),
        # An answer may stand beside a reason, such as a budget that was used up on the way.
        "notices": [notice.text for notice in (*((answers.abstained,) if n else ()), *answers.degraded) if notice],
        "glance": _glance(answers),
        "cards": [_card(number, answer, passage) for number, answer in enumerate(answers, 1)],
        "usage": usage_words(answers.usage),
        "trace": _trace(answers.trace),
    }


def usage_words(usage: Usage) -> list[tuple[str, str]]:
    """Return what a question cost, as names and words; a cost that is not known is "unknown", never 0."""
    if not (usage.requests or usage.cache_hits or usage.prompt_tokens or usage.completion_tokens):
        return [("Language model", "not asked")]
    retried = f", {count(usage.retries, 'retry', 'retries')} among them" if usage.retries else ""
    rows = [("Requests", f"{usage.requests:,}{retried}")]
    if usage.cache_hits:
        rows.append(("From the cache", count(usage.cache_hits, "reply", "replies")))
    about = "about " if usage.estimated else ""
    rows.append(("Tokens", f"{about}{usage.prompt_tokens:,} sent, {about}{usage.completion_tokens:,} received"))
    if usage.cost is None:
        rows.append(("Cost", "unknown: no price is given for this model"))
    else:
        rows.append(("Cost", f"{usage.cost:.4f}" if usage.cost else "0"))
    if usage.waited_s:
        rows.append(("Waited between attempts", f"{usage.waited_s:.1f} s"))
    return rows


def _reason(answers: Answers) -> str:
    return answers.abstained.text if answers.abstained else "No reason is known."


def _chip(verdict: str, readout: str = "") -> dict[str, str]:
    known = verdict in WORDS
    return {
        "verdict": verdict if known else "other",
        "mark": MARKS[verdict] if known else "?",
        "words": WORDS[verdict] if known else verdict,
        "readout": readout,
    }


def _glance(answers: Answers) -> dict[str, Any] | None:
    """Return conditions by readouts, where there is something to compare."""
    if sum(bool(answer.verdict) for answer in answers) < 2:
        return None
    readouts = list(dict.fromkeys(str(readout) for answer in answers for readout in answer.verdict))
    rows = []
    for number, answer in enumerate(answers, 1):
        chips = {str(readout): _chip(verdict) for readout, verdict in answer.verdict.items()}
        rows.append({"number": number, "condition": answer.condition, "cells": [chips.get(r) for r in readouts]})
    return {"readouts": readouts, "rows": rows}


def _card(number: int, answer: Answer, passage: FindPassage | None) -> dict[str, Any]:
    facts = [(str(name), str(value)) for name, value in answer.attributes.items()]
    if answer.key is not None:
        facts.insert(0, ("key", repr(answer.key)))
    measures = [_measure("Support", answer.support, "of the words of this answer are in what it cites")]
    if answer.gap is not None:
        words = "of the evidence calls otherwise" if answer.gap else "the evidence gives one call everywhere"
        measures.append(_measure("How much the condition matters", answer.gap, words))
    return {
        "number": number,
        "condition": answer.condition,
        "facts": facts,
        "chips": [_chip(verdict, str(readout)) for readout, verdict in answer.verdict.items()],
        "text": answer.text,
        "warnings": [*([_CONFLICT] if answer.conflict else []), *answer.flags],
        "conflict": answer.conflict,
        "measures": measures,
        "citations": [_citation(citation, passage) for citation in answer.citations],
    }


def _measure(name: str, share: float, words: str) -> dict[str, Any]:
    known = math.isfinite(share)
    return {
        "name": name,
        "share": f"{min(max(share, 0.0), 1.0):.3f}" if known else None,
        "value": f"{100 * share:.0f} %" if known else "unknown",
        "words": words,
    }


def _citation(citation: Citation, passage: FindPassage | None) -> dict[str, Any]:
    meta = [("From", citation.source)] if citation.source else []
    if citation.span is not None:
        meta.append(("Characters", f"{citation.span[0] + 1:,} to {citation.span[1]:,} of the passage"))
    if citation.rows:
        meta.append(("Row" if len(citation.rows) == 1 else "Rows", ", ".join(citation.rows)))
    meta.append(("Identifier", citation.source_id))
    if citation.sha256:
        meta.append(("SHA-256", citation.sha256))
    parts, changed = _parts(citation, passage(citation.source_id) if passage and not citation.rows else None)
    return {
        "label": str(citation.position) if citation.position else "",
        "kind": "row" if citation.rows else "passage",
        "title": citation.title or citation.source_id,
        "parts": parts,
        "cells": _cells(citation.quote) if citation.rows else [],
        "changed": changed,
        "meta": meta,
    }


def _parts(citation: Citation, found: Passage | None) -> tuple[list[tuple[bool, str]], bool]:
    """Return the text to show, cut where a mark starts or ends, and whether the passage is another one by now."""
    changed = found is not None and bool(citation.sha256) and found.sha256 != citation.sha256
    quote, span = citation.quote, citation.span
    if span is None:
        return [(False, quote)], changed
    first, last = span
    if found is not None and not changed and found.text[first:last] == quote:
        return _cut(found.text, first, last), changed
    if last - first < len(quote) and 0 <= first < last <= len(quote):
        return _cut(quote, first, last), changed  # The whole passage was quoted.
    return [(True, quote)], changed


def _cut(text: str, first: int, last: int) -> list[tuple[bool, str]]:
    pieces = ((False, text[:first]), (True, text[first:last]), (False, text[last:]))
    return [(marked, piece) for marked, piece in pieces if piece]


def _cells(quote: str) -> list[tuple[str, str]]:
    """Return names and values of a row that is written as "name = value; name = value"; none where it is not."""
    cells = []
    for piece in re.split(r";\s+|\n", quote.strip().rstrip(";.")):
        found = _CELL.fullmatch(piece.strip())
        if found is None:
            return []
        cells.append((found[1], found[2]))
    return cells


def _trace(trace: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [(name.replace("_", " "), text) for name, text in flatten(_joined(trace))]
    more = len(rows) - _TRACED
    return rows if more <= 0 else [*rows[:_TRACED], ("not shown", count(more, "further line"))]


def _joined(value: Any) -> Any:
    """Return nested mappings whose leaves are texts: a list of mappings reads as "a 1, b 2; a 3, b 4"."""
    if isinstance(value, Mapping):
        return {str(name): _joined(item) for name, item in value.items()}
    return value if value is None or isinstance(value, bool) else _leaf(value)


def _leaf(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_leaf(item)}" for name, item in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        items = list(value)
        mark = "; " if any(isinstance(item, Mapping | list | tuple) for item in items) else ", "
        return mark.join(_leaf(item) for item in items) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

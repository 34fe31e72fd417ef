"""Answers in the words of a page: one place that says what a card shows, for pages with and without a script."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from cellgap.ask._answer import VERDICTS, Answer, Answers, Citation, Usage
from cellgap.ask._passage import Passage
from cellgap.report._words import count

FindEvidence = Callable[[str], Passage | Mapping[str, Any] | None]
"""Returns the passage, or the values of the row, of an identifier; None where it is not at hand."""

WORDS = dict(zip(VERDICTS, ("raises", "lowers", "no change", "mixed", "not tested", "insufficient"), strict=True))
# Told apart by shape as well as by color and word.
MARKS = dict(zip(VERDICTS, ("▲", "▼", "=", "↕", "○", "…"), strict=True))
_CONFLICT = "The evidence under this condition disagrees: open the sources before you rely on it."
_TRACED = 60


def answers_view(answers: Answers, evidence: FindEvidence | None = None) -> dict[str, Any]:
    """Return what a page shows of `answers`, in plain values.

    Parameters
    ----------
    answers
        To a question.
    evidence
        Finds what a citation points to, so that its quote is shown where it stands, and the values of its row; None:
        quotes stand alone.
    """
    n, matters, shared = len(answers), _matters(answers), _shared(answers)
    return {
        "question": answers.question,
        "said": _said(n),
        "not_answered": None if n else _reason(answers),
        # An answer may stand beside a reason, such as a budget that was used up on the way.
        "notices": [notice.text for notice in (*((answers.abstained,) if n else ()), *answers.degraded) if notice],
        "glance": _glance(answers),
        "matters": matters,
        "shared": shared,
        "cards": [_card(number, answer, evidence, matters is None, shared) for number, answer in enumerate(answers, 1)],
        "usage": usage_words(answers.usage),
        "trace": _trace(answers.trace),
    }


def _said(n: int) -> str:
    if n == 0:
        return "Not answered."
    return "One answer." if n == 1 else f"{n} answers, each under its own condition."


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


def _card(
    number: int, answer: Answer, evidence: FindEvidence | None, own_gap: bool, shared: Sequence[Any]
) -> dict[str, Any]:
    facts = [fact for fact in _facts(answer) if fact not in shared]
    if answer.key is not None:
        facts.insert(0, ("key", repr(answer.key)))
    measures = [_measure("Words found in its sources", answer.support)] if answer.citations else []
    if own_gap and answer.gap is not None:
        measures.append(_measure("How much the condition matters", answer.gap))
    return {
        "number": number,
        "condition": answer.condition,
        "facts": facts,
        "chips": [_chip(verdict, str(readout)) for readout, verdict in answer.verdict.items()],
        "text": answer.text,
        "warnings": [*([_CONFLICT] if answer.conflict else []), *answer.flags],
        "conflict": answer.conflict,
        "measures": measures,
        "citations": [_citation(citation, evidence) for citation in answer.citations],
    }


def _facts(answer: Answer) -> list[tuple[str, str]]:
    """Return what else fixes the reading, without what its key says already."""
    told = () if answer.key is None else answer.key.context
    items = [(str(name), str(value)) for name, value in answer.attributes.items() if value]
    return [(name.replace("_", " "), value) for name, value in items if (name, value) not in told]


def _shared(answers: Answers) -> list[tuple[str, str]]:
    """Return what fixes all readings alike, to be told once."""
    if len(answers) < 2:
        return []
    first, *rest = [_facts(answer) for answer in answers]
    return [fact for fact in first if all(fact in facts for facts in rest)]


def _measure(name: str, share: float) -> dict[str, Any]:
    known = math.isfinite(share)
    bar = f"{min(max(share, 0.0), 1.0):.3f}" if known else None
    return {"name": name, "share": bar, "value": f"{100 * share:.0f} %" if known else "unknown"}


def _matters(answers: Answers) -> str | None:
    """Return a sentence on the gap that all answers share; None where each has its own."""
    gaps = {answer.gap for answer in answers if answer.gap is not None}
    if len(gaps) != 1:
        return None
    (gap,) = gaps
    if not math.isfinite(gap):
        return None
    if gap == 0:
        return "The condition does not matter here: all of the evidence gives one call."
    return f"The condition matters: {100 * gap:.0f} % of the evidence calls otherwise than the most frequent call."


def _citation(citation: Citation, evidence: FindEvidence | None) -> dict[str, Any]:
    meta = [("From", citation.source)] if citation.source else []
    if citation.span is not None:
        meta.append(("Characters", f"{citation.span[0] + 1:,} to {citation.span[1]:,} of the passage"))
    if citation.rows and citation.rows != (citation.source_id,):
        meta.append(("Row" if len(citation.rows) == 1 else "Rows", ", ".join(citation.rows)))
    meta.append(("Identifier", citation.source_id))
    if citation.sha256:
        meta.append(("SHA-256", citation.sha256))
    found = evidence(citation.source_id) if evidence else None
    changed = found is not None and bool(citation.sha256) and _digest(found) != citation.sha256
    if changed:
        found = None
    return {
        "label": str(citation.position) if citation.position else "",
        "title": citation.title or citation.source_id,
        "parts": _parts(citation, found.text if isinstance(found, Passage) else ""),
        "cells": _cells(found) if isinstance(found, Mapping) else [],
        "changed": changed,
        "meta": meta,
    }


def _digest(found: Passage | Mapping[str, Any]) -> str:
    """Return the digest that a citation of `found` holds."""
    if isinstance(found, Passage):
        return found.sha256
    return hashlib.sha256(json.dumps(dict(found), sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _parts(citation: Citation, passage: str) -> list[tuple[bool, str]]:
    """Return the text to show, cut where a mark starts or ends."""
    quote, span = citation.quote, citation.span
    if span is None:
        return [(False, quote)]
    first, last = span
    if passage and passage[first:last] == quote:
        return _cut(passage, first, last)
    if last - first < len(quote) and 0 <= first < last <= len(quote):
        return _cut(quote, first, last)  # The whole passage was quoted.
    return [(True, quote)]


def _cut(text: str, first: int, last: int) -> list[tuple[bool, str]]:
    pieces = ((False, text[:first]), (True, text[first:last]), (False, text[last:]))
    return [(marked, piece) for marked, piece in pieces if piece]


def _cells(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values of a row, without those that are not known."""
    told = ((str(name), _cell(value)) for name, value in values.items() if name != "row_id")
    return [(name, value) for name, value in told if value]


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _trace(trace: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = list(_lines(trace, ""))
    more = len(rows) - _TRACED
    return rows if more <= 0 else [*rows[:_TRACED], ("not shown", count(more, "further line"))]


def _lines(trace: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested mappings; a list of mappings reads as "a 1, b 2; a 3, b 4"."""
    for name, value in trace.items():
        path = f"{prefix}{str(name).replace('_', ' ')}"
        if isinstance(value, Mapping) and value:
            yield from _lines(value, f"{path}: ")
        else:
            yield path, _leaf(value)


def _leaf(value: Any) -> str:
    if value is None or (isinstance(value, Mapping | Sequence) and not value):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_leaf(item)}" for name, item in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        items = list(value)
        mark = "; " if any(isinstance(item, Mapping | list | tuple) for item in items) else ", "
        return mark.join(_leaf(item) for item in items)
    return f"{value:.4g}" if isinstance(value, float) else str(value)

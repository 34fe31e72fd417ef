"""Answers in the words of a page: one place that says what a card shows, for pages with and without a script."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cellgap.ask._answer import VERDICTS, Answer, Answers, Usage
from cellgap.report._source_view import FindEvidence, sources_view
from cellgap.report._words import count

WORDS = dict(zip(VERDICTS, ("raises", "lowers", "no change", "mixed", "not tested", "insufficient"), strict=True))
# Told apart by shape as well as by color and word.
MARKS = dict(zip(VERDICTS, ("▲", "▼", "=", "↕", "○", "…"), strict=True))
_CONFLICT = "The evidence under this condition disagrees: open the sources before you rely on it."
# Flags that begin so tell what was looked at; every other one is a caution.
_NOTES = re.compile(r"[\d,]+ (?:more with(?:out)? a call left out|readouts? (?:was|were) looked at)\b")
_TRACED = 60
_COMPARED, _MOST_COMPARED = 8, 12  # readouts side by side: from where on those without a call are left out, and at most


def answers_view(answers: Answers, evidence: FindEvidence | None = None, *, told_rule: str = "") -> dict[str, Any]:
    """Return what a page shows of `answers`, in plain values.

    Parameters
    ----------
    answers
        To a question.
    evidence
        Finds what a citation points to, so that its quote is shown where it stands, and the values of its row; None:
        quotes stand alone.
    told_rule
        When a row of a table counts as an effect, where the page tells it already; answers by the same rule are silent
        about it.
    """
    n, matters, rule = len(answers), _matters(answers), _rule(answers)
    facts = [_facts(answer, rule) for answer in answers]
    shared = [fact for fact in facts[0] if all(fact in other for other in facts[1:])] if n > 1 else []
    return {
        "question": answers.question,
        "said": _said(n),
        "not_answered": None if n else _reason(answers),
        # An answer may stand beside a reason, such as a budget that was used up on the way.
        "notices": [notice.text for notice in (*((answers.abstained,) if n else ()), *answers.degraded) if notice],
        "glance": _glance(answers),
        "matters": matters,
        "shared": [*shared, *([("a row counts where", rule)] if rule and rule != told_rule else [])],
        "cards": [
            _card(number, answer, evidence, matters is None, [fact for fact in own if fact not in shared])
            for number, (answer, own) in enumerate(zip(answers, facts, strict=True), 1)
        ],
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
    verdicts = [{str(readout): verdict for readout, verdict in answer.verdict.items()} for answer in answers]
    every = list(dict.fromkeys(readout for each in verdicts for readout in each))
    readouts, left = _compared(every, verdicts)
    rows = []
    for number, (answer, each) in enumerate(zip(answers, verdicts, strict=True), 1):
        cells = [_chip(each[readout]) if readout in each else None for readout in readouts]
        rows.append({"number": number, "condition": answer.condition, "cells": cells})
    return {"readouts": readouts, "rows": rows, "left": left}


def _compared(every: list[str], verdicts: Sequence[Mapping[str, str]]) -> tuple[list[str], str]:
    """Return the readouts to show side by side, and what is said of those that are not."""
    if len(every) <= _COMPARED:
        return every, ""
    quiet = [r for r in every if all(each.get(r, "no_change") == "no_change" for each in verdicts)]
    called = [r for r in every if r not in quiet]
    readouts = called[:_MOST_COMPARED] or quiet[:_COMPARED]
    said = []
    if len(called) > len(readouts):
        said.append(f"{count(len(called) - len(readouts), 'further readout')} with a call")
    if unseen := len(quiet) - sum(r in quiet for r in readouts):
        said.append(f"{count(unseen, 'readout')} with no change under any condition")
    return readouts, f"Left out here, and told in the answers below: {', '.join(said)}." if said else ""


def _card(
    number: int, answer: Answer, evidence: FindEvidence | None, own_gap: bool, facts: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    key = [] if answer.key is None else [("key", repr(answer.key))]
    measures = [_measure("Words found in its sources", answer.support)] if answer.citations else []
    if own_gap and answer.gap is not None:
        measures.append(_measure("How much the condition matters", answer.gap))
    return {
        "number": number,
        "condition": answer.condition,
        "facts": [*key, *facts],
        "chips": [_chip(verdict, str(readout)) for readout, verdict in answer.verdict.items()],
        "text": answer.text,
        "remarks": _remarks(answer),
        "measures": measures,
        "citations": sources_view(answer.citations, evidence),
    }


def _remarks(answer: Answer) -> list[dict[str, str]]:
    """Return what to bear in mind, what warns first."""
    notes = [flag for flag in answer.flags if _NOTES.match(flag)]
    cautions = [flag for flag in answer.flags if flag not in notes]
    told = (("Conflict", [_CONFLICT] if answer.conflict else []), ("Caution", cautions), ("Note", notes))
    return [{"kind": name.lower(), "name": name, "text": text} for name, texts in told for text in texts]


def _rule(answers: Answers) -> str:
    """Return when a row counts as an effect, where all answers that say so say the same."""
    rules = {str(answer.attributes["rule"]) for answer in answers if answer.attributes.get("rule")}
    return rules.pop() if len(rules) == 1 else ""


def _facts(answer: Answer, rule: str) -> list[tuple[str, str]]:
    """Return what else fixes the reading, without what is said elsewhere: by its key, by its verdicts, for all."""
    told = [("rule", rule), *(() if answer.key is None else answer.key.context)]
    readouts = str(answer.attributes.get("readout", ""))
    if set(readouts.split(", ")) <= set(answer.verdict):
        told.append(("readout", readouts))
    items = [(str(name), str(value)) for name, value in answer.attributes.items() if value]
    return [(name.replace("_", " "), value) for name, value in items if (name, value) not in told]


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
    if gap < 0.01:
        less = "less than 1 % of the evidence calls otherwise than the most frequent call"
        return f"The condition hardly matters: {less}."
    return f"The condition matters: {100 * gap:.0f} % of the evidence calls otherwise than the most frequent call."


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

"""Checks that every answer passes, whoever gave it: its evidence exists, carries it, and conditions differ.

Nothing is lost silently: what is taken out, merged or left over is listed in the trace.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cellgap.ask._answer import Answer, Answers, Citation, Notice
from cellgap.ask._passage import Passage, gives_orders
from cellgap.ask._support import contents, supported

SAME = 0.92
"""Conditions whose sentences are closer than this cosine are one condition."""

ENOUGH = 0.5
"""Share of the content words of an answer that its evidence should hold; people's own answers reach 0.65 on average."""

_AGREE = 0.8


@runtime_checkable
class Encodes(Protocol):
    """What turns texts into unit vectors."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return one row a text."""
        ...


def check(
    answers: Answers,
    passages: Sequence[Passage],
    encoder: Encodes | None,
    *,
    k_max: int | None,
    strict: bool = False,
    merge_at: float | None = SAME,
) -> Answers:
    """Return the answers that pass, with their support and flags.

    In this order: (1) citations of passages that are not there are removed and counted, and so are those of passages
    that speak to a model; (2) an answer without a citation or without a text is dropped; (3) support is computed from
    the cited passages: numbers and units have to occur in them, and at least half of the content words should; an
    answer that fails is flagged, or dropped where `strict`; one that gives orders and is not supported is always
    dropped; (4) equal conditions are merged, and answers that then disagree are both kept as a conflict; (5) at most
    `k_max` remain.

    Parameters
    ----------
    answers
        As given by an answerer. Citations name a passage by its position, and by its id where they know it; citations
        of rows of tables are taken as they are.
    passages
        What was looked at, in the order that positions count.
    encoder
        Compares conditions; None: they are the same where their words are.
    k_max
        Most answers; None is no limit.
    strict
        Drop answers without support.
    merge_at
        Cosine at which two conditions are one. Conditions that name different numbers (a dose, a year) never are, and
        neither are those that have each a word of their own and answers that differ. None: merge equal words only.

    Returns
    -------
    Answers
        Its trace gains ``unknown_citations``, ``suspicious_citations`` (counts), ``dropped`` (conditions and reasons),
        ``merged`` and ``omitted`` (conditions).
    """
    unknown = suspicious = 0
    dropped: list[dict[str, str]] = []
    kept: list[Answer] = []
    for answer in answers:
        cited, n_unknown, n_suspicious = _known(answer.citations, passages)
        unknown, suspicious = unknown + n_unknown, suspicious + n_suspicious
        answer = replace(answer, citations=cited)
        reason = _unusable(answer)
        if not reason:
            answer, reason = _with_support(answer, passages, strict)
        if reason:
            dropped.append({"condition": answer.condition, "answer": answer.text, "reason": reason})
        else:
            kept.append(answer)
    merged_answers, merged = _merged(kept, passages, encoder, merge_at)
    final = tuple(merged_answers if k_max is None else merged_answers[:k_max])
    trace: dict[str, Any] = {
        **answers.trace,
        "unknown_citations": answers.trace.get("unknown_citations", 0) + unknown,
        "suspicious_citations": suspicious,
        "dropped": dropped,
        "merged": merged,
        "omitted": [*(a.condition for a in merged_answers[len(final) :]), *answers.trace.get("omitted", ())],
    }
    abstained = answers.abstained
    if not final and abstained is None:
        reasons = "; ".join(dict.fromkeys(d["reason"] for d in dropped))
        text = f"No answer is left after its checks: {reasons}." if reasons else "The passages do not answer this."
        abstained = Notice("no_supported_answer" if reasons else "no_evidence", text)
    return replace(answers, answers=final, abstained=None if final else abstained, trace=trace)


def _known(citations: Sequence[Citation], passages: Sequence[Passage]) -> tuple[tuple[Citation, ...], int, int]:
    """Return the citations that hold, and how many were unknown and suspicious; each source once."""
    found: dict[tuple[Any, ...], Citation] = {}
    unknown = suspicious = 0
    for citation in citations:
        # A row of a table has no place among the passages; one that was read from a text has.
        if citation.position or not citation.rows:
            passage = passages[citation.position - 1] if 1 <= citation.position <= len(passages) else None
            if passage is None or (citation.source_id and citation.source_id != passage.id):
                unknown += 1
                continue
            if passage.suspicious:
                suspicious += 1
                continue
        found.setdefault((citation.source_id, citation.position, citation.span, citation.rows), citation)
    return tuple(found.values()), unknown, suspicious


def _unusable(answer: Answer) -> str:
    if not answer.citations and "not_tested" not in answer.verdict.values():
        return "it cites nothing that was shown"
    if not answer.text.strip():
        return "its text is empty"
    return ""


def _with_support(answer: Answer, passages: Sequence[Passage], strict: bool) -> tuple[Answer, str]:
    """Return the answer with its support and flags, and why it is dropped, if it is."""
    if not answer.citations:
        return answer, ""
    share, missing = supported(answer.text, _evidence(answer, passages))
    structured = all(citation.rows for citation in answer.citations)
    flags = list(answer.flags)
    if missing and not structured:
        flags.append(f"not in the cited evidence: {', '.join(missing)}")
    if share < ENOUGH and not structured:
        flags.append(f"only {share:.0%} of its content words are in the cited evidence")
    orders = gives_orders(answer.text) and not structured
    if orders:
        flags.append("speaks to a reader or a model like an order")
    failures = flags[len(answer.flags) :]
    # What a template wrote from rows has the words of the template; its numbers are checked where it is made.
    answer = replace(answer, support=max(share, answer.support) if structured else share, flags=tuple(flags))
    if orders and (missing or share < ENOUGH):
        return answer, "it gives an order that its evidence does not hold"
    return answer, "; ".join(failures) if strict else ""


def _evidence(answer: Answer, passages: Sequence[Passage]) -> list[str]:
    texts = []
    for citation in answer.citations:
        if citation.rows or not 1 <= citation.position <= len(passages):
            texts.append(f"{citation.title}\n{citation.quote}")
        else:
            passage = passages[citation.position - 1]
            texts.append(f"{passage.title}\n{passage.text}")
    return texts


def _merged(
    answers: Sequence[Answer], passages: Sequence[Passage], encoder: Encodes | None, merge_at: float | None
) -> tuple[list[Answer], list[dict[str, str]]]:
    """Return the answers with equal conditions made one, and what was merged into what."""
    if len(answers) < 2:
        return list(answers), []
    alike = _alike([a.condition for a in answers], encoder, merge_at)
    close = _alike([a.text for a in answers], encoder, merge_at)
    groups: list[list[int]] = []
    for place, answer in enumerate(answers):
        home = None
        for group in groups:
            first = group[0]
            near, agree = bool(alike[first, place]), _agree(answers[first], answer, bool(close[first, place]))
            if _one_condition(answers[first], answer, near, agree):
                home = group
                break
        groups.append([place]) if home is None else home.append(place)
    made, merged = [], []
    for group in groups:
        one = answers[group[0]]
        for place in group[1:]:
            agree = _agree(one, answers[place], bool(close[group[0], place]))
            one = _united(one, answers[place], agree, passages)
            merged.append({"condition": answers[place].condition, "into": one.condition})
        made.append(one)
    return made, merged


def _one_condition(a: Answer, b: Answer, alike: bool, agree: bool) -> bool:
    if a.key is not None or b.key is not None:
        return (
            a.key == b.key and dict(a.attributes) == dict(b.attributes) and _words(a.condition) == _words(b.condition)
        )
    # Answers without any condition (protocol "rag") are told apart by what they say.
    a_text, b_text = (a.condition, b.condition) if a.condition or b.condition else (a.text, b.text)
    if _words(a_text) == _words(b_text):
        return True
    one, other = contents(a_text), contents(b_text)
    if not (a.condition and b.condition and alike and one.numbers == other.numbers):
        return False
    # Sentences that differ by one word are close whatever the word is: the men's and the women's event of a cup are two
    # readings. Where each has a word of its own and the answers differ, too, they stay apart.
    return agree or one.words <= other.words or other.words <= one.words


def _agree(a: Answer, b: Answer, close: bool) -> bool:
    one, other = contents(a.text), contents(b.text)
    if one.numbers != other.numbers or one.negated != other.negated:
        return False
    common = len(one.words & other.words)
    return close or 2 * common >= _AGREE * (len(one.words) + len(other.words))


def _united(a: Answer, b: Answer, agree: bool, passages: Sequence[Passage]) -> Answer:
    cited = {(c.source_id, c.position, c.span, c.rows): c for c in (*a.citations, *b.citations)}
    text = a.text if agree or b.text in a.text else f"{a.text} / {b.text}"
    one = replace(
        a,
        text=text,
        citations=tuple(cited.values()),
        conflict=a.conflict or b.conflict or not agree,
        flags=tuple(dict.fromkeys((*a.flags, *b.flags))) if text != a.text else a.flags,
        verdict={**b.verdict, **a.verdict},
    )
    if all(citation.rows for citation in one.citations):
        return one
    return replace(one, support=supported(one.text, _evidence(one, passages))[0])


def _alike(texts: Sequence[str], encoder: Encodes | None, merge_at: float | None) -> np.ndarray:
    """Return which pairs of texts are closer than `merge_at`; without an encoder none."""
    if encoder is None or merge_at is None:
        return np.zeros((len(texts), len(texts)), bool)
    vectors = np.asarray(encoder.encode(list(texts)), np.float64)
    filled = np.array([bool(text.strip()) for text in texts])
    return (vectors @ vectors.T > merge_at) & filled[:, None] & filled[None, :]


def _words(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .!?")


def cited_passages(numbers: Sequence[int], sent: Mapping[int, Passage]) -> tuple[Citation, ...]:
    """Return citations of whole passages by number; a number that was not sent becomes one that `check` removes."""
    made = []
    for number in numbers:
        passage = sent.get(number)
        if passage is None:
            made.append(Citation(source_id=f"unknown-{number}", title="", quote=""))
        else:
            made.append(
                Citation(passage.id, passage.title, passage.text, number, source=passage.source, sha256=passage.sha256)
            )
    return tuple(made)

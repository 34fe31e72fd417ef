"""How well passages and sentences answer a question: words, meaning, and what the first retriever thought."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from cellgap.ask._bm25 import BM25
from cellgap.ask._passage import Passage
from cellgap.ask._sentences import sentence_spans
from cellgap.ask._words import words

_STORED = 0.30
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\S+",
        """
        a about after again all also an and any are as at be because been before being both but by can could did
        do does during each for from had has have he her him his how i if in into is it its just me more most my
        no nor not of off on once only or other our out over own same she should so some such than that the
        their them then there these they this those through to too under up us very was we were what when where
        which while who whom whose why will with would you your
        """,
    )
)


@runtime_checkable
class Encoder(Protocol):
    """What turns texts into vectors of unit length."""

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "n dim"]:
        """Return one row a text."""
        ...


@dataclass(frozen=True)
class Sentence:
    """A sentence of a passage.

    Parameters
    ----------
    passage
        Position of the passage, zero-based.
    place
        Which of its sentences.
    start, end
        Its characters.
    text
        Those characters.
    """

    passage: int
    place: int
    start: int
    end: int
    text: str


def sentences_of(passages: Sequence[Passage], positions: Sequence[int]) -> list[Sentence]:
    """Return the sentences of the passages at some positions, in reading order."""
    return [
        Sentence(i, k, start, end, passages[i].text[start:end])
        for i in sorted(positions)
        for k, (start, end) in enumerate(sentence_spans(passages[i].text))
    ]


def share_words(question: str, passages: Sequence[Passage]) -> list[bool]:
    """Return for each passage whether it has a word of the question that is more than grammar."""
    asked = set(words(question)) - _FUNCTION_WORDS
    return [not asked.isdisjoint(words(f"{p.title}\n{p.text}")) for p in passages]


def lexical(question: str, texts: Sequence[str]) -> Float[np.ndarray, " n"]:
    """Return BM25 scores of texts as shares of the largest; zeros where no text has a word of the question."""
    scores = BM25(texts).scores(question) if texts else np.zeros(0)
    top = float(scores.max(initial=0.0))
    return scores / top if top > 0 else scores


def dense(question: str, texts: Sequence[str], encoder: Encoder) -> Float[np.ndarray, " n"]:
    """Return the cosines of texts to a question; one below 0 is 0."""
    vectors = np.asarray(encoder.encode([question, *texts]), np.float64)
    return np.maximum(0.0, vectors[1:] @ vectors[0])


def fused(
    lexical: Float[np.ndarray, " n"],
    dense: Float[np.ndarray, " n"] | None,
    stored: Float[np.ndarray, " n"] | None,
) -> Float[np.ndarray, " n"]:
    """Return 0.35 words + 0.35 meaning + 0.30 stored score scaled to [0, 1]; equal weights of those that are there.

    Parameters
    ----------
    lexical
        Between 0 and 1.
    dense
        Cosines, or None without an encoder.
    stored
        In any unit, higher is better; None, or equal numbers, say nothing.
    """
    own = lexical if dense is None else 0.5 * lexical + 0.5 * dense
    if stored is None or stored.max(initial=-np.inf) <= stored.min(initial=np.inf):
        return own
    return (1 - _STORED) * own + _STORED * (stored - stored.min()) / (stored.max() - stored.min())

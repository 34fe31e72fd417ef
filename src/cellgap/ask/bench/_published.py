"""The scores of the benchmark's paper (CondAmbigQA, arXiv 2502.01523, both revisions), on given judge scores.

They are here so that stored outputs of others can be scored again; our own scores are those of ``det-1``.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cellgap.ask.bench._pairing import by_position, greedy
from cellgap.errors import ConfigError

COMPAT = ("v1", "v2")
_WEIGHTS = {
    "conditions": {"condition": 0.3, "answer": 0.5, "citation": 0.2},
    "rag": {"condition": 0.0, "answer": 0.7, "citation": 0.3},
    "given": {"condition": 0.0, "answer": 0.6, "citation": 0.4},
    "closed": {"condition": 0.0, "answer": 1.0, "citation": 0.0},
}
_DROPPED_BELOW = 0.01


@dataclass(frozen=True)
class PublishedScores:
    """Scores of one question by pair; v1 has a pair for every output, v2 for as many as there are golds.

    Parameters
    ----------
    pairs
        (output, gold), zero-based; gold is None for an output that was judged against an empty reference, or counts as
        zero.
    condition, answer, citation
        By pair.
    """

    pairs: tuple[tuple[int, int | None], ...]
    condition: tuple[float, ...]
    answer: tuple[float, ...]
    citation: tuple[float, ...]

    @property
    def means(self) -> tuple[float, float, float]:
        """Means of condition, answer and citation over the pairs of the question; 0 without pairs."""
        three = (self.condition, self.answer, self.citation)
        c, a, x = (float(np.mean(values)) if values else 0.0 for values in three)
        return c, a, x


def citation_score(
    cited: Collection[int], gold: Collection[int], *, compat: str, protocol: str = "conditions"
) -> float:
    """Return the published citation score: v1 recall (``rag``: F1), v2 precision; 0 where that is undefined."""
    _check(compat, protocol)
    p, g = set(cited), set(gold)
    hits = len(p & g)
    if compat == "v2":
        return hits / len(p) if p else 0.0
    if protocol == "rag":
        return 2 * hits / (len(p) + len(g)) if p or g else 0.0
    return hits / len(g) if g else 0.0


def published_scores(
    condition: Float[np.ndarray, "outputs golds"] | None,
    answer: Float[np.ndarray, "outputs golds"],
    cited: Sequence[Collection[int]],
    gold: Sequence[Collection[int]],
    *,
    compat: str,
    protocol: str = "conditions",
    surplus_condition: Sequence[float] = (),
    surplus_answer: Sequence[float] = (),
) -> PublishedScores:
    """Return the scores of one question as the benchmark's paper pairs them.

    v1 pairs by position and keeps outputs beyond the gold list, judged against an empty reference. v2 gives each
    output in order the best free gold by a weighted sum and leaves out outputs that find none (in ``closed`` they
    count as zero). Missing outputs cost nothing in either.

    Parameters
    ----------
    condition, answer
        Judge scores of every output against every gold; `condition` is None where the protocol has none.
    cited, gold
        Passage numbers by output, and by gold.
    compat
        ``"v1"`` or ``"v2"``.
    protocol
        ``"conditions"``, ``"rag"``, ``"given"`` or ``"closed"``.
    surplus_condition, surplus_answer
        Judge scores of the outputs beyond the gold list against an empty reference; only v1 needs them.

    Raises
    ------
    ConfigError
        An unknown name, shapes that do not fit, a score that is not finite, or missing surplus scores.
    """
    _check(compat, protocol)
    answer = np.asarray(answer, float)
    n, m = len(cited), len(gold)
    none = condition is None
    condition = np.zeros((n, m)) if none else np.asarray(condition, float)
    if condition.shape != (n, m) or answer.shape != (n, m):
        raise ConfigError(
            f"Judge scores are outputs x golds, here {n} x {m}: found {condition.shape} and {answer.shape}."
        )
    if not (np.isfinite(condition).all() and np.isfinite(answer).all()):
        raise ConfigError("Judge scores have to be finite: the published scores have no rule for a failed judgement.")
    citation = np.array(
        [[citation_score(p, g, compat=compat, protocol=protocol) for g in gold] for p in cited], float
    ).reshape(n, m)
    if compat == "v1":
        pairs: list[tuple[int, int | None]] = list(by_position(n, m))
        n_surplus = max(0, n - m)
        extra_c = [0.0] * n_surplus if none else [float(s) for s in surplus_condition]
        extra_a = [float(s) for s in surplus_answer]
        if len(extra_c) != n_surplus or len(extra_a) != n_surplus:
            raise ConfigError(
                f"v1 judges outputs beyond the gold list against an empty reference: {n_surplus} surplus scores are "
                f"needed, found {len(extra_c)} and {len(extra_a)}."
            )
        surplus = [*zip(range(m, n), extra_c, extra_a, strict=True)]
    else:
        weights = _WEIGHTS[protocol]
        worth = weights["condition"] * condition + weights["answer"] * answer + weights["citation"] * citation
        pairs = list(greedy(worth))
        used = {i for i, _ in pairs}
        surplus = [(i, 0.0, 0.0) for i in range(n) if i not in used] if protocol == "closed" else []
    c, a, x = ([float(grid[i, j]) for i, j in pairs] for grid in (condition, answer, citation))
    for i, extra_condition, extra_answer in surplus:
        pairs.append((i, None))
        c.append(extra_condition)
        a.append(extra_answer)
        x.append(0.0)
    return PublishedScores(tuple(pairs), tuple(c), tuple(a), tuple(x))


def published_means(questions: Sequence[PublishedScores], *, compat: str) -> tuple[float, float, float]:
    """Return condition, answer and citation of a run: v1 means over all pairs, v2 over questions (without balance)."""
    _check(compat, "conditions")
    if compat == "v2":
        table = np.array([q.means for q in questions if q.pairs])
        if not len(table):
            return 0.0, 0.0, 0.0
        condition, answer, citation = (float(v) for v in table.mean(axis=0))
        return condition, answer, citation
    c, a, x = ([v for q in questions for v in getattr(q, name)] for name in ("condition", "answer", "citation"))
    return (float(np.mean(c)), float(np.mean(a)), float(np.mean(x))) if c else (0.0, 0.0, 0.0)


def balanced(
    condition: float | int,
    answer: float | int,
    citation: float | int,
    citations_per_answer: float | int,
    n_outputs: int,
    n_golds: int,
) -> tuple[float, float, float]:
    """Return the "balanced" scores of one question, as the paper's second revision draws its tables from.

    The citation score grows with the number of citations and may exceed the raw one; a single output where there are
    several golds loses most. Both are the paper's, and a reason to print raw scores beside these.

    Parameters
    ----------
    condition, answer, citation
        Means over the pairs of the question.
    citations_per_answer
        Mean number of passages cited.
    n_outputs, n_golds
        Counts, at least 1.

    Raises
    ------
    ConfigError
        A count below 1.
    """
    n, m = n_outputs, n_golds
    if n < 1 or m < 1:
        raise ConfigError(f"Balanced scores need at least one output and one gold, found {n} and {m}.")
    cited = citation * (1 + 0.3 * min(citations_per_answer, 3.0))
    quality = 0.5 * (condition + answer) / 2 + 0.5 * cited
    eased = 2 - min(1.0, max(0.5, answer / 0.5))
    excess = (n - m) / m
    if n == m:
        number = 1.0
    elif n == 1:
        number = 0.1
    elif n < m:
        number = 1 - min(0.6 * (m - n) / m * eased, 0.2)
    elif excess > 1:
        number = 1 - eased * min(0.3 * excess, 0.15)
    else:
        number = 1 - eased * min(0.15 * excess, 0.075)
    factor = 0.6 * quality + 0.4 * number
    c, a, x = (min(1.0, max(0.0, factor * score)) for score in (condition, answer, cited))
    return c, a, x


def expectation(probabilities: Mapping[str, float]) -> float | None:
    """Return the G-Eval score (Liu et al. 2023) of the tokens at the place of the score, between 0 and 1.

    ``sum k p(k) / sum p(k) / 10`` over decimal tokens from 0 to 10 with a probability of at least 0.01; None where
    there is none.
    """
    kept: dict[int, float] = {}
    for token, p in probabilities.items():
        word = token.strip()
        if word.isascii() and word.isdecimal() and int(word) <= 10 and p >= _DROPPED_BELOW:
            kept[int(word)] = kept.get(int(word), 0.0) + p
    return sum(k * p for k, p in kept.items()) / sum(kept.values()) / 10 if kept else None


def _check(compat: str, protocol: str) -> None:
    if compat not in COMPAT:
        raise ConfigError(f"compat is one of {', '.join(map(repr, COMPAT))}, found {compat!r}.")
    if protocol not in _WEIGHTS:
        raise ConfigError(f"protocol is one of {', '.join(map(repr, _WEIGHTS))}, found {protocol!r}.")

"""Rankings made one: reciprocal rank fusion."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from cellgap.errors import ConfigError

CONSTANT = 60


def ranked(scores: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Return positions by descending score; equal scores by position."""
    return np.argsort(-scores, kind="stable")


def best(scores: Float[np.ndarray, " n"], k: int) -> Int[np.ndarray, " m"]:
    """Return the first k positions of ``ranked`` that have a score above minus infinity, without sorting the others."""
    if k < len(scores):
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        above = np.flatnonzero(scores > least)
        # Of those that share the last place, the first.
        some = np.sort(np.concatenate([above, np.flatnonzero(scores == least)[: k - len(above)]]))
    else:
        some = np.arange(len(scores))
    some = some[scores[some] > -np.inf]
    return some[ranked(scores[some])]


def fused_best(
    lists: Sequence[Float[np.ndarray, " n"]], k: int, constant: int = CONSTANT
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Return the first k positions of ``reciprocal_rank`` over the rankings by some scores, and their fused scores.

    Exactly, but without sorting all: a position that is not among the first ``len(lists) (constant + k)`` of any list
    has a lower score than the first k of each. A score of minus infinity leaves a position out of a ranking.
    """
    depth = len(lists) * (constant + k)
    found = np.unique(np.concatenate([best(scores, depth) for scores in lists]))
    fused = np.zeros(len(found))
    for scores in lists:
        own = scores[found]
        ordered = np.sort(scores)
        last = np.searchsorted(ordered, own, "right")
        ranks = len(scores) - last + 1
        for row in np.flatnonzero((last - np.searchsorted(ordered, own, "left") > 1) & (own > -np.inf)):
            ranks[row] += np.count_nonzero(scores[: found[row]] == own[row])
        fused += np.where(own > -np.inf, 1.0 / (constant + ranks), 0.0)
    order = ranked(fused)[:k]
    return found[order], fused[order]


def reciprocal_rank(
    *rankings: Sequence[int] | Int[np.ndarray, " _"], constant: int = CONSTANT
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Return the positions of several rankings in one order, and their scores.

    score = sum over the rankings of 1 / (constant + rank), the first rank being 1 (Cormack, Clarke and Büttcher 2009).
    A position that a ranking leaves out gets nothing from it; equal scores go by position.

    Parameters
    ----------
    rankings
        Positions, best first; each position once in a ranking.
    constant
        How slowly the ranks lose weight.

    Raises
    ------
    ConfigError
        A ranking holds a position twice or a negative one, or the constant is negative.
    """
    if constant < 0:
        raise ConfigError(f"The constant of a reciprocal rank is 0 or more, found {constant}.")
    arrays = [np.asarray(ranking, np.int64) for ranking in rankings]
    size = 1 + max((int(a.max()) for a in arrays if len(a)), default=-1)
    scores, seen = np.zeros(size), np.zeros(size, bool)
    for number, positions in enumerate(arrays, 1):
        if len(positions) and positions.min() < 0:
            raise ConfigError(f"Positions of a ranking are 0 or more, found {positions.min()} in ranking {number}.")
        if len(positions) and np.bincount(positions).max() > 1:
            raise ConfigError(f"A ranking holds each position once, found one twice in ranking {number}.")
        scores[positions] += 1.0 / (constant + np.arange(1, len(positions) + 1))
        seen[positions] = True
    found = np.flatnonzero(seen)
    order = found[ranked(scores[found])]
    return order, scores[order]

"""Sums over dyadic intervals: the nodes of the tree mechanism, what is made of them, and how much a donor moves them.

Node (h, i) holds the steps ``i 2^h + 1`` to ``(i + 1) 2^h`` and closes at the last of them.
"""

import math
from collections.abc import Sequence
from typing import final

import numpy as np
from jaxtyping import Float

_FINE = 64
"""Distances above this are counted in blocks of steps, numbers of steps above this are bounded level by level."""


def levels(steps: int) -> int:
    """Return the number of levels of a tree over `steps` steps, ``floor(log2 steps) + 1``."""
    return steps.bit_length()


def closing(t: int) -> int:
    """Return how many nodes close at step `t`: those of the levels 0 to the number of zeros at the end of `t`."""
    return (t & -t).bit_length()


def absorb(open_sums: np.ndarray, t: int, total: np.ndarray) -> np.ndarray:
    """Return the sums of the open nodes, one a level, after step `t` added `total`.

    Parameters
    ----------
    open_sums
        Of the node of each level that holds the step before, (levels, width).
    t
        The step, 1 the first.
    total
        Sum of the contributions of the step, (width,).

    Returns
    -------
    np.ndarray
        (levels, width); the first ``closing(t)`` rows are complete nodes.
    """
    begins = np.array([(t - 1) % (1 << h) == 0 for h in range(len(open_sums))])
    return np.where(begins[:, None], 0, open_sums) + total


def weight(h: int) -> float:
    """Return ``2^h / (2^(h+1) - 1)``: the weight of a node's own draw, and its refined variance for noise of 1."""
    return 1.0 / (2.0 - 0.5**h)


@final
class Refinement:
    """Prefix sums from noisy nodes, each node also estimated by the nodes below it (Honaker 2015).

    ``est_h = w_h noisy + (1 - w_h) (est_left + est_right)``. Sees published draws only.
    """

    def __init__(self) -> None:
        self._t = 0
        self._estimates: dict[int, np.ndarray] = {}

    def add(self, nodes: np.ndarray) -> None:
        """Take the noisy nodes that close at the next step, from the leaf up, (nodes, width)."""
        self._t += 1
        estimate = np.asarray(nodes[0], np.float64)
        for h in range(1, len(nodes)):
            own = weight(h)
            below = estimate + self._estimates[h - 1]
            estimate = own * np.asarray(nodes[h], np.float64) + (1.0 - own) * below
        self._estimates[len(nodes) - 1] = estimate

    def prefix(self) -> np.ndarray:
        """Return the estimated sum of all steps so far."""
        return np.sum([self._estimates[h] for h in bits(self._t)], axis=0)


def bits(t: int) -> list[int]:
    """Return the levels of the nodes that make up the prefix at `t`: the binary digits of `t`."""
    return [h for h in range(t.bit_length()) if t >> h & 1]


def prefix_variance(t: int, refined: bool = True) -> float:
    """Return the variance of the prefix at `t` for noise of variance 1.

    The number of binary digits of `t`; refined, the sum of ``1 / (2 - 2^-h)`` over them.
    """
    return math.fsum(weight(h) if refined else 1.0 for h in bits(t))


def worst_variance(steps: int) -> float:
    """Return the largest `prefix_variance` (refined) of the steps up to `steps`."""
    # All digits below one that is set may be ones instead.
    best, above = prefix_variance(steps), 0.0
    for h in reversed(bits(steps)):
        best = max(best, above + sum(weight(low) for low in range(h)))
        above += weight(h)
    return best


def squared_sensitivity(steps: int, k: int, b: int) -> int:
    """Return the largest sum over nodes of multiplicity^2, for a donor in at most `k` steps at least `b` apart.

    Best placements are found from the leaves up. Of a node they are known by how many steps they take and by how much
    room they leave at either end (room of b - 1 and more is all the same); two halves fit together if the gap between
    them is at least b. The trees that cover the horizon are joined in the same way.

    Exact for ``k <= 64`` and ``b <= 64``. For larger b, steps are gathered into blocks of ``2^e`` so that b is at most
    64 blocks; for larger k, every level adds at most k times the most that fits into a node. Both are upper bounds.

    Parameters
    ----------
    steps
        The horizon T.
    k
        Steps that a donor may enter.
    b
        Least distance of two of them.
    """
    k = min(k, -(-steps // b))
    if k == 1:
        return levels(steps)
    if k > _FINE:
        return sum(k * min(k, -(-(1 << h) // b)) for h in range(levels(steps)))
    blocks = 0
    while b >> blocks > _FINE:
        blocks += 1
    # No two steps of a donor lie in the same block: the nodes inside blocks add 1 a step and level.
    return k * blocks + _placed(-(-steps >> blocks), k, b >> blocks)


_NEVER = -(2**40)


def _placed(steps: int, k: int, b: int) -> int:
    # best[c, f, l]: c steps, at least f free leaves before the first, at least l after the last.
    leaf = np.full((k + 1, b, b), _NEVER, np.int64)
    leaf[0] = 0
    leaf[1, 0, 0] = 1
    trees = [leaf]
    for h in range(1, steps.bit_length()):
        node = _joined(trees[-1], trees[-1], 1 << (h - 1), 1 << (h - 1))
        trees.append(node + np.arange(k + 1)[:, None, None] ** 2 * (node > _NEVER // 2))
    whole, length = None, 0
    for h in reversed(bits(steps)):
        whole = trees[h] if whole is None else _joined(whole, trees[h], length, 1 << h)
        length += 1 << h
    assert whole is not None
    return int(whole[:, 0, 0].max())


def _joined(left: np.ndarray, right: np.ndarray, left_size: int, right_size: int) -> np.ndarray:
    k, b = left.shape[0] - 1, left.shape[1]
    best = np.full_like(left, _NEVER)
    best[0] = 0
    room = np.arange(b)
    for c in range(1, k + 1):
        # All in one half: the other half is room.
        only_left = left[c][:, np.maximum(room - right_size, 0)]
        only_right = right[c][np.maximum(room - left_size, 0), :]
        best[c] = np.maximum(only_left, only_right)
        for c1 in range(1, c):
            a, z = left[c1], right[c - c1]
            if a[0, 0] < 0 or z[0, 0] < 0:
                continue
            for free in range(b):
                np.maximum(best[c], a[:, free][:, None] + z[b - 1 - free][None, :], out=best[c])
    return np.maximum(best, _NEVER)


def laplace_bound(scale: float, variance: float, count: int, beta: float) -> float:
    """Return what `count` sums of Laplace noise stay below together, with probability ``1 - beta``.

    ``nu sqrt(8 l)`` with ``l = ln(2 count / beta)`` and ``nu^2 = scale^2 max(sum of squared weights, 2 l)`` for weights
    at most 1. Discrete Laplace noise has a smaller moment generating function than the continuous one.

    Parameters
    ----------
    scale
        Of the Laplace noise.
    variance
        Of a sum for noise of variance 1: the sum of squared weights.
    count
        Number of sums.
    beta
        Probability of more.

    Source
    ------
    Chan, Shi & Song 2011, corollary 2.9.
    """
    log = math.log(2.0 * count / beta)
    return scale * math.sqrt(8.0 * log * max(variance, 2.0 * log))


def refined_prefixes(nodes: Sequence[np.ndarray]) -> Float[np.ndarray, "steps width"]:
    """Return the refined prefix sums of all steps, from the noisy nodes that close at each."""
    refinement = Refinement()
    prefixes = []
    for closed in nodes:
        refinement.add(closed)
        prefixes.append(refinement.prefix())
    return np.stack(prefixes)

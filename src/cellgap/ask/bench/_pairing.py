"""Which output of a system is held against which gold reading."""

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

WEIGHTS = {"condition": 0.3, "answer": 0.5, "citation": 0.2}
"""What a pair is worth, in the benchmark's paper and here."""


def optimal(worth: Float[np.ndarray, "outputs golds"]) -> tuple[tuple[int, int], ...]:
    """Return the pairs (output, gold) with the largest sum, in the order of outputs; as many as fit."""
    if 0 in worth.shape:
        return ()
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return tuple((int(i), int(j)) for i, j in zip(rows, columns, strict=True))


def greedy(worth: Float[np.ndarray, "outputs golds"]) -> tuple[tuple[int, int], ...]:
    """Return for each output, in order, the best gold that is still free (ties: the first), as the benchmark's v2 does.

    Outputs that find no free gold have no pair.
    """
    free = list(range(worth.shape[1]))
    pairs = []
    for i in range(worth.shape[0]):
        if not free:
            break
        best = max(free, key=lambda j: (worth[i, j], -j))
        free.remove(best)
        pairs.append((i, best))
    return tuple(pairs)


def by_position(n_outputs: int, n_golds: int) -> tuple[tuple[int, int], ...]:
    """Return the i-th output with the i-th gold, as the benchmark's v1 does."""
    return tuple((i, i) for i in range(min(n_outputs, n_golds)))

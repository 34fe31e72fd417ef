"""Exact optimal transport between clouds of equal size, for evaluation."""

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from cellgap.errors import DataError
from cellgap.ot._cost import Cost, check_cost
from cellgap.ot._double import double_cost_matrix


def assignment(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n d"], *, cost: Cost = "euclidean"
) -> tuple[np.ndarray, float]:
    """Return the optimal matching (index into `y` for each row of `x`) and its mean cost.

    Raises
    ------
    DataError
        The clouds differ in size or features, are empty, or hold values that are not finite.
    ConfigError
        The cost is unknown.
    """
    check_cost(cost)
    if len(x) != len(y):
        raise DataError(
            f"exact assignment needs clouds of one size, found {len(x)} and {len(y)} cells: subsample the larger."
        )
    if len(x) == 0 or x.shape[1] != y.shape[1]:
        raise DataError(
            f"exact assignment needs cells over the same features, found clouds of {x.shape} and {y.shape}."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError("exact assignment needs finite values, found NaN or infinity: look at the map that made them.")
    c = double_cost_matrix(x, y, cost)
    rows, columns = linear_sum_assignment(c)
    return columns, float(c[rows, columns].mean())


def assignment_cost(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n d"], *, cost: Cost = "euclidean") -> float:
    """Return the exact transport cost ``min over permutations of mean_i c(x_i, y_s(i))``."""
    return assignment(x, y, cost=cost)[1]

"""Ground costs in double precision on the host, for evaluation and exact assignment."""

import jax
import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from cellgap.ot._cost import Cost, check_cost, cost_matrix, paired_cost


def double_cost_matrix(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], cost: Cost) -> np.ndarray:
    """Return `cost_matrix` in double precision, whatever the precision of the cells and of JAX."""
    check_cost(cost)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if cost in ("euclidean", "sqeuclidean"):
        return cdist(x, y, cost)
    with jax.enable_x64(True):
        return np.asarray(cost_matrix(jax.numpy.asarray(x), jax.numpy.asarray(y), cost), np.float64)


def double_paired_cost(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n d"], cost: Cost) -> np.ndarray:
    """Return `paired_cost` in double precision, whatever the precision of the cells and of JAX."""
    check_cost(cost)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if cost in ("euclidean", "sqeuclidean"):
        squared = ((x - y) ** 2).sum(1)
        return squared if cost == "sqeuclidean" else np.sqrt(squared)
    with jax.enable_x64(True):
        return np.asarray(paired_cost(jax.numpy.asarray(x), jax.numpy.asarray(y), cost), np.float64)

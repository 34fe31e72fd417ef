"""Known laws of gene regulation: production by products of Hill functions, and decay."""

from typing import Any

import numpy as np
from jaxtyping import Float

from cellgap.dynamics._systems import Starts, System, names_of, refuse_small
from cellgap.errors import DataError

_REPRESSED = 0.9  # share of the production that full repression takes away


def hill_network(dim: int = 20, seed: int = 0) -> System:
    """Return a random network of genes: 1 to 4 regulators each, signs even.

    Parameters
    ----------
    dim
        Number of genes, at least 5.
    seed
        Of the network and its constants.

    Returns
    -------
    system
        The law of `hill_from`: numbers of regulators are Poisson (mean 2) clipped to 1 to 4, EC50 are uniform on
        [0.3, 0.6] and exponents on [1.5, 3]. Not the networks of the data set ``grn_hill``; for these see `hill_from`.

    Raises
    ------
    ConfigError
        There are too few genes.
    """
    refuse_small("A Hill network", dim, 5)
    rng = np.random.default_rng(seed)
    adjacency = np.zeros((dim, dim), np.int64)
    for target, regulators in enumerate(np.clip(rng.poisson(2.0, dim), 1, 4)):
        others = np.delete(np.arange(dim), target)
        adjacency[rng.choice(others, regulators, replace=False), target] = rng.choice([-1, 1], regulators)
    ec50, hill = rng.uniform(0.3, 0.6, (dim, dim)), rng.uniform(1.5, 3.0, (dim, dim))
    return hill_from(adjacency, ec50, hill)


def hill_from(adjacency: Any, ec50: Any, hill: Any) -> System:
    """Return a network of genes given by its edges and their constants.

    ``dx_i/dt = prod_j h_ji(x_j) - x_i`` over the regulators j of i. Activation is
    ``h(x) = x^n (1 + c^n) / (x^n + c^n)``, so that ``h(1) = 1``, repression 1 - 0.9 of that. Values below 0 count as 0,
    and a gene without regulators goes to 1.

    Parameters
    ----------
    adjacency
        +1 activates, -1 represses, 0 is no edge, (regulator, target).
    ec50, hill
        The c and n of each edge, (regulator, target), positive.

    Returns
    -------
    system
        Starts are uniform on [0, 1]; outside the distribution, on [1, 1.5].

    Raises
    ------
    DataError
        Arrays do not match, an entry of the adjacency is not -1, 0 or 1, or a constant of an edge is not positive.
    """
    signs, ec50, hill = (np.asarray(a) for a in (adjacency, ec50, hill))
    if signs.ndim != 2 or signs.shape[0] != signs.shape[1] or not signs.shape == ec50.shape == hill.shape:
        raise DataError("a Hill network needs (regulator, target) arrays of one shape: edges, EC50 and exponents.")
    if not np.isin(signs, (-1, 0, 1)).all() or np.diagonal(signs).any():
        raise DataError("edges of a Hill network are -1, 0 or 1, and none goes from a gene to itself.")
    signs = signs.astype(np.int64)
    # By target, so that the regulators of a gene stand side by side.
    targets, regulators = np.nonzero(signs.T)
    n, c = (a[regulators, targets].astype(np.float64) for a in (hill, ec50))
    if not (np.isfinite(n * c).all() and ((n > 0) & (c > 0)).all()):
        raise DataError("every edge of a Hill network has a finite EC50 and exponent above 0.")
    dim, half, up = len(signs), c**n, signs[regulators, targets] > 0
    genes, first = np.unique(targets, return_index=True)

    def rhs(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        power = np.maximum(x[:, regulators], 0.0) ** n
        active = power * (1 + half) / (power + half)
        production = np.ones_like(x)
        if len(genes):
            factors = np.where(up, active, 1 - _REPRESSED * active)
            production[:, genes] = np.multiply.reduceat(factors, first, axis=1)
        return production - x

    def draw(rng: np.random.Generator, n: int, starts: Starts) -> Float[np.ndarray, "n d"]:
        low, high = (0.0, 1.0) if starts == "in" else (1.0, 1.5)
        return rng.uniform(low, high, (n, dim))

    return System("hill_network", rhs, signs != 0, names_of(dim, "g"), draw, signs=signs)

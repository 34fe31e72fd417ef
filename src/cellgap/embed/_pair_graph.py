"""The graph of pairs: into how many islands they split the cells, and how quickly a walk over pairs mixes."""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import scipy.sparse as sp
from jaxtyping import PRNGKeyArray
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from cellgap.embed._pair_sample import drawn_partners
from cellgap.embed.pairs import AbstractFittedPairs

_largest: Any = eigsh  # whose annotations know whole tolerances only
_EDGES, _LEAST, _MOST = 4_000_000, 5, 20


def pair_graph(pairs: AbstractFittedPairs, rows: np.ndarray, key: PRNGKeyArray) -> tuple[int, float]:
    """Return the number of connected components of sampled pairs, and the second eigenvalue of their graph.

    Every anchor draws 20 partners (5 in large studies). More than one component: the loss says nothing about where they
    lie relative to one another. The eigenvalue is that of the normalised adjacency; 1 minus it is how quickly a walk
    over pairs forgets where it began.

    Parameters
    ----------
    pairs
        The sampler.
    rows
        Cells that have a partner.
    key
        Random key.
    """
    draws = int(np.clip(_EDGES // max(len(rows), 1), _LEAST, _MOST))
    placed = jnp.asarray(rows, jnp.int32)
    partners = [np.asarray(drawn_partners(pairs, placed, jr.fold_in(key, i))) for i in range(draws)]
    ends = np.concatenate(partners)
    starts = np.tile(rows, draws)
    n = len(pairs.able)
    graph = sp.coo_matrix((np.ones(len(ends)), (starts, ends)), shape=(n, n)).tocsr()
    graph = graph + graph.T
    there = np.flatnonzero(np.asarray(graph.sum(axis=1)).ravel() > 0)
    graph = graph[there][:, there]
    count, _ = connected_components(graph, directed=False)
    if count > 1 or len(there) < 3:
        return int(count), 1.0
    degree = np.asarray(graph.sum(axis=1)).ravel()
    scale = sp.diags(1.0 / np.sqrt(degree))
    start = np.sqrt(degree) + np.random.default_rng(0).normal(size=len(degree))
    try:
        values = _largest(scale @ graph @ scale, k=2, which="LA", v0=start, return_eigenvectors=False, tol=1e-6)
    except ArpackNoConvergence as error:
        # Eigenvalues that crowd at 1 are what does not converge: mixing is slow.
        values = np.r_[error.eigenvalues, 1.0]
    return 1, float(np.clip(np.sort(values)[0], -1.0, 1.0))

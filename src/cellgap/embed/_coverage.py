"""The coverage curve: how much of all cells the partners of one cell come near, with more and more of them."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from cellgap.embed._cells import Cells
from cellgap.embed._pair_sample import Project, projected, sample_pairs
from cellgap.embed.pairs import AbstractFittedPairs

PARTNERS = (50, 500, 5000)
_CELLS, _ANCHORS, _NEIGHBOUR = 2000, 8, 5


def coverage_curve(
    pairs: AbstractFittedPairs, cells: Cells, project: Project, rows: np.ndarray, key: PRNGKeyArray
) -> dict[int, float]:
    """Return the share of cells within eps of any of R partners of an anchor, for R = 50, 500, 5000.

    The mean of eight anchors; eps is the median distance of 2,000 cells to their fifth nearest. It tells "slow but
    everywhere" from "never", and not a harmless isotropic restriction from a harmful frozen direction.

    Parameters
    ----------
    pairs, cells, project
        As in `sample_pairs`.
    rows
        Cells that have a partner.
    key
        Random key.
    """
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(np.asarray(jr.key_data(key)).ravel().astype(np.uint64))
    n = len(pairs.able)
    some = np.sort(rng.choice(n, min(_CELLS, n), replace=False))
    marginal = np.asarray(projected(cells, project, jnp.asarray(some, jnp.int32)), float)
    near = min(_NEIGHBOUR, len(marginal) - 1)
    eps = float(np.median(NearestNeighbors(n_neighbors=near).fit(marginal).kneighbors()[0][:, -1]))
    anchors = rng.choice(rows, min(_ANCHORS, len(rows)), replace=False)
    found = {r: 0.0 for r in PARTNERS}
    for i, anchor in enumerate(anchors):
        drawn = sample_pairs(pairs, cells, project, np.full(PARTNERS[-1], anchor), jr.fold_in(key, i)).y
        least = np.full(len(marginal), np.inf)
        start = 0
        for r in PARTNERS:
            part = np.unique(drawn[start:r], axis=0)
            distance = NearestNeighbors(n_neighbors=1).fit(part).kneighbors(marginal)[0][:, 0]
            least = np.minimum(least, distance)
            found[r] += float((least <= eps).mean()) / len(anchors)
            start = r
    return found

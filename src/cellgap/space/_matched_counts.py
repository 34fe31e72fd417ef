"""Counts of a population that a space was not fitted on: calibrated to its controls."""

from typing import Any

import equinox as eqx
import numpy as np

from cellgap.space._interface import AbstractFittedSpace

_PRIOR = 5.0
"""Counts of a gene that speak for the space's own factor: few controls change little."""


def matched_counts(space: AbstractFittedSpace, z: np.ndarray, counts: Any) -> AbstractFittedSpace:
    """Return the space whose drawn counts have, for these controls, the shares that were measured in them.

    Codes of a donor or cell line that the space never saw decode to the profile that they share with the training
    cells; what is the donor's own is lost, and would be taken for an effect of the treatment. The factor of every gene
    is multiplied by ``(measured + 5) / (expected + 5)``, its counts over all these controls, so that their own profile
    is kept and the map moves it (the posterior mean under a gamma prior of weight 5). The noise stays as it is.

    Parameters
    ----------
    space
        It gives counts; another space is returned as it is.
    z, counts
        Codes, (cells, dim), and measured counts, (cells, genes of the space), of the controls that predictions start
        from.
    """
    noise: Any = getattr(space, "noise", None)
    if noise is None:
        return space
    library = np.asarray(counts.sum(axis=1), np.float64).ravel()
    measured = np.asarray(counts.sum(axis=0), np.float64).ravel()
    expected = library @ np.asarray(space.rates(z), np.float64)
    ratio = (measured + _PRIOR) / (expected + _PRIOR)
    return eqx.tree_at(lambda s: s.noise.factor, space, (np.asarray(noise.factor) * ratio).astype(np.float32))

"""Counts of a population that a space was not fitted on: calibrated to its controls."""

from typing import Any

import equinox as eqx
import numpy as np

from cellgap.space import AbstractFittedSpace

_LEAST = 1e-6  # of a gene's share: below, shares of a few hundred cells say nothing
_MOST = 100.0


def matched_counts(space: AbstractFittedSpace, z: np.ndarray, counts: Any) -> AbstractFittedSpace:
    """Return the space whose drawn counts have, for these controls, the shares that were measured in them.

    Codes of a donor or cell line that the space never saw decode to the profile that they share with the training
    cells; what is the donor's own is lost, and would be scored as an effect of the treatment. The factor of every gene
    is multiplied by measured over expected mean share of the controls, so that their own profile is kept and the map
    moves it. The noise stays as it is.

    Parameters
    ----------
    space
        It gives counts.
    z, counts
        Codes and measured counts (cells, genes of the space) of the controls that predictions start from.
    """
    noise: Any = getattr(space, "noise", None)
    if noise is None:
        return space
    total = np.asarray(counts.sum(axis=1), np.float64).reshape(-1, 1)
    share = np.asarray((counts / np.maximum(total, 1.0)).mean(axis=0), np.float64).ravel()
    ratio = (share + _LEAST) / (np.asarray(space.rates(z), np.float64).mean(axis=0) + _LEAST)
    factor = np.clip(np.asarray(noise.factor) * ratio, 1 / _MOST, _MOST).astype(np.float32)
    return eqx.tree_at(lambda s: s.noise.factor, space, factor)

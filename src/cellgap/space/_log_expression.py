"""Counts from codes that decode to log-normalized expression."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from anndata import AnnData
from jaxtyping import Float

from cellgap.space._count_noise import CountNoise, fit_count_noise
from cellgap.study import Split

_MOST_LOG = 30.0


class LogExpression(Protocol):
    """A space whose codes decode to log-normalized expression."""

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the genes."""
        ...

    def encode(self, adata: AnnData, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Return codes of cells."""
        ...

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Return log-normalized expression."""
        ...


def noise_of_log_expression(space: LogExpression, split: Split, *, floor: float) -> CountNoise:
    """Return the count noise of a space whose codes decode to log-normalized expression; see `fit_count_noise`."""

    def shares(rows: np.ndarray) -> np.ndarray:
        return shares_of_log_expression(space.decode(space.encode(split.study.adata, rows)))

    return fit_count_noise(split, space.genes, shares, floor=floor)


def shares_of_log_expression(values: Float[np.ndarray, "cells genes"]) -> Float[np.ndarray, "cells genes"]:
    """Return what ``log(1 + target_sum * share)`` says the shares are, up to a factor; below 0 counts as 0.

    Values far above any expression (a map that went astray) are cut, so that nothing overflows.
    """
    return np.expm1(np.clip(values, 0.0, _MOST_LOG))

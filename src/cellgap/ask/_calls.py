"""The call of a row: whether its effect is large and sure enough."""

import math

import numpy as np
from jaxtyping import Float
from pydantic import Field

from cellgap.ask._quantities import plain
from cellgap.settings import settings

CALLS = ("none", "up", "down", "insufficient")
"""What a call's number stands for."""


@settings
class CallRule:
    """When a row says that a readout changes.

    A row is called up or down where ``abs(effect) >= min_effect`` and ``q <= max_q``, else none; insufficient where it
    rests on fewer than `min_cells` cells. A row whose number of cells is not known is not held against it.

    Parameters
    ----------
    min_effect
        In the unit of the effects, by default standard deviations of the control.
    max_q
        Largest adjusted p value.
    min_cells
        Fewest cells.
    """

    min_effect: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    max_q: float = Field(default=0.05, ge=0.0, le=1.0)
    min_cells: int = Field(default=20, ge=0)

    @property
    def words(self) -> str:
        """The rule in words."""
        return f"abs(effect) >= {plain(self.min_effect)}, q <= {plain(self.max_q)}, at least {self.min_cells} cells"

    def calls(
        self, effect: Float[np.ndarray, " rows"], q: Float[np.ndarray, " rows"], n_cells: Float[np.ndarray, " rows"]
    ) -> np.ndarray:
        """Return the call of every row as a number, its place in ``CALLS``."""
        sure = (np.abs(effect) >= self.min_effect) & (q <= self.max_q)
        made = np.where(sure, np.where(effect > 0, 1, np.where(effect < 0, 2, 0)), 0)
        return np.where(n_cells < self.min_cells, 3, made)


def entropy(calls: np.ndarray) -> float:
    """Return the entropy of calls in bits; rows with too few cells have none to give."""
    counts = np.bincount(calls[calls != 3], minlength=3)
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-sum(p * math.log2(p) for p in shares.tolist()))


def gap(groups: np.ndarray, calls: np.ndarray) -> float | None:
    """Return the share of rows that disagree with the most frequent call of their group, None without a call.

    Groups are treatments and readouts: that one readout rises and another falls does not hang on the condition.
    """
    kept = calls != 3
    if not kept.any():
        return None
    counts = np.zeros((int(groups.max()) + 1, 3), dtype=np.int64)
    np.add.at(counts, (groups[kept], calls[kept]), 1)
    return float(1.0 - counts.max(axis=1).sum() / kept.sum())

"""A cell and any other one: a floor under every sampler."""

from typing import Annotated

import equinox as eqx
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from pydantic import Field

from cellgap.embed.pairs._interface import AbstractFittedPairs, AbstractPairs, PairCells, Pairs, Support
from cellgap.embed.pairs._whole import whole_pairs, whole_support
from cellgap.errors import DataError
from cellgap.settings import settings


@settings
class Restart(AbstractPairs):
    """A cell and a random other one, for a small share of the pairs of a mixture.

    It makes every cell reachable from every other. A regulariser, not a cure: all directions are moved by the same
    share more, what was moved least still is.

    Parameters
    ----------
    weight
        In a mixture.
    """

    weight: Annotated[float, Field(gt=0)] = 0.05

    def fit(self, cells: PairCells) -> "FittedRestart":
        """Return the law of partners; see `AbstractPairs.fit`."""
        n = len(cells.obs)
        if n < 2:
            raise DataError(f"Restart pairs a cell with another one, and there is {n}.")
        return FittedRestart(able=np.ones(n, bool), sizes=np.full(n, n - 1.0), thins=False, hides=False)


class FittedRestart(AbstractFittedPairs):
    """See `Restart`."""

    able: Bool[np.ndarray, " cells"]
    sizes: Float[np.ndarray, " cells"]
    thins: bool = eqx.field(static=True)
    hides: bool = eqx.field(static=True)

    def draw(self, key: PRNGKeyArray, rows: Int[Array, " n"]) -> Pairs:
        """Return each cell with another one."""
        return whole_pairs(rows, self._others(key, rows))

    def support(self, key: PRNGKeyArray, rows: Int[Array, " n"], m: int) -> Support:
        """Return other cells."""
        return whole_support(self._others(key, rows[:, None], m))

    def surplus(self) -> Float[np.ndarray, " cells"]:
        """Partners are uniform."""
        return np.zeros(len(self.able))

    def _others(self, key: PRNGKeyArray, rows: Int[Array, "..."], m: int = 1) -> Int[Array, "..."]:
        n = len(self.able)
        shape = rows.shape if rows.ndim == 1 else (len(rows), m)
        return (rows + jr.randint(key, shape, 1, n)) % n

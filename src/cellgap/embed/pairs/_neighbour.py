"""A cell and a near one: small steps in every direction."""

from typing import Annotated

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from pydantic import BeforeValidator, Field

from cellgap.embed.pairs._interface import AbstractFittedPairs, AbstractPairs, PairCells, Pairs, Support
from cellgap.embed.pairs._same_condition import _tuple, numbered, texts_of
from cellgap.embed.pairs._whole import whole_pairs, whole_support
from cellgap.errors import DataError
from cellgap.settings import settings


@settings
class Neighbour(AbstractPairs):
    """A cell and one of its nearest cells in the reference space, in other batches where asked.

    Frozen: nothing exactly, everything roughly, and about alike in all directions, which is harmless; the price is a
    weak signal. With `across` the batch is moved.

    Parameters
    ----------
    k
        Number of nearest cells; with `across`, in every other value of these columns.
    across
        Columns of ``obs`` in whose combination the partner differs.
    mutual
        Only pairs of which each is among the nearest of the other.
    weight
        In a mixture.
    """

    k: Annotated[int, Field(ge=1)] = 10
    across: Annotated[tuple[str, ...], BeforeValidator(_tuple)] = ()
    mutual: bool = False
    weight: Annotated[float, Field(gt=0)] = 1.0

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that differ in a pair."""
        return self.across

    def fit(self, cells: PairCells) -> "FittedNeighbours":
        """Return the law of partners; see `AbstractPairs.fit`."""
        n = len(cells.obs)
        block = numbered([texts_of(cells.obs, name) for name in self.across], n)
        number = int(block.max(initial=-1)) + 1
        if self.across and number < 2:
            raise DataError(f"{self} looks for neighbours in other values of {', '.join(self.across)}: there is one.")
        found = np.full((n, self.k * (number - 1 if self.across else 1)), -1, np.int64)
        for a in range(number):
            rows = np.flatnonzero(block == a)
            start = 0
            for b in range(number) if self.across else [a]:
                if self.across and a == b:
                    continue
                others = np.flatnonzero(block == b)
                near = _nearest(cells.coordinates, rows, others, self.k, itself=a == b)
                found[rows, start : start + near.shape[1]] = near
                start += self.k
        if self.mutual:
            forth = np.arange(n)[:, None] * n + found
            back = found * n + np.arange(n)[:, None]
            found[~np.isin(back, forth[found >= 0])] = -1
        count = (found >= 0).sum(axis=1)
        if not count.any():
            raise DataError(f"{self} gives no cell a partner: take more neighbours.")
        packed = np.take_along_axis(found, np.argsort(found < 0, axis=1, kind="stable"), axis=1)
        return FittedNeighbours(
            near=jnp.asarray(np.maximum(packed, 0), jnp.int32),
            count=jnp.asarray(count, jnp.int32),
            able=count > 0,
            sizes=count.astype(float),
            thins=False,
            hides=False,
        )


class FittedNeighbours(AbstractFittedPairs):
    """See `Neighbour`.

    Parameters
    ----------
    near
        Neighbours of every cell; the first `count` of a row are there.
    count
        How many.
    """

    near: Int[Array, "cells k"]
    count: Int[Array, " cells"]
    able: Bool[np.ndarray, " cells"]
    sizes: Float[np.ndarray, " cells"]
    thins: bool = eqx.field(static=True)
    hides: bool = eqx.field(static=True)

    def draw(self, key: PRNGKeyArray, rows: Int[Array, " n"]) -> Pairs:
        """Return each cell with one of its neighbours."""
        return whole_pairs(rows, self._others(key, rows, 1)[:, 0])

    def support(self, key: PRNGKeyArray, rows: Int[Array, " n"], m: int) -> Support:
        """Return neighbours of each cell."""
        return whole_support(self._others(key, rows, m))

    def surplus(self) -> Float[np.ndarray, " cells"]:
        """Partners are uniform on the neighbours."""
        return np.zeros(len(self.able))

    def _others(self, key: PRNGKeyArray, rows: Int[Array, " n"], m: int) -> Int[Array, "n m"]:
        which = jr.randint(key, (len(rows), m), 0, jnp.maximum(self.count[rows], 1)[:, None])
        return jnp.take_along_axis(self.near[rows], which, axis=1)


def _nearest(x: np.ndarray, rows: np.ndarray, others: np.ndarray, k: int, *, itself: bool) -> Int[np.ndarray, "n k"]:
    """Return the nearest of `others` to each row; a cell is not its own neighbour."""
    from sklearn.neighbors import NearestNeighbors

    k = min(k, len(others) - itself)
    if k < 1:
        return np.empty((len(rows), 0), np.int64)
    index = NearestNeighbors(n_neighbors=k).fit(x[others])
    # Without a query, scikit-learn leaves the cell itself out, also among duplicates.
    near = index.kneighbors(return_distance=False) if itself else index.kneighbors(x[rows], return_distance=False)
    return others[near]

"""A cell and itself, both with fewer molecules: what capture noise would have made of it."""

from typing import Annotated, Literal

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from pydantic import Field

from cellgap.embed._thinning import WHOLE
from cellgap.embed.pairs._interface import AbstractFittedPairs, AbstractPairs, PairCells, Pairs, Support
from cellgap.errors import DataError
from cellgap.settings import settings


@settings
class Thin(AbstractPairs):
    """Two views of one cell, each with a random part of its molecules.

    Frozen: the whole biological state, and the batch. Moved: depth, dropout, capture noise. Distances between cell
    states then come from the encoder and not from the loss: no pair ever relates two cells.

    Parameters
    ----------
    least
        "random": each view keeps a molecule with a probability drawn between `least` and 1, on a grid of 1/256.
    how
        "random", or "halves": the molecules are split between the two views with probability 1/2 each. Halves of
        Poisson counts are independent given the rate; given the mean alone, halves of overdispersed counts stay
        correlated by ``(V/4) / (mu/2 + V/4)``, with V the variance of the rate.
    hide
        Probability that a gene is hidden from a view (set to 0 after normalization), at most.
    weight
        In a mixture.

    Source
    ------
    Count splitting: Neufeld et al. 2022 (arXiv 2207.00554).
    """

    least: Annotated[float, Field(gt=0, le=1)] = 0.25
    how: Literal["random", "halves"] = "random"
    hide: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight: Annotated[float, Field(gt=0)] = 1.0

    def fit(self, cells: PairCells) -> "FittedThin":
        """Return the law of partners; see `AbstractPairs.fit`."""
        if not cells.is_counts:
            raise DataError(
                "Thin takes molecules away, and the design says that X holds no counts: set Design(counts=...), or "
                "take other pairs (SameCondition, Neighbour)."
            )
        n = len(cells.obs)
        least = max(1, round(self.least * WHOLE))
        return FittedThin(
            least=least,
            halves=self.how == "halves",
            most_hidden=round(self.hide * WHOLE),
            thins=self.how == "halves" or least < WHOLE,
            hides=self.hide > 0,
            able=np.ones(n, bool),
            sizes=np.ones(n),
        )


class FittedThin(AbstractFittedPairs):
    """See `Thin`."""

    least: int = eqx.field(static=True)
    halves: bool = eqx.field(static=True)
    most_hidden: int = eqx.field(static=True)
    thins: bool = eqx.field(static=True)
    hides: bool = eqx.field(static=True)
    able: Bool[np.ndarray, " cells"]
    sizes: Float[np.ndarray, " cells"]

    def draw(self, key: PRNGKeyArray, rows: Int[Array, " n"]) -> Pairs:
        """Return two views of each cell."""
        a, b, c, d = jr.split(key, 4)
        n = rows.shape
        return Pairs(
            rows,
            rows,
            self._keep(a, n),
            self._keep(b, n),
            jnp.full(n, self.halves),
            jr.randint(c, n, 0, self.most_hidden + 1),
            jr.randint(d, n, 0, self.most_hidden + 1),
        )

    def support(self, key: PRNGKeyArray, rows: Int[Array, " n"], m: int) -> Support:
        """Return further views of each cell."""
        a, b = jr.split(key)
        shape = (len(rows), m)
        repeated = jnp.broadcast_to(rows[:, None], shape)
        return Support(repeated, self._keep(a, shape), jr.randint(b, shape, 0, self.most_hidden + 1))

    def surplus(self) -> Float[np.ndarray, " cells"]:
        """A further view has the law of the partner."""
        return np.zeros(len(self.able))

    def _keep(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Int[Array, "*shape"]:
        if self.halves:
            return jnp.full(shape, WHOLE // 2, jnp.int32)
        return jr.randint(key, shape, self.least, WHOLE + 1)

"""What a sampler of pairs is: for every cell the law of its partner, and the cells that this law can reach."""

import dataclasses
from abc import ABC, abstractmethod
from typing import NamedTuple

import equinox as eqx
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from cellgap.embed._thinning import WHOLE as WHOLE


class Pairs(NamedTuple):
    """Drawn pairs: which cells, and how many of their molecules each view shows.

    Parameters
    ----------
    anchor, partner
        Rows of the training cells.
    anchor_keep, partner_keep
        Probability that a molecule is seen in the view, in 256ths; 256 shows the cell as it was measured.
    halved
        Whether the partner is made of the molecules that the anchor does not show (count splitting).
    anchor_hide, partner_hide
        Probability that a gene is hidden from the view, in 256ths.
    """

    anchor: Int[Array, " n"]
    partner: Int[Array, " n"]
    anchor_keep: Int[Array, " n"]
    partner_keep: Int[Array, " n"]
    halved: Bool[Array, " n"]
    anchor_hide: Int[Array, " n"]
    partner_hide: Int[Array, " n"]


class Support(NamedTuple):
    """Views drawn uniformly from what the partners of anchors can be; see `Pairs`."""

    rows: Int[Array, "n m"]
    keep: Int[Array, "n m"]
    hide: Int[Array, "n m"]


class PairCells(NamedTuple):
    """What samplers are fitted on.

    Parameters
    ----------
    obs
        Of the training cells.
    treatment
        Name of each cell's treatments and doses, without its context; None where the design has none.
    is_counts
        Whether the cells are raw counts.
    coordinates
        Of the cells in a reference space, in which neighbours are near; scaled by nothing.
    """

    obs: pd.DataFrame
    treatment: np.ndarray | None
    is_counts: bool
    coordinates: Float[np.ndarray, "cells d"]


class AbstractFittedPairs(eqx.Module):
    """The law of partners on the training cells."""

    thins: eqx.AbstractVar[bool]
    """Whether views show fewer molecules than were measured."""
    hides: eqx.AbstractVar[bool]
    """Whether views hide genes."""
    able: eqx.AbstractVar[Bool[np.ndarray, " cells"]]
    """Whether a cell has a partner."""
    sizes: eqx.AbstractVar[Float[np.ndarray, " cells"]]
    """Number of cells that a partner can be; 0 where there is none."""

    @abstractmethod
    def draw(self, key: PRNGKeyArray, rows: Int[Array, " n"]) -> Pairs:
        """Return one pair for each of these anchors, which have a partner."""

    @abstractmethod
    def support(self, key: PRNGKeyArray, rows: Int[Array, " n"], m: int) -> Support:
        """Return `m` draws for each anchor, uniform over the cells that its partner can be."""

    @abstractmethod
    def surplus(self) -> Float[np.ndarray, " cells"]:
        """Return how far the law of partners is from uniform on its support, in total variation.

        Where it is 0, a partner and a negative from the support have the same law: no loss can tell them apart, and the
        best map is constant on the support.
        """


class AbstractPairs(ABC):
    """Settings of a sampler; ``a | b`` is the mixture of two, by their weights."""

    weight: float

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of ``obs`` that the sampler reads: factors that it keeps or moves."""
        return ()

    @abstractmethod
    def fit(self, cells: PairCells) -> AbstractFittedPairs:
        """Return the law of partners on these cells.

        Raises
        ------
        DataError, ConfigError
            Columns are missing, cells are no counts, or no cell has a partner.
        """

    def __str__(self) -> str:
        """Return the call that makes it, without the values that are defaults."""
        told = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if isinstance(value, tuple) and len(value) == 1:
                value = value[0]
            told.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(told)})"

    def __or__(self, other: "AbstractPairs") -> "AbstractPairs":
        """Return the mixture of both samplers."""
        from cellgap.embed.pairs._mixture import Mixture, members_of

        return Mixture((*members_of(self), *members_of(other)))

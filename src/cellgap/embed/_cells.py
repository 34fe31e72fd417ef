"""Training cells on the device, and the views of them that an encoder sees."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray

from cellgap.embed._thinning import Thinner
from cellgap.embed.pairs import Pairs, Support
from cellgap.errors import DataError
from cellgap.space import GeneSpace
from cellgap.space._calibrate_autoencoder import features_of
from cellgap.study import Split


class Views(NamedTuple):
    """What an encoder sees of two cells each.

    Parameters
    ----------
    anchor, partner
        Their inputs.
    anchor_total, partner_total
        Molecules in the views; 0 where cells are no counts.
    """

    anchor: Float[Array, "n genes"]
    partner: Float[Array, "n genes"]
    anchor_total: Float[Array, " n"]
    partner_total: Float[Array, " n"]


class Cells(eqx.Module):
    """Cells as they were measured.

    Parameters
    ----------
    values
        Counts of the genes of the space and, where it leaves genes out, the total of these as one more column; or gene
        space itself, where the cells are no counts.
    thinner
        Of the counts; None where they are none.
    target_sum
        Molecules of a cell after normalization.
    n_genes
        Number of genes.
    """

    values: Num[Array, "cells features"]
    thinner: Thinner | None
    target_sum: float = eqx.field(static=True)
    n_genes: int = eqx.field(static=True)

    @classmethod
    def of(cls, split: Split, genes: GeneSpace, rows: Int[np.ndarray, " n"]) -> "Cells":
        """Return cells of a study.

        Raises
        ------
        DataError
            A cell has no counts, or the values cannot be transformed.
        """
        if genes.transform != "lognorm":
            return cls(jnp.asarray(genes.encode(split.study.adata, rows)), None, genes.target_sum, genes.dim)
        counts = features_of(split, genes, rows)
        if counts.min(initial=0) < 0:
            raise DataError("Counts are negative: Design(counts=...) does not name raw counts.")
        return cls(jnp.asarray(counts), Thinner.of(counts), genes.target_sum, genes.dim)

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.values)

    def inputs(self, rows: Int[Array, " n"]) -> Float[Array, "n genes"]:
        """Return what an encoder sees of whole cells."""
        return self._inputs(self.values[rows])[0]

    def views(self, key: PRNGKeyArray, pairs: Pairs, *, thins: bool, hides: bool) -> Views:
        """Return both views of pairs.

        Parameters
        ----------
        key
            Random key of the molecules.
        pairs
            Drawn pairs.
        thins, hides
            Whether any view shows fewer molecules, or hides genes.
        """
        first, third, fourth = jr.split(key, 3)
        n = len(pairs.anchor)
        both = self.values[jnp.concatenate([pairs.anchor, pairs.partner])]
        a, b = both[:n], both[n:]
        if thins:
            keep = jnp.concatenate([pairs.anchor_keep, pairs.partner_keep])
            shown = _known(self.thinner)(first, both, keep)
            a, b = shown[:n], jnp.where(pairs.halved[:, None], b - shown[:n], shown[n:])
        (x, x_total), (y, y_total) = self._inputs(a), self._inputs(b)
        if hides:
            x = _hidden(third, x, pairs.anchor_hide)
            y = _hidden(fourth, y, pairs.partner_hide)
        return Views(x, y, x_total, y_total)

    def seen(self, key: PRNGKeyArray, support: Support, *, thins: bool, hides: bool) -> Float[Array, "nm genes"]:
        """Return the views of a support, one below the other."""
        first, second = jr.split(key)
        x = self.values[support.rows.ravel()]
        if thins:
            x = _known(self.thinner)(first, x, support.keep.ravel())
        x = self._inputs(x)[0]
        return _hidden(second, x, support.hide.ravel()) if hides else x

    def _inputs(self, x: Num[Array, "n features"]) -> tuple[Float[Array, "n genes"], Float[Array, " n"]]:
        """Return inputs and totals; a view's own total normalizes it, or the total would tell the pair."""
        if self.thinner is None:
            return x[:, : self.n_genes].astype(jnp.float32), jnp.zeros(len(x))
        counts = x.astype(jnp.float32)
        total = jnp.sum(counts, axis=1)
        scale = self.target_sum / jnp.maximum(total, 1.0)
        return jnp.log1p(counts[:, : self.n_genes] * scale[:, None]), total


def _known(thinner: Thinner | None) -> Thinner:
    if thinner is None:
        raise DataError("Only counts can be thinned.")
    return thinner


def _hidden(key: PRNGKeyArray, x: Float[Array, "n genes"], share: Int[Array, " n"]) -> Float[Array, "n genes"]:
    bits = jr.bits(key, x.shape, jnp.uint8)
    shown: Bool[Array, "n genes"] = bits.astype(jnp.int32) >= share[:, None]
    return jnp.where(shown, x, 0.0)

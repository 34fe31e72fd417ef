"""A sample of pairs in a reference space: what every reading of a sampler starts from."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cellgap.embed._cells import Cells
from cellgap.embed.pairs import AbstractFittedPairs

_BLOCK = 2048

Project = Callable[[Float[Array, "n genes"]], Float[Array, "n d"]]
"""Inputs to coordinates; a tree, so that its arrays are given to the compiled program."""


class PairSample(NamedTuple):
    """Pairs of views.

    Parameters
    ----------
    x, y
        Coordinates of anchors and partners.
    rows, partner_rows
        Whose they are.
    depth, partner_depth
        Logarithm of the molecules in the views.
    """

    x: Float[np.ndarray, "n d"]
    y: Float[np.ndarray, "n d"]
    rows: Int[np.ndarray, " n"]
    partner_rows: Int[np.ndarray, " n"]
    depth: Float[np.ndarray, " n"]
    partner_depth: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.x)


def sample_pairs(
    pairs: AbstractFittedPairs, cells: Cells, project: Project, rows: Int[np.ndarray, " n"], key: PRNGKeyArray
) -> PairSample:
    """Return one pair for each of these anchors.

    Parameters
    ----------
    pairs
        The sampler.
    cells
        The cells that it was fitted on.
    project
        To coordinates.
    rows
        Anchors, each of which has a partner; may repeat.
    key
        Random key.
    """
    size = min(_BLOCK, len(rows))
    filled = np.resize(rows, -(-len(rows) // size) * size)
    parts = []
    for i, block in enumerate(filled.reshape(-1, size)):
        parts.append(jax.device_get(_drawn(pairs, cells, project, jnp.asarray(block, jnp.int32), jr.fold_in(key, i))))
    whole: list[Any] = [np.concatenate(column)[: len(rows)] for column in zip(*parts, strict=True)]
    return PairSample(whole[0].astype(float), whole[1].astype(float), *whole[2:])


@eqx.filter_jit
def _drawn(pairs: AbstractFittedPairs, cells: Cells, project: Project, rows: Array, key: PRNGKeyArray):
    draw, see = jr.split(key)
    drawn = pairs.draw(draw, rows)
    views = cells.views(see, drawn, thins=pairs.thins, hides=pairs.hides)
    depths = jnp.log(jnp.maximum(views.anchor_total, 1.0)), jnp.log(jnp.maximum(views.partner_total, 1.0))
    return project(views.anchor), project(views.partner), drawn.anchor, drawn.partner, *depths


@eqx.filter_jit
def drawn_partners(pairs: AbstractFittedPairs, rows: Array, key: PRNGKeyArray) -> Array:
    """Return the partner of each anchor."""
    return pairs.draw(key, rows).partner


@eqx.filter_jit
def projected(cells: Cells, project: Project, rows: Array) -> Array:
    """Return the coordinates of whole cells."""
    return project(cells.inputs(rows))

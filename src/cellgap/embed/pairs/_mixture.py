"""Several samplers of pairs, each for a share of the pairs."""

from typing import Annotated

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from pydantic import Field, model_validator

from cellgap.embed.pairs._interface import AbstractFittedPairs, AbstractPairs, PairCells, Pairs, Support
from cellgap.errors import ConfigError
from cellgap.settings import settings


@settings
class Mixture(AbstractPairs):
    """Each pair is drawn by one of several samplers, chosen by their weights.

    A cell that has no partner in one of them takes those of the others.

    Parameters
    ----------
    pairs
        The samplers.
    weight
        Of the mixture in another one.
    """

    pairs: tuple[AbstractPairs, ...]
    weight: Annotated[float, Field(gt=0)] = 1.0

    def __str__(self) -> str:
        """Return its samplers, joined by ``|``."""
        joined = " | ".join(map(str, self.pairs))
        return joined if self.weight == 1.0 else f"{self.weight:g} x ({joined})"

    @model_validator(mode="after")
    def _check(self) -> "Mixture":
        if not self.pairs:
            raise ConfigError("Mixture needs at least one sampler of pairs.")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of its samplers."""
        return tuple(dict.fromkeys(name for member in self.pairs for name in member.columns))

    def fit(self, cells: PairCells) -> "FittedMixture":
        """Return the law of partners; see `AbstractPairs.fit`."""
        members = tuple(member.fit(cells) for member in self.pairs)
        able = np.stack([member.able for member in members], axis=1)
        sizes = np.stack([member.sizes for member in members], axis=1)
        weights = able * np.asarray([member.weight for member in self.pairs])
        return FittedMixture(
            members=members,
            shares=jnp.asarray(weights / np.maximum(weights.sum(1, keepdims=True), 1e-12), jnp.float32),
            parts=jnp.asarray(sizes / np.maximum(sizes.sum(1, keepdims=True), 1e-12), jnp.float32),
            able=np.asarray(able.any(axis=1)),
            sizes=sizes.sum(axis=1),
            thins=any(member.thins for member in members),
            hides=any(member.hides for member in members),
        )


class FittedMixture(AbstractFittedPairs):
    """See `Mixture`.

    Parameters
    ----------
    members
        The fitted samplers.
    shares
        Probability of each for every cell.
    parts
        Share of each in the cells that a partner can be: the supports side by side, overlaps counted twice.
    """

    members: tuple[AbstractFittedPairs, ...]
    shares: Float[Array, "cells members"]
    parts: Float[Array, "cells members"]
    able: Bool[np.ndarray, " cells"]
    sizes: Float[np.ndarray, " cells"]
    thins: bool = eqx.field(static=True)
    hides: bool = eqx.field(static=True)

    def draw(self, key: PRNGKeyArray, rows: Int[Array, " n"]) -> Pairs:
        """Return a pair of one of the samplers for each cell."""
        which_key, *keys = jr.split(key, len(self.members) + 1)
        which = jr.categorical(which_key, jnp.log(self.shares[rows]), axis=-1)
        drawn = [member.draw(k, rows) for member, k in zip(self.members, keys, strict=True)]
        return jax.tree.map(lambda *leaves: _pick(which, leaves), *drawn)

    def support(self, key: PRNGKeyArray, rows: Int[Array, " n"], m: int) -> Support:
        """Return draws from all supports together, each in proportion to its number of cells."""
        which_key, *keys = jr.split(key, len(self.members) + 1)
        chances = jnp.log(self.parts[rows])[:, None, :]
        which = jr.categorical(which_key, chances, axis=-1, shape=(len(rows), m))
        drawn = [member.support(k, rows, m) for member, k in zip(self.members, keys, strict=True)]
        return jax.tree.map(lambda *leaves: _pick(which, leaves), *drawn)

    def surplus(self) -> Float[np.ndarray, " cells"]:
        """Samplers are used by weight, not by the number of cells that they reach."""
        own = np.stack([member.surplus() for member in self.members], axis=1)
        shares, parts = np.asarray(self.shares, float), np.asarray(self.parts, float)
        return np.maximum(0.5 * np.abs(shares - parts).sum(axis=1), (shares * own).sum(axis=1))


def members_of(pairs: AbstractPairs) -> tuple[AbstractPairs, ...]:
    """Return the samplers of a mixture, or the sampler itself.

    A mixture within keeps its own weight, shared among its members.
    """
    if not isinstance(pairs, Mixture) or pairs.weight != 1.0:
        return (pairs,)
    return pairs.pairs


def _pick(which: Int[Array, "..."], leaves: tuple[Array, ...]) -> Array:
    return jnp.select([which == i for i in range(len(leaves))], leaves)

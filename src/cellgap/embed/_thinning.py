"""Binomial thinning of counts on the device: exact, and cheap where most counts are small.

A count ``x`` thinned with probability ``p`` is the number of its molecules that are seen again, ``Binomial(x, p)``.
With ``p`` in steps of 1/256 a random byte below ``256 p`` is one molecule that is kept, so one 32-bit word serves
four. Genes are put into tiers by their largest count, and each tier draws as many words as it needs.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

WHOLE = 256
"""The number of 256ths that keeps every molecule."""

_PER_WORD = 4
_TIERS = (1, 2, 4, 8, 16)
"""Words that a gene's tier draws; larger counts than these serve are drawn by rejection."""


class Thinner(eqx.Module):
    """Which columns need how many random words.

    Parameters
    ----------
    words
        First and last word of every tier.
    columns
        The columns that need them.
    large
        Columns with counts above 64: drawn by `jax.random.binomial`.
    """

    words: tuple[tuple[int, int], ...] = eqx.field(static=True)
    columns: tuple[Int[Array, " _"], ...]
    large: Int[Array, " large"]

    @classmethod
    def of(cls, counts: Int[np.ndarray, "cells features"]) -> "Thinner":
        """Return the tiers for these cells: no other cell may have a larger count of a feature."""
        most = counts.max(axis=0)
        words, columns, before = [], [], 0
        for last in _TIERS:
            needed = np.flatnonzero((most > _PER_WORD * before) & (most <= _PER_WORD * _TIERS[-1]))
            if len(needed):
                words.append((before, last))
                columns.append(jnp.asarray(needed, jnp.int32))
            before = last
        large = np.flatnonzero(most > _PER_WORD * _TIERS[-1])
        return cls(tuple(words), tuple(columns), jnp.asarray(large, jnp.int32))

    def __call__(
        self, key: PRNGKeyArray, x: Int[Array, "n features"], keep: Int[Array, " n"]
    ) -> Int[Array, "n features"]:
        """Return thinned counts of cells.

        Parameters
        ----------
        key
            Random key.
        x
            Counts, none above those that the tiers were made for.
        keep
            Probability that a molecule is kept, in 256ths, one a cell.
        """
        key_bytes, key_large = jr.split(key)
        below = keep[:, None].astype(jnp.uint32)
        kept = jnp.zeros(x.shape, jnp.int32)
        for (first, last), columns in zip(self.words, self.columns, strict=True):
            every = len(columns) == x.shape[1]
            part = (x if every else x[:, columns]).astype(jnp.int32)

            def seen(word: Int[Array, ""], found: Array, part: Array = part) -> Array:
                bits = _words(jr.fold_in(key_bytes, word), part.shape)
                for place in range(_PER_WORD):
                    byte = (bits >> (8 * place)) & 0xFF
                    found += ((byte < below) & (part > _PER_WORD * word + place)).astype(jnp.int32)
                return found

            # A loop and not one long program, which took seconds to compile.
            found = jax.lax.fori_loop(first, last, seen, jnp.zeros(part.shape, jnp.int32))
            kept = kept + found if every else kept.at[:, columns].add(found)
        if len(self.large):
            several = x[:, self.large].astype(jnp.float32)
            shares = jnp.broadcast_to(keep[:, None] / WHOLE, several.shape)
            drawn = jr.binomial(key_large, several, shares).astype(jnp.int32)
            kept = kept.at[:, self.large].set(jnp.minimum(drawn, x[:, self.large].astype(jnp.int32)))
        return kept.astype(x.dtype)


def _words(key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
    """Return random 32-bit words: a keyed hash of their place, five times cheaper than the generator of keys."""
    first, second = jr.bits(key, (2,), jnp.uint32)
    place = jax.lax.iota(jnp.uint32, int(np.prod(shape)))
    return _mixed(_mixed(place ^ first) + second).reshape(shape)


def _mixed(x: Array) -> Array:
    """Return a hash of 32-bit words in which every bit of the input moves half of the output."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)

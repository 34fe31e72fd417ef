"""Draws of cells on the device: without replacement, in constant time, from populations of any size."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int, PRNGKeyArray

_ROUNDS = 6
# Four bits a half: smaller domains have too few distinct Feistel permutations to be uniform.


def _mix(x: Array, key: Array) -> Array:
    """Return a 32-bit hash of `x` (the finalizer of MurmurHash3, keyed)."""
    x = (x ^ key) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def draw_without_replacement(key: PRNGKeyArray, n: int, size: Int[Array, ""] | int) -> Int[Array, " n"]:
    """Return the first `n` entries of a random permutation of ``0 .. size - 1``.

    A keyed Feistel network permutes a power of four that holds `size`, and entries that fall outside walk along
    their cycle until they are inside. Work is of order `n`, whatever the population holds: no shuffle of all cells a
    step.

    Parameters
    ----------
    key
        Random key; different keys give different permutations.
    n
        How many to draw.
    size
        Number of cells, at least 1; may be traced. If `size` is below `n`, the draw wraps around (cells repeat).
    """
    size = jnp.asarray(size, jnp.uint32)
    bits = 32 - jax.lax.clz(jnp.maximum(size, 2) - 1)
    half = jnp.maximum((bits + 1) // 2, 4)
    low = (jnp.uint32(1) << half) - 1
    keys = jr.bits(key, (_ROUNDS,), jnp.uint32)

    def permute(x):
        left, right = x >> half, x & low
        for r in range(_ROUNDS):
            left, right = right, left ^ (_mix(right, keys[r]) & low)
        return (left << half) | right

    def walk(x):
        return jnp.where(x < size, x, permute(x))

    start = permute(jnp.arange(n, dtype=jnp.uint32) % size)
    inside = jax.lax.while_loop(lambda x: jnp.any(x >= size), walk, start)
    return inside.astype(jnp.int32)

"""Stripes: a few rows of all pairs at a time, so that no array holds every pair."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from cellgap.errors import ConfigError

# A stripe stays in the cache of a processor; on an accelerator it has to be large enough to fill the machine.
_BYTES = {"cpu": 16 * 2**20}
_BYTES_ELSEWHERE = 512 * 2**20


def stripe_rows(rows: int, columns: int, dtype: Any, block: int | None) -> int:
    """Return how many rows a stripe of `columns` has: `block`, or what suits the machine.

    Raises
    ------
    ConfigError
        The block is below 1.
    """
    if block is None:
        wanted = _BYTES.get(jax.default_backend(), _BYTES_ELSEWHERE) // (max(columns, 1) * jnp.dtype(dtype).itemsize)
        block = max(16, wanted)
    if block < 1:
        raise ConfigError(f"block must be at least 1 row, found {block}.")
    return min(block, max(rows, 1))


def over_stripes(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, rows: Any, block: int) -> tuple[Any, Any]:
    """Return what ``carry, out = step(carry, stripe)`` leaves after all stripes, and the rows of `out`.

    Parameters
    ----------
    step
        Function of a stripe; a row that it returns may depend on the same row of its input only.
    carry
        What goes from one stripe to the next.
    rows
        Arrays of one length. The last stripe is filled up with zeros, which `step` has to leave out of its carry.
    block
        Rows of a stripe.
    """
    length = jax.tree.leaves(rows)[0].shape[0]
    stripes = -(-length // block)

    def cut(array: Array) -> Array:
        fill = [(0, stripes * block - length), *[(0, 0)] * (array.ndim - 1)]
        return jnp.pad(array, fill).reshape(stripes, block, *array.shape[1:])

    carry, out = jax.lax.scan(step, carry, jax.tree.map(cut, rows))
    return carry, jax.tree.map(lambda array: array.reshape(stripes * block, *array.shape[2:])[:length], out)

"""What makes two runs the same one."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np


def run_fingerprint(*parts: Any) -> str:
    """Return a short hash of everything that determines a run: texts, random keys, trees of arrays by their bytes."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(parts):
        if not isinstance(leaf, jax.Array):
            digest.update(repr(leaf).encode())
            continue
        array = np.asarray(jr.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]

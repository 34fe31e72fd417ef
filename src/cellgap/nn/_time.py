"""Features of the time of a flow."""

import jax.numpy as jnp
from jaxtyping import Array, Float

_HIGHEST = 100.0


def time_features(t: Float[Array, " n"], frequencies: int) -> Float[Array, "n features"]:
    """Return ``cos(w t)`` and ``sin(w t)`` for angular frequencies `w` from 1 to 100, in geometric steps.

    Parameters
    ----------
    t
        Times between 0 and 1.
    frequencies
        How many; twice as many features.
    """
    angles = t[:, None] * jnp.geomspace(1.0, _HIGHEST, frequencies)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)

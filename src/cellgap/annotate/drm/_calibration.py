"""A temperature for every head, from domains that the head did not learn from."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# Heads of few cells need up to 20; a step is 8 %.
TEMPERATURES = np.geomspace(1 / 20, 20, 81)


def temperature_losses(
    scores: Float[Array, "n heads classes"], y: Int[Array, " n"], weight: Float[Array, " n"]
) -> Float[Array, "heads temperatures"]:
    """Return the mean log loss of every head at every one of `TEMPERATURES`.

    Parameters
    ----------
    scores
        Of cells of one domain.
    y
        Their classes.
    weight
        Of each cell; 0 leaves it out.
    """

    def at(temperature: Float[Array, ""]) -> Float[Array, " heads"]:
        log_p = jax.nn.log_softmax(scores / temperature, -1)
        loss = -jnp.take_along_axis(log_p, y[:, None, None], 2)[..., 0]
        return weight @ loss / jnp.sum(weight)

    return jax.lax.map(at, jnp.asarray(TEMPERATURES, jnp.float32)).T


def head_temperatures(
    losses: Float[np.ndarray, "domains heads temperatures"], used: Bool[np.ndarray, "domains heads"]
) -> Float[np.ndarray, " heads"]:
    """Return the temperature of least mean loss of every head, over the domains that are used for it.

    Parameters
    ----------
    losses
        By `temperature_losses`, for every domain.
    used
        Which domains count for which head; a head without any keeps temperature 1.
    """
    total = np.einsum("dht,dh->ht", losses, used.astype(float))
    return np.where(used.any(0), TEMPERATURES[total.argmin(1)], 1.0)

"""Hard-concrete gates: random numbers in [0, 1] that are exactly 0 or 1 with a probability that can be learnt."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

TEMPERATURE = 2 / 3
GAMMA, ZETA, EPS = -0.1, 1.1, 1e-6
LOG_ALPHA_RANGE = (-4.605170, 4.605170)
"""Where the logarithms of odds are kept: log 0.01 to log 100. Beyond, gates would have no gradient left."""


def draw_gates(
    log_alpha: Float[Array, "*shape"], key: PRNGKeyArray, temperature: float = TEMPERATURE
) -> Float[Array, "*shape"]:
    """Return random gates, ``clip(s (zeta - gamma) + gamma, 0, 1)`` with a concrete variable ``s``.

    Parameters
    ----------
    log_alpha
        Logarithm of the odds of each gate.
    key
        Random key.
    temperature
        Of the concrete distribution.

    Notes
    -----
    Source: Louizos, Welling, Kingma, ICLR 2018 (arXiv 1712.01312), eq. 10-11.
    """
    u = jr.uniform(key, log_alpha.shape, log_alpha.dtype, EPS, 1.0 - EPS)
    s = jax.nn.sigmoid((jnp.log(u) - jnp.log1p(-u) + log_alpha) / temperature)
    return _stretched(s)


def expected_gates(log_alpha: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the gates without chance, as a trained network uses them (ibid., eq. 13).

    Exactly 0 for ``log_alpha <= -log 11`` and exactly 1 for ``log_alpha >= log 11``.
    """
    return _stretched(jax.nn.sigmoid(log_alpha))


def open_probability(log_alpha: Float[Array, "*shape"], temperature: float = TEMPERATURE) -> Float[Array, "*shape"]:
    """Return the probability that a random gate is not 0 (ibid., eq. 12)."""
    shift = temperature * jnp.log(-GAMMA / ZETA)
    return jnp.clip(jax.nn.sigmoid(log_alpha - shift), EPS, 1.0 - EPS)


def initial_log_alpha(shape: tuple[int, ...], closed: float, key: PRNGKeyArray) -> Float[Array, "..."]:
    """Return logarithms of odds around ``log((1 - closed) / closed)``, standard deviation 0.01."""
    return jnp.log((1.0 - closed) / closed) + 0.01 * jr.normal(key, shape)


def _stretched(s: Array) -> Array:
    return jnp.clip(s * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)

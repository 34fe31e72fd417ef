"""The negative binomial log-probability of counts, without cancellation and without gamma functions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

LOG_THETA_MIN, LOG_THETA_MAX = -6.0, 9.0
_SHIFT = 4  # Stirling's series from 4 on is exact to 1e-6


def nb_log_prob(
    x: Num[Array, "*n genes"], log_mu: Float[Array, "*n genes"], log_theta: Float[Array, " genes"]
) -> Float[Array, "*n genes"]:
    """Return the log-probability of every count under a negative binomial, ``variance = mu + mu^2 / theta``.

    Parameters
    ----------
    x
        Counts, of any type.
    log_mu
        Logarithm of the expected counts: log library + log share (never the logarithm of a softmax).
    log_theta
        Logarithm of the inverse dispersion of every gene; clamped to -6 .. 9.
    """
    counts = x.astype(log_mu.dtype)
    return nb_log_kernel(counts, log_mu, log_theta) - jax.lax.lgamma(counts + 1.0)


def nb_log_kernel(
    x: Num[Array, "*n genes"], log_mu: Float[Array, "*n genes"], log_theta: Float[Array, " genes"]
) -> Float[Array, "*n genes"]:
    """Return `nb_log_prob` without its constant, ``- log x!``, on which no parameter depends.

    With ``z = theta + 4``, ``log Gamma(x + theta) / Gamma(theta)`` is Stirling's series at ``z + x`` less that at
    ``z``, less the logarithm of ``prod_k (theta + x + k) / (theta + k)`` over k = 0..3. All large terms are written as
    ``log1p`` of ratios, so that nothing cancels where theta is large (the Poisson limit), and ``x = 0`` costs no
    accuracy. The derivative is written out: it needs the same two logarithms, and no digamma function.
    """
    return _kernel(x.astype(log_mu.dtype), log_mu, jnp.clip(log_theta, LOG_THETA_MIN, LOG_THETA_MAX))


@jax.custom_jvp
def _kernel(x: Array, log_mu: Array, log_theta: Array) -> Array:
    return _kernel_parts(x, log_mu, log_theta)[0]


@_kernel.defjvp
def _kernel_jvp(primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    x, log_mu, log_theta = primals
    _, d_log_mu, d_log_theta = tangents
    value, log_ratio, spread = _kernel_parts(x, log_mu, log_theta)
    theta = jnp.exp(log_theta)
    z = theta + _SHIFT
    # digamma(x + theta) - digamma(theta)
    inverse, inverse_z = 1.0 / (z + x), 1.0 / z
    rise = log_ratio - 0.5 * (inverse - inverse_z) - (inverse**2 - inverse_z**2) / 12.0
    rise += (inverse**4 - inverse_z**4) / 120.0
    a, b, c, d = (theta + k + x for k in range(_SHIFT))
    # The sum of four reciprocals over one denominator: one division.
    rise += sum(1.0 / (theta + k) for k in range(_SHIFT)) - ((a + b) * (c * d) + (c + d) * (a * b)) / (
        (a * b) * (c * d)
    )
    share = jax.nn.sigmoid(log_mu - log_theta)  # mu / (theta + mu)
    by_mu = x * (1.0 - share) - theta * share
    by_theta = theta * (rise - spread) - (x * (1.0 - share) - theta * share)
    return value, by_mu * d_log_mu + by_theta * d_log_theta


def _kernel_parts(x: Array, log_mu: Array, log_theta: Array) -> tuple[Array, Array, Array]:
    theta = jnp.exp(log_theta)
    z = theta + _SHIFT
    below = above = jnp.ones_like(theta)
    for k in range(_SHIFT):
        below = below * (theta + k)
        above = above * (theta + k + x)
    log_ratio = jnp.log1p(x * (1.0 / z))
    spread = jax.nn.softplus(log_mu - log_theta)  # log(theta + mu) - log(theta)
    rising = (z + x - 0.5) * log_ratio - x + (_tail(z + x) - _tail(z)) - jnp.log(above * (1.0 / below))
    # `log z - log theta` belongs to the rising factorial, `- log theta` to the power of mu / (theta + mu).
    value = rising + x * (log_mu - spread + jnp.log1p(_SHIFT / theta)) - theta * spread
    return value, log_ratio, spread


def _tail(z: Array) -> Array:
    """Return the part of Stirling's series of ``log Gamma`` that falls with z."""
    inverse = 1.0 / z
    return inverse * (1.0 / 12.0 - inverse * inverse / 360.0)

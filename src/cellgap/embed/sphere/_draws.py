"""Random points of the sphere: uniform, and of von Mises-Fisher laws around given directions."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from cellgap.embed._loss import normalized

_ROUNDS = 64  # Wood's proposals are taken with probability above 0.6, so 64 rejections in a row do not occur
_FLAT = 1e-6  # below this concentration a law cannot be told from the uniform one in float32


def uniform(key: PRNGKeyArray, n: int, k: int) -> Float[Array, "{n} {k}"]:
    """Return `n` points, uniform on the unit sphere of R^k."""
    return normalized(jr.normal(key, (n, k)))


def around(key: PRNGKeyArray, direction: Float[Array, "n k"], concentration: Float[Array, " n"]) -> Float[Array, "n k"]:
    """Return a von Mises-Fisher draw around every direction, each with its own concentration.

    Exact in every dimension: two signs for k = 1, the inverse distribution function for k = 3, rejection otherwise.

    Parameters
    ----------
    direction
        Rows of unit length.
    concentration
        Of the law on the sphere of R^k, at least 0.

    Source
    ------
    Wood 1994 (Communications in Statistics 23); Ulrich 1984 (Applied Statistics 33) for the beta proposals.
    """
    k = direction.shape[1]
    if k == 1:
        same = jr.bernoulli(key, jax.nn.sigmoid(2.0 * concentration))
        return jnp.where(same[:, None], direction, -direction)
    first, second = jr.split(key)
    gap = exponential_gap(first, concentration, 2.0) if k == 3 else _wood_gap(first, concentration, k)
    return leaning(second, direction, 1.0 - gap, jnp.sqrt(gap * (2.0 - gap)))


def leaning(
    key: PRNGKeyArray, direction: Float[Array, "n k"], cosine: Float[Array, " n"], sine: Float[Array, " n"]
) -> Float[Array, "n k"]:
    """Return a point at the given angle from every direction, uniform among all at that angle."""
    n, k = direction.shape
    if k == 2:
        # A Gaussian projected on a line loses its digits; here there are two perpendiculars to choose from.
        turned = jnp.stack([-direction[:, 1], direction[:, 0]], axis=1)
        perpendicular = turned * jr.rademacher(key, (n, 1), direction.dtype)
    else:
        perpendicular = jr.normal(key, (n, k), direction.dtype)
        for _ in range(2):  # once leaves a rest where the draw lies close to the direction
            along = jnp.sum(perpendicular * direction, axis=1, keepdims=True)
            perpendicular = normalized(perpendicular - along * direction)
    return cosine[:, None] * direction + sine[:, None] * perpendicular


def exponential_gap(key: PRNGKeyArray, concentration: Float[Array, " n"], widest: float) -> Float[Array, " n"]:
    """Return gaps ``1 - cosine`` with density proportional to ``exp(-concentration * gap)`` on [0, widest].

    On S^2, where cosines of uniform points are uniform, that is the (truncated) von Mises-Fisher law.
    """
    u = jr.uniform(key, concentration.shape, concentration.dtype)
    steep = concentration > _FLAT
    safe = jnp.where(steep, concentration, 1.0)
    gap = -jnp.log1p(u * jnp.expm1(-safe * widest)) / safe
    return jnp.clip(jnp.where(steep, gap, u * widest), 0.0, widest)


@partial(jax.jit, static_argnums=2)
def _wood_gap(key: PRNGKeyArray, concentration: Float[Array, " n"], k: int) -> Float[Array, " n"]:
    # Wood's algorithm for gaps instead of cosines, which near 1 would lose what is left of their digits.
    p = k - 1.0
    b = p / (2.0 * concentration + jnp.sqrt(4.0 * concentration**2 + p**2))
    mode_gap = 2.0 * b / (1.0 + b)
    log_mode = jnp.log(mode_gap * (2.0 - mode_gap))

    def open_and_left(state):
        i, _, _, done = state
        return (i < _ROUNDS) & ~jnp.all(done)

    def propose(state):
        i, key, gap, done = state
        key, now = jr.split(key)
        angle, radius, level = jr.uniform(now, (3, *concentration.shape), minval=1e-7, maxval=1.0)
        # First coordinate of a uniform point on S^{k-1}: (1 + it) / 2 is Beta((k-1)/2, (k-1)/2).
        side = jnp.cos(2.0 * jnp.pi * angle)
        if k > 2:
            side = side * jnp.sqrt(1.0 - radius ** (2.0 / (k - 2)))
        beta = 0.5 * (1.0 + side)
        proposed = 2.0 * b * beta / (1.0 - (1.0 - b) * beta)
        # 1 - x0 w for x0 = (1 - b)/(1 + b), and the same at its mode w = x0.
        log_ratio = jnp.log(mode_gap + (1.0 - mode_gap) * proposed) - log_mode
        log_accept = concentration * (mode_gap - proposed) + p * log_ratio
        taken = jnp.log(level) <= log_accept
        return i + 1, key, jnp.where(done, gap, proposed), done | taken

    start = (0, key, jnp.zeros_like(concentration), jnp.zeros(concentration.shape, bool))
    return jnp.clip(jax.lax.while_loop(open_and_left, propose, start)[2], 0.0, 2.0)

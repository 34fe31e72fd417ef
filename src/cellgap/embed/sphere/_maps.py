"""Maps of the sphere that show what a loss does and does not see, as functions on arrays of points.

A point is ``(u, v)``, u its first `n_frozen` coordinates, which pairs of the sampler `Frozen` share.
"""

from collections.abc import Callable

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from cellgap.embed._loss import normalized
from cellgap.errors import ConfigError

SphereMap = Callable[[Float[Array, "n k"]], Float[Array, "n k"]]
"""Takes points of the sphere to points of the sphere, row by row."""


def stretched(lam: float, n_frozen: int = 1) -> SphereMap:
    """Return ``(u, v) -> (u, lam v) / |(u, lam v)|``.

    Under a frozen sampler the plain loss falls as `lam` goes below 1; see `best_stretch`.

    Parameters
    ----------
    lam
        The stretch, positive.
    n_frozen
        Number of coordinates of u.

    Raises
    ------
    ConfigError
        The stretch is not positive.

    Source
    ------
    Zaliaduonis et al. 2026 (arXiv 2606.04280).
    """
    if not lam > 0:
        raise ConfigError(f"a stretch of points is positive, found lam={lam}.")

    def h(z: Float[Array, "n k"]) -> Float[Array, "n k"]:
        return normalized(jnp.concatenate([z[:, :n_frozen], lam * z[:, n_frozen:]], axis=1))

    return h


def spiralled(turns: float) -> SphereMap:
    """Return ``z -> (u, s cos(N u), s sin(N u))`` on S^2, with ``s = sqrt(1 - u^2)``: a map that drops v.

    Partners that share u coincide, and for large N the image is nearly uniform: the loss tends to its floor.

    Parameters
    ----------
    turns
        N, the angle by which the spiral turns over a unit of u.
    """

    def h(z: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
        u = z[:, 0]
        radius = jnp.sqrt(jnp.maximum(1.0 - u**2, 0.0))
        return jnp.stack([u, radius * jnp.cos(turns * u), radius * jnp.sin(turns * u)], axis=1)

    return h


def folded(z: Float[Array, "n k"], n_frozen: int = 1) -> Float[Array, "n k"]:
    """Return ``(|u|, v)``, absolute values coordinate by coordinate: an isometry of every fibre, and not one-to-one.

    Parameters
    ----------
    z
        Points of the sphere.
    n_frozen
        Number of coordinates of u.
    """
    return jnp.concatenate([jnp.abs(z[:, :n_frozen]), z[:, n_frozen:]], axis=1)


def collapsed(z: Float[Array, "n k"], n_frozen: int = 1) -> Float[Array, "n k"]:
    """Return ``(0, v / |v|)``: what is frozen is erased.

    The best map of the support-corrected loss where the concentration is intrinsic.

    Parameters
    ----------
    z
        Points of the sphere.
    n_frozen
        Number of coordinates of u.
    """
    return jnp.concatenate([jnp.zeros_like(z[:, :n_frozen]), normalized(z[:, n_frozen:])], axis=1)


def frozen_only(z: Float[Array, "n k"], n_frozen: int = 1) -> Float[Array, "n k"]:
    """Return ``(u, |v|, 0, ...)``: what varies is dropped, every fibre becomes a point.

    Parameters
    ----------
    z
        Points of the sphere.
    n_frozen
        Number of coordinates of u.
    """
    u, v = z[:, :n_frozen], z[:, n_frozen:]
    radius = jnp.linalg.norm(v, axis=1, keepdims=True)
    return jnp.concatenate([u, radius, jnp.zeros_like(v[:, 1:])], axis=1)


def orthogonal(key: PRNGKeyArray, k: int) -> SphereMap:
    """Return ``z -> A z`` with a random orthogonal A, of either sign of the determinant.

    Parameters
    ----------
    k
        Dimension of the space around the sphere.
    """
    matrix = jr.orthogonal(key, k)

    def h(z: Float[Array, "n k"]) -> Float[Array, "n k"]:
        return z @ matrix.T

    return h


def fibre_isometry(key: PRNGKeyArray, k: int = 3, n_frozen: int = 1, *, waves: int = 4, size: float = 1.0) -> SphereMap:
    """Return a random ``w(u) + R(u) v`` with ``R^T R = 1``, ``R^T w = 0`` and ``|w| = |u|``.

    These, and no others, tie with orthogonal maps under the support-corrected loss with the ambient concentration.
    All of them are ``Q(u) z`` with an orthogonal Q(u); here Q is the Cayley transform of a skew matrix that waves in u.

    Parameters
    ----------
    k
        Dimension of the space around the sphere.
    n_frozen
        Number of coordinates of u.
    waves
        Number of random waves.
    size
        Of the skew matrix; 0 gives the identity.

    Source
    ------
    Derived for this library.
    """
    first, second, third = jr.split(key, 3)
    generators = jr.normal(first, (waves, k, k))
    generators = size * (generators - generators.mT) / jnp.sqrt(2.0 * waves)
    directions = 3.0 * jr.normal(second, (n_frozen, waves))
    phases = jr.uniform(third, (waves,), maxval=2.0 * jnp.pi)

    def h(z: Float[Array, "n k"]) -> Float[Array, "n k"]:
        heights = jnp.sin(z[:, :n_frozen] @ directions + phases)
        skew = jnp.einsum("nw,wij->nij", heights, generators)
        one = jnp.eye(k)
        return jnp.linalg.solve(one - skew, jnp.einsum("nij,nj->ni", one + skew, z)[..., None])[..., 0]

    return h

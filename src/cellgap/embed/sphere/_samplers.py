"""Pair samplers on the sphere whose laws are known: what is a partner, and which points could be one."""

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field

from cellgap.embed._loss import normalized
from cellgap.embed.sphere._bessel import log_partition
from cellgap.embed.sphere._draws import around, exponential_gap, leaning, uniform
from cellgap.embed.sphere._polar import angle_table, log_surface, polar_rule
from cellgap.errors import ConfigError
from cellgap.settings import settings

Concentration = Literal["ambient", "intrinsic"]
"""Of a frozen sampler: ``"ambient"`` is that of the theorems, ``"intrinsic"`` that of the published tables."""

_Kappa = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Cosine = Annotated[float, Field(gt=-1, lt=1)]


class AbstractPairSampler(ABC):
    """A law of the partner given the anchor, on the unit sphere S^{k-1}; the anchors are uniform in the theory."""

    @abstractmethod
    def partner(self, key: PRNGKeyArray, z: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """Return one partner of every anchor.

        Parameters
        ----------
        z
            Anchors, rows of unit length.
        """

    @abstractmethod
    def support(self, key: PRNGKeyArray, z: Float[Array, "n k"], m: int) -> Float[Array, "n {m} k"]:
        """Return `m` points for every anchor, uniform on what its partner can be: negatives that correct the loss.

        Parameters
        ----------
        z
            Anchors, rows of unit length.
        m
            Points for each.
        """


class AbstractZonalSampler(AbstractPairSampler):
    """A sampler that moves every direction alike: its density depends on the cosine of anchor and partner only."""

    @property
    @abstractmethod
    def least(self) -> float:
        """The least cosine that a partner has."""

    @abstractmethod
    def log_density(self, cosine: Any, k: int) -> Float[np.ndarray, "*n"]:
        """Return the log density of the partner at a cosine, float64.

        Parameters
        ----------
        cosine
            Of anchor and partner.
        k
            Dimension of the space around the sphere, at least 2.

        Returns
        -------
        log_density
            Relative to the normalised surface measure; minus infinity outside the support.
        """

    def cosine_density(self, cosine: Any, k: int) -> Float[np.ndarray, "*n"]:
        """Return the density of the cosine itself on (-1, 1), float64.

        Parameters
        ----------
        cosine
            Of anchor and partner, inside (-1, 1).
        k
            Dimension of the space around the sphere, at least 2.
        """
        cosine = np.asarray(cosine, np.float64)
        # From the density of the angle: d angle / d cosine is 1 / sine.
        surface = log_surface(np.asarray(np.arccos(cosine)), k) - 0.5 * np.log1p(-(cosine**2))
        return np.asarray(np.exp(self.log_density(cosine, k) + surface))


@settings
class VonMisesFisher(AbstractZonalSampler):
    """Partners of density proportional to ``exp(kappa z.z~)``: every point of the sphere can be one.

    Parameters
    ----------
    kappa
        Concentration; 0 is independence.
    """

    kappa: _Kappa

    @property
    def least(self) -> float:
        """The least cosine that a partner has."""
        return -1.0

    def partner(self, key: PRNGKeyArray, z: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """Return one partner of every anchor; see `AbstractPairSampler.partner`."""
        return around(key, z, jnp.full(len(z), self.kappa, z.dtype))

    def support(self, key: PRNGKeyArray, z: Float[Array, "n k"], m: int) -> Float[Array, "n {m} k"]:
        """Return uniform points of the sphere; see `AbstractPairSampler.support`."""
        return _everywhere(key, z, m)

    def log_density(self, cosine: Any, k: int) -> Float[np.ndarray, "*n"]:
        """Return ``kappa cosine - log Z_k(kappa)``; see `AbstractZonalSampler.log_density`."""
        return np.asarray(self.kappa * np.asarray(cosine, np.float64) - log_partition(k, self.kappa))


@settings
class TruncatedVMF(AbstractZonalSampler):
    """A von Mises-Fisher law cut off: no partner has a cosine below `lowest`, whatever the anchor.

    It violates the diversity condition at every anchor, and yet in the same way in all directions. On S^2 draws are
    exact; otherwise they come from a table whose distribution function is off by less than 1e-6.

    Parameters
    ----------
    kappa
        Concentration; 0 is uniform on the cap.
    lowest
        Least cosine, inside (-1, 1).
    """

    kappa: _Kappa
    lowest: _Cosine

    @property
    def least(self) -> float:
        """The least cosine that a partner has."""
        return self.lowest

    def partner(self, key: PRNGKeyArray, z: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """Return one partner of every anchor; see `AbstractPairSampler.partner`."""
        return _inside_cap(key, z, self.kappa, self.lowest)

    def support(self, key: PRNGKeyArray, z: Float[Array, "n k"], m: int) -> Float[Array, "n {m} k"]:
        """Return uniform points of the cap around each anchor; see `AbstractPairSampler.support`."""
        return _over_cap(key, z, m, self.lowest)

    def log_density(self, cosine: Any, k: int) -> Float[np.ndarray, "*n"]:
        """Return the log density, minus infinity below `lowest`; see `AbstractZonalSampler.log_density`."""
        return _cut_log_density(cosine, k, self.kappa, self.lowest)


@settings
class CapUniform(AbstractZonalSampler):
    """Partners uniform on the cap ``z.z~ >= lowest`` around the anchor.

    Parameters
    ----------
    lowest
        Least cosine, inside (-1, 1).
    """

    lowest: _Cosine

    @property
    def least(self) -> float:
        """The least cosine that a partner has."""
        return self.lowest

    def partner(self, key: PRNGKeyArray, z: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """Return one partner of every anchor; see `AbstractPairSampler.partner`."""
        return _inside_cap(key, z, 0.0, self.lowest)

    def support(self, key: PRNGKeyArray, z: Float[Array, "n k"], m: int) -> Float[Array, "n {m} k"]:
        """Return further points of the law itself; see `AbstractPairSampler.support`."""
        return _over_cap(key, z, m, self.lowest)

    def log_density(self, cosine: Any, k: int) -> Float[np.ndarray, "*n"]:
        """Return minus the log area of the cap; see `AbstractZonalSampler.log_density`."""
        return _cut_log_density(cosine, k, 0.0, self.lowest)


@settings
class Frozen(AbstractPairSampler):
    """Partners that share the first coordinates ``u`` of their anchor and differ in the rest, ``v``.

    The partner of ``(u, v)`` is ``(u, v~)`` with ``|v~| = |v| = r``; the direction of ``v~`` is von Mises-Fisher around
    that of ``v`` on the sphere of the last ``k - n_frozen`` coordinates.

    Parameters
    ----------
    kappa
        Concentration.
    n_frozen
        Number of first coordinates that pairs share, below k.
    concentration
        ``"ambient"``: ``kappa r^2``, for which the density is proportional to ``exp(kappa z.z~)``, as in the theorems.
        ``"intrinsic"``: ``kappa`` whatever r, as in the paper's listing and its published tables.
    jitter
        Standard deviation of a normal term added to the frozen coordinates before the partner is put back on the
        sphere. Above 0 every point can be a partner, though most hardly ever are.

    Source
    ------
    Zaliaduonis et al. 2026 (arXiv 2606.04280).
    """

    kappa: _Kappa
    n_frozen: Annotated[int, Field(ge=1)] = 1
    concentration: Concentration = "ambient"
    jitter: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def partner(self, key: PRNGKeyArray, z: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """Return one partner of every anchor, its first coordinates those of the anchor bit by bit.

        Parameters
        ----------
        z
            Anchors, rows of unit length.

        Raises
        ------
        ConfigError
            No coordinate is left to vary.
        """
        u, v, radius = self._split(z)
        first, second = jr.split(key)
        ambient = self.concentration == "ambient"
        kappa = self.kappa * radius[:, 0] ** 2 if ambient else jnp.full(len(z), self.kappa, z.dtype)
        moved = radius * around(first, v, kappa)
        if self.jitter == 0:
            return jnp.concatenate([u, moved], axis=1)
        shaken = u + self.jitter * jr.normal(second, u.shape, u.dtype)
        return normalized(jnp.concatenate([shaken, moved], axis=1))

    def support(self, key: PRNGKeyArray, z: Float[Array, "n k"], m: int) -> Float[Array, "n {m} k"]:
        """Return uniform points of the fibre ``u~ = u`` of every anchor; of the whole sphere where there is jitter.

        Parameters
        ----------
        z
            Anchors, rows of unit length.
        m
            Points for each.

        Raises
        ------
        ConfigError
            No coordinate is left to vary.
        """
        u, v, radius = self._split(z)
        if self.jitter > 0:
            return _everywhere(key, z, m)
        directions = normalized(jr.normal(key, (len(z), m, v.shape[1]), z.dtype))
        kept = jnp.broadcast_to(u[:, None], (len(z), m, u.shape[1]))
        return jnp.concatenate([kept, radius[:, None] * directions], axis=2)

    def _split(self, z: Float[Array, "n k"]):
        if self.n_frozen >= z.shape[1]:
            raise ConfigError(f"n_frozen={self.n_frozen} leaves none of {z.shape[1]} coordinates to vary: lower it.")
        u, v = z[:, : self.n_frozen], z[:, self.n_frozen :]
        return u, normalized(v), jnp.linalg.norm(v, axis=1, keepdims=True)


def _everywhere(key: PRNGKeyArray, z: Float[Array, "n k"], m: int) -> Float[Array, "n {m} k"]:
    n, k = z.shape
    return uniform(key, n * m, k).reshape(n, m, k)


def _over_cap(key: PRNGKeyArray, z: Float[Array, "n k"], m: int, lowest: float) -> Float[Array, "n {m} k"]:
    return _inside_cap(key, jnp.repeat(z, m, axis=0), 0.0, lowest).reshape(len(z), m, z.shape[1])


def _inside_cap(key: PRNGKeyArray, z: Float[Array, "n k"], kappa: float, lowest: float) -> Float[Array, "n k"]:
    n, k = z.shape
    if k < 2:
        raise ConfigError("a cap needs a sphere of R^2 or more: points of R^1 have two signs only.")
    first, second = jr.split(key)
    if k == 3:
        gap = exponential_gap(first, jnp.full(n, kappa, z.dtype), 1.0 - lowest)
        return leaning(second, z, 1.0 - gap, jnp.sqrt(gap * (2.0 - gap)))
    cumulated, angles = (jnp.asarray(a, z.dtype) for a in angle_table(kappa, lowest, k))
    angle = jnp.interp(jr.uniform(first, (n,), z.dtype), cumulated, angles)
    return leaning(second, z, jnp.cos(angle), jnp.sin(angle))


def _cut_log_density(cosine: Any, k: int, kappa: float, lowest: float) -> Float[np.ndarray, "*n"]:
    cosine = np.asarray(cosine, np.float64)
    nodes, weights = polar_rule(k, lowest)
    log_mass = kappa + np.log(np.sum(weights * np.exp(kappa * (nodes - 1.0))))
    return np.where(cosine >= lowest, kappa * cosine - log_mass, -np.inf)

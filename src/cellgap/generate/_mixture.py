"""Gaussian mixtures by class, whose velocity field is known exactly: what guidance and correction are tested on."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from cellgap.errors import ConfigError
from cellgap.generate._field import AbstractField


class GaussianMixture(AbstractField):
    """Classes that are mixtures of round Gaussians, with the exact field of ``z_t = t z_1 + (1 - t) eps``.

    One attribute: the class. With it the field is that of the class, without it that of all classes together.

    Parameters
    ----------
    means
        Of every component.
    sd
        Standard deviations of components.
    shares
        Of components in their class; rows sum to 1.
    prior
        Of classes.

    Notes
    -----
    Source: the posterior mean of ``z_1 - eps`` given ``z_t`` (derived); spec problem of Chen, Ding, Xue's error
    reduction. With ``V_k = t^2 s_k^2 + (1 - t)^2``, ``r_k = z - t mu_k`` and responsibilities ``g_k``:
    ``v = sum_k g_k (mu_k + (t s_k^2 - (1 - t)) / V_k r_k)``.
    """

    means: Float[Array, "classes components d"]
    sd: Float[Array, "classes components"]
    shares: Float[Array, "classes components"]
    prior: Float[Array, " classes"]

    def __check_init__(self):
        if not np.allclose(np.asarray(self.shares).sum(1), 1.0, atol=1e-5) or np.asarray(self.sd).min() <= 0:
            raise ConfigError("GaussianMixture needs shares that sum to 1 in every class, and positive sd.")

    @property
    def n_attributes(self) -> int:
        """One: the class."""
        return 1

    @property
    def dim(self) -> int:
        """Dimension of cells."""
        return self.means.shape[-1]

    def __call__(
        self,
        z: Float[Array, "n d"],
        t: Float[Array, "#n"],
        labels: Int[Array, "n 1"],
        known: Bool[Array, "n 1"],
        depth: Float[Array, " n"] | None = None,
    ) -> Float[Array, "n d"]:
        """Return the exact velocity; see `AbstractField`."""
        c, k, d = self.means.shape
        mu, sd = self.means.reshape(c * k, d), self.sd.reshape(c * k)
        t = t[:, None]
        variance = t**2 * sd**2 + (1.0 - t) ** 2
        squared = jnp.sum(z**2, 1)[:, None] - 2.0 * t * (z @ mu.T) + t**2 * jnp.sum(mu**2, 1)
        log_weight = jnp.log(self.prior[:, None] * self.shares).reshape(c * k)
        other = known & (jnp.repeat(jnp.arange(c), k) != labels)
        log_density = log_weight - 0.5 * squared / variance - 0.5 * d * jnp.log(variance)
        g = jax.nn.softmax(jnp.where(other, -jnp.inf, log_density), axis=1)
        slope = (t * sd**2 - (1.0 - t)) / variance
        return (g * (1.0 - slope * t)) @ mu + jnp.sum(g * slope, 1, keepdims=True) * z

    def leaky(self, leak: float, inflation: float = 1.0) -> "GaussianMixture":
        """Return a model of these classes with a known error: ``(1 - leak) p(.|c) + leak p(.)``, widths inflated.

        Parameters
        ----------
        leak
            Share of every class that comes from all of them.
        inflation
            Factor of the standard deviations.
        """
        c, k, d = self.means.shape
        everything = (self.prior[:, None] * self.shares).reshape(-1)
        own = jnp.zeros((c, c, k)).at[jnp.arange(c), jnp.arange(c)].set(self.shares).reshape(c, c * k)
        return GaussianMixture(
            jnp.broadcast_to(self.means.reshape(1, c * k, d), (c, c * k, d)),
            jnp.broadcast_to(inflation * self.sd.reshape(1, c * k), (c, c * k)),
            (1.0 - leak) * own + leak * everything,
            self.prior,
        )

    def sample(self, labels: Int[Array, "n 1"], *, key: PRNGKeyArray) -> Float[Array, "n d"]:
        """Return draws of the classes.

        Parameters
        ----------
        labels
            Class of every draw.
        key
            Random key.
        """
        key_component, key_noise = jr.split(key)
        of = labels[:, 0]
        k = jr.categorical(key_component, jnp.log(self.shares)[of])
        noise = jr.normal(key_noise, (len(of), self.dim), self.means.dtype)
        return self.means[of, k] + self.sd[of, k][:, None] * noise


def reference_mixture(dim: int, *, seed: int, n_classes: int = 4) -> GaussianMixture:
    """Return the reference problem: class centers N(0, 4 I), three components each, offset N(0, 0.64 I), sd 0.35.

    Parameters
    ----------
    dim
        Dimension of cells.
    seed
        Of centers and offsets.
    n_classes
        Number of classes.
    """
    rng = np.random.default_rng(seed)
    centers = 2.0 * rng.normal(size=(n_classes, 1, dim))
    means = centers + 0.8 * rng.normal(size=(n_classes, 3, dim))
    return GaussianMixture(
        jnp.asarray(means, jnp.float32),
        jnp.full((n_classes, 3), 0.35),
        jnp.broadcast_to(jnp.asarray([0.5, 0.3, 0.2]), (n_classes, 3)),
        jnp.full(n_classes, 1.0 / n_classes),
    )


class CompositeMixture(AbstractField):
    """Cells whose attributes each shift a round Gaussian, with the exact field for every set of known attributes.

    Parameters
    ----------
    joint
        Means of all combinations: ``joint[y_1, y_2]``; attributes are independent and uniform.
    sd
        Standard deviation of every combination.
    """

    joint: Float[Array, "a b d"]
    sd: float = eqx.field(static=True)

    @property
    def n_attributes(self) -> int:
        """Two."""
        return 2

    @property
    def dim(self) -> int:
        """Dimension of cells."""
        return self.joint.shape[-1]

    def __call__(
        self,
        z: Float[Array, "n d"],
        t: Float[Array, "#n"],
        labels: Int[Array, "n 2"],
        known: Bool[Array, "n 2"],
        depth: Float[Array, " n"] | None = None,
    ) -> Float[Array, "n d"]:
        """Return the exact velocity; see `AbstractField`."""
        a, b, d = self.joint.shape
        mu = self.joint.reshape(a * b, d)
        first, second = jnp.divmod(jnp.arange(a * b), b)
        other = (known[:, :1] & (first != labels[:, :1])) | (known[:, 1:] & (second != labels[:, 1:]))
        t = t[:, None]
        variance = t**2 * self.sd**2 + (1.0 - t) ** 2
        squared = jnp.sum(z**2, 1)[:, None] - 2.0 * t * (z @ mu.T) + t**2 * jnp.sum(mu**2, 1)
        g = jax.nn.softmax(jnp.where(other, -jnp.inf, -0.5 * squared / variance), axis=1)
        slope = (t * self.sd**2 - (1.0 - t)) / variance
        return (g @ mu) * (1.0 - slope * t) + slope * z

    def sample(self, labels: Int[Array, "n 2"], *, key: PRNGKeyArray) -> Float[Array, "n d"]:
        """Return draws of the combinations."""
        mean = self.joint[labels[:, 0], labels[:, 1]]
        return mean + self.sd * jr.normal(key, mean.shape, mean.dtype)

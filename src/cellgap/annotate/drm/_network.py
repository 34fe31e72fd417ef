"""A classifier with one head for every domain and one for all of them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from cellgap.errors import ConfigError
from cellgap.nn import Linear, Tower
from cellgap.storage import storable

Present = tuple[tuple[bool, ...], ...]


class HeadScores(eqx.Module):
    """What the heads say of a batch in training.

    Parameters
    ----------
    features
        Output of the featuriser.
    shared
        Scores of the shared head.
    own
        Scores of the domain heads.
    """

    features: Float[Array, "n width"]
    shared: Float[Array, "n classes"]
    own: Float[Array, "n domains classes"]


class _Through(eqx.Module):
    """The identity, put where a tower has its last layer, so that training returns features."""

    def __call__(self, x: Float[Array, "n width"]) -> Float[Array, "n width"]:
        return x


@storable
class DomainHeadsNet(eqx.Module):
    """A featuriser, one shared head and one head for every domain.

    The featuriser is a tower without its last layer, and that layer is the shared head: without domain heads the
    network is the tower, so the two are compared at equal architecture.

    Parameters
    ----------
    tower
        Featuriser and shared head.
    n_domains
        Number of domain heads.
    pooled
        True: a domain head is the shared head plus an offset that starts at 0, ``c_i = c_0 + d_i``. False: domain heads
        are independent, as published.
    present
        Classes that each domain has, (n_domains, classes); None is all of them. A domain head takes the scores of its
        absent classes from the shared head, and training does not move them through it: it cannot learn that they have
        probability 0.
    discriminator
        Whether a linear layer tells domains from features.
    key
        Random key of independent heads and the discriminator.

    Raises
    ------
    ConfigError
        `present` has another shape than the heads.

    Source
    ------
    Zhang et al. 2023 (arXiv 2208.08661) and its published code for independent heads beside a shared one; offsets and
    absent classes are ours.
    """

    tower: Tower
    weight: Float[Array, "domains width classes"]
    bias: Float[Array, "domains classes"]
    discriminator: Linear | None
    pooled: bool = eqx.field(static=True)
    # Static, not an array: an optimizer would take an array of booleans for a parameter.
    present: Present | None = eqx.field(static=True)

    def __init__(
        self,
        tower: Tower,
        n_domains: int,
        *,
        pooled: bool = True,
        present: Bool[np.ndarray, "domains classes"] | None = None,
        discriminator: bool = False,
        key: PRNGKeyArray,
    ):
        width, n_classes = tower.layers[-1].weight.shape
        if present is not None and present.shape != (n_domains, n_classes):
            raise ConfigError(f"`present` is ({n_domains} domains, {n_classes} classes), not {present.shape}.")
        key_heads, key_domains = jr.split(key)
        scale = 0.0 if pooled else width**-0.5
        self.tower = tower
        self.weight = scale * jr.normal(key_heads, (n_domains, width, n_classes))
        self.bias = jnp.zeros((n_domains, n_classes))
        self.discriminator = Linear(width, n_domains, key=key_domains) if discriminator else None
        self.pooled = pooled
        self.present = None if present is None else tuple(tuple(bool(there) for there in row) for row in present)

    @property
    def n_domains(self) -> int:
        """Number of domain heads."""
        return self.weight.shape[0]

    def __call__(self, x: Float[Array, "n features"]) -> Float[Array, "n classes"]:
        """Return the scores of the shared head."""
        return self.tower(x)

    def features(self, x: Float[Array, "n features"]) -> Float[Array, "n width"]:
        """Return what the heads see of every row."""
        return self.tower.hidden(x)

    def head_scores(self, x: Float[Array, "n features"]) -> Float[Array, "n heads classes"]:
        """Return the scores of every domain head and, last, of the shared head."""
        shared, own = self._scores(self.features(x))
        return jnp.concatenate([own, shared[:, None]], 1)

    def domain_scores(self, x: Float[Array, "n features"]) -> Float[Array, "n domains"]:
        """Return the scores of the discriminator.

        Raises
        ------
        ConfigError
            The network has none.
        """
        return self.domains_of(self.features(x))

    def domains_of(self, features: Float[Array, "n width"]) -> Float[Array, "n domains"]:
        """Return the scores of the discriminator, whose gradient does not reach the features."""
        if self.discriminator is None:
            raise ConfigError("The network has no domain discriminator: build it with discriminator=True.")
        return self.discriminator(jax.lax.stop_gradient(features))

    def training(self, x: Float[Array, "n features"]) -> tuple[Float[Array, "n classes"], "DomainHeadsNet"]:
        """Return the scores of the shared head in training, and the network with its running averages moved."""
        scores, moved = self.training_heads(x)
        return scores.shared, moved

    def training_heads(self, x: Float[Array, "n features"]) -> tuple[HeadScores, "DomainHeadsNet"]:
        """Return features and the scores of all heads in training, and the network with its averages moved."""
        body = eqx.tree_at(lambda t: t.layers[-1], self.tower, _Through())
        features, body = body.training(x)
        tower = eqx.tree_at(lambda t: t.layers[-1], body, self.tower.layers[-1])
        return HeadScores(features, *self._scores(features)), eqx.tree_at(lambda n: n.tower, self, tower)

    def _scores(
        self, features: Float[Array, "n width"]
    ) -> tuple[Float[Array, "n classes"], Float[Array, "n domains classes"]]:
        shared = self.tower.layers[-1](features)
        own = jnp.einsum("nw,kwc->nkc", features, self.weight) + self.bias
        if self.pooled:
            own = own + shared[:, None]
        if self.present is not None:
            own = jnp.where(jnp.asarray(self.present), own, jax.lax.stop_gradient(shared)[:, None])
        return shared, own

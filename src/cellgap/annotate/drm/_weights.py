"""How the heads of a network are weighed at a cell of an unseen domain: pure functions of arrays."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_FLOOR = 1e-3


def entropy_weights(
    log_probability: Float[Array, "n heads classes"], gamma: float, *, published: bool = False
) -> Float[Array, "n heads"]:
    """Return weights that favour heads of little entropy ``H_i``.

    Parameters
    ----------
    log_probability
        Of every head.
    gamma
        Weights are proportional to ``H_i^-gamma``; below 0 the head of least entropy has all the weight. ``H_i`` is at
        least ``1e-3 log(classes)``, or a saturated head would have infinite weight.
    published
        For `gamma` below 0, take one head for all cells, by its mean entropy over them, as the published predictor
        does: the answer for a cell then depends on the others.

    Source
    ------
    Zhang et al. 2023 (arXiv 2208.08661), by its published code. There, weights are normalized over all heads and the
    sum then leaves out the shared one; here they are normalized over the heads that are combined.
    """
    entropy = -jnp.sum(jnp.exp(log_probability) * jnp.maximum(log_probability, jnp.finfo(jnp.float32).min), -1)
    if gamma < 0:
        if published:
            entropy = jnp.broadcast_to(jnp.mean(entropy, 0, keepdims=True), entropy.shape)
        return _largest(-entropy)
    floored = jnp.maximum(entropy, _FLOOR * math.log(log_probability.shape[-1]))
    return jax.nn.softmax(-gamma * jnp.log(floored), -1)


def similarity(
    features: Float[Array, "n width"], prototypes: Float[Array, "domains width"], norm: float | None = None
) -> Float[Array, "n domains"]:
    """Return how similar cells are to prototypes: their cosine, or minus the distance in the given p-norm."""
    if norm is not None:
        return -jnp.linalg.norm(features[:, None] - prototypes, ord=norm, axis=-1)
    return _unit(features) @ _unit(prototypes).T


def similarity_weights(
    features: Float[Array, "n width"],
    prototypes: Float[Array, "domains width"],
    inverse_temperature: float = math.inf,
    *,
    norm: float | None = None,
) -> Float[Array, "n domains"]:
    """Return weights that favour domains whose prototype is similar to the cell.

    Parameters
    ----------
    features, prototypes
        See `prototypes_of`.
    inverse_temperature
        Of a softmax of similarities; infinite: the most similar domain has all the weight.
    norm
        None: cosine. A number p: minus the distance in the p-norm.

    Source
    ------
    Zhang et al. 2023 (arXiv 2208.08661). Its code takes the least similar domain where the similarity is a cosine;
    here it is always the most similar.
    """
    near = similarity(features, prototypes, norm)
    return _largest(near) if math.isinf(inverse_temperature) else jax.nn.softmax(inverse_temperature * near, -1)


def discriminator_weights(scores: Float[Array, "n domains"], *, hard: bool = False) -> Float[Array, "n domains"]:
    """Return the probabilities of domains that a discriminator gives, or all the weight to the most probable one."""
    return _largest(scores) if hard else jax.nn.softmax(scores, -1)


def mean_weights(log_probability: Float[Array, "n heads classes"]) -> Float[Array, "n heads"]:
    """Return equal weights."""
    n, heads, _ = log_probability.shape
    return jnp.full((n, heads), 1 / heads)


def combined(
    log_probability: Float[Array, "n heads classes"], weights: Float[Array, "n heads"]
) -> Float[Array, "n classes"]:
    """Return the log-probability of the mixture ``sum_i w_i p_i``.

    Where all heads agree it is theirs bit for bit: numerator and normalizer are then the same sum.
    """
    each = jnp.broadcast_to(weights[..., None], log_probability.shape)
    top = jnp.max(jnp.where(each > 0, log_probability, -jnp.inf), 1, keepdims=True)
    top = jnp.maximum(top, jnp.finfo(jnp.float32).min)  # a class that every head excludes
    excess = jnp.where(each > 0, log_probability - top, 0.0)
    return top[:, 0] + (jnp.log(jnp.sum(each * jnp.exp(excess), 1)) - jnp.log(jnp.sum(each, 1)))


def prototypes_of(
    features: Float[Array, "n width"], domain: Int[Array, " n"], n_domains: int
) -> Float[Array, "domains width"]:
    """Return the mean features of each domain's cells.

    It is the exact mean over all training cells, taken once after training. The published code averages the features
    of the last batches, which come from networks that are older than the one in use.
    """
    total = jax.ops.segment_sum(features, domain, n_domains)
    count = jax.ops.segment_sum(jnp.ones(len(domain)), domain, n_domains)
    return total / jnp.maximum(count, 1)[:, None]


def _largest(score: Float[Array, "n heads"]) -> Float[Array, "n heads"]:
    """Return all the weight on the largest, in equal parts where there are ties: no order of heads matters."""
    best: Bool[Array, "n heads"] = score >= jnp.max(score, -1, keepdims=True)
    return best / jnp.sum(best, -1, keepdims=True)


def _unit(rows: Float[Array, "n width"]) -> Float[Array, "n width"]:
    return rows / jnp.maximum(jnp.linalg.norm(rows, axis=-1, keepdims=True), jnp.finfo(jnp.float32).tiny)

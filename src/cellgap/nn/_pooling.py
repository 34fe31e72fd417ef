"""From the embedded members of a set to one vector: the mean, or attention."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from cellgap.nn._mlp import Linear
from cellgap.storage import storable

Pooling = Literal["mean", "attention"]


def mean_pool(embedded: Float[Array, "m h"], mask: Bool[Array, " m"]) -> Float[Array, " h"]:
    """Return the mean of the rows where `mask` is True; zeros where none is."""
    present = mask[:, None].astype(embedded.dtype)
    return jnp.sum(embedded * present, 0) / jnp.maximum(jnp.sum(present), 1.0)


@storable
class AttentionPooling(eqx.Module):
    """Attention over a set: every head weighs the members by a softmax of their scores.

    ``sum_i softmax_i(score_k(e_i)) e_i`` for each head `k`, the heads side by side, projected to the width of a member.
    The order of members is irrelevant and their number is a mask. No member gives the projection of zeros.

    Parameters
    ----------
    width
        Length of an embedded member.
    heads
        Number of heads.
    key
        Random key of the weights.

    Notes
    -----
    Source: Conditional Monge Gap (arXiv 2504.08328), attention over treatments. Deviation: no dropout.
    """

    score: Linear
    project: Linear

    def __init__(self, width: int, *, heads: int = 4, key: PRNGKeyArray):
        score, project = jr.split(key)
        self.score = Linear(width, heads, key=score)
        self.project = Linear(heads * width, width, key=project)

    def __call__(self, embedded: Float[Array, "m h"], mask: Bool[Array, " m"]) -> Float[Array, " h"]:
        """Return the pooled vector of the rows where `mask` is True."""
        present = mask[:, None]
        scores = jnp.where(present, self.score(embedded), -jnp.inf)
        # Without members the largest score is not finite, and must not reach the gradient.
        top = jax.lax.stop_gradient(jnp.where(jnp.any(mask), jnp.max(scores, 0), 0.0))
        weights = jnp.where(present, jnp.exp(jnp.where(present, scores - top, 0.0)), 0.0)
        weights = weights / jnp.maximum(jnp.sum(weights, 0), 1e-30)
        members = jnp.where(present, embedded, 0.0)
        return self.project((weights.T @ members).ravel())

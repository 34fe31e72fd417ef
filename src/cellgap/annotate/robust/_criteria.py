"""What an attack makes large: functions of the scores, one value a sample."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cellgap.errors import ConfigError

Criterion = Callable[[Float[Array, "n classes"], Int[Array, " n"]], Float[Array, " n"]]
_CALM = 10.0


def margin(scores: Float[Array, "n classes"], y: Int[Array, " n"]) -> Float[Array, " n"]:
    """Return the score of the true class less the largest of the others; a sample is right where it is above 0.

    A tie counts as an error, so that a classifier with equal scores for all classes is never right.
    """
    own = jax.nn.one_hot(y, scores.shape[-1], dtype=bool)
    return jnp.take_along_axis(scores, y[:, None], -1)[:, 0] - jnp.max(jnp.where(own, -jnp.inf, scores), -1)


def cross_entropy(scores: Float[Array, "n classes"], y: Int[Array, " n"]) -> Float[Array, " n"]:
    """Return ``-log S_y``."""
    return jax.nn.logsumexp(scores, -1) - jnp.take_along_axis(scores, y[:, None], -1)[:, 0]


def negative_margin(scores: Float[Array, "n classes"], y: Int[Array, " n"]) -> Float[Array, " n"]:
    """Return the largest score of the other classes less that of the true class."""
    return -margin(scores, y)


def difference_of_logits_ratio(scores: Float[Array, "n classes"], y: Int[Array, " n"]) -> Float[Array, " n"]:
    """Return the negative margin in units of the gap between the first and the third largest score.

    Neither shifting nor scaling the scores changes it, so large scores cannot hide the gradient. Three classes at
    least.

    Source
    ------
    Croce, Hein 2020 (arXiv 2003.01690), equation 6.
    """
    ordered = jax.lax.top_k(scores, 3)[0]
    return -margin(scores, y) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def temperature(scores: Float[Array, "n classes"]) -> Float[Array, " n"]:
    """Return what to divide each sample's scores by before a softmax whose gradient would vanish.

    1 where the largest probability is below 1 in the precision of the scores, else so much that the two largest scores
    lie 10 apart. Dividing does not change which class is predicted.
    """
    largest = jnp.max(jax.nn.softmax(scores, -1), -1)
    first, second = jnp.moveaxis(jax.lax.top_k(scores, 2)[0], -1, 0)
    saturated = largest >= 1 - jnp.finfo(scores.dtype).eps
    return jax.lax.stop_gradient(jnp.where(saturated, jnp.maximum((first - second) / _CALM, 1.0), 1.0))


_CRITERIA: dict[str, Criterion] = {
    "cross_entropy": cross_entropy,
    "margin": negative_margin,
    "dlr": difference_of_logits_ratio,
}


def criterion_of(loss: str, *known: str) -> Criterion:
    """Return the criterion of this name.

    Raises
    ------
    ConfigError
        It is none of `known`.
    """
    if loss not in known:
        raise ConfigError(f"loss={loss!r} is no loss of this attack: expected one of {', '.join(known)}.")
    return _CRITERIA[loss]

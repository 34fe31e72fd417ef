"""Rules that make one prediction of many heads, as the guarded choice compares them."""

from dataclasses import dataclass

import jax
from jaxtyping import Array, Float

from cellgap.annotate.drm._weights import combined, entropy_weights, similarity_weights
from cellgap.storage import storable


@storable
@dataclass(frozen=True)
class Rule:
    """How a prediction is made.

    Parameters
    ----------
    kind
        "erm": by a model that knows no domains. "shared": by the shared head. "similarity": by domain heads, weighed by
        a softmax of cosines to prototypes. "entropy": by all heads, weighed by their entropy after calibration.
    value
        Inverse temperature of similarities or power of entropies.
    """

    kind: str
    value: float = 0.0

    def __str__(self) -> str:
        if self.kind == "erm":
            return "ERM"
        if self.kind == "shared":
            return "shared head"
        if self.kind == "similarity":
            return f"similarity, inverse temperature {self.value:g}"
        return "least calibrated entropy" if self.value < 0 else f"calibrated entropy^-{self.value:g}"


def rule_log_probability(
    rule: Rule,
    scores: Float[Array, "n heads classes"],
    features: Float[Array, "n width"],
    prototypes: Float[Array, "domains width"],
    temperatures: Float[Array, " heads"],
) -> Float[Array, "n classes"]:
    """Return the log-probability of classes by a rule.

    Parameters
    ----------
    rule
        Any but "erm", which has no heads.
    scores
        Of the domain heads in the order of their prototypes and, last, of the shared head.
    features, prototypes
        See `similarity_weights`.
    temperatures
        Of the heads; their scores are divided by them.
    """
    log_p = jax.nn.log_softmax(scores / temperatures[:, None], -1)
    if rule.kind == "shared":
        return log_p[:, -1]
    if rule.kind == "similarity":
        return combined(log_p[:, :-1], similarity_weights(features, prototypes, rule.value))
    return combined(log_p, entropy_weights(log_p, rule.value))

"""What the guarded rule leaves: a prediction, the choice behind it, and where a target lies."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cellgap.annotate.drm._network import DomainHeadsNet
from cellgap.annotate.drm._rules import Rule, rule_log_probability
from cellgap.storage import storable


@storable
class Choice(eqx.Module):
    """What one rule reached on source domains that were left out in turn.

    Parameters
    ----------
    rule
        The rule.
    accuracy
        On every domain, left out.
    mean
        Over domains.
    gain
        Mean less that of ERM.
    se
        Standard error of the gain, paired over domains.
    """

    rule: Rule
    accuracy: Float[Array, " domains"]
    mean: float
    gain: float
    se: float


class Placement(NamedTuple):
    """Whether a target is among the sources or outside of them.

    Parameters
    ----------
    inside
        Whether its distance is within the threshold; None where there are too few sources to tell.
    distance
        Of the mean features of the target to the nearest prototype, in units of the spread of cells around theirs.
    threshold
        95th percentile of such distances of source domains that were left out.
    sentence
        The same in words.
    """

    inside: bool | None
    distance: float
    threshold: float
    sentence: str


@storable
class GuardedResult(eqx.Module):
    """A classifier for unseen domains that is domain-specific where that has paid, and plain otherwise.

    Parameters
    ----------
    erm
        The model without domains, trained on all cells.
    net
        The network with domain heads, trained on all cells; None where there are too few domains.
    rule
        The rule in use.
    sentence
        Why it is.
    choices
        All rules; ERM is the first.
    temperatures
        Of the domain heads and, last, of the shared head; (heads,).
    prototypes
        Mean features of the domains, (domains, width).
    spread
        Root mean square distance of cells to the prototype of their domain.
    threshold
        See `Placement`.
    """

    erm: Any
    net: DomainHeadsNet | None
    rule: Rule
    sentence: str
    choices: tuple[Choice, ...]
    temperatures: Float[Array, " heads"]
    prototypes: Float[Array, "domains width"]
    spread: float
    threshold: float

    def log_probability(self, x: Float[Array, "n features"], rule: Rule | None = None) -> Float[Array, "n classes"]:
        """Return the log-probability of every class, by the chosen rule or another one.

        Parameters
        ----------
        x
            Cells.
        rule
            Another rule than the chosen one, to compare.
        """
        rule = self.rule if rule is None else rule
        if rule.kind == "erm" or self.net is None:
            return jax.nn.log_softmax(eqx.filter_jit(_scores)(self.erm, x), -1)
        return eqx.filter_jit(_log_probability)(self.net, rule, x, self.prototypes, self.temperatures)

    def placement(self, x: Float[Array, "n features"]) -> Placement:
        """Return whether the cells of a target lie among the source domains.

        Weights by similarity have paid at targets outside of the sources, so this is worth knowing whatever rule was
        chosen.

        Parameters
        ----------
        x
            Cells of one target domain.
        """
        if self.net is None:
            nan = float("nan")
            return Placement(None, nan, nan, "With fewer than 3 source domains nothing says how far is far.")
        center = jnp.mean(eqx.filter_jit(_features)(self.net, x), 0)
        distance = float(nearest(center, self.prototypes)) / self.spread
        inside = distance <= self.threshold
        where = "inside the source domains: its" if inside else "outside the source domains: its"
        compared = "within" if inside else "above"
        return Placement(
            inside,
            distance,
            self.threshold,
            f"The target is {where} distance to the nearest prototype is {distance:.2f} spreads, {compared} the 95th "
            f"percentile {self.threshold:.2f} of source domains that were left out.",
        )

    def table(self) -> tuple[tuple[str, float, float, float], ...]:
        """Return rule, mean accuracy on domains left out, gain over ERM and its standard error, a row a rule."""
        return tuple((str(c.rule), c.mean, c.gain, c.se) for c in self.choices)


def nearest(center: Float[Array, " width"], prototypes: Float[Array, "domains width"]) -> Float[Array, ""]:
    """Return the distance to the nearest prototype."""
    return jnp.min(jnp.linalg.norm(prototypes - center, axis=1))


def _scores(net: Any, x: Float[Array, "n features"]) -> Float[Array, "n classes"]:
    return net(x)


def _features(net: DomainHeadsNet, x: Float[Array, "n features"]) -> Float[Array, "n width"]:
    return net.features(x)


def _log_probability(
    net: DomainHeadsNet,
    rule: Rule,
    x: Float[Array, "n features"],
    prototypes: Float[Array, "domains width"],
    temperatures: Float[Array, " heads"],
) -> Float[Array, "n classes"]:
    return rule_log_probability(rule, net.head_scores(x), net.features(x), prototypes, temperatures)

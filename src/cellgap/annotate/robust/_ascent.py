"""Projected gradient ascent: the one loop of the gradient attacks and of adversarial training."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cellgap.annotate.robust._ball import Region
from cellgap.annotate.robust._criteria import margin

PATH = 2.5  # radii that all steps of an ascent can go together
OfScores = Callable[[Float[Array, "n classes"]], Float[Array, " n"]]


class Attacked(eqx.Module):
    """The best input that an attack found for every sample.

    Parameters
    ----------
    x
        Attacked inputs; the clean one where nothing was worse.
    margin
        Score of the true class less the largest of the others, there.
    """

    x: Float[Array, "n d"]
    margin: Float[Array, " n"]

    @classmethod
    def clean(cls, net: Any, x: Float[Array, "n d"], y: Int[Array, " n"]) -> "Attacked":
        """Return the clean inputs, from which every attack starts to count."""
        return cls(x, margin(net(x), y))

    @property
    def robust(self) -> Bool[Array, " n"]:
        """Whether a sample is still right."""
        return self.margin > 0

    def worse(self, x: Float[Array, "n d"], found: Float[Array, " n"]) -> "Attacked":
        """Return the inputs of the smaller margin, sample by sample."""
        better = found < self.margin
        return Attacked(jnp.where(better[:, None], x, self.x), jnp.where(better, found, self.margin))


def slope(
    net: Any, of_scores: OfScores, x: Float[Array, "n d"]
) -> tuple[Float[Array, "n d"], Float[Array, " n"], Float[Array, "n classes"]]:
    """Return the gradient of a criterion in every input, its values, and the scores.

    The network is per sample at inference, so the gradient of the sum is the gradient of each.
    """

    def total(x: Float[Array, "n d"]):
        scores = net(x)
        values = of_scores(scores)
        return jnp.sum(values), (values, scores)

    gradient, (values, scores) = jax.grad(total, has_aux=True)(x)
    return gradient, values, scores


def ascend(
    net: Any,
    of_scores: OfScores,
    start: Float[Array, "n d"],
    best: Attacked,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    region: Region,
    steps: int | Int[Array, ""],
    step: float | Float[Array, ""],
) -> tuple[Float[Array, "n d"], Attacked]:
    """Return the last input of the ascent, and the worst of `best` and all that it passed through.

    Parameters
    ----------
    net
        Scores of inputs, at inference: a sample's scores do not depend on the others.
    of_scores
        What to make large.
    start
        Where to start, in the region.
    best
        The worst inputs so far, such as the clean ones.
    x, y
        Clean inputs and their classes.
    region
        Ball and domain around `x`.
    steps, step
        Number of steps, and their length in radii.
    """

    def move(_: Any, carry: tuple[Float[Array, "n d"], Attacked]) -> tuple[Float[Array, "n d"], Attacked]:
        at, best = carry
        gradient, _, scores = slope(net, of_scores, at)
        best = best.worse(at, margin(scores, y))
        return region.project(at + step * region.radius * region.steepest(gradient), x), best

    last, best = jax.lax.fori_loop(0, steps, move, (start, best))
    return last, best.worse(last, margin(net(last), y))

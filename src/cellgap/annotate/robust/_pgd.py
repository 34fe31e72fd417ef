"""Projected gradient descent on cross-entropy or margin, and towards each of the nearest other classes."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cellgap.annotate.robust._ascent import PATH, Attacked, ascend
from cellgap.annotate.robust._ball import Ball, Region
from cellgap.annotate.robust._criteria import Criterion, criterion_of, temperature


def pgd(
    net: Any,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    ball: Ball,
    *,
    steps: int = 20,
    restarts: int = 2,
    loss: str = "cross_entropy",
    key: PRNGKeyArray,
) -> Attacked:
    """Return the worst inputs that projected gradient descent finds.

    Every restart begins at random in the ball. Steps are 2.5 radii over `steps` long. Of all inputs on the way the one
    of the smallest margin is kept, whatever the loss. Scores so large that the softmax has no gradient are divided
    first (see `temperature`).

    Parameters
    ----------
    net
        ``net(x)`` returns scores (n, classes) at inference.
    x, y
        Clean inputs, and classes counted from 0.
    ball
        Threat model; `x` lies in its domain.
    steps, restarts
        How many; neither compiles another program.
    loss
        "cross_entropy" or "margin".
    key
        Random key of the starts.

    Raises
    ------
    ConfigError
        `loss` is neither.

    Source
    ------
    Madry et al. 2018 (arXiv 1706.06083).
    """
    criterion = criterion_of(loss, "cross_entropy", "margin")
    return _pgd(net, x, y, ball.region(), criterion, jnp.int32(steps), jnp.int32(restarts), key)


@eqx.filter_jit
def _pgd(
    net: Any,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    region: Region,
    criterion: Criterion,
    steps: Int[Array, ""],
    restarts: Int[Array, ""],
    key: PRNGKeyArray,
) -> Attacked:
    calm = temperature(net(x))[:, None]

    def of_scores(scores: Float[Array, "n classes"]) -> Float[Array, " n"]:
        return criterion(scores / calm, y)

    def once(i: Int[Array, ""], best: Attacked) -> Attacked:
        start = region.draw(jr.fold_in(key, i), x)
        return ascend(net, of_scores, start, best, x, y, region, steps, PATH / steps)[1]

    return jax.lax.fori_loop(0, restarts, once, Attacked.clean(net, x, y))


def targeted_pgd(
    net: Any,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    ball: Ball,
    *,
    steps: int = 20,
    n_targets: int = 9,
    key: PRNGKeyArray,
) -> Attacked:
    """Return the worst inputs of one attack towards each of the `n_targets` other classes of the largest clean score.

    Each attack makes the score of its class less that of the true class large, from one random start.

    Parameters
    ----------
    net, x, y, ball, steps, key
        As in `pgd`.
    n_targets
        Number of other classes; at most all of them.

    Source
    ------
    Gowal et al. 2019 (arXiv 1910.09338).
    """
    return _targeted(net, x, y, ball.region(), jnp.int32(steps), jnp.int32(n_targets), key)


@eqx.filter_jit
def _targeted(
    net: Any,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    region: Region,
    steps: Int[Array, ""],
    n_targets: Int[Array, ""],
    key: PRNGKeyArray,
) -> Attacked:
    scores = net(x)
    own = jax.nn.one_hot(y, scores.shape[1], dtype=bool)
    nearest = jnp.argsort(jnp.where(own, -jnp.inf, scores), axis=1, descending=True)

    def towards(i: Int[Array, ""], best: Attacked) -> Attacked:
        target = nearest[:, i]

        def of_scores(scores: Float[Array, "n classes"]) -> Float[Array, " n"]:
            both = jnp.take_along_axis(scores, jnp.stack([target, y], 1), 1)
            return both[:, 0] - both[:, 1]

        start = region.draw(jr.fold_in(key, i), x)
        return ascend(net, of_scores, start, best, x, y, region, steps, PATH / steps)[1]

    return jax.lax.fori_loop(0, jnp.minimum(n_targets, scores.shape[1] - 1), towards, Attacked.clean(net, x, y))

"""Three robust trainings: on attacked inputs, with a divergence from them, and with the move of score differences."""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray
from pydantic import Field

from cellgap.annotate.robust._ascent import PATH, Attacked, OfScores, ascend
from cellgap.annotate.robust._ball import Ball
from cellgap.annotate.robust._criteria import cross_entropy, temperature
from cellgap.annotate.robust._interface import AbstractRobust
from cellgap.annotate.robust._smooth_loss import comp_sum_at, differences, smooth_adversarial
from cellgap.settings import settings
from cellgap.train import Logs

_Steps = Annotated[int, Field(ge=1)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@settings
class PGDTraining(AbstractRobust):
    """The loss of attacked inputs alone.

    Parameters
    ----------
    ball
        Threat model.
    steps
        Of the attack on cross-entropy, 2.5 radii over `steps` long, from a random start.

    Source
    ------
    Madry et al. 2018 (arXiv 1706.06083).
    """

    ball: Ball
    steps: _Steps = 7

    @property
    def remedy(self) -> str:
        """See `AbstractRobust`."""
        return f"take a smaller radius than {self.ball.radius:g}, or train longer"

    def loss(
        self,
        net: Any,
        x: Float[Array, "n d"],
        y: Int[Array, " n"],
        key: PRNGKeyArray,
        progress: Float[Array, ""],
        tau: float | Float[Array, ""],
    ) -> tuple[Float[Array, ""], Any, Logs]:
        """See `AbstractRobust.loss`."""

        def of_clean(clean: Float[Array, "n classes"]) -> OfScores:
            calm = temperature(clean)[:, None]
            return lambda scores: cross_entropy(scores / calm, y)

        attacked = attacked_batch(net, x, y, self.ball, self.steps, of_clean, key)
        scores, moved = net.training(attacked)
        return jnp.mean(comp_sum_at(scores, y, tau)), moved, {}


@settings
class TRADES(AbstractRobust):
    """The loss of clean inputs plus `beta` times the divergence of the prediction at attacked ones.

    ``l(h(x), y) + beta * KL(softmax h(x) || softmax h(x'))``, with x' chosen for the divergence.

    Parameters
    ----------
    ball, steps
        As in `PGDTraining`; the attack is on the divergence.
    beta
        Weight of the divergence.

    Source
    ------
    Zhang et al. 2019 (arXiv 1901.08573). The attack starts anywhere in the ball, and not beside the clean input.
    """

    ball: Ball
    steps: _Steps = 7
    beta: _NotNegative = 6.0

    @property
    def remedy(self) -> str:
        """See `AbstractRobust`."""
        return f"take a smaller beta than {self.beta:g}, or a smaller radius than {self.ball.radius:g}"

    def loss(
        self,
        net: Any,
        x: Float[Array, "n d"],
        y: Int[Array, " n"],
        key: PRNGKeyArray,
        progress: Float[Array, ""],
        tau: float | Float[Array, ""],
    ) -> tuple[Float[Array, ""], Any, Logs]:
        """See `AbstractRobust.loss`."""

        def of_clean(clean: Float[Array, "n classes"]) -> OfScores:
            return lambda scores: _divergence(clean, scores)

        attacked = attacked_batch(net, x, y, self.ball, self.steps, of_clean, key)
        scores, moved = net.training(x)
        clean, divergence = jnp.mean(comp_sum_at(scores, y, tau)), jnp.mean(_divergence(scores, net(attacked)))
        return clean + self.beta * divergence, moved, {"clean": clean, "divergence": divergence}


@settings
class SmoothAdversarial(AbstractRobust):
    """The comp-sum loss of clean scores over `rho`, plus `nu` times how far an attack moves the score differences.

    See `smooth_adversarial`. The regularizer is a length and not its square: from a weight of some size on it pulls
    harder towards equal scores than the loss pulls away, and a network that starts there never leaves. So `nu` rises
    from 0.

    Parameters
    ----------
    ball
        Threat model.
    steps
        Of the attack on the length of the move, 2.5 radii over `steps` long, from a random start; 7 to 10.
    rho
        Scale of the scores.
    nu
        Weight of the move, chosen on held-out cells under attack. From `certified_nu` on the loss bounds the
        adversarial 0-1 loss; that has been too much to train.
    ramp
        Share of the training over which `nu` rises linearly from 0.

    Source
    ------
    Mao, Mohri, Zhong 2023 (arXiv 2304.07288), the algorithm for adversarial comp-sum losses; the ramp is ours.
    """

    ball: Ball
    steps: _Steps = 7
    rho: _Positive = 0.5
    nu: _NotNegative = 0.3
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.5

    @property
    def remedy(self) -> str:
        """See `AbstractRobust`."""
        return f"take a smaller nu than {self.nu:g}, or a longer ramp than {self.ramp:g}"

    def loss(
        self,
        net: Any,
        x: Float[Array, "n d"],
        y: Int[Array, " n"],
        key: PRNGKeyArray,
        progress: Float[Array, ""],
        tau: float | Float[Array, ""],
    ) -> tuple[Float[Array, ""], Any, Logs]:
        """See `AbstractRobust.loss`."""

        def of_clean(clean: Float[Array, "n classes"]) -> OfScores:
            fixed = differences(clean, y)
            return lambda scores: jnp.sum((differences(scores, y) - fixed) ** 2, -1)

        attacked = attacked_batch(net, x, y, self.ball, self.steps, of_clean, key)
        scores, moved = net.training(x)
        nu = self.nu * (jnp.minimum(progress / self.ramp, 1.0) if self.ramp > 0 else 1.0)
        # Gradients flow through both ends of the move.
        loss = jnp.mean(smooth_adversarial(scores, net(attacked)[:, None], y, tau, self.rho, nu))
        clean = jnp.mean(comp_sum_at(scores / self.rho, y, tau))
        return loss, moved, {"clean": clean, "nu": nu * jnp.ones(())}


def attacked_batch(
    net: Any,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    ball: Ball,
    steps: int,
    of_clean: Callable[[Float[Array, "n classes"]], OfScores],
    key: PRNGKeyArray,
) -> Float[Array, "n d"]:
    """Return the last inputs of an attack on a batch, as constants for the gradient of training.

    Parameters
    ----------
    net, x, y
        At inference, with clean inputs and their classes.
    ball, steps
        Threat model and number of steps.
    of_clean
        What to make large, as a function of the clean scores.
    key
        Random key of the start, which is never the clean input.
    """
    net = jax.tree.map(jax.lax.stop_gradient, net)
    region = ball.region()
    clean = net(x)
    none = Attacked(x, jnp.zeros(len(x), x.dtype))
    last, _ = ascend(net, of_clean(clean), region.draw(key, x), none, x, y, region, steps, PATH / steps)
    return jax.lax.stop_gradient(last)


def _divergence(clean: Float[Array, "n classes"], scores: Float[Array, "n classes"]) -> Float[Array, " n"]:
    ours, theirs = jax.nn.log_softmax(clean, -1), jax.nn.log_softmax(scores, -1)
    return jnp.sum(jnp.exp(ours) * (ours - theirs), -1)

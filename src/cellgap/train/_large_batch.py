"""Training with large batches: what to change, so that a run agrees with one that was tuned for small batches."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field

from cellgap.errors import ConfigError
from cellgap.settings import settings
from cellgap.train._fit import Loop

BatchRule = Literal["sqrt", "linear", "noise", "none"]


@dataclass(frozen=True)
class ScaledRun:
    """Settings of a run with another batch size.

    Parameters
    ----------
    learning_rate
        Scaled.
    loop
        With as many updates as asked for.
    clip
        Largest global norm of a gradient, after averaging over the batch; None clips nothing.
    sigma
        Standard deviation of the factors on the gradients of single cells, see `gradient_weights`; 0 is no noise.
    """

    learning_rate: float
    loop: Loop
    clip: float | None
    sigma: float


@settings
class LargeBatch:
    """How learning rate and length of a run change with the batch size.

    A gradient averaged over M cells has a covariance that falls as 1 / M, and that of an update falls as
    ``learning_rate^2 / M``. Rules "sqrt" and "noise" keep the covariance of updates, "linear" keeps their mean over an
    epoch. All are made for stochastic gradient descent (with momentum); optimizers such as Adam, which divide by the
    size of gradients, behave otherwise.

    Parameters
    ----------
    reference
        Batch size for which learning rate and number of epochs were chosen.
    rule
        With r the ratio of batch sizes: "sqrt" multiplies the learning rate by the square root of r, "linear" by r,
        "none" by 1. "noise" keeps it, and multiplies the gradient of every cell by a random factor.
    adapt_regime
        False keeps the number of epochs, which is r times less updates. True keeps the number of updates: that of
        epochs is multiplied by r, rounded up. A number multiplies by this number instead.
    clip
        Largest global norm of a gradient; None clips nothing.

    Source
    ------
    Hoffer, Hubara, Soudry 2017, "Train longer, generalize better" (arXiv 1705.08741): "sqrt", "noise" and the adapted
    regime; Goyal et al. 2017 (arXiv 1706.02677) for "linear".
    """

    reference: Annotated[int, Field(ge=1)] = 128
    rule: BatchRule = "sqrt"
    adapt_regime: bool | Annotated[float, Field(ge=1, allow_inf_nan=False)] = True
    clip: Annotated[float, Field(gt=0)] | None = 5.0

    def scaled(self, batch_size: int, learning_rate: float, loop: Loop) -> ScaledRun:
        """Return the settings of a run with `batch_size` cells a batch.

        Parameters
        ----------
        batch_size
            Of the run.
        learning_rate
            Which suits `reference`.
        loop
            Of the run before its regime is adapted: as many epochs of batches of `batch_size` as suit `reference`.
            Number of steps and steps between validations are multiplied, so that there are as many validations.

        Raises
        ------
        ConfigError
            The batch size is not positive, or is below `reference` where the rule is "noise".
        """
        if batch_size < 1:
            raise ConfigError(f"A batch has 1 cell or more, not {batch_size}.")
        ratio = batch_size / self.reference
        if self.rule == "noise" and ratio < 1:
            raise ConfigError(
                f'rule="noise" adds noise to batches above reference={self.reference}; {batch_size} is below: '
                'use rule="sqrt".'
            )
        factor = {"sqrt": math.sqrt(ratio), "linear": ratio}.get(self.rule, 1.0)
        longer = float(self.adapt_regime)
        if isinstance(self.adapt_regime, bool):
            longer = float(math.ceil(ratio)) if self.adapt_regime else 1.0
        adapted = dataclasses.replace(
            loop, n_steps=math.ceil(longer * loop.n_steps), valid_every=math.ceil(longer * loop.valid_every)
        )
        sigma = math.sqrt(ratio - 1) if self.rule == "noise" else 0.0
        return ScaledRun(learning_rate * factor, adapted, self.clip, sigma)


def gradient_weights(key: PRNGKeyArray, n: int, sigma: float | Float[Array, ""]) -> Float[Array, " n"]:
    """Return random factors on the losses of a batch's cells, normal with mean 1 and standard deviation `sigma`.

    The mean of gradients so weighted has the same mean, and a covariance of ``(1 + sigma^2) / n`` times the second
    moment of the gradients of single cells, up to the square of their mean: that of batches of
    ``n / (1 + sigma^2)`` cells. Factors can be negative. With batch statistics in a network, the loss of a cell depends
    on others, and factors on losses are only about factors on gradients.

    Parameters
    ----------
    key
        Random key.
    n
        Cells in the batch.
    sigma
        See `ScaledRun`.

    Source
    ------
    Hoffer, Hubara, Soudry 2017 (arXiv 1705.08741), section on matching weight increments.
    """
    return 1 + sigma * jr.normal(key, (n,))

"""Adversarial training of a classifier: what is refused before, the run, and what is refused after."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cellgap.annotate._labelled import Draw, Labelled
from cellgap.annotate._train_classifier import AbstractObjective, ClassifierState, train_classifier
from cellgap.annotate.robust._criteria import margin
from cellgap.annotate.robust._interface import AbstractRobust
from cellgap.errors import ConfigError, ConvergenceError
from cellgap.nn import trainable
from cellgap.train import FitResult, Logs, Loop

_LOOKED_AT = 10_000


class RobustObjective(AbstractObjective):
    """The loss of a robust training on random batches.

    Parameters
    ----------
    cells
        Training cells.
    robust
        Which training.
    tau
        Of the comp-sum loss.
    batch_size, draw
        See `Labelled.batch`.
    n_steps
        Length of the training, of which ramps are shares.
    """

    cells: Labelled
    robust: AbstractRobust = eqx.field(static=True)
    tau: float = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    draw: Draw = eqx.field(static=True)
    n_steps: int = eqx.field(static=True)

    def __call__(self, net: Any, key: PRNGKeyArray, step: Int[Array, ""]) -> tuple[Float[Array, ""], tuple[Any, Logs]]:
        """See `AbstractObjective`."""
        of_batch, of_attack = jr.split(key)
        batch = self.cells.batch(of_batch, self.batch_size, self.draw)
        progress = step.astype(batch.x.dtype) / self.n_steps
        loss, moved, logs = self.robust.loss(net, batch.x, batch.y, of_attack, progress, self.tau)
        return loss, (moved, logs)


def train_robust(
    net: Any,
    cells: Labelled,
    robust: AbstractRobust,
    optimizer: optax.GradientTransformation,
    loop: Loop,
    *,
    key: PRNGKeyArray,
    tau: float = 1.0,
    batch_size: int = 64,
    draw: Draw = "cells",
    clip: float | None = 5.0,
    validate: Any = None,
    folder: Path | None = None,
    fingerprint: str = "",
    progress: bool = False,
    title: str = "robust classifier",
) -> FitResult[ClassifierState]:
    """Return the trained state, of a classifier that is not constant.

    Parameters
    ----------
    net
        The network at its start, without running averages.
    cells
        Training cells, in the domain of the ball.
    robust
        Which training.
    tau
        Of the comp-sum loss.
    batch_size, draw
        See `Labelled.batch`.
    optimizer, loop, key, clip, validate, folder, fingerprint, progress, title
        As in `cellgap.annotate._train_classifier.train_classifier`. Where `validate` picks the state to keep, it has to
        attack cells that are neither trained on nor tested on: picking it on attacked test cells flatters.

    Raises
    ------
    ConfigError
        The network keeps running averages.
    ConvergenceError
        Training diverged, or ended with a classifier that is right on no more training cells than the largest class
        has.
    """
    refuse_running_averages(net)
    objective = RobustObjective(cells, robust, float(tau), batch_size, draw, loop.n_steps)
    result = train_classifier(
        net, objective, optimizer, loop, key=key, clip=clip, validate=validate, folder=folder, fingerprint=fingerprint,
        progress=progress, title=title,
    )  # fmt: skip
    if result.stopped != "interrupted":
        refuse_constant(result.best.net, cells, robust)
    return result


def refuse_running_averages(net: Any) -> None:
    """Raise a ConfigError where a network keeps running averages, as batch norm does."""
    if not all(leaf is True for leaf in jax.tree.leaves(trainable(net))):
        raise ConfigError(
            "Adversarial training needs a network without batch statistics, clean and attacked cells would share them: "
            'use norm="layer" or norm="none".'
        )


def refuse_constant(net: Any, cells: Labelled, robust: AbstractRobust) -> None:
    """Raise a ConvergenceError where a network is right on no more cells than the largest class has.

    At most 10,000 cells are looked at, evenly spaced.
    """
    rows = np.unique(np.linspace(0, len(cells) - 1, min(len(cells), _LOOKED_AT)).astype(int))
    looked = cells.rows(jnp.asarray(rows))
    right = int(_right(net, looked.x, looked.y))
    majority = int(np.bincount(np.asarray(looked.y)).max())
    if right <= majority:
        raise ConvergenceError(
            f"{type(robust).__name__} ended with a constant classifier: it is right on {right / len(rows):.1%} of the "
            f"training cells, and the largest class has {majority / len(rows):.1%}; {robust.remedy}."
        )


@eqx.filter_jit
def _right(net: Any, x: Float[Array, "n d"], y: Int[Array, " n"]) -> Int[Array, ""]:
    return jnp.sum(margin(net(x), y) > 0)

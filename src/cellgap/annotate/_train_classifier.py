"""Training of a classifier: one objective, AdamW or another optimizer, clipping, one loop."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cellgap.nn import trainable
from cellgap.train import FitResult, Logs, Loop, fit


class AbstractObjective(eqx.Module):
    """The loss of a network on a random batch of the cells that it holds."""

    @abstractmethod
    def __call__(self, net: Any, key: PRNGKeyArray, step: Int[Array, ""]) -> tuple[Float[Array, ""], tuple[Any, Logs]]:
        """Return the loss, the network with its running averages moved, and what to log (scalars).

        Parameters
        ----------
        net
            The network.
        key
            Random key of batch and noise.
        step
            Number of updates so far, for ramps.
        """


class ClassifierState(NamedTuple):
    """What training moves.

    Parameters
    ----------
    net
        The network, or several as one tree.
    optimizer
        Slots of the optimizer.
    step
        Updates so far.
    """

    net: Any
    optimizer: Any
    step: Int[Array, ""]


def train_classifier(
    net: Any,
    objective: AbstractObjective,
    optimizer: optax.GradientTransformation,
    loop: Loop,
    *,
    key: PRNGKeyArray,
    clip: float | None = 5.0,
    validate: Any = None,
    folder: Path | None = None,
    fingerprint: str = "",
    progress: bool = False,
    title: str = "classifier",
) -> FitResult[ClassifierState]:
    """Return the trained state; ``result.best.net`` is the network to keep.

    Parameters
    ----------
    net
        The network at its start; its running averages (see `cellgap.nn.trainable`) are moved by the objective.
    objective
        Loss and data.
    optimizer
        Such as ``optax.adamw``.
    clip
        Largest global norm of a gradient, after averaging over the batch and before the step; None clips nothing.
    validate
        Pure function of the state that returns logs with a value "valid" to minimize; None keeps the last state.
    loop, key, folder, fingerprint, progress, title
        As in `cellgap.train.fit`.
    """
    if clip is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(clip), optimizer)
    parameters = trainable(net)

    def step(objective: AbstractObjective, state: ClassifierState, key: PRNGKeyArray):
        learnt, kept = eqx.partition(state.net, parameters)

        def loss_of(learnt: Any):
            return objective(eqx.combine(learnt, kept), key, state.step)

        (loss, (moved, logs)), grads = eqx.filter_value_and_grad(loss_of, has_aux=True)(learnt)
        updates, slots = optimizer.update(grads, state.optimizer, learnt)
        params: Any = learnt  # modules are trees, which the annotations of optax do not say
        stepped: Any = eqx.combine(optax.apply_updates(params, updates), eqx.filter(moved, parameters, inverse=True))
        return ClassifierState(stepped, slots, state.step + 1), {"loss": loss} | logs

    slots: Any = jax.jit(optimizer.init)(eqx.filter(net, parameters))
    return fit(
        eqx.Partial(step, objective),
        ClassifierState(net, slots, jnp.int32(0)),
        key=key,
        loop=loop,
        validate=validate,
        folder=folder,
        fingerprint=fingerprint,
        progress=progress,
        title=title,
    )

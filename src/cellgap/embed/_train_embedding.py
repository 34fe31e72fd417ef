"""Training of one or several encoders on the same pairs: step, validation, schedule."""

import functools
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import PRNGKeyArray

from cellgap.embed._encoders import SphereEncoder
from cellgap.embed._objective import EmbeddingState, Objective, evaluated
from cellgap.nn import trainable
from cellgap.train import FitResult, Loop, fit

_VALID_BATCHES = 8


def train_embedding(
    nets: SphereEncoder,
    objective: Objective,
    valid: Objective | None,
    loop: Loop,
    *,
    learning_rate: float,
    weight_decay: float,
    warmup: int,
    final: float,
    key: PRNGKeyArray,
    folder: Path | None,
    fingerprint: str,
    progress: bool,
) -> FitResult[EmbeddingState]:
    """Return the trained state; every leaf has one row a run.

    Parameters
    ----------
    nets
        Networks at their start, one a run.
    objective
        On training cells.
    valid
        On held-out cells; None trains to the end and keeps the last state.
    loop, key, folder, fingerprint, progress
        As in `cellgap.train.fit`.
    learning_rate, weight_decay, warmup, final
        Of AdamW and its cosine schedule.
    """
    how = (loop.n_steps, learning_rate, weight_decay, warmup, final)
    slots: Any = jax.vmap(_optimizer_of(*how).init)(eqx.filter(nets, trainable(nets)))
    validate = None
    if valid is not None:
        validate = eqx.Partial(evaluated, valid, jr.split(jr.key(0), _VALID_BATCHES))
    return fit(
        eqx.Partial(_step_of(*how), objective),
        EmbeddingState(nets, slots),
        key=key,
        loop=loop,
        validate=validate,
        folder=folder,
        fingerprint=fingerprint,
        progress=progress,
        title="embedding",
    )


def _optimizer_of(
    n_steps: int, learning_rate: float, weight_decay: float, warmup: int, final: float
) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(
        0.0 if warmup else learning_rate,
        learning_rate,
        warmup,
        max(n_steps, warmup + 1),
        final * learning_rate,
    )
    return optax.adamw(schedule, weight_decay=weight_decay)


@functools.lru_cache(maxsize=16)
def _step_of(n_steps: int, learning_rate: float, weight_decay: float, warmup: int, final: float):
    """Return the function ``(objective, state, key) -> (state, logs)``; for the same arguments it is the same."""
    optimizer = _optimizer_of(n_steps, learning_rate, weight_decay, warmup, final)

    def update(objective: Objective, net: SphereEncoder, slots: Any, key: PRNGKeyArray):
        parameters = trainable(net)
        learnt, kept = eqx.partition(net, parameters)

        def loss_of(learnt: Any):
            return objective(eqx.combine(learnt, kept), key, training=True)

        (loss, (moved, alignment)), grads = eqx.filter_value_and_grad(loss_of, has_aux=True)(learnt)
        updates, slots = optimizer.update(grads, slots, learnt)
        params: Any = learnt  # modules are trees, which the annotations of optax do not say
        stepped: Any = eqx.combine(optax.apply_updates(params, updates), eqx.filter(moved, parameters, inverse=True))
        return stepped, slots, {"loss": loss, "alignment": alignment}

    def step(objective: Objective, state: EmbeddingState, key: PRNGKeyArray):
        runs = len(jax.tree.leaves(state.net)[0])
        # One run after the other inside one program: side by side their products would be many small ones.
        each = lambda given: update(objective, *given)  # noqa: E731
        keys = jax.vmap(lambda run: jr.fold_in(key, run))(jnp.arange(runs))
        net, slots, logs = jax.lax.map(each, (state.net, state.optimizer, keys))
        return EmbeddingState(net, slots), jax.tree.map(jnp.mean, logs)

    return step

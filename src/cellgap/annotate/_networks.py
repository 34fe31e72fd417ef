"""Training of several small networks by one compiled program, and their probabilities of cells."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PRNGKeyArray
from scipy.special import logsumexp

from cellgap.annotate._train_classifier import ClassifierState, train_classifier
from cellgap.annotate._views import ViewsObjective
from cellgap.annotate.drm import SideBySide
from cellgap.annotate.drm._side_by_side import apart
from cellgap.nn import Activation, GhostBatchNorm, Norm, Tower
from cellgap.train import DistanceLog, FitResult, Loop, record_distance, run_fingerprint

_POINTS = 40


def built(
    widths: tuple[int, ...], norm: Norm | GhostBatchNorm, activation: Activation, keys: Key[Array, " runs"]
) -> Tower:
    """Return towers at their start, one a key, as one tree."""

    def one(key: PRNGKeyArray) -> Tower:
        return Tower(widths, norm=norm, activation=activation, key=key)

    # One after the other inside one program, which compiles faster than side by side.
    return eqx.filter_jit(_each)(one, keys)


def _each(build: Callable[[PRNGKeyArray], Tower], keys: Key[Array, " runs"]) -> Tower:
    rest = eqx.filter(
        eqx.filter_eval_shape(build, keys[0]), lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct), inverse=True
    )
    return eqx.combine(jax.lax.map(lambda key: eqx.filter(build(key), eqx.is_array), keys), rest)


def schedule_of(learning_rate: float, warmup: int, n_steps: int) -> optax.Schedule:
    """Return a linear rise over `warmup` steps, then a cosine down to a hundredth."""
    warmup = min(warmup, n_steps - 1)
    start = 0.0 if warmup else learning_rate
    return optax.warmup_cosine_decay_schedule(start, learning_rate, warmup, n_steps, 0.01 * learning_rate)


def train_networks(
    nets: Tower,
    objectives: Sequence[ViewsObjective],
    loop: Loop,
    optimizer: optax.GradientTransformation,
    *,
    clip: float,
    key: PRNGKeyArray,
    folder: Path | None,
    settings: str,
    progress: bool,
    title: str,
) -> FitResult[ClassifierState]:
    """Return the trained networks, one an objective; the last entry of their optimizer state is a `RecordedDistance`.

    Parameters
    ----------
    nets
        Networks at their start, one an objective.
    objectives
        Of equal shape.
    loop
        Nothing is validated on the way: the last state counts.
    optimizer
        Without clipping.
    clip
        Largest global norm of the gradient of one network.
    key, folder, progress, title
        As in `cellgap.train.fit`.
    settings
        What, beside data and key, decides the run.
    """
    side = SideBySide.of(objectives)
    log = record_distance(DistanceLog.of(loop.n_steps, _POINTS))
    chain = apart(optax.chain(optax.clip_by_global_norm(clip), optimizer, log))
    fingerprint = "" if folder is None else run_fingerprint(settings, side, None, key)
    return train_classifier(
        nets, side, chain, loop, key=key, clip=None, folder=folder, fingerprint=fingerprint, progress=progress,
        title=title,
    )  # fmt: skip


def log_probabilities(
    nets: Tower, x: Float[np.ndarray, "runs cells features"]
) -> Float[np.ndarray, "runs cells classes"]:
    """Return the log-probabilities of every network on its own cells."""
    return np.asarray(_mapped(nets, jnp.asarray(x, jnp.float32)))


@eqx.filter_jit
def _mapped(nets: Any, x: Array) -> Array:
    arrays, rest = eqx.partition(nets, eqx.is_array)

    def one(given: Any) -> Array:
        net, cells = given
        return jax.nn.log_softmax(eqx.combine(net, rest)(cells), axis=1)

    return jax.lax.map(one, (arrays, x))


def distances_of(result: FitResult[ClassifierState], run: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of updates, and how far the weights of a run were from their start after them."""
    recorded = result.state.optimizer[-1]
    return jax.tree.map(lambda leaf: leaf[run], recorded.log).read()


def said_by(members: Any, x: np.ndarray) -> Float[np.ndarray, "cells classes"]:
    """Return the logarithm of the mean probability that several networks give the classes of cells."""
    n = jax.tree.leaves(members)[0].shape[0]
    parts = []
    for start in range(0, len(x), 8192):
        block = x[start : start + 8192]
        size = max(64, 1 << (len(block) - 1).bit_length())
        filled = np.zeros((size, x.shape[1]), np.float32)
        filled[: len(block)] = block
        said = log_probabilities(members, np.broadcast_to(filled, (n, *filled.shape)))
        parts.append((logsumexp(said, axis=0) - np.log(n))[: len(block)])
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros((0, 0))

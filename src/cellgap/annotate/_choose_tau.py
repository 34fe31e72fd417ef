"""The choice of tau by cross-validation: which comp-sum loss predicts the given labels of cells that it did not see.

Labels that are wrong at random are as frequent among held-out cells, where nobody can predict them: they lower the
accuracy of every tau alike, and leave the order of the taus. Labels that are wrong by a rule which a network can learn
are not found this way.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from cellgap.annotate._comp_sum import CompSum, comp_sum_traced
from cellgap.annotate._labelled import Draw, Labelled
from cellgap.annotate._train_classifier import AbstractObjective, train_classifier
from cellgap.annotate.drm._fold import Fold
from cellgap.annotate.drm._side_by_side import SideBySide, apart
from cellgap.errors import ConfigError, DataError
from cellgap.train import Logs, Loop

_LEAST_IN_A_FOLD = 2


class CompSumObjective(AbstractObjective):
    """The comp-sum loss of a network on random cells, with a tau that is an array.

    Parameters
    ----------
    data
        Training cells.
    tau
        Of the end of training; above 1 it rises, see `CompSum.tau_at`.
    loss
        The warm start.
    n_steps
        Updates of the whole training.
    batch_size, draw
        Of a batch, see `Labelled.batch`.
    """

    data: Labelled
    tau: Float[Array, ""]
    loss: CompSum = eqx.field(static=True)
    n_steps: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True, default=64)
    draw: Draw = eqx.field(static=True, default="cells")

    def __call__(self, net: Any, key: PRNGKeyArray, step: Int[Array, ""]) -> tuple[Float[Array, ""], tuple[Any, Logs]]:
        """Return the mean loss of a random batch, the moved network, and nothing more to log."""
        batch = self.data.batch(key, self.batch_size, self.draw)
        scores, moved = net.training(batch.x)
        tau = self.loss.tau_at(self.tau, step, self.n_steps)
        return jnp.mean(comp_sum_traced(scores, batch.y, tau)), (moved, {})


@dataclass(frozen=True)
class TauChoice:
    """The tau that was chosen, and on what grounds.

    Parameters
    ----------
    tau
        The choice.
    taus
        The candidates.
    accuracy
        Accuracy on the held-out cells of every fold by their given labels, (taus, folds); NaN for a single candidate,
        which is not trained.
    baseline
        The candidate nearest to 1, which is kept unless another is better beyond chance.
    gain, error
        Mean gain over the baseline of the candidate with the highest accuracy, and its standard error, paired over
        folds.
    """

    tau: float
    taus: tuple[float, ...]
    accuracy: Float[np.ndarray, "taus folds"]
    baseline: float
    gain: float
    error: float

    def __str__(self) -> str:
        """Return the choice as a sentence."""
        if len(self.taus) == 1:
            return f"tau {self.tau:g}, the only candidate"
        means = self.accuracy.mean(axis=1)
        each = ", ".join(f"{tau:g}: {100 * mean:.1f}" for tau, mean in zip(self.taus, means, strict=True))
        return (
            f"tau {self.tau:g}, by accuracy on the labels of {self.accuracy.shape[1]} held-out folds (%; {each}); gain "
            f"over tau {self.baseline:g} {100 * self.gain:.1f}, standard error {100 * self.error:.1f}"
        )


def choose_tau(
    data: Labelled,
    build: Callable[[PRNGKeyArray], Any],
    objective: Callable[[Labelled, Float[Array, ""]], AbstractObjective],
    optimizer: optax.GradientTransformation,
    loop: Loop,
    taus: tuple[float, ...],
    *,
    key: PRNGKeyArray,
    n_folds: int = 5,
    clip: float | None = 5.0,
) -> TauChoice:
    """Return the tau whose networks best predict the labels of held-out cells.

    One network is trained for every tau and fold, all by one compiled program; in a fold, every tau has the same start
    and the same batches. See `chosen` for the rule. Accuracy counts cells, not classes: with wrong labels, tau 2 can be
    the most accurate while it gives up on the rarest classes.

    Parameters
    ----------
    data
        Training cells, with the labels as they are given: wrong ones among them.
    build
        Network at its start, of a random key; it has ``training(x)`` and ``net(x)``, as `cellgap.nn.Tower`.
    objective
        Loss on given cells for a given tau, such as `CompSumObjective`; it draws batches of them and nothing else.
        Their domains are the folds.
    optimizer, loop, clip
        See `train_classifier`. The last state counts, not the best one: stopping early by held-out labels is a guard
        against wrong labels too, and would hide what tau does.
    taus
        The candidates.
    key
        Random key.
    n_folds
        Folds, each with its share of every class.

    Raises
    ------
    ConfigError
        There is no candidate, or fewer than 2 folds.
    DataError
        There are fewer than 2 cells a fold.
    """
    if not taus or n_folds < 2:
        raise ConfigError(f"A choice of tau needs candidates and 2 or more folds, found {taus} and n_folds={n_folds}.")
    if len(data) < _LEAST_IN_A_FOLD * n_folds:
        raise DataError(f"{n_folds} folds need {_LEAST_IN_A_FOLD * n_folds} or more cells, found {len(data)}.")
    if len(taus) == 1:
        return TauChoice(taus[0], taus, np.full((1, n_folds), np.nan), taus[0], 0.0, 0.0)
    key_folds, key_starts, key_batches, key_run = jr.split(key, 4)
    folds = stratified_folds(np.asarray(data.y), n_folds, key_folds)
    divided = Labelled.of(np.asarray(data.x), np.asarray(data.y), folds, n_classes=data.n_classes)
    divided = eqx.tree_at(lambda d: d.x, divided, data.x)
    without = [Fold.without(divided, fold) for fold in range(n_folds)]
    starts, batches = (jr.split(k, n_folds) for k in (key_starts, key_batches))
    runs = [(tau, fold) for tau in taus for fold in range(n_folds)]
    side = SideBySide.of([_Paired(objective(without[f], jnp.float32(tau)), batches[f]) for tau, f in runs])
    nets = eqx.filter_jit(_built)(build, starts[jnp.asarray([f for _, f in runs])])
    guard = optax.identity() if clip is None else optax.clip_by_global_norm(clip)
    result = train_classifier(nets, side, apart(optax.chain(guard, optimizer)), loop, key=key_run, clip=None)
    if result.stopped == "interrupted":
        raise KeyboardInterrupt
    right = np.asarray(eqx.filter_jit(_predicted)(result.state.net, data.x)) == np.asarray(data.y)
    accuracy = np.array([np.mean(row[folds == fold]) for row, (_, fold) in zip(right, runs, strict=True)])
    return chosen(taus, accuracy.reshape(len(taus), n_folds))


def chosen(taus: tuple[float, ...], accuracy: Float[np.ndarray, "taus folds"]) -> TauChoice:
    """Return the choice: the highest mean accuracy, if it passes the baseline by more than a standard error.

    The baseline is the candidate nearest to ``tau = 1``; the standard error is that of the difference, paired over
    folds.
    """
    means = accuracy.mean(axis=1)
    base = int(np.argmin(np.abs(np.asarray(taus) - 1.0)))
    best = int(np.argmax(means))
    difference = accuracy[best] - accuracy[base]
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    gain = float(difference.mean())
    return TauChoice(taus[best] if gain > error else taus[base], taus, accuracy, taus[base], gain, error)


def stratified_folds(y: Int[np.ndarray, " cells"], n_folds: int, key: PRNGKeyArray) -> Int[np.ndarray, " cells"]:
    """Return the fold of every cell: of equal size up to one cell, in all and in every class."""
    shuffled = np.asarray(jr.permutation(key, len(y)))
    by_class = shuffled[np.argsort(y[shuffled], kind="stable")]
    folds = np.empty(len(y), int)
    folds[by_class] = np.arange(len(y)) % n_folds
    return folds


class _Paired(AbstractObjective):
    """An objective that has the batches of its own key, whatever it is trained beside."""

    objective: AbstractObjective
    key: Key[Array, ""]

    def __call__(self, net: Any, key: PRNGKeyArray, step: Int[Array, ""]) -> tuple[Float[Array, ""], tuple[Any, Logs]]:
        return self.objective(net, jr.fold_in(self.key, step), step)


def _built(build: Callable[[PRNGKeyArray], Any], keys: Key[Array, " n"]) -> Any:
    return eqx.filter_vmap(build)(keys)


def _predicted(nets: Any, x: Float[Array, "cells features"]) -> Int[Array, "runs cells"]:
    """Return every network's class of every cell."""
    arrays, rest = eqx.partition(nets, eqx.is_array)
    return jax.lax.map(lambda net: jnp.argmax(eqx.combine(net, rest)(x), axis=1), arrays)

"""Networks of equal shape that are trained side by side, by one compiled program."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from cellgap.annotate._labelled import Labelled
from cellgap.annotate._train_classifier import AbstractObjective, train_classifier
from cellgap.train import Logs, Loop


class SideBySide(AbstractObjective):
    """The sum of the losses of several networks, each on its own data: no gradient of one reaches another.

    Networks are computed as one batch: they are small, and on CPUs one operation on all of them costs less than many
    small ones.

    Parameters
    ----------
    varying
        What differs between the objectives, stacked.
    shared
        What is the same array in all of them, once.
    """

    varying: Any
    shared: Any

    @classmethod
    def of(cls, objectives: Sequence[AbstractObjective]) -> "SideBySide":
        """Return objectives of equal shape as one; an array that is the same object in all of them is kept once."""
        columns = zip(*(jax.tree.leaves(o) for o in objectives), strict=True)
        same = [eqx.is_array(column[0]) and all(leaf is column[0] for leaf in column) for column in columns]
        one = objectives[0]
        is_shared = jax.tree.unflatten(jax.tree.structure(one), same)
        shared = eqx.filter(one, is_shared)
        rest = [eqx.filter(objective, is_shared, inverse=True) for objective in objectives]
        return cls(stacked(rest), shared)

    def __call__(self, net: Any, key: PRNGKeyArray, step: Int[Array, ""]) -> tuple[Float[Array, ""], tuple[Any, Logs]]:
        """Return the sum of losses, the moved networks, and the mean of every log."""
        n = jax.tree.leaves(net)[0].shape[0]

        def one(net: Any, varying: Any, key: PRNGKeyArray) -> Any:
            return eqx.combine(varying, self.shared)(net, key, step)

        losses, (moved, logs) = jax.vmap(one)(net, self.varying, jr.split(key, n))
        return jnp.sum(losses), (moved, jax.tree.map(jnp.mean, logs))


@dataclass(frozen=True)
class Trainer:
    """How a classifier is built and trained, on one set of cells or on several of equal shape.

    Parameters
    ----------
    build
        Network at its start, of a random key.
    objective
        Loss on given cells; it may draw batches of them and nothing else, since folds hide a domain that way.
    optimizer, loop, clip
        See `train_classifier`.
    """

    build: Callable[[PRNGKeyArray], Any]
    objective: Callable[[Labelled], AbstractObjective]
    optimizer: optax.GradientTransformation
    loop: Loop
    clip: float | None = 5.0

    def __call__(self, data: Labelled, key: PRNGKeyArray) -> Any:
        """Return the trained network."""
        return self.each([data], key)[0]

    def each(self, data: Sequence[Labelled], key: PRNGKeyArray) -> list[Any]:
        """Return one trained network for each set of cells; all start alike and have their own batches."""
        key_net, key_run = jr.split(key)
        starts = eqx.filter_jit(_built)(self.build, jnp.repeat(key_net[None], len(data)))
        clip = optax.identity() if self.clip is None else optax.clip_by_global_norm(self.clip)
        objective = SideBySide.of([self.objective(cells) for cells in data])
        optimizer = apart(optax.chain(clip, self.optimizer))
        result = train_classifier(starts, objective, optimizer, self.loop, key=key_run, clip=None)
        if result.stopped == "interrupted":
            raise KeyboardInterrupt
        nets = result.best.net
        return [unstacked(nets, i) for i in range(len(data))]


def apart(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return an optimizer of stacked networks that treats each by itself, its global norm included."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return jax.vmap(optimizer.update)(updates, state, params)

    return optax.GradientTransformation(jax.vmap(optimizer.init), update)


def stacked(trees: Sequence[Any]) -> Any:
    """Return trees of equal structure as one, whose arrays have a new first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstacked(tree: Any, index: int) -> Any:
    """Return one of the trees."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _built(build: Callable[[PRNGKeyArray], Any], keys: Key[Array, " n"]) -> Any:
    return eqx.filter_vmap(build)(keys)

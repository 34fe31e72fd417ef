"""Models of single conditions, trained side by side: one compiled program, whatever the number of conditions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from cellgap.study import Condition, Role
from cellgap.train import FitResult, Loop, fit
from cellgap.transport._codes import Codes


class Judge(NamedTuple):
    """How states are judged on held-out cells.

    Parameters
    ----------
    energy
        Function of data, state and position in `at` to the energy distance of every fold.
    data
        Its arrays.
    at
        Numbers of the conditions that have held-out cells.
    """

    energy: Callable[[Any, Any, Array], Array]
    data: Any
    at: tuple[int, ...]


class EachResult(NamedTuple):
    """What training side by side leaves: stacked states that are kept, the step of each, and the run."""

    kept: Any
    steps: tuple[int, ...]
    run: FitResult[Any]


def fit_each(
    step: Callable[[Any, Array, Any, PRNGKeyArray], tuple[Any, dict[str, Array]]],
    data: Any,
    states: Any,
    judge: Judge | None,
    *,
    key: PRNGKeyArray,
    loop: Loop,
    folder: Path | None,
    fingerprint: str,
    progress: bool,
    title: str,
) -> EachResult:
    """Return one trained state a condition.

    The conditions run one after the other within a step, so that each has the cache for itself. All are validated
    together; a condition that the chosen step does not bring closer to its held-out cells keeps its start.

    Parameters
    ----------
    step
        Function of data, number of the condition, its state and a key, to its state and logs.
    data
        Arrays that `step` reads.
    states
        States at their start, stacked.
    judge
        How states are judged; None keeps the last.
    key, loop, folder, fingerprint, progress, title
        As in `cellgap.train.fit`.
    """
    ks = jnp.arange(jax.tree.leaves(states)[0].shape[0])

    def all_of_them(data: Any, states: Any, key: PRNGKeyArray):
        def one(item):
            k, state = item
            return step(data, k, state, jr.fold_in(key, k))

        states, logs = jax.lax.map(one, (ks, states))
        return states, jax.tree.map(jnp.mean, logs)

    energies = None if judge is None else eqx.Partial(_energies(judge), judge.data)
    run = fit(
        eqx.Partial(all_of_them, data),
        # The start is looked at again below, and `fit` donates the buffers of what it is given.
        jax.tree.map(jnp.array, states),
        key=key,
        loop=loop,
        validate=None if energies is None else eqx.Partial(_mean_of, energies),
        folder=folder,
        fingerprint=fingerprint,
        progress=progress,
        title=title,
    )
    better = np.ones(len(ks), bool)
    if judge is not None and energies is not None:
        values = eqx.filter_jit(lambda energies, states: energies(states))
        gain = np.asarray(values(energies, states)) - np.asarray(values(energies, run.best))
        folds = gain.shape[1]
        noise = gain.std(1, ddof=1) / np.sqrt(folds) if folds > 1 else 0.0
        better[list(judge.at)] = gain.mean(1) > noise

    def chosen(start: Array, trained: Array) -> Array:
        return jnp.where(better.reshape(-1, *[1] * (start.ndim - 1)), trained, start)

    steps = tuple(run.best_step if good else 0 for good in better)
    return EachResult(jax.tree.map(chosen, states, run.best), steps, run)


def _mean_of(energies: Any, states: Any):
    """Return the mean over conditions: one may get worse while others gain, and is looked at by itself afterwards."""
    return {"valid": jnp.mean(energies(states))}


def _energies(judge: Judge):
    at, energy = jnp.asarray(judge.at, jnp.int32), judge.energy

    def energies(data: Any, states: Any):
        def one(item):
            i, k = item
            return energy(data, jax.tree.map(lambda leaf: leaf[k], states), i)

        return jax.lax.map(one, (jnp.arange(len(judge.at)), at))

    return energies


def stacked(make: Callable[[PRNGKeyArray], Any], key: PRNGKeyArray, n: int) -> Any:
    """Return `n` trees of arrays that `make` draws from keys of their own, stacked; one compiled program."""
    return eqx.filter_jit(eqx.filter_vmap(make))(jr.split(key, n))


def held_out_conditions(codes: Codes) -> tuple[tuple[int, ...], tuple[Condition, ...]]:
    """Return numbers and conditions of those trained on that have held-out cells, two or more on both sides."""
    found = [
        (k, c)
        for k, c in enumerate(codes.split.train_conditions)
        if min(len(codes.rows(c, Role.VALID)), len(codes.rows(c.control, Role.VALID))) >= 2
    ]
    return tuple(k for k, _ in found), tuple(c for _, c in found)

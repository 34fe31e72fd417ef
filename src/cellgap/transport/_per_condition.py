"""One Monge map for every measured condition, trained side by side."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field

from cellgap.encode import AbstractEncoder, FittedEncoder
from cellgap.gap import Gap
from cellgap.nn import PerturbationNet
from cellgap.ot import Cost
from cellgap.settings import settings
from cellgap.space import AbstractFittedSpace, AbstractSpace
from cellgap.storage import storable
from cellgap.study import Condition, Role, Split
from cellgap.train import run_fingerprint
from cellgap.transport._affine import Start, affine, displacement, fit_affine_path
from cellgap.transport._codes import Codes, Moments
from cellgap.transport._conditional_monge import ConditionalMonge, Widths
from cellgap.transport._each import Judge, fit_each, held_out_conditions, stacked
from cellgap.transport._familiarity import Vocabulary
from cellgap.transport._gaps import map_gaps
from cellgap.transport._held_out import fold_count
from cellgap.transport._map import AbstractMap, vocabulary_of
from cellgap.transport._measured import trained_number
from cellgap.transport._objective import FitLoss
from cellgap.transport._problem import Problem, largest_batch, largest_gap_batch
from cellgap.transport._train_map import Optimization, held_out_energy, map_start, map_step
from cellgap.transport._training_data import VALID_CELLS, training_problem


@settings
class PerCondition:
    """One Monge map for every condition that was trained on: what a conditional map can hope to reach there.

    As `Monge` for each condition, with one compiled program for all. It answers for conditions that were trained on.

    Parameters
    ----------
    space, encoder
        Where cells live; the encoder describes conditions in reports only.
    start, fit_loss, cost, gap_cost, epsilon, gap_epsilon, relative, gap_weight, hidden, optimization
        As in `Monge`; a step updates the map of every condition. Relative epsilons are in units of the mean cost over
        all conditions.
    """

    space: AbstractSpace
    encoder: AbstractEncoder
    start: Start = "gaussian"
    fit_loss: FitLoss = "two_batch"
    cost: Cost = "euclidean"
    gap_cost: Cost = "euclidean"
    epsilon: Annotated[float, Field(gt=0)] = 0.1
    gap_epsilon: Annotated[float, Field(gt=0)] = 0.001
    relative: bool = True
    gap_weight: Annotated[float, Field(ge=0)] = 1.0
    hidden: Widths = (64, 64, 64, 64)
    optimization: Optimization = Optimization()

    def fit(
        self, split: Split, *, key: PRNGKeyArray, folder: str | Path | None = None, progress: bool = False
    ) -> "FittedPerCondition":
        """Return the maps fitted on a split's training cells; arguments and errors as in `ConditionalMonge.fit`."""
        codes = Codes.of(split, self.space, self.encoder, progress=progress)
        return self.fit_codes(codes, key=key, folder=folder, progress=progress)

    def fit_codes(
        self, codes: Codes, *, key: PRNGKeyArray, folder: str | Path | None = None, progress: bool = False
    ) -> "FittedPerCondition":
        """Return the maps fitted on encoded cells; see `fit`."""
        conditions = codes.split.train_conditions
        center, shifts, linears = closed_forms(codes.moments, self.start)
        path = fit_affine_path(codes, "identity")

        def problem_of(chosen: tuple[Condition, ...], role: Role, at: tuple[int, ...], most: int | None = None):
            rows = training_problem(codes, chosen, role, path, most=most)
            these = jnp.asarray(at)
            starts = (center, shifts[these], None if linears is None else linears[these])
            return cells_only(rows, *starts)

        problem = problem_of(conditions, Role.TRAIN, tuple(range(len(conditions))))
        at, held = held_out_conditions(codes)
        judge = None
        if held:
            valid = problem_of(held, Role.VALID, at, VALID_CELLS)
            n_folds = fold_count(valid)
            judge = Judge(lambda valid, state, i: held_out_energy(state.average, valid, i, n_folds), valid, at)
        n, padded = largest_batch(problem, self.optimization.batch_size)
        size = self.optimization.gap_batch_size
        gap_rows = None if size is None else largest_gap_batch(problem, size)
        step = map_step(objective_of(self, codes), self.optimization, n, padded=padded, gap_rows=gap_rows)
        key_net, key_run = jr.split(key)
        one = _single(problem, jnp.int32(0))

        def start(key: PRNGKeyArray):
            return map_start(cell_network(codes.space.dim, self.hidden, key), one, self.optimization)

        result = fit_each(
            lambda problem, k, state, key: step(_single(problem, k), state, key),
            problem,
            stacked(start, key_net, len(conditions)),
            judge,
            key=key_run,
            loop=self.optimization.loop,
            folder=None if folder is None else Path(folder),
            fingerprint=""
            if folder is None
            else run_fingerprint(repr(self), problem, None if judge is None else judge.data, key),
            progress=progress,
            title="Monge maps",
        )
        fitted = FittedPerCondition(
            "Monge per condition",
            codes.space,
            codes.encoder,
            vocabulary_of(codes),
            (),
            center,
            shifts,
            linears,
            result.kept.average,
            tuple(result.run.history),
            result.steps,
            result.run.stopped,
        )
        return dataclasses.replace(fitted, measured_gaps=map_gaps(fitted, codes))


@storable
class FittedPerCondition(AbstractMap):
    """See `PerCondition`.

    Parameters
    ----------
    center, shifts, linears
        Closed-form map of every training condition, which the networks start from.
    nets
        Networks, stacked.
    history
        One row a chunk of training, means over conditions.
    best_steps
        Step of the weights that are kept for every training condition (0: the start).
    stopped
        How training ended.
    """

    name: str
    space: AbstractFittedSpace
    encoder: FittedEncoder
    vocabulary: Vocabulary
    measured_gaps: tuple[Gap, ...]
    center: Float[Array, " d"]
    shifts: Float[Array, "k d"]
    linears: Float[Array, "k d d"] | None
    nets: PerturbationNet
    history: tuple[dict[str, Any], ...]
    best_steps: tuple[int, ...]
    stopped: str

    def transport(self, z: np.ndarray, condition: Condition) -> np.ndarray:
        """Return the mapped cells, for a condition that was trained on; see `AbstractMap.transport`."""
        if condition.is_control:
            return z
        k = jnp.int32(trained_number(self.vocabulary, condition, self.name))
        stack = (self.nets, self.shifts, self.linears)
        return np.asarray(_moved(stack, self.center, jnp.asarray(z), k))


@eqx.filter_jit
def _moved(stack: Any, center: Array, z: Array, k: Array) -> Array:
    net, shift, linear = jax.tree.map(lambda leaf: leaf[k], stack)
    return move_cells(net, z, (center, shift, linear))


def _single(problem: Problem, k: Array) -> Problem:
    """Return the problem of condition `k` alone, of the same shapes for every condition."""

    def row(leaf: Array) -> Array:
        return leaf[k][None]

    rows = {name: jax.tree.map(row, getattr(problem, name)) for name in _BY_CONDITION}
    return dataclasses.replace(problem, **rows)


_BY_CONDITION = ("source_of", "targets", "entities", "mask", "context", "shifts", "linears")


def closed_forms(
    moments: tuple[Moments, ...], start: Start
) -> tuple[Float[Array, " d"], Float[Array, "k d"], Float[Array, "k d d"] | None]:
    """Return center, shifts and linear parts of conditions' own closed-form maps; see `AffinePath`."""
    center = np.mean([m.control_mean for m in moments], axis=0)
    shifts, linears = zip(*(displacement(m, center, start) for m in moments), strict=True)
    linear = jnp.asarray(np.stack(linears), jnp.float32) if start == "gaussian" else None
    return jnp.asarray(center, jnp.float32), jnp.asarray(np.stack(shifts), jnp.float32), linear


def cells_only(
    problem: Problem, center: Float[Array, " d"], shifts: Float[Array, "k d"], linears: Float[Array, "k d d"] | None
) -> Problem:
    """Return a problem whose conditions have no vectors, with given closed-form maps: networks see cells only."""
    k = problem.n_conditions
    return dataclasses.replace(
        problem,
        entities=jnp.zeros((k, 1, 0)),
        mask=jnp.ones((k, 1), bool),
        context=jnp.zeros((k, 0)),
        center=center,
        shifts=shifts,
        linears=linears,
    )


def cell_network(d: int, hidden: Widths, key: PRNGKeyArray) -> PerturbationNet:
    """Return a network that sees cells only, near zero."""
    return PerturbationNet(d, 0, 0, hidden=hidden, embedding=1, conditioning="concat", key=key)


def move_cells(net: PerturbationNet, z: Array, start: tuple[Array, Array, Array | None]) -> Array:
    """Return cells moved by a closed-form map plus a network that sees cells only."""
    moved = net(z, jnp.zeros((1, 0)), jnp.ones(1, bool), jnp.zeros(0))
    return affine(z, *start) + (moved - z)


def objective_of(estimator: Any, codes: Codes):
    """Return the objective of an estimator that has the settings of `ConditionalMonge`, as that would make it."""
    names = ("fit_loss", "cost", "gap_cost", "epsilon", "gap_epsilon", "relative", "gap_weight")
    shared = {name: getattr(estimator, name) for name in names}
    return ConditionalMonge(estimator.space, estimator.encoder, **shared).objective(codes)

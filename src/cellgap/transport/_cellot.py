"""CellOT: the map of a measured condition as the gradient of a convex network."""

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from cellgap.encode import AbstractEncoder, FittedEncoder
from cellgap.gap import Gap
from cellgap.nn import ICNN, ConvexActivation, Quadratic, potential_gradient
from cellgap.settings import settings
from cellgap.space import AbstractFittedSpace, AbstractSpace
from cellgap.storage import storable
from cellgap.study import Condition, Role, Split
from cellgap.train import Loop, run_fingerprint
from cellgap.transport._affine import fit_affine_path
from cellgap.transport._codes import Codes
from cellgap.transport._conditional_monge import Widths
from cellgap.transport._dual import (
    DualOptimization,
    DualProblem,
    DualStart,
    Pair,
    Potential,
    dual_energy,
    dual_start,
    dual_step,
    pair_of,
    quadratic_starts,
    scale_of,
)
from cellgap.transport._dual_gaps import dual_gaps
from cellgap.transport._each import Judge, fit_each, held_out_conditions, stacked
from cellgap.transport._familiarity import Vocabulary
from cellgap.transport._held_out import fold_count
from cellgap.transport._map import AbstractMap, vocabulary_of
from cellgap.transport._measured import named, trained_number
from cellgap.transport._monge import only
from cellgap.transport._training_data import VALID_CELLS, training_problem


@settings
class CellOT:
    """One map for every condition that was trained on: the gradient of a convex function of cells.

    Two convex networks solve the dual of optimal transport for the squared Euclidean cost: the gradient of `g` moves
    control cells, the gradient of `f` moves treated cells back.
    ``min_f max_g E[f(y)] + E[<x, grad g(x)> - f(grad g(x))]``.

    Parameters
    ----------
    space, encoder
        Where cells live; the encoder describes conditions in reports only.
    condition
        Text of the one condition to fit; None fits a pair of networks for every training condition, side by side.
    start
        Quadratic potential that the networks are added to: ``"gaussian"`` gives the Gaussian (Bures) map,
        ``"shift"`` the mean shift, ``"identity"`` no movement; ``"random"`` has none, and all weights are drawn from
        uniform(0, 0.1), as published.
    activation
        ``"softplus"`` for smooth maps, ``"leaky_relu"`` as published.
    hidden
        Widths of the hidden layers.
    optimization
        See `DualOptimization`.

    Notes
    -----
    Source: Bunne et al. 2023 (Nature Methods 20, 1759-1768); losses of Makkuva et al. 2020. Deviations, undone by
    `reference`: Gaussian start, softplus, both networks kept convex, averaged weights, a decaying learning rate ten
    times as large, and validation by the unbiased energy distance (published: maximum mean discrepancy).
    """

    space: AbstractSpace
    encoder: AbstractEncoder
    condition: str | None = None
    start: DualStart = "gaussian"
    activation: ConvexActivation = "softplus"
    hidden: Widths = (64, 64, 64, 64)
    optimization: DualOptimization = DualOptimization()

    @classmethod
    def reference(cls, space: AbstractSpace, encoder: AbstractEncoder, condition: str | None = None) -> "CellOT":
        """Return the published settings: 100,000 steps of 10 inner ones, batches of 256, Adam 1e-4 without decay."""
        optimization = DualOptimization(
            loop=Loop(n_steps=100_000, chunk=100, valid_every=250, checkpoint_every=1000),
            learning_rate=1e-4,
            decay=False,
            ema=0.0,
            penalty=1.0,
        )
        return cls(space, encoder, condition, "random", "leaky_relu", (64, 64, 64, 64), optimization)

    def fit(
        self, split: Split, *, key: PRNGKeyArray, folder: str | Path | None = None, progress: bool = False
    ) -> "FittedCellOT":
        """Return the maps fitted on a split's training cells; arguments as in `ConditionalMonge.fit`.

        Raises
        ------
        SplitError
            The split leaks or leaves nothing to train on.
        ConditionError
            The named condition is not trained on.
        ConvergenceError
            Training diverged.
        """
        codes = Codes.of(split, self.space, self.encoder, progress=progress)
        return self.fit_codes(codes, key=key, folder=folder, progress=progress)

    def fit_codes(
        self, codes: Codes, *, key: PRNGKeyArray, folder: str | Path | None = None, progress: bool = False
    ) -> "FittedCellOT":
        """Return the maps fitted on encoded cells; see `fit`."""
        if self.condition is not None:
            codes = dataclasses.replace(codes, split=only(codes.split, named(codes.split, self.condition)))
        conditions = codes.split.train_conditions
        key_net, key_run = jr.split(key)
        unit = jnp.float32(scale_of(codes, self.start))
        forward, backward = quadratic_starts(codes, self.start)
        path = fit_affine_path(codes, "identity")

        def problem_of(chosen: tuple[Condition, ...], role: Role, at: tuple[int, ...], most: int | None = None):
            rows = training_problem(codes, chosen, role, path, most=most)
            bases = [jax.tree.map(lambda leaf: leaf[jnp.asarray(at)], base) for base in (forward, backward)]
            return DualProblem(rows, jnp.zeros((len(chosen), 0)), bases[0], bases[1], unit)

        problem = problem_of(conditions, Role.TRAIN, tuple(range(len(conditions))))
        at, held = held_out_conditions(codes)
        judge = None
        if held:
            valid = problem_of(held, Role.VALID, at, VALID_CELLS)
            n_folds = fold_count(valid.rows)
            judge = Judge(lambda valid, state, i: dual_energy(state.average, valid, i, n_folds), valid, at)
        step = dual_step(self.optimization, self.optimization.batch_size)
        d = codes.space.dim
        result = fit_each(
            lambda problem, k, state, key: step(problem, state, key, k),
            problem,
            stacked(lambda key: dual_start(self._pair(d, key)), key_net, len(conditions)),
            judge,
            key=key_run,
            loop=self.optimization.loop,
            folder=None if folder is None else Path(folder),
            fingerprint=""
            if folder is None
            else run_fingerprint(repr(self), problem, None if judge is None else judge.data, key),
            progress=progress,
            title="CellOT",
        )
        fitted = FittedCellOT(
            "CellOT",
            codes.space,
            codes.encoder,
            vocabulary_of(codes),
            (),
            result.kept.average,
            forward,
            backward,
            unit,
            tuple(result.run.history),
            result.steps,
            result.run.stopped,
        )
        return dataclasses.replace(fitted, measured_gaps=dual_gaps(fitted, codes, fitted.back))

    def _pair(self, d: int, key: PRNGKeyArray) -> Pair:
        def potential(key: PRNGKeyArray) -> Potential:
            flat = self.start != "random"
            net = ICNN.draw(d, widths=self.hidden, activation=self.activation, flat=flat, key=key)
            return Potential(net, jnp.zeros((d, d)))

        return pair_of(potential, key)


@storable
class FittedCellOT(AbstractMap):
    """See `CellOT`.

    Parameters
    ----------
    pairs
        Potentials of every training condition, stacked.
    forward, backward, unit
        What they start from; see `Potential`.
    history
        One row a chunk of training: step, loss, loss_g, valid, means over conditions.
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
    pairs: Pair
    forward: Quadratic
    backward: Quadratic
    unit: Float[Array, ""]
    history: tuple[dict[str, Any], ...]
    best_steps: tuple[int, ...]
    stopped: str

    def transport(self, z: np.ndarray, condition: Condition) -> np.ndarray:
        """Return the mapped cells, for a condition that was trained on; see `AbstractMap.transport`."""
        return self._moved(z, condition, self.pairs.g, self.forward)

    def back(self, z: np.ndarray, condition: Condition) -> np.ndarray:
        """Return where treated cells of a condition came from: the gradient of the other potential."""
        return self._moved(z, condition, self.pairs.f, self.backward)

    def _moved(self, z: np.ndarray, condition: Condition, potentials: Potential, bases: Quadratic) -> np.ndarray:
        if condition.is_control:
            return z
        k = jnp.int32(trained_number(self.vocabulary, condition, self.name))
        return np.asarray(gradient_of(potentials, bases, self.unit, jnp.asarray(z), k))


@eqx.filter_jit
def gradient_of(potentials: Potential, bases: Quadratic, unit: Array, z: Array, k: Any) -> Array:
    """Return the gradient at `z` of potential number `k`."""
    potential, base = jax.tree.map(lambda leaf: leaf[k], (potentials, bases))
    return potential_gradient(potential.at(base, unit, jnp.zeros(0)), z)

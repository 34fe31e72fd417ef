"""CondOT: maps of all conditions as gradients of one function, convex in the cells and free in the condition."""

import dataclasses
import functools
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
from cellgap.nn import PICNN, ConvexActivation, Quadratic, potential_gradient
from cellgap.settings import settings
from cellgap.space import AbstractFittedSpace, AbstractSpace
from cellgap.storage import storable
from cellgap.study import Condition, Role, Split
from cellgap.train import fit, run_fingerprint
from cellgap.transport._affine import condition_features, fit_affine_path
from cellgap.transport._codes import Codes
from cellgap.transport._conditional_monge import Widths
from cellgap.transport._dual import (
    DualOptimization,
    DualProblem,
    DualState,
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
from cellgap.transport._familiarity import Vocabulary
from cellgap.transport._held_out import fold_count
from cellgap.transport._map import AbstractMap, vocabulary_of
from cellgap.transport._training_data import VALID_CELLS, training_problem, validation_conditions


@settings
class CondOT:
    """One map for all conditions, measured and unmeasured: the gradient of a partially convex network.

    Two networks, convex in the cells and free in the condition's vector, solve the dual of optimal transport for the
    squared Euclidean cost, averaged over the training conditions; see `CellOT`. Both start from a mixture of the
    quadratic potentials of the training conditions, whose gradients are the Gaussian (Bures) maps, with the weights
    ``softmax_k(-|c - c_k|^2 / (2 l_k^2))`` of the condition's similarities to them.

    Parameters
    ----------
    space, encoder
        Where cells and conditions live.
    reach
        ``l_k`` in units of the distance from training condition `k` to its nearest neighbor. Small: a training
        condition starts at its own Gaussian map, an unmeasured one at that of its nearest training condition.
    activation
        ``"softplus"`` for smooth maps, or ``"leaky_relu"``.
    hidden, embedding
        Widths of the hidden layers of cells, and of those of the condition.
    optimization
        See `DualOptimization`; every update takes one random condition.

    Notes
    -----
    Source: Bunne, Krause and Cuturi 2022 ("Supervised Training of Conditional Monge Maps"). Deviations: the network is
    added to the mixture and starts at 0; combinations are what the encoder makes of them (a sum over their members);
    controls stay where they are.
    """

    space: AbstractSpace
    encoder: AbstractEncoder
    reach: Annotated[float, Field(gt=0)] = 0.2
    activation: ConvexActivation = "softplus"
    hidden: Widths = (64, 64, 64, 64)
    embedding: Annotated[int, Field(ge=1)] = 32
    optimization: DualOptimization = DualOptimization()

    def fit(
        self, split: Split, *, key: PRNGKeyArray, folder: str | Path | None = None, progress: bool = False
    ) -> "FittedCondOT":
        """Return the map fitted on a split's training cells; arguments and errors as in `ConditionalMonge.fit`."""
        codes = Codes.of(split, self.space, self.encoder, progress=progress)
        return self.fit_codes(codes, key=key, folder=folder, progress=progress)

    def fit_codes(
        self, codes: Codes, *, key: PRNGKeyArray, folder: str | Path | None = None, progress: bool = False
    ) -> "FittedCondOT":
        """Return the map fitted on encoded cells; see `fit`."""
        vocabulary = vocabulary_of(codes)
        mixture = Mixture(
            jnp.asarray(vocabulary.vectors, jnp.float32),
            jnp.asarray(_lengths(vocabulary.vectors, self.reach), jnp.float32),
            *quadratic_starts(codes, "gaussian"),
        )
        unit = jnp.float32(scale_of(codes, "gaussian"))
        path = fit_affine_path(codes, "identity")

        def problem_of(conditions: tuple[Condition, ...], role: Role, most: int | None = None) -> DualProblem:
            vectors = jnp.stack([_vector(codes.encoder, vocabulary, c) for c in conditions])
            forward, backward = eqx.filter_jit(eqx.filter_vmap(mixture.at))(vectors)
            rows = training_problem(codes, conditions, role, path, most=most)
            return DualProblem(rows, vectors, forward, backward, unit)

        problem = problem_of(codes.split.train_conditions, Role.TRAIN)
        held = validation_conditions(codes)
        valid = problem_of(held, Role.VALID, VALID_CELLS) if held else None
        key_net, key_run = jr.split(key)
        d, p = codes.space.dim, problem.vectors.shape[1]
        result = fit(
            eqx.Partial(dual_step(self.optimization, self.optimization.batch_size), problem),
            eqx.filter_jit(lambda key: dual_start(self._pair(d, p, key)))(key_net),
            key=key_run,
            loop=self.optimization.loop,
            validate=None if valid is None else eqx.Partial(_validation(fold_count(valid.rows)), valid),
            folder=None if folder is None else Path(folder),
            fingerprint="" if folder is None else run_fingerprint(repr(self), problem, valid, key),
            progress=progress,
            title="CondOT",
        )
        fitted = FittedCondOT(
            "CondOT",
            codes.space,
            codes.encoder,
            vocabulary,
            (),
            result.best.average,
            mixture,
            unit,
            tuple(result.history),
            result.best_step,
            result.stopped,
        )
        return dataclasses.replace(fitted, measured_gaps=dual_gaps(fitted, codes, fitted.back))

    def _pair(self, d: int, p: int, key: PRNGKeyArray) -> Pair:
        def potential(key: PRNGKeyArray) -> Potential:
            net = PICNN.draw(d, p, widths=self.hidden, embedding=self.embedding, activation=self.activation, key=key)
            return Potential(net, jnp.zeros((d, d)))

        return pair_of(potential, key)


@functools.lru_cache(maxsize=16)
def _validation(n_folds: int):
    def validate(valid: DualProblem, state: DualState):
        ks = jnp.arange(valid.rows.n_conditions)
        return {"valid": jax.lax.map(lambda k: dual_energy(state.average, valid, k, n_folds), ks)}

    return validate


def _vector(encoder: FittedEncoder, vocabulary: Vocabulary, condition: Condition) -> Float[Array, " p"]:
    return jnp.asarray(condition_features(encoder, condition) / vocabulary.scale, jnp.float32)


def _lengths(vectors: Float[np.ndarray, "k p"], reach: float) -> Float[np.ndarray, " k"]:
    """Return `reach` times the distance of every training condition to the nearest one that differs from it."""
    between = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    nearest = np.where(between > 1e-9, between, np.inf).min(1)
    return reach * np.where(np.isfinite(nearest), nearest, 1.0)


@storable
class Mixture(eqx.Module):
    """Quadratic potentials of the training conditions, mixed by the similarity of a condition to them.

    Parameters
    ----------
    anchors
        Vectors of the training conditions.
    lengths
        How far each reaches.
    forward, backward
        Potentials whose gradients move control cells and treated cells back, stacked.
    """

    anchors: Float[Array, "k p"]
    lengths: Float[Array, " k"]
    forward: Quadratic
    backward: Quadratic

    def at(self, vector: Float[Array, " p"]) -> tuple[Quadratic, Quadratic]:
        """Return the two quadratic potentials of a condition.

        A sum of quadratic functions is one: its matrix is the mean of theirs, so that it stays convex.
        """
        squared = jnp.sum((vector - self.anchors) ** 2, 1)
        weights = jax.nn.softmax(-0.5 * squared / self.lengths**2)
        return _mixed(self.forward, weights), _mixed(self.backward, weights)


def _mixed(parts: Quadratic, weights: Float[Array, " k"]) -> Quadratic:
    """Return the weighted mean of quadratic functions, up to a constant."""
    matrices = jnp.einsum("kij,klj->kil", parts.root, parts.root)
    matrix = jnp.tensordot(weights, matrices, 1)
    center = weights @ parts.center
    # About their mean center, the parts have slopes ``slope_k + (center - center_k) M_k``.
    moved = parts.slope + jnp.einsum("ki,kij->kj", center - parts.center, matrices)
    values, axes = jnp.linalg.eigh(matrix)
    root = axes * jnp.sqrt(jnp.maximum(values, 0.0)) @ axes.T
    return Quadratic(center, root, weights @ moved)


@storable
class FittedCondOT(AbstractMap):
    """See `CondOT`.

    Parameters
    ----------
    pair
        The two potentials.
    mixture, unit
        What they start from; see `Potential`.
    history
        One row a chunk of training: step, loss, loss_g, valid.
    best_step
        Step of the weights that are kept (0: the start).
    stopped
        How training ended.
    """

    name: str
    space: AbstractFittedSpace
    encoder: FittedEncoder
    vocabulary: Vocabulary
    measured_gaps: tuple[Gap, ...]
    pair: Pair
    mixture: Mixture
    unit: Float[Array, ""]
    history: tuple[dict[str, Any], ...]
    best_step: int
    stopped: str

    def transport(self, z: np.ndarray, condition: Condition) -> np.ndarray:
        """Return the mapped cells; see `AbstractMap.transport`."""
        if condition.is_control:
            return z
        vector = _vector(self.encoder, self.vocabulary, condition)
        return np.asarray(_moved(self.pair.g, self.mixture, 0, self.unit, vector, jnp.asarray(z)))

    def back(self, z: np.ndarray, condition: Condition) -> np.ndarray:
        """Return where treated cells of a condition came from: the gradient of the other potential."""
        if condition.is_control:
            return z
        vector = _vector(self.encoder, self.vocabulary, condition)
        return np.asarray(_moved(self.pair.f, self.mixture, 1, self.unit, vector, jnp.asarray(z)))


@eqx.filter_jit
def _moved(potential: Potential, mixture: Mixture, side: int, unit: Array, vector: Array, z: Array) -> Array:
    return potential_gradient(potential.at(mixture.at(vector)[side], unit, vector), z)

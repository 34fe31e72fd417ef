"""The pooled map: one Monge map for all conditions, which does not know them."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
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
from cellgap.transport._affine import Start
from cellgap.transport._codes import Codes, Moments
from cellgap.transport._conditional_monge import Widths
from cellgap.transport._familiarity import Vocabulary
from cellgap.transport._gaps import map_gaps
from cellgap.transport._map import AbstractMap, vocabulary_of
from cellgap.transport._objective import FitLoss
from cellgap.transport._per_condition import cell_network, closed_forms, move_cells, objective_of
from cellgap.transport._problem import Problem, rows_table
from cellgap.transport._train_map import Optimization, train_map
from cellgap.transport._training_data import VALID_CELLS, validation_conditions


@settings
class Pooled:
    """One Monge map for all conditions that does not know which one is asked: what ignoring the condition costs.

    The treated cells of all training conditions are one population, in each context; the network sees cells only. It
    answers for every condition, measured or not, with the same map, and leaves controls where they are.

    Parameters
    ----------
    space, encoder
        Where cells live; the encoder describes conditions in reports only.
    start, fit_loss, cost, gap_cost, epsilon, gap_epsilon, relative, gap_weight, hidden, optimization
        As in `Monge`.
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
    ) -> "FittedPooled":
        """Return the map fitted on a split's training cells; arguments and errors as in `ConditionalMonge.fit`."""
        codes = Codes.of(split, self.space, self.encoder, progress=progress)
        return self.fit_codes(codes, key=key, folder=folder, progress=progress)

    def fit_codes(
        self, codes: Codes, *, key: PRNGKeyArray, folder: str | Path | None = None, progress: bool = False
    ) -> "FittedPooled":
        """Return the map fitted on encoded cells; see `fit`."""
        conditions = codes.split.train_conditions
        center, shifts, linears = closed_forms((_pooled_moments(codes),), self.start)
        shift, linear = shifts[0], None if linears is None else linears[0]
        problem = _pooled_problem(codes, conditions, Role.TRAIN, (center, shift, linear))
        held = validation_conditions(codes)
        valid = _pooled_problem(codes, held, Role.VALID, (center, shift, linear), VALID_CELLS) if held else None
        key_net, key_run = jr.split(key)
        result = train_map(
            eqx.filter_jit(lambda key: cell_network(codes.space.dim, self.hidden, key))(key_net),
            problem,
            valid,
            objective_of(self, codes),
            self.optimization,
            key=key_run,
            folder=None if folder is None else Path(folder),
            fingerprint="" if folder is None else run_fingerprint(repr(self), problem, valid, key),
            progress=progress,
            title="pooled Monge map",
        )
        fitted = FittedPooled(
            "pooled Monge",
            codes.space,
            codes.encoder,
            vocabulary_of(codes),
            (),
            center,
            shift,
            linear,
            result.best.average,
            tuple(result.history),
            result.best_step,
            result.stopped,
        )
        return dataclasses.replace(fitted, measured_gaps=map_gaps(fitted, codes))


@storable
class FittedPooled(AbstractMap):
    """See `Pooled`.

    Parameters
    ----------
    center, shift, linear
        Closed-form map that the network starts from.
    net
        The network.
    history, best_step, stopped
        As in `FittedConditionalMonge`.
    """

    name: str
    space: AbstractFittedSpace
    encoder: FittedEncoder
    vocabulary: Vocabulary
    measured_gaps: tuple[Gap, ...]
    center: Float[Array, " d"]
    shift: Float[Array, " d"]
    linear: Float[Array, "d d"] | None
    net: PerturbationNet
    history: tuple[dict[str, Any], ...]
    best_step: int
    stopped: str

    def transport(self, z: np.ndarray, condition: Condition) -> np.ndarray:
        """Return the mapped cells, the same under every treatment; see `AbstractMap.transport`."""
        if condition.is_control:
            return z
        return np.asarray(_moved(self.net, jnp.asarray(z), (self.center, self.shift, self.linear)))


_moved = eqx.filter_jit(move_cells)


def _pooled_moments(codes: Codes) -> Moments:
    """Return mean and covariance of all treated cells and of all their controls."""
    conditions = codes.split.train_conditions
    parts = []
    for chosen in (conditions, tuple(dict.fromkeys(c.control for c in conditions))):
        cells = np.concatenate([codes.cells(c, Role.TRAIN) for c in chosen]).astype(np.float64)
        centered = cells - cells.mean(0)
        parts += [cells.mean(0), centered.T @ centered / max(len(cells) - 1, 1), len(cells)]
    return Moments(conditions[0], *parts)


def _pooled_problem(
    codes: Codes, conditions: tuple[Condition, ...], role: Role, start: tuple, most: int | None = None
) -> Problem:
    """Return the problem whose conditions are contexts, each with the treated cells of all its conditions."""
    controls = list(dict.fromkeys(c.control for c in conditions))
    sources = [codes.rows(c, role) for c in controls]
    targets = [
        np.concatenate([codes.rows(c, role) for c in conditions if c.control == control]) for control in controls
    ]
    sources, targets = ([_thinned(rows, most) for rows in populations] for populations in (sources, targets))
    used = np.unique(np.concatenate([*sources, *targets]))
    k = len(controls)
    center, shift, linear = start
    return Problem(
        cells=jnp.asarray(codes.z[used]),
        sources=rows_table([np.searchsorted(used, rows) for rows in sources]),
        source_of=jnp.arange(k),
        targets=rows_table([np.searchsorted(used, rows) for rows in targets]),
        entities=jnp.zeros((k, 1, 0)),
        mask=jnp.ones((k, 1), bool),
        context=jnp.zeros((k, 0)),
        center=center,
        shifts=jnp.stack([shift] * k),
        linears=None if linear is None else jnp.stack([linear] * k),
    )


def _thinned(rows: np.ndarray, most: int | None) -> np.ndarray:
    if most is None or len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(int)]

"""NeuralLaw: a sparse neural differential equation, learnt from trajectories."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field, model_validator

from cellgap.dynamics._bins import Bins, bin_cells
from cellgap.dynamics._fitted_law import FittedLaw
from cellgap.dynamics._lambda_path import LambdaPath, path_table
from cellgap.dynamics._law import Law, Units
from cellgap.dynamics._penalties import GroupLasso, NoPenalty, Penalty
from cellgap.dynamics._prepare import Constants, Scale, divided, law_data, shuffled, units_of
from cellgap.dynamics._prior import prior_weights
from cellgap.dynamics._recovered import strong
from cellgap.dynamics._solve import Solver
from cellgap.dynamics._train_law import LawData, LawState, LawTraining, Members, train_law
from cellgap.dynamics._trajectories import Trajectories
from cellgap.dynamics._visited import Visited
from cellgap.errors import ConfigError, DataError
from cellgap.nn import MLP, AbstractLawNet, PerTargetNet, SharedNet
from cellgap.settings import settings
from cellgap.space import AbstractFittedSpace
from cellgap.study import Split, Study, split
from cellgap.train import FitResult, run_fingerprint

_Count = Annotated[int, Field(ge=1)]
_VISITED = 256


@settings
class NeuralLaw:
    """A law ``dx/dt = f(x)`` of trajectories that says which variable drives which.

    Parameters
    ----------
    penalty
        What makes it sparse; see `GroupLasso`, `PathReg`, `CNODE`, `L0`, `L1`, `LassoNet`, `NoPenalty`.
    network
        ``"per_target"``: a small network for every variable, so that edges have weights of their own; ``"shared"``: one
        for all.
    hidden
        Units of each of the two hidden layers; None: 16 a target, 100 shared.
    activations
        2: a non-linearity after both hidden layers; 1: after the first only, as published.
    decay
        ``f = g - softplus(a) x``: what is not made decays. The self-loss is then no edge, and solutions stay bounded.
    order
        1, or 2: the law gives accelerations, and the first velocity is learnt.
    history
        States that are seen before a forecast starts. Second order takes its velocity from them.
    scale
        Units of the error: ``"each"`` variable by its spread, ``"all"`` by a common one, ``"none"``.
    inputs
        Labels of trajectories (lineage, donor) that the law is told, as constants. Numbers that trajectories carry are
        told always.
    regulators
        Variables that may drive others; None: all.
    window, stride
        States that are predicted at once, from every `stride`-th state; None: whole trajectories from their first
        state. Long or chaotic trajectories need windows.
    starts
        ``"observed"``, or ``"learnt"`` where states are noisy.
    continuity
        Weight of the jump between windows, where starts are learnt and ``stride = window``.
    members
        Laws that are learnt from different seeds, side by side: forecasts are their mean, and edges stand beside their
        stability.
    null
        Further members that learn from shuffled courses, where nothing drives anything: the null of edges.
    valid
        Share of trajectories that is held out to choose the best step of each member (with fewer than five, the last
        states of each); 0: none.
    refit
        Fit a second time without penalty on the edges that are kept, which takes away the shrinkage. Shared networks
        drop a source only where no edge from it is kept.
    kept
        Strength from which an edge is kept, if it is a tenth of the strongest of its target too: about the standard
        deviations per unit of time that one of its source changes.
    solver, training
        See `Solver`, `LawTraining`.
    cells
        How cells become trajectories where a study or split is fitted.

    Notes
    -----
    Source: Aliee et al., NeurIPS 2022 (arXiv 2210.14672); C-NODE (arXiv 2106.12430); NGM (Bellot et al., ICLR 2022).
    Ours: decay, two non-linearities, networks a target, proximal steps in the metric of the optimizer, gates drawn
    once a solution, standardized units, members and null in one compiled program. `reference` is the published recipe.
    """

    penalty: Penalty = GroupLasso()
    network: Literal["per_target", "shared"] = "per_target"
    hidden: _Count | None = None
    activations: Literal[1, 2] = 2
    decay: bool = True
    order: Literal[1, 2] = 1
    history: _Count = 1
    scale: Scale = "each"
    inputs: tuple[str, ...] = ()
    regulators: tuple[str, ...] | None = None
    window: _Count | None = None
    stride: _Count = 1
    starts: Literal["observed", "learnt"] = "observed"
    continuity: Annotated[float, Field(ge=0)] = 0.1
    members: _Count = 5
    null: Annotated[int, Field(ge=0)] = 1
    valid: Annotated[float, Field(ge=0, lt=0.9)] = 0.2
    refit: bool = False
    kept: Annotated[float, Field(ge=0)] = 0.1
    solver: Solver = Solver()
    training: LawTraining = LawTraining()
    cells: Bins = Bins()

    @model_validator(mode="after")
    def _check(self) -> "NeuralLaw":
        unit = self.penalty.gates
        if self.network == "per_target" and unit not in (None, "edge"):
            raise ConfigError(f"networks a target have one gate an edge, not one a {unit}: leave unit out.")
        if self.network == "shared" and unit == "edge" and getattr(self.penalty, "unit", None) == "edge":
            raise ConfigError('shared networks have no gates of edges: take unit="weight", or network="per_target".')
        if getattr(self.penalty, "adaptive", False) and self.refit:
            raise ConfigError("adaptive penalties fit twice already: leave refit out.")
        return self

    @classmethod
    def reference(cls, **changes: Any) -> "NeuralLaw":
        """Return the published PathReg recipe, with `changes`.

        Notes
        -----
        A shared network of 100 units with one non-linearity, gates of units, no decay, ``lambda_1 = 0.01`` (a tenth
        for gates, drawn ones), 5,000 steps, no validation. Ours even here: one draw of gates for a solution; division
        of path products by the widths, for which lambda is multiplied by them.
        """
        from cellgap.dynamics._penalties import PathReg
        from cellgap.train import Loop

        recipe: dict[str, Any] = {
            "penalty": PathReg(strength=100.0, gate_strength=10.0, unit="unit", expected=False),
            "network": "shared",
            "hidden": 100,
            "activations": 1,
            "decay": False,
            "scale": "none",
            "members": 1,
            "null": 0,
            "valid": 0.0,
            "solver": Solver(method="tsit5"),
            "training": LawTraining(loop=Loop(n_steps=5000, chunk=50), warm_up=0.0),
        }
        return cls(**recipe | changes)

    def fit(
        self,
        data: Trajectories | Study | Split,
        *,
        key: PRNGKeyArray,
        valid: Trajectories | None = None,
        prior: pd.DataFrame | None = None,
        trust: float = 0.8,
        space: AbstractFittedSpace | None = None,
        folder: str | Path | None = None,
        progress: bool = False,
    ) -> FittedLaw:
        """Return the law of some trajectories.

        Parameters
        ----------
        data
            Trajectories, or a study (a split, of which the training cells are taken) whose design names the time.
        key
            Random key of the whole fit.
        valid
            Trajectories to choose the best step with; None: a share of `data` is held out.
        prior
            Edges that are believed: a table with ``regulator, target`` (and ``weight`` between 0 and 1), or a
            regulators x targets table. They are penalized by ``1 - trust * weight`` of the strength; others fully.
        trust
            How far the prior is believed, between 0 and 1. Edges it lacks are never forbidden.
        space
            Of which the variables are coordinates, where trajectories come from cells: forecasts of cells need it.
            Where a study is given, it is used instead of a new one.
        folder
            Where to keep checkpoints and the log; a run that was stopped there is resumed, bit for bit.
        progress
            Show progress bars.

        Raises
        ------
        DataError
            Trajectories are too short or do not move, a label is missing, or a study has no times.
        ConfigError
            The trust in a prior is not between 0 and 1.
        ConvergenceError
            Training diverged.
        """
        ready = self._prepared(data, valid, prior, trust, key, space)
        strengths = jnp.full(self.members + self.null, self.penalty.size)
        result, extra = self._trained(ready, strengths, key, folder, progress)
        return self._fitted(ready, result, np.arange(self.members), extra)

    def fit_path(
        self,
        data: Trajectories | Study | Split,
        strengths: Sequence[float] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
        *,
        key: PRNGKeyArray,
        valid: Trajectories | None = None,
        test: Trajectories | None = None,
        prior: pd.DataFrame | None = None,
        trust: float = 0.8,
        space: AbstractFittedSpace | None = None,
        regulators: Sequence[str] | None = None,
        folder: str | Path | None = None,
        progress: bool = False,
    ) -> LambdaPath:
        """Return laws of many strengths of the penalty, learnt side by side, and how error and sparsity depend on it.

        Parameters
        ----------
        data, key, valid, prior, trust, space, folder, progress
            As in `fit`.
        strengths
            Lambdas.
        test
            Trajectories whose error stands in the table as well; nothing is chosen by them.
        regulators
            Variables that are known to regulate, for the share of spurious inputs.

        Raises
        ------
        ConfigError
            There is no strength, one is negative, or the penalty has none.
        """
        if isinstance(self.penalty, NoPenalty):
            raise ConfigError("NoPenalty has no strength: choose another penalty for a path.")
        if not len(strengths) or min(strengths) < 0:
            raise ConfigError(f"a path needs strengths of 0 or more, found {tuple(strengths)!r}.")
        ready = self._prepared(data, valid, prior, trust, key, space)
        # The null learns at the median strength; its scores are the null of all.
        own = np.repeat(np.asarray(strengths, float), self.members)
        all_of = jnp.asarray(np.r_[own, np.full(self.null, np.median(strengths))], jnp.float32)
        result, extra = self._trained(ready, all_of, key, folder, progress)
        laws = []
        for i in range(len(strengths)):
            rows = np.arange(i * self.members, (i + 1) * self.members)
            laws.append(self._fitted(ready, result, rows, extra))
        table = path_table(laws, strengths, ready.train, ready.valid, test, regulators)
        return LambdaPath(table, tuple(laws))

    def _prepared(self, data, valid, prior, trust, key, space) -> "_Ready":
        if not 0 <= trust <= 1:
            raise ConfigError(f"fit(trust=...) is between 0 and 1, found {trust:g}.")
        if isinstance(data, Study):
            # All cells: what is held out is chosen among trajectories.
            data, space = bin_cells(split.everything(data), self.cells, space=space, rows=np.arange(data.adata.n_obs))
        elif isinstance(data, Split):
            data, space = bin_cells(data, self.cells, space=space)
        rng = np.random.default_rng(np.asarray(jr.key_data(key)).ravel().tolist())
        train, held, how = (
            (data, valid, "trajectories given") if valid is not None else divided(data, self.valid, rng, self.history)
        )
        if held is not None and held.variables != train.variables:
            raise DataError("validation trajectories have other variables than those of training.")
        units = units_of(train, self.scale)
        constants = Constants.of(train, self.inputs)
        variants = [train, *([shuffled(train, rng)] if self.null else [])]
        cut: Any = {"window": self.window, "stride": self.stride, "history": self.history}
        given = law_data(variants, units, constants, **cut)
        judged = None
        if held is not None:
            whole = [held, *([shuffled(held, rng)] if self.null else [])]
            judged = law_data(whole, units, constants, **cut)
        d, c = train.dim, len(constants.sources)
        allowed = np.ones((d, self.order * d + c), np.float32)
        if self.regulators is not None:
            odd = sorted(set(self.regulators) - set(train.variables))
            if odd:
                raise DataError(f"the regulator {odd[0]!r} is not among the variables of the trajectories.")
            may = np.isin(train.variables, self.regulators)
            # A variable may always read itself: its own level is no edge. A shared network cannot tell that apart.
            own = np.eye(d, dtype=bool) | may[None] if self.network == "per_target" else np.tile(may, (d, 1))
            allowed[:, : self.order * d] = np.tile(own, (1, self.order))
        factors = np.ones_like(allowed)
        factors[:, self.order * d :] = 0.0
        if prior is not None:
            believed = prior_weights(prior, train.variables)
            factors[:, : self.order * d] *= np.tile(1.0 - trust * believed.T, (1, self.order))
        return _Ready(train, held, how, units, constants, given, judged, allowed, factors, space)

    def _trained(
        self, ready: "_Ready", strengths: Float[Array, " m"], key: PRNGKeyArray, folder, progress
    ) -> tuple[FitResult[LawState], dict[str, Any]]:
        m = len(strengths)
        key_net, key_run, key_again = jr.split(key, 3)
        own = m - self.null
        # The same seeds at every strength, so that what differs is the strength.
        seeds = jnp.asarray(np.r_[np.arange(own) % self.members, self.members + np.arange(self.null)])
        law = eqx.filter_jit(eqx.filter_vmap(lambda i: self._initial(ready, jr.fold_in(key_net, i))))(seeds)

        def tiled(a: np.ndarray) -> Array:
            return jnp.broadcast_to(jnp.asarray(a), (m, *a.shape))

        members = Members(
            variant=jnp.asarray(np.r_[np.zeros(own), np.ones(self.null)].astype(int)),
            strength=jnp.asarray(strengths, jnp.float32),
            allowed=tiled(ready.allowed),
            factors=tiled(ready.factors),
        )
        twice = self.refit or getattr(self.penalty, "adaptive", False)

        def run(law: Law, members: Members, key: PRNGKeyArray, title: str, where: Path | None, penalty: Penalty):
            mark = "" if where is None else run_fingerprint(repr(self), ready.given, ready.judged, members, key)
            return train_law(
                law,
                ready.given,
                ready.judged,
                members,
                penalty,
                self.training,
                key=key,
                method=self.solver.method,
                substeps=self._substeps(ready),
                learn_starts=self.starts == "learnt",
                continuity=self.continuity if self.window is not None and self.stride == self.window else 0.0,
                folder=where,
                fingerprint=mark,
                progress=progress,
                title=title,
            )

        base = None if folder is None else Path(folder)
        first = base / "first" if base is not None and twice else base
        result = run(law, members, key_run, "law", first, self.penalty)
        if not twice or result.stopped == "interrupted":
            return result, {"members": members, "once": None}
        strength = jax.vmap(lambda law, allowed: law.settled(allowed).net.groups())(result.state.best, members.allowed)
        strength = jnp.swapaxes(strength, 1, 2)
        once = result.state.best_error if ready.judged is not None else result.state.error
        if self.refit:
            # What a variable does to itself, and constants, are no edges: they stay.
            free = jnp.tile(jnp.eye(members.allowed.shape[1], dtype=bool), (1, self.order))
            free = jnp.pad(free, ((0, 0), (0, strength.shape[2] - free.shape[1])), constant_values=True)
            edges = jnp.swapaxes(jnp.where(free, 0.0, strength), 1, 2)
            known = jnp.swapaxes(strong(edges, self.kept), 1, 2) | free
            members = eqx.tree_at(lambda w: w.allowed, members, known * members.allowed)
            again = run(result.state.best, members, key_again, "refit", base, NoPenalty())
            return again, {"members": members, "once": once}
        # Edges of the typical strength keep their penalty; weaker ones are penalized more, stronger ones less.
        typical = jnp.nanmean(jnp.where(strength > 0, strength, jnp.nan))
        weights = jnp.clip(jnp.nan_to_num(typical, nan=1.0) / jnp.maximum(strength, 1e-3), 0.1, 100.0)
        members = eqx.tree_at(lambda w: w.factors, members, members.factors * weights)
        again = run(law, members, key_again, "adaptive law", base, self.penalty)
        return again, {"members": members, "once": once}

    def _substeps(self, ready: "_Ready") -> int:
        return self.solver.substeps(np.asarray(ready.given.times) * ready.units.clock)

    def _initial(self, ready: "_Ready", key: PRNGKeyArray) -> Law:
        d, c = ready.train.dim, len(ready.constants.sources)
        key_net, key_launch = jr.split(key)
        sources, unit, skip = self.order * d + c, self.penalty.gates, self.penalty.skip
        net: AbstractLawNet
        if self.network == "per_target":
            net = PerTargetNet(
                sources, d, hidden=self.hidden or 16, activations=self.activations, gated=unit is not None, skip=skip,
                key=key_net,
            )  # fmt: skip
        else:
            gates: Any = "weight" if unit == "edge" else unit
            net = SharedNet(
                sources, d, hidden=self.hidden or 100, activations=self.activations, gates=gates, skip=skip, key=key_net
            )
        launch = MLP((2 * d, 64, d), key=key_launch, last_scale=1e-2) if self.order == 2 else None
        return Law(net, jnp.zeros(d) if self.decay else None, launch)

    def _fitted(
        self, ready: "_Ready", result: FitResult[LawState], rows: np.ndarray, extra: dict[str, Any]
    ) -> FittedLaw:
        state, members = result.state, extra["members"]
        m = len(members.strength)
        null = np.arange(m - self.null, m)
        states = ready.train.states
        some = np.linspace(0, len(states) - 1, min(len(states), _VISITED)).astype(int)
        visited = Visited.of(ready.train, ready.units, ready.constants, some, order=self.order, history=self.history)

        def of(rows: np.ndarray, tree: Any) -> Any:
            return jax.tree.map(lambda leaf: leaf[rows], tree)

        errors = state.best_error if ready.judged is not None else state.error
        once = extra["once"]
        return FittedLaw(
            name="NeuralLaw",
            law=of(rows, state.best),
            allowed=members.allowed[rows],
            null=of(null, state.best) if self.null else None,
            null_allowed=members.allowed[null] if self.null else None,
            units=ready.units,
            constants=ready.constants,
            variables=ready.train.variables,
            visited=visited,
            history=self.history,
            step=float(np.diff(np.asarray(ready.given.times), axis=1).max()) / self._substeps(ready),
            horizon=ready.train.horizon,
            kept=self.kept,
            space=ready.space,
            cells=dataclasses.replace(self.cells, space=None),
            strength=float(members.strength[rows[0]]),
            valid_error=float(np.mean(np.asarray(errors)[rows])),
            first_error=None if once is None else float(np.mean(np.asarray(once)[rows])),
            judged_on=ready.how,
            log=tuple(result.history),
            stopped=result.stopped,
            measured_gaps=(),
        ).with_gaps(ready.train, ready.valid)


class _Ready(NamedTuple):
    """What a fit is made of."""

    train: Trajectories
    valid: Trajectories | None
    how: str
    units: Units
    constants: Constants
    given: LawData
    judged: LawData | None
    allowed: np.ndarray
    factors: np.ndarray
    space: AbstractFittedSpace | None

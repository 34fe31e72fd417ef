"""A fitted law: it forecasts, names its causes, and answers what happens when a variable is held."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Array, Float

from cellgap import storage
from cellgap.dynamics._bins import Bins
from cellgap.dynamics._intervention import Intervention, ascending, knock_out_screen
from cellgap.dynamics._law import Acting, Law, Units
from cellgap.dynamics._law_gaps import cautions, law_gaps
from cellgap.dynamics._prepare import Constants
from cellgap.dynamics._recovered import Network, Score, edge_scores, network_of
from cellgap.dynamics._solve import Solver, solve
from cellgap.dynamics._sparsity import sparsity
from cellgap.dynamics._trajectories import Trajectories
from cellgap.dynamics._visited import Visited
from cellgap.errors import ConvergenceError, DataError
from cellgap.gap import Gap
from cellgap.space import AbstractFittedSpace
from cellgap.storage import storable

_BLOCK = 2**24


@storable
class FittedLaw(eqx.Module):
    """The law that `NeuralLaw.fit` returns. Nothing in it changes.

    Parameters
    ----------
    name
        Of the estimator.
    law, allowed
        Members along the first axis, and which edges each may have.
    null, null_allowed
        Members that learnt from shuffled courses; None: there are none.
    units, constants, variables, visited
        Of the training trajectories.
    history
        States that are seen before a forecast starts.
    step
        Longest step in training, in standardized time.
    horizon
        Longest training trajectory, in the time of the data.
    kept
        Strength from which an edge is kept.
    space, cells
        Where the variables are coordinates of cells: of which space, and how cells became trajectories.
    strength
        Of the penalty.
    valid_error
        Standardized mean squared error by which the best steps were chosen (of training where nothing was held out).
    first_error
        The same before the refit.
    judged_on
        What was held out.
    log, stopped
        Of training.
    measured_gaps
        See `gaps`.
    """

    name: str
    law: Law
    allowed: Float[Array, "m d s"]
    null: Law | None
    null_allowed: Float[Array, "k d s"] | None
    units: Units
    constants: Constants
    variables: tuple[str, ...]
    visited: Visited
    history: int
    step: float
    horizon: float
    kept: float
    space: AbstractFittedSpace | None
    cells: Bins
    strength: float
    valid_error: float
    first_error: float | None
    judged_on: str
    log: tuple[dict, ...]
    stopped: str
    measured_gaps: tuple[Gap, ...]

    def __repr__(self) -> str:
        return f"FittedLaw({len(self.variables)} variables, order {self.law.order}, {self.members} members)"

    @property
    def members(self) -> int:
        """Number of laws that were learnt from different seeds."""
        return len(self.allowed)

    @property
    def history_frame(self) -> pd.DataFrame:
        """The log of training, a row a chunk of steps."""
        return pd.DataFrame(list(self.log))

    def follow(
        self, trajectories: Trajectories, *, history: int | None = None, solver: Solver | None = None
    ) -> Float[np.ndarray, "n t d"]:
        """Return forecasts at the times of trajectories, of which only the first states are seen.

        Parameters
        ----------
        trajectories
            Whose times, labels, and first `history` states are taken; these are returned as they are.
        history
            States that are seen; None: as many as the law was trained with.
        solver
            None: Runge-Kutta steps of fourth order, at most half as long as those of training.

        Raises
        ------
        DataError
            Variables or labels are others than those of training, or there are too few states.
        ConvergenceError
            The law has become stiff.
        """
        k = self.history if history is None else history
        self._same_variables(trajectories.variables)
        if trajectories.lengths.min() < k:
            raise DataError(f"a trajectory has {trajectories.lengths.min()} states; the law needs to see {k}.")
        told = self.constants.numbers(trajectories.about, trajectories.inputs)
        z = self.units.inward(trajectories.values)
        clock = (trajectories.times - trajectories.times[:, :1]) / self.units.clock
        out = trajectories.values.copy()
        out[:, k - 1 :] = self._solved(z[:, :k], clock[:, :k], clock[:, k - 1 :], told, None, solver).mean(0)
        out[:, :k] = trajectories.values[:, :k]
        return out

    def error(self, trajectories: Trajectories | None) -> float:
        """Return the mean squared error of forecasts, in the units of the data.

        Of nothing it is nan, of a law that has become stiff infinite.
        """
        if trajectories is None:
            return float("nan")
        try:
            squared = ((self.follow(trajectories) - trajectories.values) ** 2).mean(2)
        except ConvergenceError:
            return float("inf")
        later = trajectories.seen.copy()
        later[:, : self.history] = False
        return float(squared[later].mean())

    def forecast(
        self,
        start: Any,
        times: Any,
        *,
        about: pd.DataFrame | Mapping[str, Any] | None = None,
        start_times: Any = None,
        intervention: Intervention | None = None,
        spread: bool = False,
        solver: Solver | None = None,
    ) -> Any:
        """Return states at later times.

        Parameters
        ----------
        start
            States to start from, (n, d), or the last `k` states that were seen, (n, k, d), in the units of the data.
            A table of cells (AnnData) where the law was learnt from cells: an AnnData comes back, see `forecast_cells`.
        times
            When, from 0 on, ascending: time since the (last) start state.
        about
            Labels and numbers that the law was told in training (``inputs``), one a start or one for all.
        start_times
            Of `k` seen states, (k,), ending with 0; by default they are as far apart as training states.
        intervention
            What is held, cut, or dosed; see `Intervention`.
        spread
            Return the standard deviation over members as well.
        solver
            See `follow`.

        Returns
        -------
        states
            (n, times, d); where `spread`, a pair of such arrays.

        Raises
        ------
        DataError
            Shapes or labels do not fit, or times do not ascend from 0.
        ConvergenceError
            The law has become stiff.
        """
        if isinstance(start, AnnData):
            return self.forecast_cells(start, times, intervention=intervention, solver=solver)
        times = np.asarray(times, np.float64)
        seen = self._states(start)
        ascending(times)
        n, k, _ = seen.shape
        told = self._told(about, n)
        back = self._before(start_times, k)
        grid = np.broadcast_to(np.r_[0.0, times], (n, len(times) + 1)) / self.units.clock
        before = np.broadcast_to(back, (n, k)) / self.units.clock
        found = self._solved(self.units.inward(seen), before, grid, told, intervention, solver)[:, :, 1:]
        return (found.mean(0), found.std(0)) if spread else found.mean(0)

    def forecast_cells(
        self,
        adata: AnnData,
        times: Any,
        *,
        intervention: Intervention | None = None,
        solver: Solver | None = None,
        decode: bool = True,
    ) -> AnnData:
        """Return where cells are at later times: a population a time, and not one mean.

        Parameters
        ----------
        adata
            Cells to start from, with the labels that the law was told.
        times
            Since the start.
        intervention, solver
            See `forecast`.
        decode
            Return gene space (what the space decodes to), and not codes.

        Returns
        -------
        cells
            A row a cell and time: ``obs["time"]``, and the columns of the start cells.

        Raises
        ------
        DataError
            The law was not learnt from cells.
        """
        if self.space is None:
            raise DataError("this law was learnt from trajectories, not from cells: give forecast an array of states.")
        codes = np.asarray(self.space.encode(adata), np.float64)
        about = pd.DataFrame(adata.obs)
        moved = self.forecast(codes, times, about=about, intervention=intervention, solver=solver)
        n, t, d = moved.shape
        flat = np.moveaxis(moved, 1, 0).reshape(t * n, d).astype(np.float32)
        obs = pd.concat([about] * t)
        obs["time"] = np.repeat(np.asarray(times, float), n)
        obs.index = pd.Index([f"{name}@{time:g}" for time, name in zip(obs["time"], obs.index, strict=True)])
        x = self.space.decode(flat) if decode else flat
        names = self.space.genes if decode else self.variables
        out = AnnData(X=np.asarray(x, np.float32), obs=obs, var=pd.DataFrame(index=pd.Index(list(map(str, names)))))
        out.obsm["X_cellgap"] = flat
        out.uns["cellgap"] = {"model": self.name, "versions": storage.versions()}
        return out

    def network(self, score: Score = "jacobian", *, k: int | None = None, threshold: float | None = None) -> Network:
        """Return which variable drives which, with stability over seeds and a permutation null.

        Parameters
        ----------
        score
            ``"jacobian"``: mean absolute derivative over states that were visited, in standardized units;
            ``"paths"``: products of weights; ``"groups"``: norms of first weights.
        k
            Edges that are compared between members; see `Network`.
        threshold
            Strength from which an edge is kept; None: that of the fit.
        """
        states, inputs = jnp.asarray(self.visited.states), jnp.asarray(self.visited.inputs)
        found = edge_scores(self.law, self.allowed, states, inputs, score)
        null = None
        if self.null is not None and self.null_allowed is not None:
            null = edge_scores(self.null, self.null_allowed, states, inputs, score)[0]
        limit = self.kept if threshold is None else threshold
        return network_of(found, null, self.variables, k=k, threshold=limit, score=score)

    def sparsity(self, regulators: Sequence[str] | None = None) -> dict[str, float]:
        """Return the shares of weights, paths, gates and spurious inputs that are zero; see `sparsity`."""
        return sparsity(self.law, np.asarray(self.allowed), self.variables, regulators)

    def knock_out(
        self,
        genes: str | Sequence[str] = "all",
        *,
        start: Any = None,
        times: Any = None,
        about: pd.DataFrame | Mapping[str, Any] | None = None,
        value: float = 0.0,
        solver: Solver | None = None,
    ) -> AnnData:
        """Return how courses change where a variable is held, for many variables in one call.

        Parameters
        ----------
        genes
            Names, or ``"all"``.
        start, about
            States to start from, as in `forecast`; None: the first states of the training trajectories.
        times
            Since the start; None: those of a training trajectory.
        value
            At which each is held, in the units of the data: 0 knocks a gene out.
        solver
            See `follow`.

        Returns
        -------
        screen
            A row a knocked variable and time, a column a variable. ``X``: change of the mean course over starts;
            layers ``"course"`` and ``"unperturbed"``; ``obs``: ``knocked, time``; ``uns["knocked"]``: a table with a
            row a knocked variable: ``effect`` (mean absolute change, in standard deviations), ``reached`` (variables
            that move by a tenth of one at some time), ``direct`` (edges from it that are kept) and ``time_to_effect``
            (when the first of them does, nan: never).

        Raises
        ------
        DataError, ConvergenceError
            As in `forecast`; a name is unknown.
        """
        names = list(self.variables) if isinstance(genes, str) and genes == "all" else genes
        names = [names] if isinstance(names, str) else list(names)
        times = self.visited.times if times is None else np.asarray(times, np.float64)
        if start is None:
            seen, before, told = self.visited.starts, self.visited.start_times, self.visited.start_inputs
        else:
            given = self._states(start)
            seen, told = self.units.inward(given), self._told(about, len(given))
            before = np.ones((len(given), 1)) * self._before(None, given.shape[1]) / self.units.clock
        return knock_out_screen(self, names, (seen, before), told, times, value, solver)

    def gaps(self, test: Trajectories | None = None) -> tuple[Gap, ...]:
        """Return how far the law is from what its theory wants, as measured at the end of the fit.

        Parameters
        ----------
        test
            Trajectories out of the distribution of training: adds the forecast gap between both.
        """
        return self.measured_gaps if test is None else law_gaps(self, None, test, self.measured_gaps)

    def with_gaps(self, train: Trajectories, valid: Trajectories | None) -> "FittedLaw":
        """Return the law with its gaps measured."""
        return dataclasses.replace(self, measured_gaps=law_gaps(self, train, valid, ()))

    def cautions(self) -> tuple[str, ...]:
        """Return what a reader of forecasts and edges has to know, in sentences; nothing where all is well."""
        return cautions(self)

    def save(self, folder: str | os.PathLike[str], *, header: dict | None = None) -> Path:
        """Return the folder after writing ``model.json`` and ``model.npz`` into it; read them with `cellgap.load`."""
        return storage.save(self, folder, header=header)

    def steps_between(self, grid: Float[np.ndarray, "n t"], solver: Solver | None) -> tuple[Any, int, float, int]:
        """Return method, steps between two times, tolerance, and most steps, in standardized time."""
        if solver is not None and solver.method in ("tsit5", "kvaerno5"):
            return solver.method, 1, solver.tolerance, solver.max_steps
        given = None if solver is None else solver.max_step
        step = 0.5 * self.step if given is None else given / self.units.clock
        longest = float(np.diff(grid, axis=1).max(initial=0.0))
        return "rk4" if solver is None else solver.method, max(1, int(np.ceil(longest / step - 1e-6))), 1e-3, 16

    def _solved(
        self,
        seen: Float[np.ndarray, "n k d"],
        before: Float[np.ndarray, "n k"],
        grid: Float[np.ndarray, "n t"],
        told: Float[np.ndarray, "n c"],
        intervention: Intervention | None,
        solver: Solver | None,
    ) -> Float[np.ndarray, "m n t d"]:
        """Return the courses of every member, in the units of the data."""
        acting, allowed = Acting(), self.allowed
        seen = seen.astype(np.float32)
        if intervention is not None:
            if intervention.dose and self.law.rest is None:
                raise DataError("doses act on production, which a law without decay does not tell from loss.")
            acting, held = intervention.acting(self.variables, self.units, len(seen))
            allowed = intervention.cut_from(self)
            seen = np.where(held.moving[:, None] == 0, held.level[:, None], seen) if held is not None else seen
        method, substeps, tolerance, most = self.steps_between(grid, solver)
        d, parts = seen.shape[2], []
        size = max(1, min(len(seen), _BLOCK // (self.members * grid.shape[1] * d)))
        for first in range(0, len(seen), size):
            rows = slice(first, first + size)
            own = jax.tree.map(lambda a, rows=rows: a[rows], acting)
            states, stiff = _courses(
                self.law, allowed, jnp.asarray(seen[rows]), jnp.asarray(before[rows], jnp.float32),
                jnp.asarray(grid[rows], jnp.float32), jnp.asarray(told[rows], jnp.float32), own,
                method, substeps, tolerance, most,
            )  # fmt: skip
            if bool(stiff.any()):
                wrong = np.isfinite(np.asarray(states)).all((0, 1, 3))
                at = float(grid[first, int(np.argmin(wrong))] * self.units.clock) if not wrong.all() else float("nan")
                raise ConvergenceError(
                    f"the law has become stiff at time {at:g}: take Solver(method='kvaerno5'), or fit with decay."
                )
            parts.append(np.asarray(states)[..., :d])
        out = self.units.outward(np.concatenate(parts, 1))
        if intervention is not None:
            for name, level in intervention.hold.items():
                out[..., self.variables.index(name)] = level  # exactly, and not to the precision of the solution
        return out

    def _states(self, start: Any) -> Float[np.ndarray, "n k d"]:
        """Return starts as the last states that were seen.

        Raises
        ------
        DataError
            They have other shapes, or are not finite.
        """
        seen = np.asarray(start, np.float64)
        seen = seen[None] if seen.ndim == 1 else seen
        seen = seen[:, None] if seen.ndim == 2 else seen
        if seen.ndim != 3 or seen.shape[2] != len(self.variables) or not seen.size:
            raise DataError(f"starts are (n, {len(self.variables)}) arrays, found the shape {np.shape(start)}.")
        if not np.isfinite(seen).all():
            raise DataError("starts hold values that are not finite.")
        return seen

    def _before(self, given: Any, k: int) -> Float[np.ndarray, " k"]:
        """Return the times of `k` states that were seen, in the time of the data, the last one 0."""
        gap = float(np.median(np.diff(self.visited.times)))
        back = np.arange(1 - k, 1) * gap if given is None else np.asarray(given, np.float64)
        if back.shape != (k,) or abs(back[-1]) > 1e-9 or (np.diff(back) <= 0).any():
            raise DataError(f"start_times are {k} ascending times that end with 0.")
        return back

    def _told(self, about: Any, n: int) -> Float[np.ndarray, "n c"]:
        frame = pd.DataFrame(dict(about), index=range(n)) if isinstance(about, Mapping) else about
        frame = pd.DataFrame(index=range(n)) if frame is None else frame
        if len(frame) != n:
            raise DataError(f"about has {len(frame)} rows for {n} starts.")
        missing = [name for name in self.constants.names if name not in frame]
        if missing:
            raise DataError(f"the law was told {missing[0]!r} of every trajectory: give it in about.")
        return self.constants.numbers(frame, frame[list(self.constants.names)].to_numpy(float))

    def _same_variables(self, variables: Sequence[str]) -> None:
        if tuple(variables) != self.variables:
            odd = sorted(set(variables) ^ set(self.variables))
            what = f"{odd[0]!r} is in one of them only" if odd else "their order differs"
            raise DataError(f"the law and the trajectories have other variables: {what}.")


@eqx.filter_jit
def _courses(law, allowed, seen, before, grid, told, acting, method, substeps, tolerance, most):
    """Return states of all members at all times, and which gave up."""

    def one(law, allowed):
        own = law.settled(allowed)
        start = own.start(seen, before)
        if acting.moving is not None and law.order == 2:
            d = seen.shape[2]
            start = start.at[:, d:].multiply(acting.moving)
        found = solve(
            own, start, grid, told, method=method, substeps=substeps, tolerance=tolerance, max_steps=most,
            acting=acting,
        )  # fmt: skip
        return found.states, found.stiff

    return jax.vmap(one)(law, allowed)

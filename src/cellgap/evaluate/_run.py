"""The engine of an evaluation: scores every predictor on one condition, and combines what was found on all."""

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from cellgap.errors import ConditionError, DataError
from cellgap.evaluate import _predictors as who
from cellgap.evaluate._catalog import EFFECTS, METRICS
from cellgap.evaluate._effects import discrimination
from cellgap.evaluate._moments import l2_uvp
from cellgap.evaluate._plan import Plan
from cellgap.evaluate._predictors import Predictor, decoded
from cellgap.evaluate._target import Ruler, Target
from cellgap.space import AbstractFittedSpace
from cellgap.study import Condition, Role, Split

SpaceName = Literal["latent", "genes"]
Truth = Callable[[Condition, np.ndarray], np.ndarray]

COSTLY_DRAWS = 2
"""Draws on which transport distances are computed, and all distances between large populations: they cost most, and
vary least from draw to draw."""

LARGE = 500
"""Cells of a population above which all distances are costly."""

Row = tuple[str, str, str, str, float, int, int, int, str]
"""Predictor, condition, space, metric, value, n_pred, n_true, seed, note."""
Targets = dict[tuple[SpaceName, int], Target]


@dataclass(frozen=True, eq=False)
class Scored:
    """What was found on one condition.

    Parameters
    ----------
    plan
        Its draws.
    rows
        Rows of the table.
    rulers
        A record of each space; see ``Evaluation.conditions``.
    measured
        Mean measured effect by space and draw, (features,).
    predicted
        Mean predicted effect by predictor, space and draw, (features,).
    """

    plan: Plan
    rows: list[Row] = field(default_factory=list)
    rulers: list[dict[str, Any]] = field(default_factory=list)
    measured: dict[tuple[SpaceName, int], np.ndarray] = field(default_factory=dict)
    predicted: dict[tuple[str, SpaceName, int], np.ndarray] = field(default_factory=dict)


class Run:
    """What is fixed during an evaluation: all that is needed to score a condition, here or in another process.

    Parameters
    ----------
    split
        The split.
    maps
        Fitted models and baselines by name; the space of the first is the one that is measured in.
    z
        Code of every cell of the study in that space, (n_obs, d).
    spaces, metrics
        Where to measure, and what.
    truth
        True images of control cells, if known; see `evaluate`.
    largest
        Cells of the largest population that will be scored.
    """

    def __init__(
        self,
        split: Split,
        maps: Mapping[str, Predictor],
        z: np.ndarray,
        spaces: tuple[SpaceName, ...],
        metrics: tuple[str, ...],
        truth: Truth | None,
        *,
        largest: int,
    ) -> None:
        self._large = largest > LARGE
        self.split, self.maps, self.z = split, maps, z
        self.spaces, self.metrics, self.truth = spaces, metrics, truth
        self.space = next(iter(maps.values())).space
        self._pools: dict[tuple[int, Condition], np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what is sent to another process: pools are remembered by identity, which is another one there."""
        return self.__dict__ | {"_pools": {}}

    def score(self, plan: Plan, pool: Executor) -> Scored:
        """Return the scores of every predictor on one condition, computed several at a time.

        They depend on the run and the plan only, not on what was scored before.
        """
        found = Scored(plan)
        drawn = {who.REPLICATE: plan.replicate, who.CONTROL: plan.control}
        try:
            pairing = [who.random_pairing(self.split, plan.condition, plan.n, seed) for seed in plan.seeds]
        except ConditionError as error:
            self._leave_out(found.rows, who.RANDOM_PAIRING, plan, str(error))
        else:
            drawn[who.RANDOM_PAIRING] = np.asarray(pairing)
        # Files are read here, by one thread; the tasks only compute.
        reference = self.split.rows(plan.condition.control, Role.REFERENCE)
        cells: _Views = {space: _Cells(self, space, plan.measured, reference, *drawn.values()) for space in self.spaces}
        targets = self._targets(found, cells)
        # The controls come first and alone: what all predictors share is then computed once.
        found.rows.extend(self._score_cells(who.CONTROL, found, targets, cells, drawn.pop(who.CONTROL)))
        tasks: list[Callable[[], list[Row]]] = []
        for name, predictor in self.maps.items():
            source = self._pool(predictor.space, plan)
            tasks.append(functools.partial(self._score_map, name, predictor, source, found, targets))
        for name, rows in drawn.items():
            tasks.append(functools.partial(self._score_cells, name, found, targets, cells, rows))
        if "genes" in self.spaces:
            tasks.append(functools.partial(self._score_decoded, found, targets))
        for rows in pool.map(lambda task: task(), tasks):
            found.rows.extend(rows)
        return found

    def _targets(self, found: Scored, cells: "_Views") -> Targets:
        """Return the measured side of every space and draw."""
        plan, targets = found.plan, {}
        reference = self.split.rows(plan.condition.control, Role.REFERENCE)
        for space, here in cells.items():
            ruler = Ruler(here.of(np.unique(plan.measured)), here.of(np.unique(plan.control)))
            record: dict[str, Any] = {"condition": str(plan.condition), "space": space, "n": plan.n}
            record |= {"n_test": plan.n_test, "n_source": plan.n_source, "n_reference": plan.n_reference}
            record |= {"bandwidth": ruler.bandwidth, "mean_cost": ruler.mean_cost, "epsilon": ruler.epsilon}
            found.rulers.append(record)
            center = here.of(reference).mean(0, dtype=np.float64)
            for draw in range(len(plan.seeds)):
                measured, control = here.of(plan.measured[draw]), here.of(plan.control[draw])
                target = Target(measured, control, center, ruler, self._wanted(space, draw))
                targets[space, draw] = target
                found.measured[space, draw] = target.effect(target.q)
        return targets

    def _wanted(self, space: SpaceName, draw: int = 0) -> list[str]:
        """Return the metrics of a space and draw."""
        here = [name for name in self.metrics if space == "genes" or not METRICS[name].genes_only]
        costly = ("transport", "pairs") if self._large else ("transport",)
        return [name for name in here if draw < COSTLY_DRAWS or METRICS[name].needs not in costly]

    def _score_map(
        self, name: str, predictor: Predictor, source: np.ndarray, found: Scored, targets: Targets
    ) -> list[Row]:
        """Return the scores of what a map makes of the source pool."""
        plan, rows = found.plan, []
        try:
            moved = np.asarray(predictor.transport(source, plan.condition))
        except ConditionError as error:
            self._leave_out(rows, name, plan, str(error))
            return rows
        predicted: dict[SpaceName, np.ndarray] = {"latent": moved}
        if "genes" in self.spaces:
            predicted["genes"] = decoded(predictor.space, moved)
        for draw, chosen in enumerate(plan.source):
            for space in self.spaces:
                rows += self._score(name, found, draw, space, targets, predicted[space][chosen])
            if self.truth is not None and np.isfinite(predicted["genes"][chosen]).all():
                value = l2_uvp(predicted["genes"][chosen], self._true(plan.condition, plan.pool[chosen]))
                rows.append(_row(name, plan, draw, "genes", "l2_uvp", value))
        return rows

    def _score_cells(self, name: str, found: Scored, targets: Targets, cells: "_Views", drawn: np.ndarray) -> list[Row]:
        """Return the scores of measured cells, given by row for every draw, as a prediction."""
        rows: list[Row] = []
        for space in self.spaces:
            for draw, chosen in enumerate(drawn):
                rows += self._score(name, found, draw, space, targets, cells[space].of(chosen))
        return rows

    def _score_decoded(self, found: Scored, targets: Targets) -> list[Row]:
        """Return the scores, in gene space, of the replicate after encoding and decoding."""
        rows: list[Row] = []
        cells = np.unique(found.plan.replicate)
        values = decoded(self.space, self.z[cells])
        for draw, chosen in enumerate(found.plan.replicate):
            predicted = values[np.searchsorted(cells, chosen)]
            rows += self._score(who.DECODED, found, draw, "genes", targets, predicted)
        return rows

    def _score(
        self, name: str, found: Scored, draw: int, space: SpaceName, targets: Targets, predicted: np.ndarray
    ) -> list[Row]:
        target = targets[space, draw]
        bad = ~np.isfinite(predicted).all(axis=1)
        if np.any(bad):
            reason = f"{np.count_nonzero(bad)} of {len(predicted)} predicted cells are not finite"
            values, reasons = dict.fromkeys(target.metrics, np.nan), dict.fromkeys(target.metrics, reason)
        else:
            values, reasons = target.score(predicted)
            if name == who.CONTROL:
                # What is left against the mean of all controls is sampling noise, not a predicted effect.
                none = [metric for metric in values if metric in EFFECTS]
                values |= dict.fromkeys(none, np.nan)
                reasons |= dict.fromkeys(none, "controls have no effect")
            else:
                found.predicted[name, space, draw] = target.effect(predicted)
        return [_row(name, found.plan, draw, space, m, value, reasons.get(m, "")) for m, value in values.items()]

    def _leave_out(self, rows: list[Row], name: str, plan: Plan, reason: str) -> None:
        """Add that a predictor has no answer: one row a metric, without a value and without cells."""
        for space in self.spaces:
            metrics = [metric for metric in self._wanted(space) if METRICS[metric].needs != "truth"]
            rows += [(name, str(plan.condition), space, m, np.nan, 0, plan.n, plan.seeds[0], reason) for m in metrics]

    def _pool(self, space: AbstractFittedSpace, plan: Plan) -> np.ndarray:
        """Return the codes of the source pool of a context, in the space of a predictor."""
        if space is self.space:
            return self.z[plan.pool]
        key = (id(space), plan.condition.control)
        if key not in self._pools:
            self._pools[key] = np.asarray(space.encode(self.split.study.adata, plan.pool))
        return self._pools[key]

    def _true(self, condition: Condition, rows: np.ndarray) -> np.ndarray:
        assert self.truth is not None
        true = np.asarray(self.truth(condition, rows))
        genes, n_all = np.asarray(self.space.genes).astype(str), self.split.study.n_vars
        if true.ndim != 2 or len(true) != len(rows) or true.shape[1] not in (len(genes), n_all):
            raise DataError(
                f"truth must return {len(rows)} cells x {len(genes)} genes of the space (or all {n_all} of the study), "
                f"found shape {true.shape}."
            )
        if true.shape[1] == len(genes):
            return true
        return true[:, pd.Index(self.split.study.genes).get_indexer(pd.Index(genes))]


def discriminated(scored: Sequence[Scored]) -> list[Row]:
    """Return how the measured effects of all conditions of a context rank by nearness to each prediction."""
    plans = {found.plan.condition: found.plan for found in scored}
    measured: dict[tuple[SpaceName, int], dict[Condition, np.ndarray]] = {}
    predicted: dict[tuple[str, SpaceName, int], dict[Condition, np.ndarray]] = {}
    for found in scored:
        for place, effect in found.measured.items():
            measured.setdefault(place, {})[found.plan.condition] = effect
        for key, effect in found.predicted.items():
            predicted.setdefault(key, {})[found.plan.condition] = effect
    rows = []
    for (name, space, draw), effects in predicted.items():
        there = measured[space, draw]
        for control in dict.fromkeys(c.control for c in effects):
            candidates = [c for c in there if c.control == control]
            own = [c for c in candidates if c in effects]
            values = discrimination(
                np.stack([effects[c] for c in own]),
                np.stack([there[c] for c in candidates]),
                own=[candidates.index(c) for c in own],
            )
            note = "the only test condition of its context" if len(candidates) < 2 else ""
            for condition, value in zip(own, values, strict=True):
                rows.append(_row(name, plans[condition], draw, space, "discrimination", value, note))
    return rows


class _Cells:
    """Measured cells of some rows in one space, read once."""

    def __init__(self, run: Run, space: SpaceName, *rows: np.ndarray) -> None:
        self._rows = np.unique(np.concatenate([r.ravel() for r in rows]))
        if space == "latent":
            self._values = run.z[self._rows]
        else:
            self._values = np.asarray(run.space.measured(run.split.study.values(self._rows)))

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return the cells at these rows, in this order."""
        return self._values[np.searchsorted(self._rows, rows)]


_Views = dict[SpaceName, _Cells]


def _row(name: str, plan: Plan, draw: int, space: SpaceName, metric: str, value: float, note: str = "") -> Row:
    return name, str(plan.condition), space, metric, float(value), plan.n, plan.n, plan.seeds[draw], note

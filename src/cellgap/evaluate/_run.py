"""The engine of an evaluation: scores every predictor on one condition after the other."""

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
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


class Run:
    """What is fixed during an evaluation, and the rows found so far.

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

    Attributes
    ----------
    rows
        Rows of the table.
    rulers
        A record of each condition and space; see ``Evaluation.conditions``.
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
        self.rows: list[Row] = []
        self.rulers: list[dict[str, Any]] = []
        self._effects: dict[tuple[str, SpaceName, int], dict[Condition, np.ndarray]] = {}
        self._measured: dict[tuple[SpaceName, int], dict[Condition, np.ndarray]] = {}
        self._plans: dict[Condition, Plan] = {}
        self._pools: dict[tuple[int, Condition], np.ndarray] = {}

    def score(self, plan: Plan, pool: Executor) -> None:
        """Score every predictor on one condition, several at a time."""
        self._plans[plan.condition] = plan
        drawn = {who.REPLICATE: plan.replicate, who.CONTROL: plan.control}
        try:
            pairing = [who.random_pairing(self.split, plan.condition, plan.n, seed) for seed in plan.seeds]
        except ConditionError as error:
            self._leave_out(self.rows, who.RANDOM_PAIRING, plan, str(error))
        else:
            drawn[who.RANDOM_PAIRING] = np.asarray(pairing)
        # Files are read here, by one thread; the tasks only compute.
        reference = self.split.rows(plan.condition.control, Role.REFERENCE)
        cells: _Views = {space: _Cells(self, space, plan.measured, reference, *drawn.values()) for space in self.spaces}
        targets = self._targets(plan, cells)
        # The controls come first and alone: what all predictors share is then computed once.
        self.rows += self._score_cells(who.CONTROL, plan, targets, cells, drawn.pop(who.CONTROL))
        tasks: list[Callable[[], list[Row]]] = []
        for name, predictor in self.maps.items():
            source = self._pool(predictor.space, plan)
            tasks.append(functools.partial(self._score_map, name, predictor, source, plan, targets))
        for name, rows in drawn.items():
            tasks.append(functools.partial(self._score_cells, name, plan, targets, cells, rows))
        if "genes" in self.spaces:
            tasks.append(functools.partial(self._score_decoded, plan, targets))
        for rows in pool.map(lambda task: task(), tasks):
            self.rows += rows

    def finish(self) -> None:
        """Record how the measured effects of all conditions of a context rank by nearness to each prediction."""
        if "discrimination" not in self.metrics:
            return
        for (name, space, draw), predicted in self._effects.items():
            measured = self._measured[space, draw]
            for control in dict.fromkeys(c.control for c in predicted):
                candidates = [c for c in measured if c.control == control]
                own = [c for c in candidates if c in predicted]
                values = discrimination(
                    np.stack([predicted[c] for c in own]),
                    np.stack([measured[c] for c in candidates]),
                    own=[candidates.index(c) for c in own],
                )
                note = "the only test condition of its context" if len(candidates) < 2 else ""
                for condition, value in zip(own, values, strict=True):
                    row = _row(name, self._plans[condition], draw, space, "discrimination", value, note)
                    self.rows.append(row)

    def _targets(self, plan: Plan, cells: "_Views") -> Targets:
        """Return the measured side of every space and draw."""
        targets: Targets = {}
        reference = self.split.rows(plan.condition.control, Role.REFERENCE)
        for space, here in cells.items():
            ruler = Ruler(here.of(np.unique(plan.measured)), here.of(np.unique(plan.control)))
            record: dict[str, Any] = {"condition": str(plan.condition), "space": space, "n": plan.n}
            record |= {"n_test": plan.n_test, "n_source": plan.n_source, "n_reference": plan.n_reference}
            record |= {"bandwidth": ruler.bandwidth, "mean_cost": ruler.mean_cost, "epsilon": ruler.epsilon}
            self.rulers.append(record)
            center = here.of(reference).mean(0, dtype=np.float64)
            for draw in range(len(plan.seeds)):
                measured, control = here.of(plan.measured[draw]), here.of(plan.control[draw])
                target = Target(measured, control, center, ruler, self._wanted(space, draw))
                targets[space, draw] = target
                self._measured.setdefault((space, draw), {})[plan.condition] = target.effect(target.q)
        return targets

    def _wanted(self, space: SpaceName, draw: int = 0) -> list[str]:
        """Return the metrics of a space and draw."""
        here = [name for name in self.metrics if space == "genes" or not METRICS[name].genes_only]
        costly = ("transport", "pairs") if self._large else ("transport",)
        return [name for name in here if draw < COSTLY_DRAWS or METRICS[name].needs not in costly]

    def _score_map(
        self, name: str, predictor: Predictor, source: np.ndarray, plan: Plan, targets: Targets
    ) -> list[Row]:
        """Return the scores of what a map makes of the source pool."""
        rows: list[Row] = []
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
                rows += self._score(name, plan, draw, space, targets, predicted[space][chosen])
            if self.truth is not None and np.isfinite(predicted["genes"][chosen]).all():
                value = l2_uvp(predicted["genes"][chosen], self._true(plan.condition, plan.pool[chosen]))
                rows.append(_row(name, plan, draw, "genes", "l2_uvp", value))
        return rows

    def _score_cells(self, name: str, plan: Plan, targets: Targets, cells: "_Views", drawn: np.ndarray) -> list[Row]:
        """Return the scores of measured cells, given by row for every draw, as a prediction."""
        rows: list[Row] = []
        for space in self.spaces:
            for draw, chosen in enumerate(drawn):
                rows += self._score(name, plan, draw, space, targets, cells[space].of(chosen))
        return rows

    def _score_decoded(self, plan: Plan, targets: Targets) -> list[Row]:
        """Return the scores, in gene space, of the replicate after encoding and decoding."""
        rows: list[Row] = []
        cells = np.unique(plan.replicate)
        values = decoded(self.space, self.z[cells])
        for draw, chosen in enumerate(plan.replicate):
            predicted = values[np.searchsorted(cells, chosen)]
            rows += self._score(who.DECODED, plan, draw, "genes", targets, predicted)
        return rows

    def _score(
        self, name: str, plan: Plan, draw: int, space: SpaceName, targets: Targets, predicted: np.ndarray
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
                self._effects.setdefault((name, space, draw), {})[plan.condition] = target.effect(predicted)
        return [_row(name, plan, draw, space, m, value, reasons.get(m, "")) for m, value in values.items()]

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

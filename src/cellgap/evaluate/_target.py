"""The measured side of one comparison, prepared once and scored against many predictions."""

import functools
from collections.abc import Iterable

import numpy as np

from cellgap.errors import ConvergenceError
from cellgap.evaluate import _distances as distances
from cellgap.evaluate import _effects as effects
from cellgap.evaluate import _moments as moments
from cellgap.evaluate._catalog import CAPTURED, METRICS
from cellgap.evaluate._clouds import clouds
from cellgap.evaluate._distances import GAMMAS, PairSums, pair_sums
from cellgap.evaluate._sinkhorn import RELATIVE_EPSILON, EntropicProblem, halves, w2

POPULATION_CELLS = 10
"""Fewest cells a side for a metric of populations; below it only mean profiles are compared."""

SINKHORN_CELLS = 512
"""Most cells a side for `sinkhorn`, whose value depends on their number: the batch size of the published tables."""

_OF_PAIRS = ("mmd", "mmd_u", "energy", "energy_squared")


class Ruler:
    """What must be the same for all predictions of one condition: the kernel's bandwidth and the regularization.

    Parameters
    ----------
    measured, control
        Measured treated cells and reference controls; every predictor and draw of the condition is measured with what
        these give.
    """

    def __init__(self, measured: np.ndarray, control: np.ndarray) -> None:
        measured, control = clouds(measured, control, names=("measured", "control"))
        self.bandwidth = distances.median_distance(measured, control)
        self.mean_cost = distances.mean_cost(measured, control)
        self.epsilon = RELATIVE_EPSILON * self.mean_cost

    @property
    def flat(self) -> bool:
        """True where most cells are equal, so that there is no kernel or regularization to measure with."""
        return not (self.bandwidth > 0 and self.mean_cost > 0)


class Target:
    """Measured cells and controls of one draw, with everything that does not depend on the prediction.

    Parameters
    ----------
    measured, control
        Measured treated cells `q` and reference controls `c`, cells by features.
    center
        Mean of all reference controls, which effects are taken against, (features,). Every prediction and the measured
        cells share its sampling noise, so it comes from as many controls as there are.
    ruler
        Bandwidth and regularization of the condition.
    metrics
        Names of the metrics to compute; those that need all conditions or the true map are not computed here.
    """

    def __init__(
        self, measured: np.ndarray, control: np.ndarray, center: np.ndarray, ruler: Ruler, metrics: Iterable[str]
    ) -> None:
        self.q, self.c, self._center = clouds(
            measured, control, center[None, :], names=("measured", "control", "center")
        )
        self.metrics = tuple(m for m in metrics if METRICS[m].needs not in ("conditions", "truth"))
        self.ruler = ruler
        self.few = min(len(self.q), len(self.c))
        # A captured share needs its distance, whether or not that is shown.
        self._wanted = {CAPTURED.get(name, name) for name in self.metrics}
        if self.few < POPULATION_CELLS or ruler.flat:
            return
        self._gamma = distances.kernel_gamma(ruler.bandwidth)
        self._problem = EntropicProblem(ruler.epsilon, ruler.mean_cost)
        self._pairs = [name for name in _OF_PAIRS if name in self._wanted]
        if self._pairs:
            self._qq = self._sums(self.q)

    def effect(self, cells: np.ndarray) -> np.ndarray:
        """Return the mean effect of cells, against the mean of the reference controls, (features,)."""
        return moments.mean_effect(cells.mean(0, dtype=np.float64), self._center[0])

    def score(self, predicted: np.ndarray) -> tuple[dict[str, float], dict[str, str]]:
        """Return the value of every metric for predicted cells, and the reason for each that could not be computed.

        Parameters
        ----------
        predicted
            Predicted cells over the same features, in random order.

        Returns
        -------
        values, reasons
            By name of the metric. A value is NaN where the metric is undefined or has a reason not to be computed.
        """
        p = clouds(predicted, self.q, names=("predicted", "measured"))[0]
        values = dict.fromkeys(self.metrics, float("nan"))
        of_cells = [name for name in self.metrics if METRICS[name].needs != "means"]
        values |= self._of_means(p)
        few = min(len(p), self.few)
        if few < POPULATION_CELLS:
            return values, dict.fromkeys(
                of_cells, f"populations need at least {POPULATION_CELLS} cells a side, here {few}"
            )
        values |= self._of_variances(p)
        far_apart = [name for name in of_cells if METRICS[name].needs != "cells"]
        if self.ruler.flat:
            return values, dict.fromkeys(far_apart, "measured and control cells are all equal: no scale for a distance")
        found, reasons = self._distances(p)
        if any(name in CAPTURED for name in far_apart):
            for name, distance in CAPTURED.items():
                found[name] = distances.capture(found.get(distance, np.nan), self._control.get(distance, np.nan))
                if distance in reasons:
                    reasons[name] = reasons[distance]
        values |= {name: found[name] for name in far_apart if name in found}
        return values, {name: reason for name, reason in reasons.items() if name in self.metrics}

    def _of_means(self, p: np.ndarray) -> dict[str, float]:
        predicted, measured = p.mean(0), self._mean
        effects_of = self.effect(p), self.effect(self.q)
        r = moments.pearson(*effects_of)
        found = {
            "r2_mean": moments.pearson(predicted, measured) ** 2,
            "r2_delta": r**2,
            "pearson_delta": r,
            "drug_signature": float(np.linalg.norm(predicted - measured)),
            "sign_accuracy": effects.same_signs(*effects_of),
            "top_overlap": effects.same_top(*effects_of),
        }
        return {name: value for name, value in found.items() if name in self.metrics}

    def _of_variances(self, p: np.ndarray) -> dict[str, float]:
        predicted, (measured, size) = p.var(0, ddof=1), self._variance
        found = {
            "r2_var": moments.pearson(predicted, measured) ** 2,
            "variance_ratio": moments.mean_ratio(predicted, measured, size),
            "total_variance_ratio": moments.total_ratio(predicted, measured, size),
        }
        return {name: value for name, value in found.items() if name in self.metrics}

    def _distances(self, p: np.ndarray) -> tuple[dict[str, float], dict[str, str]]:
        found = self._of_pairs(p) if self._pairs else {}
        reasons: dict[str, str] = {}
        for name, solve in (("w2", self._w2), ("sinkhorn", self._sinkhorn), ("divergence2", self._divergence2)):
            if name in self._wanted:
                try:
                    found[name] = solve(p)
                except ConvergenceError as error:
                    reasons[name] = str(error)
        return found, reasons

    def _of_pairs(self, p: np.ndarray) -> dict[str, float]:
        pq, pp, qq = self._sums(p, self.q), self._sums(p), self._qq
        values = {
            "energy": distances.energy_from(pq, pp, qq),
            "energy_squared": distances.energy_from(pq, pp, qq, squared=True),
            "mmd_u": distances.mmd_from(pq, pp, qq, gammas=(self._gamma,), unbiased=True),
        }
        if "mmd" in self._wanted:
            values["mmd"] = distances.mmd_from(pq, pp, qq)
        return {name: values[name] for name in self._pairs}

    def _sums(self, x: np.ndarray, y: np.ndarray | None = None) -> PairSums:
        return pair_sums(x, y, gammas=(*(GAMMAS if "mmd" in self._wanted else ()), self._gamma))

    def _w2(self, p: np.ndarray) -> float:
        return w2(p, self.q)

    def _sinkhorn(self, p: np.ndarray) -> float:
        p, q = p[:SINKHORN_CELLS], self.q[:SINKHORN_CELLS]
        return self._problem.cross(p, q) - 0.5 * self._problem.within(p) - 0.5 * self._measured_sinkhorn

    def _divergence2(self, p: np.ndarray) -> float:
        (p1, p2), (q1, q2) = halves(p), halves(self.q)
        across = 0.5 * (self._problem.cross(p1, q1) + self._problem.cross(p2, q2))
        return across - 0.5 * self._problem.cross(p1, p2) - 0.5 * self._measured_divergence2

    @functools.cached_property
    def _mean(self) -> np.ndarray:
        return self.q.mean(0)

    @functools.cached_property
    def _variance(self) -> tuple[np.ndarray, np.ndarray]:
        """Variance and mean square of every measured feature."""
        return self.q.var(0, ddof=1), np.square(self.q).mean(0)

    @functools.cached_property
    def _control(self) -> dict[str, float]:
        return self._distances(self.c)[0]

    @functools.cached_property
    def _measured_sinkhorn(self) -> float:
        return self._problem.within(self.q[:SINKHORN_CELLS])

    @functools.cached_property
    def _measured_divergence2(self) -> float:
        return self._problem.cross(*halves(self.q))

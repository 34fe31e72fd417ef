"""How far weights have moved from their start, and whether they do so as the logarithm of the number of updates.

In a random landscape whose loss differs between two points as their distance, a random walk gets away as ``log t``;
in a flat one, as ``sqrt(t)``. The former says how many updates a run with large steps between few of them lacks.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from cellgap.errors import ConfigError, DataError

_FIRST_STEP = 3
_CLEAR = 0.02


class DistanceLog(eqx.Module):
    """Distances of weights from their start after some numbers of updates; a state for compiled loops.

    Parameters
    ----------
    steps
        Numbers of updates, increasing.
    distances
        Euclidean distances after so many updates; not a number where training has not come so far.
    """

    steps: Int[Array, " points"]
    distances: Float[Array, " points"]

    @classmethod
    def of(cls, n_steps: int, points: int = 60) -> "DistanceLog":
        """Return an empty log on a geometric grid from 1 to `n_steps` of at most `points` numbers of updates.

        Raises
        ------
        ConfigError
            There are less than 2 points or no steps.
        """
        if n_steps < 1 or points < 2:
            raise ConfigError(f"A log of distances needs 2 points and 1 step, not {points} and {n_steps}.")
        grid = np.unique(np.rint(np.geomspace(1, n_steps, points)).astype(np.int32))
        return cls(jnp.asarray(grid), jnp.asarray(np.full(len(grid), np.nan)))

    def update(self, start: Any, params: Any, step: Int[Array, ""] | int) -> "DistanceLog":
        """Return the log with the distance between two trees entered, where `step` is on the grid.

        Elsewhere the distance is not computed.

        Parameters
        ----------
        start, params
            Weights before training and now: trees of the same structure, of which floating-point arrays count.
        step
            Number of updates so far.
        """
        here = self.steps == step

        def entered() -> Float[Array, " points"]:
            distance = distance_between(start, params).astype(self.distances.dtype)
            return jnp.where(here, distance, self.distances)

        filled = jax.lax.cond(jnp.any(here), entered, lambda: self.distances)
        return DistanceLog(self.steps, filled)

    def read(self) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Return the numbers of updates that training has reached, and the distances after them."""
        steps, distances = np.asarray(self.steps), np.asarray(self.distances)
        reached = ~np.isnan(distances)
        return steps[reached], distances[reached]


def distance_between(first: Any, second: Any) -> Float[Array, ""]:
    """Return the Euclidean distance of two trees of weights, over all their floating-point arrays."""
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    squares = [jnp.sum((b - a) ** 2) for a, b in pairs if eqx.is_inexact_array(a)]
    return jnp.sqrt(sum(squares, jnp.zeros(())))


class RecordedDistance(NamedTuple):
    """State of `record_distance`: weights at the start, updates so far, and the log."""

    start: Any
    step: Int[Array, ""]
    log: DistanceLog


def record_distance(log: DistanceLog) -> optax.GradientTransformation:
    """Return an optimizer that changes nothing and records how far weights are from their start.

    Put it last: ``optax.chain(optax.sgd(0.1), record_distance(DistanceLog.of(1000)))``; the last entry of the chain's
    state then is a `RecordedDistance`. The start is what the optimizer is initialized with.

    Parameters
    ----------
    log
        An empty one.
    """

    def init(params: Any) -> Any:
        return RecordedDistance(params, jnp.int32(0), log)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ConfigError("A recorded distance needs the weights: give them to the optimizer's update.")
        step = state.step + 1
        moved = optax.apply_updates(params, updates)
        return updates, RecordedDistance(state.start, step, state.log.update(state.start, moved, step))

    return optax.GradientTransformation(init, update)


@dataclass(frozen=True)
class WeightDistanceFit:
    """Distances of weights over numbers of updates t, as a line in ``log t`` and as one in ``sqrt(t)``.

    Parameters
    ----------
    r2_log, r2_sqrt
        Part of the variance of distances that each line explains.
    log_line, sqrt_line
        Intercept and slope of each.
    slope
        Of the logarithm of distances over that of t: near 1/2 for ``sqrt(t)``, falling with t for ``log t``.
    n
        Number of distances used.
    steps_to_reference
        Updates after which the line in ``log t`` reaches the reference distance, ``exp((d - a) / b)``; infinite where
        it does not rise, None where no reference was given.
    """

    r2_log: float
    r2_sqrt: float
    log_line: tuple[float, float]
    sqrt_line: tuple[float, float]
    slope: float
    n: int
    steps_to_reference: float | None

    @property
    def decided(self) -> bool:
        """Whether one line explains more than the other by over 0.02 of the variance."""
        return abs(self.r2_log - self.r2_sqrt) > _CLEAR

    @property
    def verdict(self) -> str:
        """Which of "log" and "sqrt" describes the distances, or "undecided"."""
        if not self.decided:
            return "undecided"
        return "log" if self.r2_log > self.r2_sqrt else "sqrt"


def weight_distance_fit(
    t: Int[np.ndarray, " n"] | Float[np.ndarray, " n"], d: Float[np.ndarray, " n"], reference: float | None = None
) -> WeightDistanceFit:
    """Return both lines through distances of weights; only t of 3 and more counts.

    Parameters
    ----------
    t
        Numbers of updates, while the learning rate is constant.
    d
        Distances after so many; see `DistanceLog.read`.
    reference
        Distance of another run, to ask how many updates reach it.

    Raises
    ------
    DataError
        There are less than 4 distances from t = 3 on, or one is not positive and finite, or all are the same.

    Source
    ------
    Hoffer, Hubara, Soudry 2017 (arXiv 1705.08741), section 2; the limit of 0.02 is ours.
    """
    used = np.asarray(t) >= _FIRST_STEP
    steps, distances = np.asarray(t, float)[used], np.asarray(d, float)[used]
    if len(steps) < 4:
        raise DataError(f"Lines through distances need 4 of them from step {_FIRST_STEP} on, not {len(steps)}.")
    if not np.all(np.isfinite(distances) & (distances > 0)) or np.ptp(distances) == 0:
        raise DataError("Distances of weights have to be positive, finite and not all the same.")
    log_line, r2_log = _line(np.log(steps), distances)
    sqrt_line, r2_sqrt = _line(np.sqrt(steps), distances)
    (_, slope), _ = _line(np.log(steps), np.log(distances))
    to_reference = None
    if reference is not None:
        exponent = (reference - log_line[0]) / log_line[1] if log_line[1] > 0 else math.inf
        to_reference = math.exp(exponent) if exponent < 700 else math.inf
    return WeightDistanceFit(r2_log, r2_sqrt, log_line, sqrt_line, slope, len(steps), to_reference)


def _line(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> tuple[tuple[float, float], float]:
    """Return intercept and slope of least squares, and the part of the variance that they explain."""
    slope, intercept = np.polyfit(x, y, 1)
    left = y - intercept - slope * x
    return (float(intercept), float(slope)), float(1 - np.sum(left**2) / np.sum((y - y.mean()) ** 2))

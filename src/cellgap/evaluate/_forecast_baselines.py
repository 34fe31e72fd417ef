"""What every law must beat: forecasts by constants, by the average course, and by a linear law."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from cellgap.dynamics import Trajectories
from cellgap.errors import ConfigError
from cellgap.evaluate._history import (
    checked_history,
    label_columns,
    last_known,
    same_variables,
    since_start,
    within,
)
from cellgap.evaluate._linear_law import LinearLaw

TRAINING_MEAN = "training mean"
"""The baseline of `skill_mean`: the mean of all training states."""

HELD_START = "held start"
"""The baseline of `skill_start`: the last state of the history."""


class ForecastBaseline(Protocol):
    """A fitted forecast: where trajectories go, from the first states of each and the times."""

    def predict(self, test: Trajectories) -> Float[np.ndarray, "n t d"]:
        """Return a state for every time of `test`, filled-up ones included; only its history is looked at."""
        ...


class TrainingMean:
    """The mean of all training states, at all times.

    Parameters
    ----------
    train
        Every measured state counts the same.
    by
        Label, or labels, in ``about``: a mean for each; trajectories with labels that were not trained on get the mean
        of all.
    """

    def __init__(self, train: Trajectories, *, by: str | Sequence[str] | None = None):
        self.variables, self.by = train.variables, by
        self._means = {key: part.states.mean(0, dtype=np.float64) for key, part in _parts(train, by).items()}

    def predict(self, test: Trajectories) -> Float[np.ndarray, "n t d"]:
        """Return the mean; DataError where the variables are others."""
        same_variables(self.variables, test)
        means = np.stack([self._means.get(key, self._means[()]) for key in _keys(test, self.by)])
        return np.repeat(means[:, None], test.values.shape[1], axis=1)


class HeldStart:
    """The last state of the history, for ever.

    Parameters
    ----------
    history
        How many states of each trajectory are given; they are returned as they are.
    """

    def __init__(self, history: int = 1):
        self.history = checked_history(history)

    def predict(self, test: Trajectories) -> Float[np.ndarray, "n t d"]:
        """Return the history and then its last state."""
        held = test.values[np.arange(len(test)), last_known(test, self.history)]
        return np.where(within(test, self.history)[..., None], test.values, held[:, None]).astype(np.float64)


class HeldVelocity:
    """The last state of the history, going on at its last velocity.

    Parameters
    ----------
    history
        How many states of each trajectory are given, at least 2; they are returned as they are.
    """

    def __init__(self, history: int = 2):
        if checked_history(history) < 2:
            raise ConfigError("a velocity needs a history of two states or more, found history=1.")
        self.history = history

    def predict(self, test: Trajectories) -> Float[np.ndarray, "n t d"]:
        """Return the history and then a straight line; states at equal times have no velocity and are held."""
        rows, last = np.arange(len(test)), last_known(test, self.history)
        now, then = test.values[rows, last].astype(np.float64), test.values[rows, np.maximum(last - 1, 0)]
        passed = test.times[rows, last] - test.times[rows, np.maximum(last - 1, 0)]
        velocity = (now - then) / np.where(passed > 0, passed, np.inf)[:, None]
        ahead = test.times - test.times[rows, last][:, None]
        line = now[:, None] + ahead[..., None] * velocity[:, None]
        return np.where(within(test, self.history)[..., None], test.values, line)


class KernelSmooth:
    """The average course: training values smoothed over the time since the start (Nadaraya-Watson, Gaussian).

    Parameters
    ----------
    train
        Every measured state counts the same.
    h
        Bandwidth, as a share of the longest time of a training trajectory (``Trajectories.horizon``).
    by
        Label, or labels, in ``about``, such as the lineage: a course for each; trajectories with labels that were not
        trained on get that of all.

    Notes
    -----
    Beyond the training times the course goes on from its last values.
    """

    def __init__(self, train: Trajectories, h: float = 0.1, *, by: str | Sequence[str] | None = None):
        if not h > 0:
            raise ConfigError(f"the bandwidth of a kernel is positive, found h={h!r}.")
        self.variables, self.by, self.bandwidth = train.variables, by, h * train.horizon
        self._seen = {}
        for key, part in _parts(train, by).items():
            self._seen[key] = since_start(part)[part.seen], part.states.astype(np.float64)

    def predict(self, test: Trajectories) -> Float[np.ndarray, "n t d"]:
        """Return the course at the times of every trajectory; DataError where the variables are others."""
        same_variables(self.variables, test)
        clock, keys = since_start(test), _keys(test, self.by)
        made = np.empty(test.values.shape)
        for key in set(keys):
            times, values = self._seen.get(key, self._seen[()])
            rows = np.array([k == key for k in keys])
            asked, back = np.unique(clock[rows], return_inverse=True)
            made[rows] = self._course(asked, times, values)[back.reshape(clock[rows].shape)]
        return made

    def _course(self, asked: np.ndarray, times: np.ndarray, values: np.ndarray) -> Float[np.ndarray, "t d"]:
        course = np.empty((len(asked), values.shape[1]))
        # In blocks: all times by all cells of a lineage would be a large table.
        for start in range(0, len(asked), 256):
            block = slice(start, start + 256)
            log = -0.5 * ((asked[block, None] - times) / self.bandwidth) ** 2
            # Far beyond the training times all weights would be 0: only their ratios matter.
            weights = np.exp(log - log.max(1, keepdims=True))
            course[block] = weights @ values / weights.sum(1, keepdims=True)
        return course


def standard_forecasts(
    train: Trajectories, *, history: int = 1, by: str | Sequence[str] | None = None
) -> dict[str, ForecastBaseline]:
    """Return the baselines of a table of forecasts, fitted.

    Parameters
    ----------
    train
        Training trajectories.
    history
        How many states of each test trajectory are given.
    by
        Label, or labels, in ``about`` for which the kernel smooth has courses of their own.

    Returns
    -------
    baselines
        By name: training mean, held start, held velocity (from a history of two), kernel smooth, linear law.

    Raises
    ------
    ConfigError
        The history is less than one state.
    DataError
        There is no such label.
    """
    made: dict[str, ForecastBaseline] = {TRAINING_MEAN: TrainingMean(train), HELD_START: HeldStart(history)}
    if history >= 2:
        made["held velocity"] = HeldVelocity(history)
    return made | {"kernel smooth": KernelSmooth(train, by=by), "linear law": LinearLaw(train, history=history)}


def _parts(train: Trajectories, by: str | Sequence[str] | None) -> dict[tuple[str, ...], Trajectories]:
    """Return training trajectories by their labels, and all of them under no label."""
    keys = _keys(train, by)
    parts: dict[tuple[str, ...], Trajectories] = {(): train}
    for key in dict.fromkeys(keys):
        parts[key] = train.take(np.array([k == key for k in keys]))
    return parts


def _keys(data: Trajectories, by: str | Sequence[str] | None) -> list[tuple[str, ...]]:
    columns = label_columns(data, by)
    labels: Any = data.about[columns].astype(str)
    return list(labels.itertuples(index=False, name=None)) if columns else [()] * len(data)

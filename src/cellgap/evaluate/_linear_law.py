"""A linear law of trajectories, fitted in closed form: what a law has to beat to be worth its network."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

import numpy as np
from jaxtyping import Float
from scipy.linalg import expm

from cellgap.dynamics import Trajectories
from cellgap.evaluate._history import checked_history, last_known, same_variables, since_start, within

RIDGES = tuple(10.0**e for e in range(-6, 5))
"""Strengths of the ridge to choose from, for features of variance 1 and a mean over states."""

_FOLDS = 5
_SHORT = 20  # states of a course that is judged as a whole
_SAME = 1e-4  # of a step: intervals that differ by less are equal
_TICKS = 2**16  # of the longest time: unequal times are rounded to them


class LinearLaw:
    """A linear law of the state, or of the state and its velocity, by ridge regression.

    At equal intervals, ``x_{t+1} - x_t = A [x_t, x_t - x_{t-1}] + b``; the velocity only enters with a history of two
    states or more. At unequal ones, ``dx/dt = A x + b``, from differences over the intervals. The ridge shrinks towards
    the law that stands still; it is the one whose courses, from the history on, fit left-out trajectories best.

    Parameters
    ----------
    train
        Training trajectories; a single one is cut into five.
    history
        How many states of each trajectory are given; they are returned as they are.

    Attributes
    ----------
    ridge
        The strength chosen, of `RIDGES`.
    step
        The interval of the training times, or None where they differ.

    Notes
    -----
    Nothing bounds a linear law: on states unlike the training ones it may run away, to infinity even.
    """

    def __init__(self, train: Trajectories, *, history: int = 1):
        self.variables, self.history = train.variables, checked_history(history)
        self.step = _step_of(train)
        states = train.states.astype(np.float64)
        self._mean, spread = states.mean(0), states.std(0)
        self._sd = np.where(spread > 0, spread, 1.0)
        piece = max(2, train.values.shape[1] // _FOLDS)
        self._train = train if len(train) > 1 else train.windows(piece, stride=piece)
        self.ridge, self._law = self._chosen(self.step)

    def predict(self, test: Trajectories) -> Float[np.ndarray, "n t d"]:
        """Return the history and its course by the law; DataError where the variables are others."""
        same_variables(self.variables, test)
        law = self._law if _multiples(test, self.step) else self._between
        return self._course(law, test)

    @cached_property
    def _between(self) -> "_Law":
        """The law in continuous time, for times that the steps of the training data do not meet."""
        return self._chosen(None)[1]

    def _chosen(self, step: float | None) -> tuple[float, "_Law"]:
        """Return the best ridge and the law by it."""
        train = self._train
        folds = np.arange(len(train)) % min(_FOLDS, len(train))
        sums = [self._sums(train.take(folds == f), step) for f in range(folds.max() + 1)]
        together = reduce(add, sums)
        if len(sums) < 2:
            return 1.0, _solved(together, step)(1.0)
        errors = np.zeros(len(RIDGES))
        length = max(_SHORT, 2 * self.history, train.values.shape[1] // _FOLDS)
        for f, own in enumerate(sums):
            # Long courses are judged piece by piece: far from its start, every law is at a loss.
            left_out = train.take(folds == f).windows(length, stride=length)
            solve = _solved(reduce(add, [s for s in sums if s is not own]), step)
            scored = left_out.seen & ~within(left_out, self.history)
            for r, ridge in enumerate(RIDGES):
                with np.errstate(over="ignore", invalid="ignore"):
                    apart = (self._course(solve(ridge), left_out) - left_out.values) / self._sd
                    total = (apart[scored] ** 2).sum()
                errors[r] += total if np.isfinite(total) else np.inf
        # Among equals, the one nearest to standing still.
        best = RIDGES[len(RIDGES) - 1 - int(np.argmin(errors[::-1]))]
        return best, _solved(together, step)(best)

    def _sums(self, data: Trajectories, step: float | None) -> "_Sums":
        """Return what the regression needs to know of trajectories."""
        z = (data.values - self._mean) / self._sd
        passed = np.diff(data.times, axis=1)
        used = data.seen[:, 1:] & (passed > 0)
        if step is None:
            # Differences of noisy states over short times say little: each counts by the square of its time. With the
            # middle of both states, noise on one of them does not look like a decay.
            w = passed[used] ** 2
            change = (z[:, 1:] - z[:, :-1])[used] / passed[used][:, None]
            return _Sums.of(0.5 * (z[:, 1:] + z[:, :-1])[used], change, w)
        if self.history == 1:
            return _Sums.of(z[:, :-1][used], (z[:, 1:] - z[:, :-1])[used], np.ones(used.sum()))
        used = used[:, 1:] & used[:, :-1]
        moved = z[:, 1:] - z[:, :-1]
        now = np.concatenate([z[:, 1:-1], moved[:, :-1]], axis=-1)
        return _Sums.of(now[used], moved[:, 1:][used], np.ones(used.sum()))

    def _course(self, law: "_Law", test: Trajectories) -> Float[np.ndarray, "n t d"]:
        z = (test.values - self._mean) / self._sd
        given, last, rows = within(test, self.history), last_known(test, self.history), np.arange(len(test))
        clock = since_start(test)
        tick = law.step or max(float(clock.max()), np.finfo(float).tiny) / _TICKS
        ticks = np.rint(clock / tick).astype(np.int64)
        with np.errstate(over="ignore", invalid="ignore"):
            advance = _stepper(law) if law.step else _flow(law, tick)
            before = np.maximum(last - 1, 0)
            passed = np.maximum(ticks[rows, last] - ticks[rows, before], 1)
            first = (z[rows, last] - z[rows, before]) / passed[:, None]
            moved = np.zeros_like(first)
            for k in range(1, z.shape[1]):
                ahead, moving = advance(z[:, k - 1], moved, ticks[:, k] - ticks[:, k - 1])
                here = given[:, k, None]
                z[:, k] = np.where(here, z[:, k], ahead)
                moved = np.where(here, first, moving)
            return np.where(given[..., None], test.values, z * self._sd + self._mean)


@dataclass(frozen=True, eq=False)
class _Law:
    """Coefficients, (features, d), and the constant, (d,): of a step, or of the derivative where there is no step."""

    weights: np.ndarray
    constant: np.ndarray
    step: float | None


# States, the last steps of each, and a number of ticks to states and steps.
_Advance = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _stepper(law: _Law) -> _Advance:
    """Return the law that goes step by step."""

    def advance(z: np.ndarray, moved: np.ndarray, ticks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        for j in range(int(ticks.max())):
            now = np.concatenate([z, moved], axis=1) if len(law.weights) > z.shape[1] else z
            going = (ticks > j)[:, None]
            moved = np.where(going, now @ law.weights + law.constant, moved)
            z = np.where(going, z + moved, z)
        return z, moved

    return advance


def _flow(law: _Law, tick: float) -> _Advance:
    """Return the exact solution of the law in time: any number of ticks is a product of few powers of that of one."""
    d = law.weights.shape[1]
    generator = np.zeros((d + 1, d + 1))
    generator[:d, :d], generator[d, :d] = law.weights, law.constant
    powers = [expm(tick * generator)]

    def advance(z: np.ndarray, moved: np.ndarray, ticks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        state, bit = np.concatenate([z, np.ones((len(z), 1))], axis=1), 0
        while (ticks >> bit).any():
            if bit == len(powers):
                powers.append(powers[-1] @ powers[-1])
            rows = (ticks >> bit) & 1 == 1
            state[rows] = state[rows] @ powers[bit]
            bit += 1
        return state[:, :-1], moved

    return advance


@dataclass(frozen=True, eq=False)
class _Sums:
    """Weighted sums of features and targets: those of several groups add."""

    weight: float
    feature: np.ndarray
    target: np.ndarray
    square: np.ndarray
    product: np.ndarray

    @staticmethod
    def of(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> "_Sums":
        weighted = x * w[:, None]
        return _Sums(float(w.sum()), weighted.sum(0), w @ y, x.T @ weighted, weighted.T @ y)

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(
            self.weight + other.weight,
            self.feature + other.feature,
            self.target + other.target,
            self.square + other.square,
            self.product + other.product,
        )


def _solved(sums: _Sums, step: float | None) -> Callable[[float], _Law]:
    """Return the law as a function of the ridge."""
    total = max(sums.weight, np.finfo(float).tiny)
    mean, aim = sums.feature / total, sums.target / total
    square = sums.square / total - np.outer(mean, mean)
    variance = np.diagonal(square)
    scale = np.sqrt(np.where(variance > 1e-12, variance, 1.0))
    values, vectors = np.linalg.eigh(square / np.outer(scale, scale))
    product = vectors.T @ ((sums.product / total - np.outer(mean, aim)) / scale[:, None])

    def law(ridge: float) -> _Law:
        weights = vectors @ (product / (np.maximum(values, 0.0) + ridge)[:, None]) / scale[:, None]
        # The mean change is shrunk as well: between noisy states at unequal times it may be large.
        return _Law(weights, aim / (1 + ridge) - mean @ weights, step)

    return law


def _step_of(data: Trajectories) -> float | None:
    """Return the interval between times, or None where there is more than one."""
    passed = np.diff(data.times, axis=1)[data.seen[:, 1:]]
    step = float(np.median(passed))
    return step if step > 0 and np.abs(passed - step).max() <= _SAME * step else None


def _multiples(data: Trajectories, step: float | None) -> bool:
    """Return whether all intervals are whole numbers of steps."""
    if step is None:
        return True
    steps = np.diff(data.times, axis=1) / step
    return bool(np.abs(steps - np.rint(steps)).max(initial=0.0) <= 100 * _SAME)

"""Intervals and paired comparisons by resampling conditions, and draws within them."""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

N_RESAMPLES = 2000
"""Resamples of a bootstrap."""

Values = Float[np.ndarray, "conditions draws"]


@dataclass(frozen=True)
class Resamples:
    """Indices of resampled conditions and, for each, of resampled draws; shared by all that is compared.

    Parameters
    ----------
    conditions
        Indices, resamples by conditions.
    draws
        Indices, resamples by conditions by draws.
    """

    conditions: np.ndarray
    draws: np.ndarray

    @classmethod
    @functools.lru_cache(maxsize=64)
    def of(cls, n_conditions: int, n_draws: int, *, seed: int = 0, n: int = N_RESAMPLES) -> "Resamples":
        """Return `n` resamples, with replacement, of conditions and of draws within each."""
        rng = np.random.default_rng(seed)
        conditions = rng.integers(n_conditions, size=(n, n_conditions))
        draws = rng.integers(n_draws, size=(n, n_conditions, n_draws))
        return cls(conditions, draws)

    def means(self, values: Values) -> Float[np.ndarray, " resamples"]:
        """Return the mean over conditions of the mean over draws, in every resample."""
        return values[self.conditions[:, :, None], self.draws].mean(axis=(1, 2))


def interval(resampled: Float[np.ndarray, " resamples"], *, n_conditions: int) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles; NaN for fewer than two conditions, of whose spread nothing is known."""
    if n_conditions < 2 or not np.isfinite(resampled).all():
        return float("nan"), float("nan")
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class PairedDifference:
    """How much better one is than another over the same conditions.

    Parameters
    ----------
    n_conditions
        Conditions that both answered.
    difference
        Mean over conditions of the difference, positive where the first is better.
    low, high
        95 % interval of the difference; NaN for fewer than two conditions.
    share
        Share of the conditions in which the first is better; ties count half.
    """

    n_conditions: int
    difference: float
    low: float
    high: float
    share: float

    @property
    def beats(self) -> bool:
        """Return True where the interval lies above 0."""
        return bool(self.low > 0)


def paired_bootstrap(a: Values, b: Values, *, seed: int = 0, n: int = N_RESAMPLES) -> PairedDifference:
    """Return by how much `a` is better than `b`, higher values being better, with a 95 % interval.

    Parameters
    ----------
    a, b
        One row a condition, one column a draw; the same conditions and draws. Conditions in which either holds NaN are
        left out, and counted in `PairedDifference.n_conditions`.
    seed
        Seed of the resampling.
    n
        Resamples.
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    difference = difference[np.isfinite(difference).all(axis=1)]
    k = len(difference)
    if k == 0:
        nan = float("nan")
        return PairedDifference(0, nan, nan, nan, nan)
    by_condition = difference.mean(axis=1)
    low, high = interval(Resamples.of(*difference.shape, seed=seed, n=n).means(difference), n_conditions=k)
    share = float(np.mean(by_condition > 0) + 0.5 * np.mean(by_condition == 0))
    return PairedDifference(k, float(by_condition.mean()), low, high, share)

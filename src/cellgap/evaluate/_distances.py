"""Kernel and energy distances between populations, from one pass over the pairs of cells.

Everything is accumulated in float64. The pairs are visited in tiles, so that nothing of the size cells x cells is kept;
inside a cloud only the pairs above the diagonal are computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cellgap.errors import DataError
from cellgap.evaluate._clouds import Cells, cloud, clouds

GAMMAS: tuple[float, ...] = (2.0, 1.0, 0.5, 0.1, 0.01, 0.005)
"""Inverse squared bandwidths of the CellOT and conditional Monge protocols."""

_TILE = 128
# exp(-80) = 2e-35 vanishes beside the kernel of a cell with itself, and smaller values would be slow denormal numbers.
_NEGLIGIBLE = -80.0
_MEDIAN_CELLS = 500


@dataclass(frozen=True)
class PairSums:
    """Sums over all pairs of two clouds (or of one cloud with itself, the diagonal included).

    Parameters
    ----------
    n, m
        Cells on either side.
    within
        True where the pairs are those of one cloud with itself: `n` of them are a cell with itself.
    distance, squared
        Sums of ``|x - y|`` and of ``|x - y|^2``.
    kernels
        Sum of ``exp(-gamma |x - y|^2)`` by gamma.
    """

    n: int
    m: int
    within: bool
    distance: float
    squared: float
    kernels: dict[float, float] = field(default_factory=dict)

    def mean_distance(self, *, unbiased: bool = False) -> float:
        """Return the mean of ``|x - y|``, over distinct cells only where `unbiased`."""
        return self.distance / self._pairs(unbiased)

    def mean_squared(self, *, unbiased: bool = False) -> float:
        """Return the mean of ``|x - y|^2``, over distinct cells only where `unbiased`."""
        return self.squared / self._pairs(unbiased)

    def mean_kernel(self, gamma: float, *, unbiased: bool = False) -> float:
        """Return the mean of ``exp(-gamma |x - y|^2)``, over distinct cells only where `unbiased`."""
        own = self.n if self.within and unbiased else 0
        return (self.kernels[gamma] - own) / self._pairs(unbiased)

    def _pairs(self, unbiased: bool) -> float:
        if self.within and unbiased:
            return float(self.n * (self.n - 1)) or float("nan")
        return float(self.n * self.m)


def pair_sums(x: Cells, y: Cells | None = None, *, gammas: Sequence[float] = ()) -> PairSums:
    """Return the sums that energy distances and kernel discrepancies are made of.

    Parameters
    ----------
    x, y
        Two clouds; without `y`, the cloud `x` with itself.
    gammas
        Kernels to sum, ``exp(-gamma |x - y|^2)``.
    """
    within = y is None
    left = cloud(x, "x")
    right = left if y is None else clouds(x, y, names=("x", "y"))[1]
    order = sorted(gammas)
    # |x|^2 + |y|^2 - 2 x.y cancels badly far from the origin.
    center = right.mean(0)
    left, right = left - center, right - center
    xx, yy = np.einsum("ij,ij->i", left, left), np.einsum("ij,ij->i", right, right)
    totals = np.zeros(2 + len(order))
    for start in range(0, len(left), _TILE):
        stop = min(start + _TILE, len(left))
        first = start if within else 0
        squared = left[start:stop] @ right[first:].T
        squared *= -2.0
        squared += xx[start:stop, None]
        squared += yy[None, first:]
        np.maximum(squared, 0.0, out=squared)
        if within:
            np.fill_diagonal(squared, 0.0)
        # Within one cloud a tile holds its own pairs in both orders, and pairs with later cells in one order only.
        own = stop - start if within else squared.shape[1]
        totals += _tile_sums(squared, order, own, 2.0 if within else 1.0)
    kernels = dict(zip(order, totals[2:].tolist(), strict=True))
    return PairSums(len(left), len(right), within, float(totals[0]), float(totals[1]), kernels)


def _tile_sums(squared: np.ndarray, gammas: Sequence[float], split: int, later: float) -> np.ndarray:
    """Return the sums of one tile, its columns from `split` on weighted by `later`."""

    def total(values: np.ndarray) -> float:
        columns = values.sum(0)
        return float(columns[:split].sum() + later * columns[split:].sum())

    work = np.sqrt(squared)
    sums = [total(work), total(squared)]
    previous = float("nan")
    for gamma in gammas:
        if gamma == 2.0 * previous:
            # The kernel of twice the gamma is the square of the last one: cheaper than another exponential.
            np.multiply(work, work, out=work)
        else:
            np.multiply(squared, -gamma, out=work)
            np.maximum(work, _NEGLIGIBLE, out=work)
            np.exp(work, out=work)
        sums.append(total(work))
        previous = gamma
    return np.asarray(sums)


def energy_from(pq: PairSums, pp: PairSums, qq: PairSums, *, squared: bool = False, unbiased: bool = False) -> float:
    """Return the energy distance from sums over pairs; see `energy`."""
    if squared:
        own = pp.mean_squared(unbiased=unbiased) + qq.mean_squared(unbiased=unbiased)
        return 2.0 * pq.mean_squared() - own
    own = pp.mean_distance(unbiased=unbiased) + qq.mean_distance(unbiased=unbiased)
    return 2.0 * pq.mean_distance() - own


def mmd_from(
    pq: PairSums, pp: PairSums, qq: PairSums, *, gammas: Sequence[float] = GAMMAS, unbiased: bool = False
) -> float:
    """Return the squared kernel discrepancy from sums over pairs; see `mmd` and `mmd_u`."""
    values = [
        pp.mean_kernel(g, unbiased=unbiased) + qq.mean_kernel(g, unbiased=unbiased) - 2.0 * pq.mean_kernel(g)
        for g in gammas
    ]
    return float(np.mean(values))


def energy(p: Cells, q: Cells, *, unbiased: bool = False) -> float:
    """Return the energy distance with Euclidean ground distance, ``2 E|X-Y| - E|X-X'| - E|Y-Y'|``.

    Parameters
    ----------
    p, q
        Two populations over the same features.
    unbiased
        False: all pairs count, a cell with itself included (0 for equal clouds, never negative). True: distinct cells
        only, so that the expectation is 0 for samples of one law (may be negative).

    Source
    ------
    Székely and Rizzo 2013; the E-distance of scPerturb (Peidl et al. 2024), there with squared distances by default.
    """
    p, q = clouds(p, q)
    return energy_from(pair_sums(p, q), pair_sums(p), pair_sums(q), unbiased=unbiased)


def energy_squared(p: Cells, q: Cells, *, unbiased: bool = False) -> float:
    """Return the energy distance with squared Euclidean ground distance, as scPerturb's default does.

    It is ``2 |mean(p) - mean(q)|^2`` and nothing else: it does not see shape. Kept to compare with published numbers.
    """
    p, q = clouds(p, q)
    return energy_from(pair_sums(p, q), pair_sums(p), pair_sums(q), squared=True, unbiased=unbiased)


def mmd(p: Cells, q: Cells, *, gammas: Sequence[float] = GAMMAS) -> float:
    """Return the squared maximum mean discrepancy, averaged over Gaussian kernels ``exp(-gamma |x-y|^2)``; V-statistic.

    0 for equal clouds, never negative, and biased upwards by about 1/n + 1/m: compare with the replicate only.

    Source
    ------
    Gretton et al. 2012, eq. 5; the gammas of the CellOT protocol (Bunne et al. 2023).
    """
    p, q = clouds(p, q)
    return mmd_from(
        pair_sums(p, q, gammas=gammas), pair_sums(p, gammas=gammas), pair_sums(q, gammas=gammas), gammas=gammas
    )


def mmd_u(p: Cells, q: Cells, *, bandwidth: float | None = None) -> float:
    """Return the unbiased squared maximum mean discrepancy with the kernel ``exp(-|x-y|^2 / (2 bandwidth^2))``.

    The expectation is 0 for samples of one law; single values may be negative. NaN for a single cell.

    Parameters
    ----------
    p, q
        Two populations over the same features.
    bandwidth
        Length scale; by default the median distance among the cells of both (`median_distance`). To compare several
        predictions, fix it once: a prediction must not choose its own kernel.

    Source
    ------
    Gretton et al. 2012, eq. 3.
    """
    p, q = clouds(p, q)
    gamma = kernel_gamma(median_distance(p, q) if bandwidth is None else bandwidth)
    sums = [pair_sums(p, q, gammas=(gamma,)), pair_sums(p, gammas=(gamma,)), pair_sums(q, gammas=(gamma,))]
    return mmd_from(*sums, gammas=(gamma,), unbiased=True)


def kernel_gamma(bandwidth: float) -> float:
    """Return ``1 / (2 bandwidth^2)``.

    Raises
    ------
    DataError
        The bandwidth is not positive.
    """
    if not bandwidth > 0:
        raise DataError(f"a kernel needs a bandwidth above 0, found {bandwidth}: are all cells equal?")
    return 0.5 / bandwidth**2


def median_distance(p: Cells, q: Cells) -> float:
    """Return the median distance among the cells of both populations (at most 500 of each, evenly spaced rows)."""
    p, q = clouds(p, q)
    both = np.concatenate([_thin(p), _thin(q)])
    both = both - both.mean(0)
    norms = np.einsum("ij,ij->i", both, both)
    squared = np.maximum(norms[:, None] + norms[None, :] - 2.0 * both @ both.T, 0.0)
    return float(np.median(np.sqrt(squared[np.triu_indices(len(both), k=1)])))


def mean_cost(p: Cells, q: Cells) -> float:
    """Return the mean squared distance of a cell of `p` to a cell of `q`: the unit of a relative epsilon.

    From the moments: ``|mean(p) - mean(q)|^2 + tr cov(p) + tr cov(q)``, equal to the mean over all pairs.
    """
    p, q = clouds(p, q)
    return float(np.square(p.mean(0) - q.mean(0)).sum() + p.var(0).sum() + q.var(0).sum())


def capture(distance: float, from_control: float) -> float:
    """Return the share of the effect that a prediction captures, ``1 - D(P, Q) / D(C, Q)``, for any distance D.

    0: no better than leaving the controls as they are; 1: perfect; negative: worse than doing nothing. NaN where the
    controls are not farther from the measured cells than 0 (an unbiased distance may be negative).
    """
    return 1.0 - distance / from_control if from_control > 0 else float("nan")


def _thin(x: np.ndarray) -> np.ndarray:
    return x[np.linspace(0, len(x) - 1, min(len(x), _MEDIAN_CELLS)).astype(int)]

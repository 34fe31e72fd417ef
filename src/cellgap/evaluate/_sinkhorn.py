"""Transport distances between populations, on top of `cellgap.ot`: entropic, debiased, two-batch and exact.

The solver works in the unit of the mean cost, where float32 is enough. Clouds are padded with cells of weight zero to
a few fixed sizes, so that conditions of different size do not compile again.
"""

import functools

import jax
import numpy as np
from jaxtyping import Array, Float

from cellgap import ot
from cellgap.errors import ConvergenceError, DataError
from cellgap.evaluate._clouds import Cells, clouds
from cellgap.evaluate._distances import mean_cost, pair_sums
from cellgap.ot import Cost

RELATIVE_EPSILON = 0.05
"""Default entropic regularization, as a share of the mean cost; below it finite samples look alike whatever their law.
"""

EXACT_CELLS = 5000
"""Cells up to which `w2` is exact."""

_TOLERANCE = 1e-4
_MAX_ITERATIONS = 5000
# Below this share of the mean cost the iteration needs a decreasing sequence of epsilons.
_ANNEAL_BELOW = 0.02


@functools.partial(jax.jit, static_argnames=("cost", "anneal"))
def _cross(x: Array, y: Array, a: Array, b: Array, epsilon: Array, *, cost: Cost, anneal: bool) -> tuple[Array, Array]:
    solved = ot.entropic_cost(
        x,
        y,
        a=a,
        b=b,
        epsilon=epsilon,
        cost=cost,
        tol=_TOLERANCE,
        max_iterations=_MAX_ITERATIONS,
        anneal=anneal,
    )
    return solved.value, solved.error


@functools.partial(jax.jit, static_argnames=("cost",))
def _within(x: Array, a: Array, epsilon: Array, *, cost: Cost) -> tuple[Array, Array]:
    solved = ot.entropic_self_cost(x, a=a, epsilon=epsilon, cost=cost, tol=_TOLERANCE, max_iterations=_MAX_ITERATIONS)
    return solved.value, solved.error


def padded_size(n: int) -> int:
    """Return the size a cloud of `n` cells is padded to: the next of 16, 24, 32, 48, 64, 96, ..."""
    size = 16
    while size < n:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


class EntropicProblem:
    """Entropic costs at one regularization, in the unit of the cost.

    Parameters
    ----------
    epsilon
        Absolute entropic regularization, in the unit of the cost.
    unit
        A typical cost (the mean cost of the data at hand); it only scales the arithmetic.
    cost
        ``"sqeuclidean"`` or ``"euclidean"``.
    """

    def __init__(self, epsilon: float, unit: float, cost: Cost = "sqeuclidean") -> None:
        if not (epsilon > 0 and unit > 0):
            raise DataError(
                f"entropic transport needs an epsilon and a mean cost above 0, found {epsilon} and {unit}: "
                "are all cells equal?"
            )
        self.epsilon, self.unit = float(epsilon), float(unit)
        self.cost: Cost = cost
        self._length = self.unit**0.5 if cost == "sqeuclidean" else self.unit
        self._anneal = bool(epsilon < _ANNEAL_BELOW * unit)

    def cross(self, p: np.ndarray, q: np.ndarray) -> float:
        """Return ``OT_kl(p, q)``; raises ConvergenceError where the iteration does not reach its tolerance."""
        # Both clouds move by one vector: far from the origin float32 would lose the distances.
        center = q.mean(0)
        size = padded_size(max(len(p), len(q)))
        (x, a), (y, b) = self._padded(p - center, size), self._padded(q - center, size)
        solved = _cross(x, y, a, b, np.float32(self.epsilon / self.unit), cost=self.cost, anneal=self._anneal)
        return self._checked(*solved)

    def within(self, p: np.ndarray) -> float:
        """Return ``OT_kl(p, p)``; raises ConvergenceError where the iteration does not reach its tolerance."""
        x, a = self._padded(p - p.mean(0), padded_size(len(p)))
        return self._checked(*_within(x, a, np.float32(self.epsilon / self.unit), cost=self.cost))

    def _padded(self, cells: np.ndarray, size: int) -> tuple[Float[np.ndarray, "size d"], Float[np.ndarray, " size"]]:
        n, d = cells.shape
        x = np.zeros((size, d), np.float32)
        x[:n] = cells / self._length
        weights = np.zeros(size, np.float32)
        weights[:n] = 1.0 / n
        return x, weights

    def _checked(self, value: Array, error: Array) -> float:
        if not float(error) <= _TOLERANCE:
            raise ConvergenceError(
                f"Sinkhorn stopped at a marginal error of {float(error):.1e}, above {_TOLERANCE:.0e}, after "
                f"{_MAX_ITERATIONS} iterations at epsilon {self.epsilon:.3g} "
                f"({self.epsilon / self.unit:.1%} of the mean cost): try a larger epsilon."
            )
        return self.unit * float(value)


def entropic_cost(p: Cells, q: Cells, *, epsilon: float, cost: Cost = "euclidean") -> float:
    """Return ``OT_kl(p, q) = min_P <P, C> + eps KL(P | ab^T)``, not debiased.

    With Euclidean cost and epsilon 0.1 it is the "Wasserstein" of the conditional Monge tables. It does not go to zero
    for samples of one law.

    Parameters
    ----------
    p, q
        Two populations over the same features.
    epsilon
        Entropic regularization, absolute, in the unit of the cost.
    cost
        ``"euclidean"``, ``|x-y|``; or ``"sqeuclidean"``, ``|x-y|^2``.

    Raises
    ------
    ConvergenceError
        The iteration did not reach a marginal error of 1e-4.
    """
    p, q = clouds(p, q)
    return _problem(p, q, epsilon, None, cost).cross(p, q)


def sinkhorn(
    p: Cells,
    q: Cells,
    *,
    epsilon: float | None = None,
    relative_epsilon: float = RELATIVE_EPSILON,
    cost: Cost = "sqeuclidean",
) -> float:
    """Return the debiased Sinkhorn divergence ``OT(p,q) - OT(p,p)/2 - OT(q,q)/2``.

    0 for equal clouds. For samples of one law it is well above 0, and it prefers predictions that are too narrow:
    compare with the replicate, and prefer `divergence2`.

    Parameters
    ----------
    p, q
        Two populations over the same features.
    epsilon
        Entropic regularization, absolute; by default `relative_epsilon` times the mean cost between `p` and `q`. To
        compare several predictions, fix it once.
    relative_epsilon
        Used where `epsilon` is None.
    cost
        ``"sqeuclidean"`` or ``"euclidean"``.

    Raises
    ------
    ConvergenceError
        The iteration did not reach a marginal error of 1e-4.

    Source
    ------
    Feydy et al. 2019, eq. 3.
    """
    p, q = clouds(p, q)
    problem = _problem(p, q, epsilon, relative_epsilon, cost)
    return problem.cross(p, q) - 0.5 * problem.within(p) - 0.5 * problem.within(q)


def divergence2(
    p: Cells,
    q: Cells,
    *,
    epsilon: float | None = None,
    relative_epsilon: float = RELATIVE_EPSILON,
    cost: Cost = "sqeuclidean",
) -> float:
    """Return the two-batch Sinkhorn divergence: 0 in expectation for samples of one law, whatever their number.

    Both populations are cut into halves (the first and the second half of their rows, which must be in random order):

        ``(OT(p1, q1) + OT(p2, q2)) / 2 - OT(p1, p2) / 2 - OT(q1, q2) / 2``

    the average of two estimates ``OT(p, q) - OT(p, p') / 2 - OT(q, q') / 2``. Every term compares independent cells, so
    all carry the same finite-sample bias and it cancels. Single values may be negative. Arguments as in `sinkhorn`;
    NaN for fewer than two cells.

    Source
    ------
    Salimans et al. 2018 (mini-batch energy distance).
    """
    p, q = clouds(p, q)
    if min(len(p), len(q)) < 2:
        return float("nan")
    problem = _problem(p, q, epsilon, relative_epsilon, cost)
    p1, p2 = halves(p)
    q1, q2 = halves(q)
    cross = 0.5 * (problem.cross(p1, q1) + problem.cross(p2, q2))
    return cross - 0.5 * problem.cross(p1, p2) - 0.5 * problem.cross(q1, q2)


def w2(p: Cells, q: Cells, *, seed: int = 0) -> float:
    """Return the exact 2-Wasserstein distance (the root of the optimal mean squared distance).

    By optimal assignment, for clouds of one size. The larger of two clouds is subsampled without replacement to the
    size of the smaller, and both to 5,000 cells: beyond that it is an estimate from a sample.

    Parameters
    ----------
    p, q
        Two populations over the same features.
    seed
        Seed of the subsample.
    """
    p, q = clouds(p, q)
    n = min(len(p), len(q), EXACT_CELLS)
    rng = np.random.default_rng(seed)
    p, q = (x if len(x) == n else x[rng.permutation(len(x))[:n]] for x in (p, q))
    return float(np.sqrt(ot.assignment_cost(p, q, cost="sqeuclidean")))


def halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two disjoint halves of equal size; an odd last row is left out."""
    n = len(x) // 2
    return x[:n], x[n : 2 * n]


def _problem(
    p: np.ndarray, q: np.ndarray, epsilon: float | None, relative_epsilon: float | None, cost: Cost
) -> EntropicProblem:
    if cost not in ("sqeuclidean", "euclidean"):
        raise DataError(f'cost must be "sqeuclidean" or "euclidean", found {cost!r}.')
    unit = mean_cost(p, q) if cost == "sqeuclidean" else pair_sums(p, q).mean_distance()
    if epsilon is None:
        assert relative_epsilon is not None
        epsilon = relative_epsilon * unit
    return EntropicProblem(epsilon, unit, cost)

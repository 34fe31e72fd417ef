"""Squared distances between treated populations, corrected for the number of cells they were measured with."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from cellgap.ot import Cost, entropic_cost

# Cells of one treatment at one dose by context, each (cells, d), as displacements from the mean matched control.
Population = Mapping[tuple[tuple[str, str], ...], np.ndarray]
# Squared distances between the populations of two lists; the second is None where both are the same.
Between = Callable[[Sequence[np.ndarray], Sequence[np.ndarray] | None], np.ndarray]

_PROJECTIONS = 128
_QUANTILES = 64
_CHUNK = 32  # Sinkhorn problems of one call


def squared_distances(
    rows: Sequence[Population], columns: Sequence[Population] | None, between: Between
) -> Float[np.ndarray, "rows columns"]:
    """Return squared distances of populations, averaged over the contexts in which both were measured.

    Within a context both are compared as they are. Only where two populations share no context are they compared
    across contexts, as displacements from their own controls, averaged over all pairs of contexts.

    Parameters
    ----------
    rows, columns
        The populations; `columns` None compares `rows` with one another, diagonal 0.
    between
        What compares them in one context.
    """
    others = rows if columns is None else columns
    contexts = sorted({context for population in (*rows, *others) for context in population})
    total, count = np.zeros((2, len(rows), len(others)))
    for context in contexts:
        i, j = _measured(rows, context), _measured(others, context)
        if len(i) and len(j):
            second = None if columns is None else [others[k][context] for k in j]
            total[np.ix_(i, j)] += between([rows[k][context] for k in i], second)
            count[np.ix_(i, j)] += 1
    apart = count == 0
    for first in contexts if apart.any() else ():
        for second in contexts:
            i, j = _measured(rows, first), _measured(others, second)
            i, j = i[apart[i].any(axis=1)] if len(i) else i, j[apart[:, j].any(axis=0)] if len(j) else j
            if first == second or not len(i) or not len(j) or not apart[np.ix_(i, j)].any():
                continue
            found = between([rows[k][first] for k in i], [others[k][second] for k in j])
            wanted = apart[np.ix_(i, j)]
            total[np.ix_(i, j)] += np.where(wanted, found, 0.0)
            count[np.ix_(i, j)] += wanted
    squared = total / count
    if columns is None:
        squared = 0.5 * (squared + squared.T)
        np.fill_diagonal(squared, 0.0)
    return squared


def share_no_context(populations: Sequence[Population]) -> int:
    """Return the number of pairs of populations that were not measured in a common context."""
    sets = [frozenset(population) for population in populations]
    return sum(not (sets[i] & sets[j]) for j in range(len(sets)) for i in range(j))


def gaussian_distances(first: Sequence[np.ndarray], second: Sequence[np.ndarray] | None) -> np.ndarray:
    """Return squared 2-Wasserstein distances between the Gaussians of populations, without their noise.

    ``|m_i - m_j|^2 + tr S_i + tr S_j - 2 tr (S_i^(1/2) S_j S_i^(1/2))^(1/2) - b_i - b_j`` with the expectation that
    sampling n cells of a Gaussian adds, ``b = (tr S + sum_kl l_k l_l (1 + [k = l]) / (l_k + l_l) / 2) / n`` (`l` the
    eigenvalues of S). The part of the mean is exact; that of the covariance is the first order in 1 / n, and too small
    where there are not several times more cells than coordinates.
    """
    a = _gaussians(first)
    b = a if second is None else _gaussians(second)
    out = np.empty((len(a.means), len(b.means)))
    for i, (mean, root, constant) in enumerate(zip(a.means, a.roots, a.constants, strict=True)):
        start = i if second is None else 0
        values = np.linalg.eigvalsh(root @ b.covariances[start:] @ root)
        cross = np.sqrt(np.clip(values, 0.0, None)).sum(axis=1)
        shift = ((b.means[start:] - mean) ** 2).sum(axis=1)
        out[i, start:] = shift + constant + b.constants[start:] - 2.0 * cross
        if second is None:
            out[start:, i] = out[i, start:]
    return out


def sliced_distances(seed: int) -> Between:
    """Return the comparison by sliced 2-Wasserstein distances, times the number of coordinates, without their noise.

    Populations are projected on 128 directions, and described by 64 quantiles in each. Two disjoint halves of the cells
    give two such descriptions ``q, q'`` with independent noise, and ``(q_i - q_j) (q'_i - q'_j)`` is free of it. A
    displacement of all cells by v has the distance |v|. Source: Bonneel et al. 2015.
    """

    def between(first: Sequence[np.ndarray], second: Sequence[np.ndarray] | None) -> np.ndarray:
        directions = _directions(first[0].shape[1], seed)
        q1, p1 = _described(first, directions, seed)
        q2, p2 = (q1, p1) if second is None else _described(second, directions, seed)
        own1, own2 = (q1 * p1).sum(axis=1), (q2 * p2).sum(axis=1)
        return own1[:, None] + own2[None] - q1 @ p2.T - p1 @ q2.T

    return between


@dataclass
class SinkhornDistances:
    """The comparison by two-batch Sinkhorn divergences with the squared Euclidean cost; see `two_batch_divergence`.

    Every population gives two disjoint batches of one size: `n_cells`, or half of the smallest population compared.

    Parameters
    ----------
    epsilon
        Absolute, in units of the squared distance.
    n_cells
        Largest number of cells of a batch.
    seed
        Chooses the cells.
    unconverged
        Number of problems so far that did not reach their tolerance.
    """

    epsilon: float
    n_cells: int
    seed: int
    unconverged: int = 0

    def __call__(self, first: Sequence[np.ndarray], second: Sequence[np.ndarray] | None) -> np.ndarray:
        """Return the divergences."""
        columns = first if second is None else second
        n = min(self.n_cells, *(len(cells) // 2 for cells in (*first, *columns)))
        a = _batches(first, n, self.seed, 2)
        b = a if second is None else _batches(columns, n, self.seed, 2)
        m = len(a)
        stacked = a if second is None else np.concatenate([a, b])
        own = self._costs(stacked, np.arange(len(stacked)), np.arange(len(stacked)), "sqeuclidean", (0, 1))
        i, j = np.triu_indices(m, 1) if second is None else np.indices((m, len(b))).reshape(2, -1)
        cross = self._costs(stacked, i, j if second is None else j + m, "sqeuclidean", (0, 0))
        out = np.zeros((m, len(b)))
        out[i, j] = cross - 0.5 * own[i] - 0.5 * own[j if second is None else j + m]
        return out + out.T if second is None else out

    def regularized(self, populations: Sequence[np.ndarray]) -> np.ndarray:
        """Return the entropic cost itself, Euclidean and not debiased, of one batch of each; the diagonal is 0."""
        n = min(self.n_cells, *(len(cells) for cells in populations))
        batches = _batches(populations, n, self.seed, 1)
        i, j = np.triu_indices(len(batches), 1)
        out = np.zeros((len(batches), len(batches)))
        out[i, j] = self._costs(batches, i, j, "euclidean", (0, 0))
        return out + out.T

    def _costs(
        self, batches: np.ndarray, i: np.ndarray, j: np.ndarray, cost: Cost, which: tuple[int, int]
    ) -> np.ndarray:
        values = np.zeros(len(i))
        for start in range(0, len(i), _CHUNK):
            # The last chunk is filled up with repeats, so that all chunks are one compiled program.
            rows = np.resize(np.arange(start, min(start + _CHUNK, len(i))), _CHUNK)
            x, y = (jnp.asarray(batches[k[rows], w], jnp.float32) for k, w in zip((i, j), which, strict=True))
            found, converged = _solve(x, y, self.epsilon, cost)
            n = min(_CHUNK, len(i) - start)
            values[start : start + n] = np.asarray(found)[:n]
            self.unconverged += int((~np.asarray(converged)[:n]).sum())
        return values


@functools.partial(jax.jit, static_argnames="cost")
def _solve(
    x: Float[Array, "pairs n d"], y: Float[Array, "pairs n d"], epsilon: float, cost: Cost
) -> tuple[Float[Array, " pairs"], Bool[Array, " pairs"]]:
    """Return the entropic cost of every pair of batches, one after the other, and whether it converged."""

    def one(pair):
        solved = entropic_cost(*pair, epsilon=epsilon, cost=cost)
        return solved.value, solved.converged

    return jax.lax.map(one, (x, y))


class _Gaussians(NamedTuple):
    """Means, covariances, their square roots, and trace minus noise, one a population."""

    means: np.ndarray
    covariances: np.ndarray
    roots: np.ndarray
    constants: np.ndarray


def _gaussians(populations: Sequence[np.ndarray]) -> _Gaussians:
    means = np.stack([cells.mean(axis=0) for cells in populations])
    covariances = np.stack([np.atleast_2d(np.cov(cells, rowvar=False)) for cells in populations])
    n = np.array([len(cells) for cells in populations])
    values, vectors = np.linalg.eigh(covariances)
    values = np.clip(values, 0.0, None)
    roots = (vectors * np.sqrt(values)[:, None]) @ vectors.transpose(0, 2, 1)
    sums = values[:, :, None] + values[:, None]
    means_of_two = values[:, :, None] * values[:, None] / np.where(sums > 0, sums, 1.0)
    spread = means_of_two.sum(axis=(1, 2)) + np.trace(means_of_two, axis1=1, axis2=2)
    trace = values.sum(axis=1)
    return _Gaussians(means, covariances, roots, trace - (trace + 0.5 * spread) / n)


def _directions(d: int, seed: int) -> np.ndarray:
    """Return random directions, (d, 128), every d of them orthogonal, times the root of d."""
    rng = np.random.default_rng(seed)
    blocks = [np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(-(-_PROJECTIONS // d))]
    return np.concatenate(blocks, axis=1)[:, :_PROJECTIONS] * np.sqrt(d)


def _described(populations: Sequence[np.ndarray], directions: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the quantiles of two halves of every population, each (populations, directions * quantiles)."""
    levels = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    size = np.sqrt(directions.shape[1] * _QUANTILES)
    halves = []
    for cells in populations:
        projected = cells[_shuffled(len(cells), seed)] @ directions
        half = len(cells) // 2
        halves.append(
            [np.quantile(part, levels, axis=0).ravel() / size for part in (projected[:half], projected[half:])]
        )
    first, second = zip(*halves, strict=True)
    return np.stack(first), np.stack(second)


def _batches(populations: Sequence[np.ndarray], n: int, seed: int, number: int) -> np.ndarray:
    """Return disjoint batches of n cells of every population, (populations, number, n, d)."""
    return np.stack([cells[_shuffled(len(cells), seed)][: number * n].reshape(number, n, -1) for cells in populations])


def _shuffled(n: int, seed: int) -> np.ndarray:
    """Return an order of n cells that depends on nothing else, so that other populations do not change it."""
    return np.random.default_rng([seed, n]).permutation(n)


def _measured(populations: Sequence[Population], context: tuple[tuple[str, str], ...]) -> np.ndarray:
    return np.array([k for k, population in enumerate(populations) if context in population], int)

"""From expected shares to raw counts: calibration of shares, and how much noise a code does not carry yet."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import equinox as eqx
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from cellgap.errors import DataError
from cellgap.storage import storable
from cellgap.study import Role, Split

DispersionRule = Literal["matched", "learnt"]
THETA_MIN, THETA_MAX = 1e-2, 1e4
SAMPLE_VALUES = 20_000_000  # of training cells, dense: 80 MB
_FACTOR_MAX = 100.0
_ROUNDS = 12
_INVERTED = 8.0  # means up to which counts are drawn by inversion
_BLOCK_VALUES = 4_000_000
_DRAWN_VALUES = 400_000  # a few arrays of this size stay in the cache

Shares = Callable[[np.ndarray], np.ndarray]


@storable
class CountNoise(eqx.Module):
    """Expected shares of a space as raw counts.

    Parameters
    ----------
    share
        Mean share of every gene over the training cells, sums to 1.
    factor
        What expected shares of the space are multiplied with, so that their mean is `share`.
    floor
        Part of `share` mixed into every cell: a gene that is decoded as absent is rare, not impossible.
    theta
        Inverse dispersion of the noise that is drawn.
    fresh
        Part of the expected count that is drawn, 0 to 1; the rest is kept, rounded at random. Below 1 where codes
        carry so much of a gene's counting noise that drawing all of it again would make counts too variable.
    rule
        "matched": `theta` and `fresh` give drawn counts the measured variance within conditions; "learnt": `theta` is
        the one that the likelihood was fitted with.
    """

    share: Float[np.ndarray, " genes"]
    factor: Float[np.ndarray, " genes"]
    floor: float = eqx.field(static=True)
    theta: Float[np.ndarray, " genes"]
    fresh: Float[np.ndarray, " genes"]
    rule: DispersionRule = eqx.field(static=True)

    def rates(self, shares: Float[np.ndarray, "cells genes"]) -> Float[np.ndarray, "cells genes"]:
        """Return calibrated shares, rows sum to 1; the mean share where a cell expresses nothing."""
        out = shares * self.factor
        total = out.sum(axis=1, keepdims=True)
        out *= (1.0 - self.floor) / np.where(total > 0, total, 1.0)
        return out + np.where(total > 0, self.floor, 1.0) * self.share

    def draw(
        self, rates: Float[np.ndarray, "cells genes"], library: Float[np.ndarray, " cells"], rng: np.random.Generator
    ) -> sp.csr_matrix:
        """Return counts (CSR, int32) of these expected shares and totals.

        ``Poisson(Gamma(theta, fresh mu / theta)) + round((1 - fresh) mu)``, the rounding up or down at random, so that
        the mean is ``mu = library * rates``; negative binomial where ``fresh`` is 1.
        """
        fresh, theta = np.asarray(self.fresh, np.float32), np.asarray(self.theta, np.float32)
        kept = np.flatnonzero(fresh < 1)
        out = []
        for part in _parts(len(rates), rates.shape[1], _DRAWN_VALUES):
            mu = np.asarray(rates[part], np.float32) * library[part, None].astype(np.float32)
            drawn = negative_binomial(mu * fresh, theta, rng)
            if len(kept):
                rest = mu[:, kept] * (1 - fresh[kept])
                drawn[:, kept] += np.floor(rest + rng.random(rest.shape, np.float32)).astype(drawn.dtype)
            out.append(sparse_rows(drawn))
        return sp.csr_matrix(sp.vstack(out, format="csr")) if out else sp.csr_matrix(rates.shape, dtype=np.int32)


def sparse_rows(dense: Int[np.ndarray, "cells genes"]) -> sp.csr_matrix:
    """Return a matrix as CSR; several times faster than the constructor, which goes through coordinates."""
    there = dense != 0
    pointers = np.append(0, np.cumsum(there.sum(axis=1)))
    columns = np.flatnonzero(there) % dense.shape[1]
    return sp.csr_matrix((dense[there], columns.astype(np.int32), pointers), shape=dense.shape)


def negative_binomial(
    mean: Float[np.ndarray, "cells genes"], theta: Float[np.ndarray, " genes"], rng: np.random.Generator
) -> Int[np.ndarray, "cells genes"]:
    """Return negative binomial counts, int32; probabilities are right to about 1e-7.

    Most counts of cells are 0: one uniform number decides that. The others go on by inversion, ``p(k + 1) = p(k) m /
    (m + theta) (theta + k) / (k + 1)``. Large means are Poisson counts of gamma rates.

    Parameters
    ----------
    mean, theta
        Expected counts, and inverse dispersion of every gene; float32.
    rng
        Generator.
    """
    out = np.zeros(mean.shape, np.int32)
    flat, mu = out.ravel(), mean.ravel()
    u = rng.random(mean.shape, np.float32)
    odds = mean / theta
    zero = np.exp(-theta * np.log1p(odds))
    left = np.flatnonzero((u >= zero) & (mean <= _INVERTED))
    t, p, odds = theta[left % mean.shape[1]], zero.ravel()[left], odds.ravel()[left]
    u, odds = u.ravel()[left] - p, odds / (1 + odds)
    k = 0
    while len(left):
        p = p * odds * ((t + np.float32(k)) / np.float32(k + 1))
        u = u - p
        k += 1
        # What float32 leaves of the tail ends here.
        done = (u < 0) | (p < 1e-7)
        flat[left[done]] = k
        going = np.flatnonzero(~done)
        left, t, u, odds, p = left[going], t[going], u[going], odds[going], p[going]
    large = np.flatnonzero(mean > _INVERTED)
    t = theta[large % mean.shape[1]].astype(np.float64)
    flat[large] = rng.poisson(rng.standard_gamma(t) * (mu[large] / t))
    return out


def fit_count_noise(split: Split, genes: tuple[str, ...], shares: Shares, *, floor: float) -> CountNoise:
    """Return the calibration and noise of a space, from the training cells of a split.

    The factor of a gene is the fixed point of ``mean rates = mean measured share``: decoded logarithms are means of
    logarithms, which are lower than logarithms of means. The noise makes the variance of counts drawn from the codes of
    measured cells equal to the measured one, pooled within conditions:

    ``var(x) = var(mu) + [mean(mu) + mean(mu^2) / theta]``

    Codes of measured cells carry part of their noise, so ``var(mu)`` is more than biology, and a dispersion from
    residuals or from the spread of a condition would count that part twice. Where what is left is less than Poisson
    noise, `CountNoise.fresh` is the part of it that is left.

    Parameters
    ----------
    split
        Its training cells are used, a seeded draw of them where there are many.
    genes
        The genes of the space.
    shares
        Row numbers to shares that the space expects for these cells, uncalibrated, (cells, genes).
    floor
        See `CountNoise`.

    Raises
    ------
    DataError
        No training cell has counts of these genes.
    """
    rows = split.cells(Role.TRAIN)
    most = max(SAMPLE_VALUES // max(len(genes), 1), 200)
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    x = counts_of(split, genes, rows)
    library = x.sum(axis=1)
    if not (library > 0).any():
        raise DataError("No training cell has counts of the genes of the space: choose other genes, or more of them.")
    rows, x, library = rows[library > 0], x[library > 0], library[library > 0]
    measured = x / library[:, None]
    share = measured.mean(axis=0)
    expected = shares(rows).astype(np.float32)
    noise = CountNoise(
        share.astype(np.float32),
        np.ones(len(genes), np.float32),
        floor,
        np.full(len(genes), THETA_MAX, np.float32),
        np.ones(len(genes), np.float32),
        "matched",
    )
    tiny = 1e-3 / library.sum()
    for _ in range(_ROUNDS):
        ratio = (share + tiny) / (noise.rates(expected).mean(axis=0, dtype=np.float64) + tiny)
        factor = np.clip(noise.factor * ratio, 1 / _FACTOR_MAX, _FACTOR_MAX).astype(np.float32)
        noise = eqx.tree_at(lambda n: n.factor, noise, factor)
        if np.abs(ratio - 1).max() < 1e-4:
            break
    mu = noise.rates(expected) * library[:, None].astype(np.float32)
    theta, fresh = _matched(x, mu, split.study.codes[rows])
    return eqx.tree_at(lambda n: (n.theta, n.fresh), noise, (theta, fresh))


def theta_within(x: Float[np.ndarray, "cells genes"], codes: Int[np.ndarray, " cells"]) -> Float[np.ndarray, " genes"]:
    """Return each gene's inverse dispersion within conditions, ``sum mu^2 / sum((x - mu)^2 - mu)``, 0.01 to 100.

    ``mu`` is the cell's total times the pooled share of the gene in its condition: a start for a likelihood, in which
    everything that differs between cells of a condition still counts as noise.
    """
    library = x.sum(axis=1)
    member, n, summed = _groups(codes)
    total = summed(library[:, None])
    pooled = summed(x) / np.where(total > 0, total, 1.0)
    above, below = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    # A share that a cell had a part in fits it too closely, by 1/n of the variance.
    weight = n / np.maximum(n - 1.0, 1.0)
    for part in _parts(*x.shape):
        mu = pooled[member[part]] * library[part, None]
        below += (mu**2).sum(axis=0)
        above += (weight[member[part], None] * (x[part] - mu) ** 2 - mu).sum(axis=0)
    return np.clip(below / np.maximum(above, below / 100.0 + 1e-12), THETA_MIN, 100.0)


def known_noise(noise: CountNoise | None) -> CountNoise:
    """Return the noise of a space that gives counts.

    Raises
    ------
    DataError
        The space does not.
    """
    if noise is None:
        raise DataError(
            "This space does not give raw counts, because it was fitted on other measurements: fit it on raw counts "
            '(Design(counts=...)) with transform="lognorm", or ask for expression.'
        )
    return noise


def counts_of(split: Split, genes: tuple[str, ...], rows: np.ndarray) -> Float[np.ndarray, "cells genes"]:
    """Return the measured counts of these genes, dense, float32."""
    values = split.study.values(rows, list(genes))
    return values.toarray().astype(np.float32) if sp.issparse(values) else np.asarray(values, np.float32)


def draw_counts(
    rates: Callable[[np.ndarray], np.ndarray],
    noise: CountNoise,
    z: Float[np.ndarray, "cells dim"],
    library: Float[np.ndarray, " cells"],
    seed: int,
) -> sp.csr_matrix:
    """Return counts of codes, a few megabytes of dense values at a time; see `AbstractFittedSpace.counts`."""
    totals = np.asarray(library, np.float64)
    if totals.shape != (len(z),) or not np.isfinite(totals).all() or (totals < 0).any():
        raise DataError(
            f"library must hold one finite total of at least 0 a cell, shape ({len(z)},), found shape {totals.shape}"
            + (f", smallest {totals.min():g}." if totals.size else ".")
        )
    rng = np.random.default_rng(seed)
    parts = [noise.draw(rates(z[part]), totals[part], rng) for part in _parts(len(z), len(noise.share))]
    return (
        sp.csr_matrix(sp.vstack(parts, format="csr")) if parts else sp.csr_matrix((0, len(noise.share)), dtype=np.int32)
    )


def _matched(
    x: Float[np.ndarray, "cells genes"], mu: Float[np.ndarray, "cells genes"], codes: Int[np.ndarray, " cells"]
) -> tuple[Float[np.ndarray, " genes"], Float[np.ndarray, " genes"]]:
    left, first, second = residual_variance(x, mu, codes)
    excess = np.maximum(left - first, second / THETA_MAX)
    theta = np.clip(second / np.maximum(excess, 1e-30), THETA_MIN, THETA_MAX)
    fresh = np.clip(left / np.maximum(first, 1e-30), 0.0, 1.0)
    return theta.astype(np.float32), fresh.astype(np.float32)


def residual_variance(
    x: Float[np.ndarray, "cells genes"], mu: Float[np.ndarray, "cells genes"], codes: Int[np.ndarray, " cells"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ``var(x) - var(mu)`` pooled within groups, and the means of ``mu`` and ``mu^2``, of every gene."""
    groups = _groups(codes)
    degrees = max(float((groups.n - 1).sum()), 1.0)
    left = (_within(x, groups) - _within(mu, groups)) / degrees
    first = mu.mean(axis=0, dtype=np.float64)
    return left, first, np.einsum("cg,cg->g", mu, mu, dtype=np.float64) / len(mu)


class _Groups(NamedTuple):
    """Which group each cell is in, how large the groups are, and sums over groups."""

    member: np.ndarray
    n: np.ndarray
    summed: Callable[[np.ndarray], np.ndarray]


def _groups(codes: Int[np.ndarray, " cells"]) -> _Groups:
    _, member, n = np.unique(codes, return_inverse=True, return_counts=True)
    indicator = sp.csr_matrix((np.ones(len(codes)), (member, np.arange(len(codes)))), shape=(len(n), len(codes)))
    return _Groups(member, n.astype(np.float64), lambda values: np.asarray(indicator @ values))


def _within(values: Float[np.ndarray, "cells genes"], groups: _Groups) -> Float[np.ndarray, " genes"]:
    """Return the sum of squared deviations from the mean of the group, in float64."""
    means = groups.summed(values) / groups.n[:, None]
    total = np.zeros(values.shape[1])
    for part in _parts(*values.shape):
        total += ((values[part] - means[groups.member[part]]) ** 2).sum(axis=0)
    return total


def _parts(cells: int, genes: int, values: int = _BLOCK_VALUES) -> list[slice]:
    step = max(1, values // max(genes, 1))
    return [slice(start, start + step) for start in range(0, cells, step)]

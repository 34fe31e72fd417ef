"""Thinning on the device is binomial, exactly, at every size of counts."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

from cellgap.embed._thinning import Thinner

COUNTS = (0, 1, 3, 4, 5, 8, 9, 17, 33, 64, 65, 900)


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Many thinnings of cells with these counts, and the probabilities in 256ths."""
    x = np.tile(np.asarray(COUNTS, np.int16), (4000, 1))
    keep = np.repeat(np.asarray([1, 64, 128, 200, 256]), 800)
    thinner = Thinner.of(x)
    run = jax.jit(lambda key: thinner(key, jnp.asarray(x), jnp.asarray(keep, jnp.int32)))
    return np.stack([np.asarray(run(jr.key(i))) for i in range(10)]), keep


@pytest.mark.parametrize("place", range(1, len(COUNTS)), ids=[str(c) for c in COUNTS[1:]])
def test_law_is_binomial(drawn: tuple[np.ndarray, np.ndarray], place: int) -> None:
    values, keep = drawn
    for part in (64, 128, 200):
        seen = values[:, keep == part, place].ravel()
        law = stats.binom(COUNTS[place], part / 256)
        edges = np.unique(law.ppf(np.linspace(0.02, 0.98, 9)))
        observed = np.histogram(seen, np.r_[-np.inf, edges + 0.5, np.inf])[0]
        expected = len(seen) * np.diff(np.r_[0.0, law.cdf(edges), 1.0])
        there = expected > 5
        # 33 such tests: each fails by chance once in 30,000.
        p = stats.chisquare(observed[there], expected[there] * observed[there].sum() / expected[there].sum()).pvalue
        assert p > 3e-5


def test_nothing_and_everything(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    values, keep = drawn
    assert (values[:, keep == 256] == np.asarray(COUNTS)).all()
    assert (values[..., 0] == 0).all()
    assert (values <= np.asarray(COUNTS)).all() and (values >= 0).all()
    assert values.dtype == np.int16


def test_cells_genes_and_keys_are_independent(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    values, keep = drawn
    half = values[:, keep == 128].astype(float)
    cells = half[:, :, 5].ravel(), half[:, :, 7].ravel()
    assert abs(np.corrcoef(*cells)[0, 1]) < 4 / np.sqrt(len(cells[0]))
    runs = half[:-1, :, 9].ravel(), half[1:, :, 9].ravel()
    assert abs(np.corrcoef(*runs)[0, 1]) < 4 / np.sqrt(len(runs[0]))
    neighbours = half[:, :-1, 9].ravel(), half[:, 1:, 9].ravel()
    assert abs(np.corrcoef(*neighbours)[0, 1]) < 4 / np.sqrt(len(neighbours[0]))


def test_halves_share_the_rate_alone() -> None:
    """E19: halves of Poisson counts are independent given the rate; of gamma-Poisson counts correlated by 0.5."""
    rng = np.random.default_rng(0)
    n = 200_000
    fixed = rng.poisson(2.0, size=n)
    mixed = rng.poisson(rng.gamma(2.0, 1.0, size=n))
    mean, variance = 2.0, 2.0  # of the rate, gamma(2, 1)
    expected = (variance / 4) / (mean / 2 + variance / 4)
    for counts, correlation in ((fixed, 0.0), (mixed, expected)):
        x = jnp.asarray(counts.reshape(-1, 100), jnp.int16)
        thinner = Thinner.of(np.asarray(x))
        half = np.asarray(thinner(jr.key(1), x, jnp.full(len(x), 128, jnp.int32)))
        other = np.asarray(x) - half
        assert np.corrcoef(half.ravel(), other.ravel())[0, 1] == pytest.approx(correlation, abs=0.01)

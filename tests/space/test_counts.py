"""Raw counts out of spaces: calibrated shares, the noise that codes do not carry yet, and who gives none."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from cellgap import storage
from cellgap.errors import DataError
from cellgap.space import PCA, CountNoise, Genes, counts_of, theta_within
from cellgap.space._count_noise import fit_count_noise
from cellgap.study import Design, Role, Split, Study, split
from cellgap.study._simulate import simulate_screen


@pytest.fixture(scope="module")
def screen():
    return simulate_screen(
        n_drugs=3, doses=(1000.0,), n_combinations=0, n_genes=40, n_cells=200, n_controls=300, seed=2
    )


@pytest.fixture(scope="module")
def parted(screen) -> Split:
    return split.in_distribution(screen.study(), test=0.3, min_cells=10)


@pytest.fixture(scope="module")
def components(parted):
    return PCA(10).fit(parted)


def x_of(screen, space, rows) -> np.ndarray:
    return screen.adata[rows, list(space.genes)].X.toarray().astype(float)


def within(x: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return each gene's variance within conditions."""
    squares = sum(((x[codes == c] - x[codes == c].mean(0)) ** 2).sum(0) for c in np.unique(codes))
    return squares / (len(x) - len(np.unique(codes)))


def test_moments_recover_the_dispersion_that_counts_were_drawn_with():
    rng = np.random.default_rng(0)
    theta, codes = np.array([0.5, 2.0, 8.0, 0.5, 2.0, 8.0]), np.repeat([0, 1], 6000)
    shares = np.array([[0.1, 0.2, 0.2, 0.2, 0.1, 0.2], [0.3, 0.1, 0.1, 0.1, 0.3, 0.1]])[codes]
    depth = rng.lognormal(4, 0.3, len(codes))[:, None]
    mu = shares * depth
    # A total that is itself a sum of the genes follows the noisiest of them: a hundred quiet ones keep it steady.
    quiet = rng.poisson(np.tile(depth, (1, 100)))
    x = np.column_stack([rng.poisson(rng.gamma(theta, mu / theta)), quiet])
    np.testing.assert_allclose(theta_within(x.astype(float), codes)[:6], theta, rtol=0.15)
    assert (theta_within(x.astype(float), codes)[6:] > 20).all()


def test_exact_rates_without_noise_give_the_simulated_dispersion(screen, parted):
    rates = np.concatenate([screen.rates(c, parted.study.rows(c)) for c in parted.study.all_conditions])
    place = np.argsort(np.concatenate([parted.study.rows(c) for c in parted.study.all_conditions]))
    noise = fit_count_noise(parted, tuple(screen.adata.var_names), lambda rows: rates[place][rows], floor=0.0)
    assert (noise.fresh == 1).mean() > 0.9
    np.testing.assert_allclose(np.median(noise.factor), 1, atol=0.02)
    ratio = noise.theta / screen.biology.inverse_dispersion
    assert 0.8 < np.median(ratio) < 1.25 and (np.abs(np.log(ratio)) < np.log(2)).mean() > 0.8


def test_the_mean_share_is_the_measured_one(screen, parted, components):
    rows = parted.cells(Role.TRAIN)
    x = x_of(screen, components, rows)
    rates = components.rates(components.encode(screen.adata, rows))
    np.testing.assert_allclose(rates.sum(1), 1, rtol=1e-5)
    measured = (x / x.sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(rates.mean(0), measured, rtol=1e-3)
    # Means of logarithms say something else.
    plain = np.expm1(np.maximum(components.decode(components.encode(screen.adata, rows)), 0))
    plain = (plain / plain.sum(1, keepdims=True)).mean(0)
    assert np.abs(np.log(plain / measured)).mean() > 20 * np.abs(np.log(rates.mean(0) / measured)).mean()


def test_counts_of_held_out_cells_look_like_those_measured(screen, parted, components):
    rows = np.concatenate([parted.cells(Role.VALID), parted.cells(Role.TEST)])
    x, codes = x_of(screen, components, rows), parted.study.codes[rows]
    drawn = components.counts(components.encode(screen.adata, rows), x.sum(1), seed=0).toarray()
    ratio = within(drawn, codes) / within(x, codes)
    assert 0.85 < np.median(ratio) < 1.15
    np.testing.assert_allclose((drawn == 0).mean(), (x == 0).mean(), atol=0.03)
    # Drawing all noise again on top of the part that codes carry is what must not happen.
    theta = theta_within(
        x_of(screen, components, parted.cells(Role.TRAIN)), parted.study.codes[parted.cells(Role.TRAIN)]
    )
    naive = dataclasses.replace(components.noise, theta=theta.astype(np.float32), fresh=np.ones(40, np.float32))
    again = dataclasses.replace(components, noise=naive)
    twice = again.counts(components.encode(screen.adata, rows), x.sum(1), seed=0).toarray()
    assert np.median(within(twice, codes) / within(x, codes)) > 1.25


@pytest.mark.parametrize("space", [Genes(), Genes(n_top=12, scale=True)], ids=repr)
def test_genes_give_back_the_counts_that_were_measured(screen, parted, space):
    fitted = space.fit(parted)
    rows = parted.cells(Role.VALID)
    x = x_of(screen, fitted, rows)
    drawn = fitted.counts(fitted.encode(screen.adata, rows), x.sum(1), seed=1).toarray()
    # Codes are single precision: a count of a thousand is known to a thousandth, and then rounded at random.
    assert np.abs(drawn - x).max() <= 1 and (drawn != x).mean() < 0.01


def test_counts_are_whole_not_negative_and_have_the_library(screen, parted, components):
    z = components.encode(screen.adata, parted.cells(Role.VALID))[:40]
    library = np.linspace(100, 4000, len(z))
    drawn = [components.counts(z, library, seed=seed) for seed in range(40)]
    assert sp.issparse(drawn[0]) and drawn[0].format == "csr" and drawn[0].dtype == np.int32
    assert drawn[0].shape == (len(z), 40) and drawn[0].data.min() >= 0
    totals = np.stack([np.asarray(d.sum(1)).ravel() for d in drawn])
    error = totals.std(0, ddof=1) / np.sqrt(len(drawn))
    assert (np.abs(totals.mean(0) - library) < 4.5 * error).all()
    np.testing.assert_array_equal(drawn[3].toarray(), components.counts(z, library, seed=3).toarray())
    assert (drawn[0] != drawn[1]).nnz > 0


def test_a_draw_by_hand():
    noise = CountNoise(
        share=np.array([0.5, 0.5], np.float32),
        factor=np.array([1.0, 3.0], np.float32),
        floor=0.1,
        theta=np.array([4.0, 1e4], np.float32),
        fresh=np.array([1.0, 0.0], np.float32),
        rule="matched",
    )
    rates = noise.rates(np.array([[0.5, 0.5], [0.0, 0.0]], np.float32))
    np.testing.assert_allclose(rates, [[0.9 / 4 + 0.05, 0.9 * 3 / 4 + 0.05], [0.5, 0.5]], rtol=1e-6)
    n = 40_000
    drawn = noise.draw(np.tile(rates[:1], (n, 1)), np.full(n, 20.0), np.random.default_rng(0)).toarray()
    mu = 20 * rates[0]
    np.testing.assert_allclose(drawn.mean(0), mu, rtol=0.02)
    np.testing.assert_allclose(drawn[:, 0].var(), mu[0] + mu[0] ** 2 / 4, rtol=0.05)
    assert set(np.unique(drawn[:, 1])) == {np.floor(mu[1]), np.ceil(mu[1])}


def test_an_empty_library_and_no_cells(components):
    z = np.zeros((3, 10), np.float32)
    assert components.counts(z, np.array([0.0, 5.0, 0.0]), seed=0).toarray()[[0, 2]].sum() == 0
    none = components.counts(z[:0], np.zeros(0), seed=0)
    assert none.shape == (0, 40) and none.dtype == np.int32


@pytest.mark.parametrize("library", [np.array([1.0, -1.0]), np.array([1.0, np.nan]), np.ones(3)])
def test_a_library_that_makes_no_sense_is_refused(components, library):
    with pytest.raises(DataError, match=r"one finite total of at least 0 a cell, shape \(2,\)"):
        components.counts(np.zeros((2, 10), np.float32), library, seed=0)


def test_other_measurements_give_no_counts():
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    obs = pd.DataFrame({"drug": ["none", "some"] * 20}, index=pd.Index([f"c{i}" for i in range(40)]))
    parted = split.in_distribution(Study(AnnData(x, obs=obs), Design(treatment="drug", control="none")), min_cells=1)
    for space in (Genes(transform="none"), PCA(2, Genes(transform="arcsinh"))):
        fitted = space.fit(parted)
        assert not fitted.gives_counts
        for ask in (fitted.rates, lambda z, fitted=fitted: fitted.counts(z, np.ones(len(z)), seed=0)):
            with pytest.raises(DataError, match=r"does not give raw counts.*fit it on raw counts"):
                ask(fitted.encode(parted.study.adata))


def test_values_far_out_stay_finite(components):
    rates = components.rates(np.full((2, 10), 1e4, np.float32))
    assert np.isfinite(rates).all()
    np.testing.assert_allclose(rates.sum(1), 1, rtol=1e-5)


def test_counts_survive_files(screen, components, tmp_path):
    storage.save(components, tmp_path)
    z, library = components.encode(screen.adata, range(30)), np.full(30, 500.0)
    back = storage.load(tmp_path).counts(z, library, seed=7)
    np.testing.assert_array_equal(back.toarray(), components.counts(z, library, seed=7).toarray())


def test_measured_counts_are_found_by_name(screen, parted):
    fitted = Genes(n_top=7).fit(parted)
    shuffled = screen.adata[:50, np.random.default_rng(0).permutation(40)]
    np.testing.assert_array_equal(
        counts_of(shuffled, fitted.layer, fitted.genes).toarray(), x_of(screen, fitted, range(50))
    )

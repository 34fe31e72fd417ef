"""The autoencoder as a space: what it learns, what it keeps, what it gives back, what it refuses."""

import dataclasses
import signal
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from scipy.stats import nbinom

from cellgap import storage
from cellgap.encode import Dose, Table
from cellgap.errors import ConfigError, DataError
from cellgap.settings import from_dict, to_dict
from cellgap.space import PCA, Autoencoder, AutoencoderSpace, Genes
from cellgap.space._autoencoder import training_rows
from cellgap.space._calibrate_autoencoder import features_of, nll_of_gene_means
from cellgap.study import Design, Role, Split, Study, split
from cellgap.study._simulate import simulate_screen
from cellgap.train import Loop
from cellgap.transport import Gaussian, load

SMALL = Autoencoder(
    dim=4,
    hidden=(64,),
    loop=Loop(n_steps=800, chunk=20, valid_every=20, patience=3),
    batch_size=64,
    learning_rate=2e-2,
)


@pytest.fixture(scope="module")
def screen():
    return simulate_screen(
        n_drugs=3, doses=(1000.0,), n_combinations=0, n_genes=40, n_cells=100, n_controls=200, seed=2
    )


@pytest.fixture(scope="module")
def parted(screen) -> Split:
    return split.unseen_treatment(screen.study(), ["C1"], min_cells=10)


@pytest.fixture(scope="module")
def fitted(parted) -> AutoencoderSpace:
    return SMALL.fit(parted)


def measured(screen, space, rows) -> np.ndarray:
    return space.measured(screen.study().values(rows))


def judged(space: AutoencoderSpace) -> dict[float, float]:
    return {row["step"]: row["valid"] for row in space.history if "valid" in row}


def test_held_out_cells_are_likelier_than_under_gene_means(fitted):
    assert fitted.reconstruction["nll"] < fitted.reconstruction["nll_gene_means"] - 5
    assert fitted.reconstruction["held_out"] == 1


def test_the_state_with_the_lowest_held_out_loss_is_kept_and_training_stops(screen, parted, fitted):
    values = judged(fitted)
    assert fitted.best_step == min(values, key=values.__getitem__) < max(values) < 800
    assert fitted.reconstruction["nll"] == values[fitted.best_step]
    # The weights are those of that step: their likelihood is the one that was logged.
    rows = parted.cells(Role.VALID)
    counts, library = screen.adata[rows].X.toarray(), np.asarray(screen.adata[rows].X.sum(1))
    mu = library * np.exp(fitted.outputs(fitted.encode(screen.adata, rows)))
    theta = np.exp(np.asarray(fitted.net.log_theta, float))
    again = -nbinom.logpmf(counts, theta, theta / (theta + mu)).sum(1).mean()
    np.testing.assert_allclose(again, fitted.reconstruction["nll"], rtol=1e-4)


def test_the_last_state_is_kept_where_asked(parted, fitted):
    last = dataclasses.replace(SMALL, keep="last").fit(parted)
    assert judged(last) == judged(fitted)
    assert last.reconstruction["nll"] == judged(last)[max(judged(last))] > fitted.reconstruction["nll"]


def test_codes_are_standardized_over_training_cells(screen, parted, fitted):
    z = fitted.encode(screen.adata, parted.cells(Role.TRAIN))
    assert z.dtype == np.float32 and z.shape[1] == fitted.dim == 4
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(z.std(0), 1, rtol=1e-3)


def test_codes_do_not_know_the_library(screen, fitted):
    cells = screen.adata[:60].copy()
    cells.X = sp.csr_matrix(cells.X * 3)
    np.testing.assert_allclose(fitted.encode(cells), fitted.encode(screen.adata, range(60)), rtol=1e-3, atol=1e-3)


def test_decoded_expression_is_measured_expression_on_average(screen, parted, fitted):
    rows = parted.cells(Role.TRAIN)
    z, x = fitted.encode(screen.adata, rows), measured(screen, fitted, rows)
    np.testing.assert_allclose(fitted.decode(z).mean(0), x.mean(0), atol=0.02)
    # The logarithm of the expected share is no mean of logarithms.
    assert np.abs(fitted.log_shares(z).mean(0) - x.mean(0)).mean() > 0.1
    assert fitted.decode(z).dtype == np.float32 and fitted.nonnegative and fitted.decode(z).min() >= 0
    held_out = fitted.reconstruction
    components = PCA(4).fit(parted).reconstruction
    assert 0.5 * components["variance_kept"] < held_out["variance_kept"] < 1


def test_rates_and_counts(screen, parted, fitted):
    rows = np.concatenate([parted.cells(Role.VALID), parted.cells(Role.TEST)])
    x = screen.adata[rows].X.toarray()
    z = fitted.encode(screen.adata, rows)
    rates = fitted.rates(z)
    np.testing.assert_allclose(rates.sum(1), 1, rtol=1e-5)
    drawn = fitted.counts(z, x.sum(1), seed=0)
    assert drawn.dtype == np.int32 and drawn.data.min() >= 0
    np.testing.assert_allclose(drawn.sum() / x.sum(), 1, atol=0.03)
    np.testing.assert_allclose((drawn.toarray() == 0).mean(), (x == 0).mean(), atol=0.03)
    assert 0.8 < np.median(drawn.toarray().var(0) / x.var(0)) < 1.25


def test_files_give_back_the_same_bits(screen, fitted, tmp_path):
    storage.save(fitted, tmp_path)
    back = storage.load(tmp_path)
    z = fitted.encode(screen.adata, range(70))
    np.testing.assert_array_equal(back.encode(screen.adata, range(70)), z)
    np.testing.assert_array_equal(back.decode(z), fitted.decode(z))
    library = np.full(70, 900.0)
    np.testing.assert_array_equal(
        back.counts(z, library, seed=1).toarray(), fitted.counts(z, library, seed=1).toarray()
    )
    assert dict(back.reconstruction) == dict(fitted.reconstruction) and back.history == fitted.history


def test_the_same_seed_gives_the_same_bits_and_only_train_and_validation_cells_are_read(screen, parted, fitted):
    others = np.flatnonzero(~np.isin(parted.roles, [Role.TRAIN, Role.VALID]))
    adata = screen.adata.copy()
    x = adata.X.toarray()
    x[others] = np.random.default_rng(0).poisson(50, (len(others), adata.n_vars))
    adata.X = sp.csr_matrix(x)
    again = SMALL.fit(dataclasses.replace(parted, study=Study(adata, screen.design)))
    probe = screen.adata[:20]
    np.testing.assert_array_equal(again.encode(probe), fitted.encode(probe))


def test_left_out_genes_are_one_more_output(screen, parted):
    short = dataclasses.replace(SMALL, genes=Genes(n_top=12), loop=Loop(n_steps=60, chunk=20, valid_every=20))
    made = short.fit(parted)
    plain = Genes(n_top=12).fit(parted)
    rows = parted.cells(Role.TRAIN)
    assert made.genes == plain.genes and made.net.log_theta.shape == (13,)
    np.testing.assert_array_equal(measured(screen, made, rows), measured(screen, plain, rows))
    counts = features_of(parted, made.gene_space, rows)
    np.testing.assert_array_equal(counts.sum(1), np.asarray(screen.adata[rows].X.sum(1)).ravel())
    z = made.encode(screen.adata, rows)
    np.testing.assert_allclose(made.decode(z).mean(0), measured(screen, made, rows).mean(0), atol=0.02)
    np.testing.assert_allclose(made.rates(z).sum(1), 1, rtol=1e-5)
    shuffled = screen.adata[:, np.random.default_rng(0).permutation(40)]
    np.testing.assert_allclose(made.encode(shuffled, rows), z, rtol=1e-4, atol=1e-4)


def test_squared_error_of_expression(screen, parted):
    recipe = {"dim": 4, "hidden": (16,), "genes": Genes(), "epochs": 40, "batch_size": 64, "learning_rate": 1e-2}
    made = Autoencoder.sciplex(**recipe | {"warmup": 5, "loop": Loop(chunk=20, valid_every=60)}).fit(parted)
    assert made.net.log_theta is None and "nll" not in made.reconstruction and made.gives_counts
    steps = max(row["step"] for row in made.history)
    assert steps == 40 * -(-int((parted.roles == Role.TRAIN).sum()) // 64)
    assert made.reconstruction["variance_kept"] > 0.1
    rows = parted.cells(Role.TRAIN)
    counts = screen.adata[rows].X.toarray()
    rates = made.rates(made.encode(screen.adata, rows))
    np.testing.assert_allclose(rates.mean(0), (counts / counts.sum(1, keepdims=True)).mean(0), rtol=2e-3)


def test_published_recipes():
    reference = Autoencoder.reference(epochs=2)
    assert (reference.hidden, reference.norm, reference.inputs, reference.keep) == (
        (512, 256),
        "batch",
        "log1p",
        "last",
    )
    assert (reference.theta_start, reference.dispersion, reference.final) == ("normal", "learnt", 1.0)
    assert reference.epochs == 2 and Autoencoder.reference().epochs == 300
    sciplex = Autoencoder.sciplex()
    assert (sciplex.likelihood, sciplex.genes.n_top, sciplex.batch_size) == ("gaussian", 1000, 512)
    for recipe in (SMALL, reference, sciplex):
        assert from_dict(to_dict(recipe)) == recipe


def test_published_recipe_of_counts(screen, parted):
    loop = Loop(chunk=20, valid_every=20)
    made = Autoencoder.reference(dim=4, hidden=(16,), epochs=5, batch_size=64, loop=loop).fit(parted)
    assert made.noise.rule == "learnt" and (made.noise.fresh == 1).all() and (made.noise.factor == 1).all()
    np.testing.assert_allclose(made.noise.theta, np.exp(made.net.log_theta), rtol=1e-5)
    assert np.abs(np.asarray(made.net.encoder.norms[0].mean)).max() > 0
    # A cell's code does not depend on the cells beside it.
    alone = np.concatenate([made.encode(screen.adata, [i]) for i in range(3)])
    np.testing.assert_allclose(made.encode(screen.adata, range(3)), alone, rtol=1e-4, atol=1e-5)
    cells = screen.adata[:60].copy()
    cells.X = sp.csr_matrix(cells.X * 3)
    assert np.abs(made.encode(cells) - made.encode(screen.adata, range(60))).max() > 0.05


def test_without_validation_cells_training_cells_are_set_aside(screen):
    parted = split.in_distribution(screen.study(), test=0.2, valid=0.0, min_cells=1)
    rows, held_out = training_rows(parted, SMALL.valid, SMALL.seed)
    assert len(parted.cells(Role.VALID)) == 0 and len(np.intersect1d(rows, held_out)) == 0
    np.testing.assert_array_equal(np.sort(np.concatenate([rows, held_out])), parted.cells(Role.TRAIN))
    assert len(held_out) == round(0.1 * len(parted.cells(Role.TRAIN)))
    np.testing.assert_array_equal(held_out, training_rows(parted, SMALL.valid, SMALL.seed)[1])
    assert not np.array_equal(held_out, training_rows(parted, SMALL.valid, 1)[1])


def test_likelihood_of_gene_means_by_hand():
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(2.0, 4.0, (400, 5)))
    got = nll_of_gene_means(counts[:300], counts[300:])
    # Of all dispersions shared by the genes none makes these cells much likelier than the moments do.
    share = counts[:300].sum(0) / counts[:300].sum()
    mu = counts[300:].sum(1, keepdims=True) * share
    best = min(-nbinom.logpmf(counts[300:], t, t / (t + mu)).sum(1).mean() for t in np.geomspace(0.3, 30, 60))
    assert best - 0.2 < got < best + 0.3


def test_counts_that_16_bits_do_not_hold(screen, parted):
    adata = screen.adata.copy()
    x = adata.X.toarray()
    x[:, 0] += 40_000
    adata.X = sp.csr_matrix(x)
    large = dataclasses.replace(parted, study=Study(adata, screen.design))
    genes = Genes().fit_unscored(large)
    counts = features_of(large, genes, np.arange(50))
    assert counts.dtype == np.int32
    np.testing.assert_array_equal(counts, x[:50])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32, np.float64])
def test_counts_of_any_type_and_storage_are_read_alike(screen, parted, fitted, dtype):
    x = np.minimum(screen.adata[:50].X.toarray(), 255).astype(dtype)
    expected = fitted.encode(AnnData(x.astype(np.int32), var=screen.adata.var))
    for values in (x, sp.csr_matrix(x)):
        adata = AnnData(values, obs=screen.adata[:50].obs, var=screen.adata.var)
        np.testing.assert_array_equal(fitted.encode(adata), expected)
        given = dataclasses.replace(parted, study=Study(adata, screen.design))
        counts = features_of(given, Genes(n_top=None).fit_unscored(given), np.arange(50))
        assert counts.dtype == np.int16
        np.testing.assert_array_equal(counts, x)


def test_a_map_between_codes_predicts_counts(screen, parted, tmp_path):
    model = Gaussian(space=SMALL, encoder=Table(screen.descriptors) | Dose()).fit(parted)
    model.save(tmp_path)
    controls = screen.adata[parted.rows(parted.study.controls[0], Role.VALID)]
    condition = str(parted.test_conditions[0])
    out = load(tmp_path).predict(controls, condition, output="counts", seed=4)
    np.testing.assert_array_equal(
        out.X.toarray(), model.predict(controls, condition, output="counts", seed=4).X.toarray()
    )
    np.testing.assert_allclose(out.X.sum() / controls.X.sum(), 1, atol=0.1)
    assert np.isfinite(model.predict(controls, condition).X).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda _: Autoencoder(dim=0), "greater than or equal to 1"),
        (lambda _: Autoencoder(hidden=()), "at least 1"),
        (lambda _: Autoencoder(genes=Genes(transform="log1p")), "reads raw counts"),
        (lambda _: Autoencoder(genes=Genes(scale=True)), "reads raw counts"),
        (lambda _: Autoencoder(likelihood="gaussian", inputs="log1p"), "leave inputs at"),
        (lambda _: Autoencoder(likelihood="poisson"), "'nb' or 'gaussian'"),
        (lambda _: Autoencoder(latent=3), "no setting 'latent'"),
        (lambda _: Autoencoder.reference(dims=3), "did you mean 'dim'"),
        (lambda parted: dataclasses.replace(SMALL, dim=41).fit(parted), "40 genes"),
    ],
)
def test_wrong_settings_are_refused(make, says, parted):
    with pytest.raises(ConfigError, match=says):
        make(parted)


def test_measurements_that_are_no_counts_are_refused():
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    obs = pd.DataFrame({"drug": ["none", "some"] * 20}, index=pd.Index([f"c{i}" for i in range(40)]))
    parted = split.in_distribution(Study(AnnData(x, obs=obs), Design(treatment="drug", control="none")), min_cells=1)
    with pytest.raises(DataError, match="Autoencoder needs raw counts"):
        Autoencoder(dim=2).fit(parted)


def test_cells_without_counts_are_refused(screen, parted, fitted):
    adata = screen.adata.copy()
    x = adata.X.toarray()
    x[parted.cells(Role.TRAIN)[:2]] = 0
    adata.X = sp.csr_matrix(x)
    with pytest.raises(DataError, match=r"2 of \d+ cells have no counts"):
        SMALL.fit(dataclasses.replace(parted, study=Study(adata, screen.design)))
    with pytest.raises(DataError, match="1 of 1 cells have no counts"):
        fitted.encode(adata, parted.cells(Role.TRAIN)[:1])


def test_no_cells(screen, fitted):
    assert fitted.encode(screen.adata, []).shape == (0, 4)
    assert fitted.decode(np.zeros((0, 4), np.float32)).shape == (0, 40)


def test_ctrl_c_leaves_no_half_trained_space(parted, monkeypatch):
    """The loop ends by itself at the first Ctrl-C, and what it has by then must not pass for the space."""
    handler = signal.getsignal(signal.SIGINT)

    @contextmanager
    def stopped(title, n_steps, done, *, shown):
        yield lambda step, row, seconds: signal.raise_signal(signal.SIGINT) if step == 20 else None

    monkeypatch.setattr("cellgap.train._fit.progress_bar", stopped)
    with pytest.raises(KeyboardInterrupt):
        SMALL.fit(parted)
    assert signal.getsignal(signal.SIGINT) is handler

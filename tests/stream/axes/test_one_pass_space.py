"""Axes of a stream as a space: that of `cg.space.PCA`, in models, on disk, and what it refuses."""

import warnings

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData
from sklearn.decomposition import PCA as Components

import cellgap as cg
from cellgap import storage
from cellgap.errors import ConfigError, DataError, StorageError
from cellgap.settings import from_dict, to_dict
from cellgap.space import PCA, Genes, Saved
from cellgap.stream import Atlas, OnePassPCA, StreamingPCA, StreamWarning
from cellgap.stream.axes import space_of
from cellgap.study import Role, Split, split
from cellgap.study._simulate import simulate_screen


@pytest.fixture(scope="module")
def screen():
    return simulate_screen(n_drugs=3, doses=(1000.0,), n_combinations=1, n_genes=40, n_cells=80, n_controls=200, seed=2)


@pytest.fixture(scope="module")
def parted(screen) -> Split:
    return split.unseen_treatment(screen.study(), ["C1"], min_cells=10)


def _sine(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest sine between two spans, of float32 components."""
    a, b = (np.linalg.qr(np.asarray(c, np.float64).T)[0] for c in (found, expected))
    return float(np.linalg.norm(a - b @ (b.T @ a), 2))


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("n_top", [None, 25])
def test_one_pass_is_the_space_of_all_cells(screen, parted, scale, n_top):
    genes = Genes(n_top=n_top, scale=scale)
    once, plain = OnePassPCA(5, genes).fit(parted), PCA(5, genes).fit(parted)
    assert once.genes == plain.genes and once.dim == plain.dim == 5
    # float32 components (6e-8), and n against n - 1 in the spread of genes, which turns nothing.
    assert _sine(once.components, plain.components) < 1e-4
    np.testing.assert_allclose(once.explained, plain.explained, rtol=1e-4)
    rows = parted.cells(Role.TRAIN)[:50]
    # The spread of genes differs by sqrt(n / (n - 1)) for n = 1000 or so.
    z, other = once.encode(screen.adata, rows), plain.encode(screen.adata, rows)
    np.testing.assert_allclose(z, other, atol=2e-3 * np.abs(other).max())
    np.testing.assert_allclose(once.decode(z), plain.decode(other), atol=2e-3)
    for name, value in plain.reconstruction.items():
        np.testing.assert_allclose(once.reconstruction[name], value, rtol=1e-2)


def test_only_training_cells_are_fitted_on(screen, parted):
    adata = screen.adata.copy()
    others = np.flatnonzero(parted.roles != Role.TRAIN)
    x = adata.X.toarray()
    x[others] = np.random.default_rng(0).poisson(50, (len(others), adata.n_vars))
    adata.X = sp.csr_matrix(x)
    changed = Split(**{**parted.__dict__, "study": cg.Study(adata, screen.design)})
    one, two = OnePassPCA(4).fit(parted), OnePassPCA(4).fit(changed)
    np.testing.assert_array_equal(one.components, two.components)


def test_blocks_are_near_the_exact_space(screen, parted):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StreamWarning)
        once = OnePassPCA(3, solver="blocks", heavy_rows=1000).fit(parted)
    plain = PCA(3).fit(parted)
    x = plain.measured(parted.study.values(parted.cells(Role.TRAIN))).astype(float)
    y = x - x.mean(0)
    kept = [float(((y @ np.asarray(s.components, float).T) ** 2).sum()) for s in (once, plain)]
    assert 0.99 < kept[0] / kept[1] <= 1 + 1e-6


def test_counts_are_drawn(screen, parted):
    rows = parted.cells(Role.TRAIN)
    once, plain = OnePassPCA(5).fit(parted), PCA(5).fit(parted)
    x = screen.adata[rows, list(once.genes)].X.toarray().astype(float)
    z = once.encode(screen.adata, rows)
    drawn = once.counts(z, x.sum(1), seed=0)
    np.testing.assert_array_equal(drawn.toarray(), once.counts(z, x.sum(1), seed=0).toarray())
    assert (drawn.data == np.floor(drawn.data)).all() and drawn.data.min() > 0
    np.testing.assert_allclose(drawn.toarray().sum(1).mean(), x.sum(1).mean(), rtol=0.05)
    np.testing.assert_allclose(once.noise.theta, plain.noise.theta, rtol=0.02)
    np.testing.assert_allclose(once.rates(z), plain.rates(plain.encode(screen.adata, rows)), rtol=1e-2, atol=1e-5)


def test_a_model_works_in_it_from_end_to_end(screen):
    encoder = cg.encode.OneHot()
    parted = split.in_distribution(screen.study(), test=0.3, min_cells=10)
    models = [cg.MeanShift(space=s, encoder=encoder, rule="all").fit(parted) for s in (OnePassPCA(5), PCA(5))]
    condition = parted.test_conditions[0]
    controls = screen.adata[parted.rows(parted.study.control_of(condition), Role.SOURCE)[:40]].copy()
    predicted = [model.predict(controls, condition).X for model in models]
    a, b = (np.asarray(p.toarray() if sp.issparse(p) else p, float) for p in predicted)
    assert a.shape == (40, 40) and np.isfinite(a).all()
    np.testing.assert_allclose(a, b, atol=1e-2 * np.abs(b).max())


# Spaces on disk.


def _atlas(screen, tmp_path, **options) -> tuple[StreamingPCA, Atlas]:
    screen.adata.write_h5ad(tmp_path / "atlas.h5ad")
    atlas = Atlas(str(tmp_path / "atlas.h5ad"), **options)
    return StreamingPCA(5, solver="gram").fit_backed(atlas), atlas


def test_a_saved_space_is_one_of_a_study(screen, parted, tmp_path):
    stream, atlas = _atlas(screen, tmp_path)
    space = space_of(stream, atlas.open(), atlas)
    storage.save(space, tmp_path, name="axes")
    saved = Saved(str(tmp_path / "axes.npz"))
    assert from_dict(to_dict(saved)) == saved
    fitted = saved.fit(parted)
    np.testing.assert_array_equal(fitted.components, stream.components_.astype(np.float32))
    named = space_of(stream, Atlas(atlas.path, layer="X").open(), Atlas(atlas.path, layer="X"))
    assert space.layer == named.layer == "X"  # counts of a design
    assert space_of(stream, atlas.open(), Atlas(atlas.path, transform="log1p")).layer is None
    values = atlas.open().values(np.arange(30))
    np.testing.assert_allclose(fitted.encode(screen.adata, range(30)), stream.transform(values), atol=1e-4)
    assert 0.3 < fitted.reconstruction["variance_kept"] < 1
    # The space of the file gives no counts; that of a study does.
    z = fitted.encode(screen.adata, range(30))
    assert fitted.counts(z, np.full(30, 500.0), seed=0).shape == (30, 40)
    model = cg.MeanShift(space=saved, encoder=cg.encode.OneHot(), rule="all").fit(parted)
    assert model.space.dim == 5


def test_a_space_of_some_genes(screen, tmp_path):
    names = tuple(screen.adata.var_names[[30, 4, 7, 12, 20, 9, 1]])
    stream, atlas = _atlas(screen, tmp_path, genes=names)
    space = space_of(stream, atlas.open(), atlas)
    assert space.genes == names
    expected = stream.transform(atlas.open().values(np.arange(20)))
    np.testing.assert_allclose(space.encode(screen.adata, range(20)), expected, atol=1e-4)
    shuffled = screen.adata[:20, np.random.default_rng(0).permutation(40)].copy()
    np.testing.assert_allclose(space.encode(shuffled), expected, atol=1e-4)


def test_other_genes_and_other_values_are_refused(screen, parted, tmp_path):
    stream, atlas = _atlas(screen, tmp_path)
    with pytest.raises(DataError, match="The stream has 40 genes: name them"):
        space_of(stream)
    with pytest.raises(DataError, match="The stream has 40 genes: name them"):
        space_of(stream, Atlas(atlas.path, genes=tuple(screen.adata.var_names[:2])).open(), atlas)
    storage.save(space_of(stream, atlas.open(), atlas), tmp_path, name="axes")
    saved = Saved(str(tmp_path / "axes.npz"))
    fewer = cg.Study(screen.adata[:, 2:].copy(), screen.design)
    with pytest.raises(DataError, match=r"[Uu]nknown gene 'gene1'"):
        saved.fit(split.unseen_treatment(fewer, ["C1"], min_cells=10))
    layered = screen.adata.copy()
    layered.layers["raw"] = layered.X.copy()
    layered.write_h5ad(tmp_path / "layered.h5ad")
    other = Atlas(str(tmp_path / "layered.h5ad"), layer="raw")
    raw = StreamingPCA(5, solver="gram").fit_backed(other)
    storage.save(space_of(raw, other.open(), other), tmp_path, name="raw")
    with pytest.raises(DataError, match="fitted on the values of raw, but the design's are of X"):
        Saved(str(tmp_path / "raw.npz")).fit(parted)
    with pytest.raises(StorageError):
        Saved(str(tmp_path / "nothing.npz")).fit(parted)
    storage.save(stream.to_state(), tmp_path, name="state")
    with pytest.raises(ConfigError, match="holds a StreamState and no space"):
        Saved(str(tmp_path / "state.npz")).fit(parted)


def test_scaled_axes_as_a_space(screen, tmp_path):
    screen.adata.write_h5ad(tmp_path / "atlas.h5ad")
    atlas = Atlas(str(tmp_path / "atlas.h5ad"))
    stream = StreamingPCA(5, solver="gram", scale=True).fit_backed(atlas)
    space = space_of(stream, atlas.open(), atlas)
    values = atlas.open().values(np.arange(30))
    z = space.encode(screen.adata, range(30))
    np.testing.assert_allclose(z, stream.transform(values), atol=1e-4)
    # Decoding returns to the values: what is off is what the axes do not hold.
    full = StreamingPCA(39, solver="gram", scale=True).fit_backed(atlas)
    back = space_of(full, atlas.open(), atlas)
    x = values.toarray() if sp.issparse(values) else values
    off = back.decode(back.encode(screen.adata, range(30))) - x
    assert np.sqrt((off**2).mean()) < 0.2 * np.sqrt(((space.decode(z) - x) ** 2).mean())


@pytest.mark.parametrize(
    "space",
    [OnePassPCA(), OnePassPCA(7, Genes(n_top=12, scale=True), solver="blocks", oversample=3, heavy_rows=5, seed=2)],
    ids=["default", "all"],
)
def test_settings_round_trip_as_plain_values(space):
    assert from_dict(to_dict(space)) == space


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda p: OnePassPCA(dim=0), "greater than or equal to 1"),
        (lambda p: OnePassPCA(solver="svd"), "'auto', 'gram'"),
        (lambda p: OnePassPCA(40).fit(p), "needs more genes and training cells than components, found 40 genes"),
        (lambda p: OnePassPCA(2, Genes(scale=True), solver="fd").fit(p), "cannot divide genes by their spread"),
    ],
)
def test_wrong_settings_are_refused(parted, make, told):
    with pytest.raises(ConfigError, match=told):
        make(parted)


@pytest.mark.data
@pytest.mark.slow
def test_progenitors_have_the_axes_of_scikit_learn(data_dir):
    """paul15, 2,128 cells of 3,004 genes: gram is exact up to float32, and blocks lose little of the variance."""
    path = data_dir / "paul15_counts" / "paul15.h5ad"
    counts = anndata.read_h5ad(path).X.toarray().astype(np.float64)
    x = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    plain = Components(10, svd_solver="arpack", random_state=0).fit(x)
    exact = StreamingPCA(10, solver="gram").fit_backed(path)
    assert _sine(exact.components_, plain.components_) < 1e-4
    np.testing.assert_allclose(exact.explained_variance_ratio_, plain.explained_variance_ratio_, rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StreamWarning)
        once = StreamingPCA(10, solver="blocks", on_order="ignore").fit_backed(path)
        y = x - x.mean(0)
        lost = 1 - ((y @ once.components_.T) ** 2).sum() / (plain.singular_values_**2).sum()
        first = 1 - (once.components_[0] @ plain.components_[0]) ** 2
    print(f"paul15: blocks lose {lost:.3%} of ten axes' variance, error of the first {first:.2g}")
    assert 0 < lost < 0.02 and first < 1e-3


def test_an_annotated_matrix_is_taken_as_it_is(screen):
    x = screen.adata.X.toarray().astype(float)
    stream = StreamingPCA(3, solver="gram").fit(AnnData(x, obs=screen.adata.obs))
    np.testing.assert_array_equal(stream.components_, StreamingPCA(3, solver="gram").fit(x).components_)

"""Spaces: known values, training cells only, sparse and on disk alike, and what they refuse."""

import dataclasses
from itertools import pairwise

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from cellgap import storage
from cellgap.errors import ConfigError, DataError, DesignError
from cellgap.settings import from_dict, to_dict
from cellgap.space import PCA, Genes, normalized_dispersion
from cellgap.space._selection import mean_and_variance
from cellgap.space._transform import transform
from cellgap.study import Design, Role, Split, Study, split
from cellgap.study._simulate import simulate_screen

KINDS = ("dense", "csr", "layer", "backed")
SPACES = (Genes(), Genes(n_top=12), Genes(n_top=12, scale=True), PCA(5), PCA(5, Genes(n_top=20, scale=True)))


@pytest.fixture(scope="module")
def screen():
    return simulate_screen(n_drugs=3, doses=(1000.0,), n_combinations=1, n_genes=40, n_cells=60, n_controls=120, seed=2)


@pytest.fixture(scope="module")
def parted(screen) -> Split:
    return split.unseen_treatment(screen.study(), ["C1"], min_cells=10)


def _stored(screen, kind: str, folder) -> Study:
    """Return the same screen, stored in another way."""
    adata = screen.adata.copy()
    if kind == "dense":
        adata.X = adata.X.toarray()
    elif kind == "layer":
        adata.layers["raw"] = adata.X.copy()
        adata.X = np.zeros(adata.shape, np.float32)
    elif kind == "backed":
        adata.write_h5ad(folder / "screen.h5ad")
        adata = anndata.read_h5ad(folder / "screen.h5ad", backed="r")
    return Study(adata, dataclasses.replace(screen.design, counts="raw" if kind == "layer" else "X"))


def _measurements(x: np.ndarray, **design) -> Split:
    """Return a split of two conditions with these values."""
    obs = pd.DataFrame({"drug": ["none", "some"] * (len(x) // 2)}, index=pd.Index([f"c{i}" for i in range(len(x))]))
    study = Study(AnnData(x.astype(np.float32), obs=obs), Design(treatment="drug", control="none", **design))
    return split.in_distribution(study, min_cells=1)


def test_lognorm_by_hand():
    counts = np.array([[1, 3, 0], [0, 0, 5]])
    expected = np.log1p([[2.5, 7.5, 0], [0, 0, 10]])
    for values in (counts, sp.csr_matrix(counts)):
        out = transform(values, "lognorm", target_sum=10)
        np.testing.assert_allclose(out.toarray() if sp.issparse(out) else out, expected, rtol=1e-6)
    out = transform(counts, "lognorm", columns=np.array([2, 0]), target_sum=10)
    np.testing.assert_allclose(out, expected[:, [2, 0]], rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["lognorm", "log1p", "arcsinh", "none"]),
    seed=st.integers(0, 10_000),
)
def test_sparse_stays_sparse_and_agrees_with_dense(kind, seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(1.5, (7, 9))
    counts[:, 0] += 1
    sparse = transform(sp.csr_matrix(counts), kind)
    assert sp.issparse(sparse)
    np.testing.assert_allclose(sparse.toarray(), transform(counts, kind), rtol=1e-6)


def test_arcsinh_and_log1p_by_hand():
    x = np.array([[-5.0, 0.0, 10.0]])
    np.testing.assert_allclose(transform(x, "arcsinh", cofactor=5.0), np.arcsinh([[-1, 0, 2]]), rtol=1e-6)
    np.testing.assert_allclose(transform(-x[:, :2], "log1p"), np.log1p([[5.0, 0.0]]), rtol=1e-6)


# scanpy 1.11.5, normalize_total(target_sum=1e4), log1p, highly_variable_genes(flavor="seurat", n_top_genes=12)
SCANPY = """
1.40841 -0.35723 0.48718 -0.09469 -1.88283 1.66959 -0.93108 nan 0.05557 1.0 0.13259 0.75167 1.0 -1.17369
0.48393 0.97208 0.1395 -0.7479 -0.13471 1.0 1.21282 1.3699 0.14772 0.7017 1.13969 -1.45734 0.25538 -1.02576
0.76729 -0.33855 0.05369 -1.59858 0.48599 0.0183 1.0538 -1.01992 1.73019 0.71815 -0.40912 1.16459 -0.49974 1.0
-0.54878 -0.73057 0.21174 -0.05852 -0.38084 0.70711 -0.70711 -0.67379 -1.16972 0.44764 -0.78336 -1.40047
-1.48526 0.35887 -0.4058 0.89499 1.05342 -0.57812
"""


def test_dispersion_agrees_with_scanpy():
    rng = np.random.default_rng(0)
    rate = np.exp(rng.normal(0, 1.5, 60))
    counts = rng.poisson(rng.gamma(2, rate / 2, (300, 60)))
    counts[:, 7] = 0
    mean, variance, n = mean_and_variance(np.expm1(transform(counts, "lognorm"))[a : a + 77] for a in range(0, 300, 77))
    assert n == 300
    np.testing.assert_allclose(normalized_dispersion(mean, variance), np.array(SCANPY.split(), float), atol=2e-4)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 29), max_size=4), offset=st.sampled_from([0.0, 1e6]), sparse=st.booleans())
def test_moments_do_not_depend_on_blocks(cuts, offset, sparse):
    x = np.random.default_rng(0).normal(size=(30, 3)) + offset
    edges = sorted({0, 30, *cuts})
    blocks = [x[a:b] for a, b in pairwise(edges)]
    mean, variance, _ = mean_and_variance(sp.csr_matrix(b) if sparse else b for b in blocks)
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(variance, x.var(0, ddof=1), rtol=1e-6)


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_storage_of_the_values_does_not_matter(screen, space, tmp_path):
    codes = []
    for kind in KINDS:
        study = _stored(screen, kind, tmp_path)
        fitted = space.fit(split.unseen_treatment(study, ["C1"], min_cells=10))
        codes.append(fitted.encode(study.adata, [5, 3, 3, 300]))
        assert codes[-1].dtype == np.float32 and codes[-1].shape == (4, fitted.dim)
    for other in codes[1:]:
        np.testing.assert_allclose(other, codes[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_only_training_cells_are_fitted_on(screen, space, parted):
    adata = screen.adata.copy()
    others = np.flatnonzero(parted.roles != Role.TRAIN)
    x = adata.X.toarray()
    x[others] = np.random.default_rng(0).poisson(50, (len(others), adata.n_vars))
    adata.X = sp.csr_matrix(x)
    changed = dataclasses.replace(parted, study=Study(adata, screen.design))
    first, second = space.fit(parted), space.fit(changed)
    assert first.genes == second.genes
    probe = screen.adata[:20]
    np.testing.assert_array_equal(first.encode(probe), second.encode(probe))


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_decode_returns_to_gene_space(screen, space, parted):
    fitted = space.fit(parted)
    rows = parted.cells(Role.VALID)
    x = fitted.measured(screen.study().values(rows))
    back = fitted.decode(fitted.encode(screen.adata, rows))
    assert x.shape == back.shape == (len(rows), len(fitted.genes)) and back.dtype == x.dtype == np.float32
    rmse = np.sqrt(np.mean((x - back) ** 2))
    np.testing.assert_allclose(fitted.reconstruction["rmse"], rmse, rtol=1e-3, atol=1e-6)
    assert fitted.reconstruction["held_out"] == 1
    if isinstance(space, Genes):
        assert rmse < 1e-5
    else:
        assert 0.3 < fitted.reconstruction["variance_kept"] < 1


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_order_of_genes_and_further_genes_do_not_matter(screen, space, parted):
    fitted = space.fit(parted)
    shuffled = screen.adata[:30, np.random.default_rng(0).permutation(screen.adata.n_vars)].copy()
    more = anndata.concat(
        [
            AnnData(np.full((30, 1), 99, np.int32), obs=shuffled.obs, var=pd.DataFrame(index=pd.Index(["new"]))),
            shuffled,
        ],
        axis=1,
        merge="first",
    )
    for other in (shuffled, more):
        np.testing.assert_allclose(fitted.encode(other), fitted.encode(screen.adata, range(30)), rtol=1e-4, atol=1e-4)


def test_components_are_those_of_the_covariance(screen, parted):
    fitted = PCA(4).fit(parted)
    x = fitted.measured(screen.study().values(parted.cells(Role.TRAIN))).astype(float)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    expected = vectors[:, ::-1][:, :4].T
    expected *= np.sign(expected[np.arange(4), np.abs(expected).argmax(1)])[:, None]
    np.testing.assert_allclose(fitted.components, expected, atol=1e-4)
    np.testing.assert_allclose(fitted.explained, values[::-1][:4] / values.sum(), rtol=1e-4)
    np.testing.assert_allclose(
        fitted.encode(screen.adata, parted.cells(Role.TRAIN)), (x - x.mean(0)) @ expected.T, atol=1e-3
    )


def test_components_have_one_sign_and_the_same_bits_again(parted):
    first, again = PCA(6).fit(parted), PCA(6).fit(parted)
    np.testing.assert_array_equal(first.components, again.components)
    assert (first.components[np.arange(6), np.abs(first.components).argmax(1)] > 0).all()


def test_scaled_genes_have_unit_spread_over_training_cells(screen, parted):
    z = Genes(n_top=10, scale=True).fit(parted).encode(screen.adata, parted.cells(Role.TRAIN))
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(0, ddof=1), 1, rtol=1e-4)


def test_variable_genes_keep_the_order_of_the_study(screen, parted):
    genes = Genes(n_top=9).fit(parted).genes
    positions = [list(screen.adata.var_names).index(g) for g in genes]
    assert len(genes) == 9 and positions == sorted(positions)
    assert Genes(n_top=40).fit(parted).genes == Genes().fit(parted).genes


def test_measurements_that_are_no_counts():
    x = np.random.default_rng(0).normal(0, [1, 1, 30], (40, 3))
    parted = _measurements(x)
    with pytest.raises(DataError, match=r'needs raw counts.*"log1p", "arcsinh" or "none"'):
        Genes().fit(parted)
    with pytest.raises(DataError, match="at least 0"):
        Genes(transform="log1p").fit(parted)
    plain = Genes(transform="none").fit(parted)
    np.testing.assert_allclose(plain.encode(parted.study.adata), x, rtol=1e-6)
    assert not plain.nonnegative and plain.layer is None
    assert Genes(n_top=1, transform="arcsinh").fit(parted).genes == ("2",)


def test_cells_without_counts_are_named(screen, parted):
    empty = screen.adata[:5].copy()
    empty.X = sp.csr_matrix(empty.shape, dtype=np.int32)
    with pytest.raises(DataError, match="5 of 5 cells have no counts"):
        Genes().fit(parted).encode(empty)


def test_prediction_data_must_have_the_genes_the_layer_and_counts(screen, parted, tmp_path):
    fitted = PCA(3).fit(parted)
    with pytest.raises(DataError, match=r'2 of the 40 genes.*"gene1", "gene2"'):
        fitted.encode(screen.adata[:, 2:])
    scaled = screen.adata[:3].copy()
    scaled.X = scaled.X * 0.5
    with pytest.raises(DataError, match="needs raw counts"):
        fitted.encode(scaled)
    study = _stored(screen, "layer", tmp_path)
    with pytest.raises(DesignError, match="'raw'"):
        PCA(3).fit(split.unseen_treatment(study, ["C1"], min_cells=10)).encode(screen.adata)
    with pytest.raises(DataError, match="Rows must be"):
        fitted.encode(screen.adata, [10**6])


def test_no_cells_give_no_codes(screen, parted):
    assert PCA(3).fit(parted).encode(screen.adata, []).shape == (0, 3)


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_fitted_space_round_trips_through_files(screen, space, parted, tmp_path):
    fitted = space.fit(parted)
    storage.save(fitted, tmp_path)
    back = storage.load(tmp_path)
    assert back.genes == fitted.genes and dict(back.reconstruction) == dict(fitted.reconstruction)
    np.testing.assert_array_equal(back.encode(screen.adata, range(9)), fitted.encode(screen.adata, range(9)))


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_settings_round_trip_as_plain_values(space):
    assert from_dict(to_dict(space)) == space


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda _: Genes(n_top=0), "greater than or equal to 1"),
        (lambda _: Genes(transform="log2"), "'lognorm', 'log1p'"),
        (lambda _: PCA(dims=3), "did you mean 'dim'"),
        (lambda _: PCA(genes="all"), "PCA"),
        (lambda parted: PCA(41).fit(parted), "40 genes"),
        (lambda parted: Genes(n_top=41).fit(parted), "more genes than the study has"),
    ],
)
def test_wrong_settings_are_refused(make, says, parted):
    with pytest.raises(ConfigError, match=says):
        make(parted)


def test_scale_refuses_constant_genes():
    x = np.random.default_rng(0).normal(size=(40, 3))
    x[:, 1] = 2.0
    with pytest.raises(DataError, match=r"1 genes that are constant.*such as 1"):
        Genes(transform="none", scale=True).fit(_measurements(x))

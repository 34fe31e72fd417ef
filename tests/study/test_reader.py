"""The shuffled reader: every row once an epoch, the same from memory and disk, from any position, in bounded memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from cellgap.errors import DataError
from cellgap.study import Design, ShuffledReader, Study

DESIGN = Design(treatment="drug", control="c", counts=None)
N_OBS, N_VARS = 103, 5


def of(x) -> Study:
    obs = pd.DataFrame({"drug": np.resize(["c", "x"], x.shape[0])}, index=[f"c{i}" for i in range(x.shape[0])])
    return Study(AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(x.shape[1])])), DESIGN)


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """The first value of a row is its number, so that a cell can be recognized."""
    values = np.random.default_rng(0).poisson(0.5, (N_OBS, N_VARS)).astype(np.float32)
    values[:, 0] = np.arange(N_OBS)
    return values


@pytest.fixture(scope="module")
def studies(values, tmp_path_factory) -> dict[str, Study]:
    """One study, dense and sparse, in memory and on disk."""
    folder = tmp_path_factory.mktemp("reader")
    found = {"dense": of(values), "sparse": of(sp.csr_matrix(values))}
    for name in ("dense", "sparse"):
        found[name].adata.write_h5ad(folder / f"{name}.h5ad")
        found[f"{name} h5ad"] = Study.read(folder / f"{name}.h5ad", DESIGN, backed=True)
    return found


def dense(x) -> np.ndarray:
    return x.toarray() if sp.issparse(x) else np.asarray(x)


@given(
    rows=st.sets(st.integers(0, N_OBS - 1), min_size=1),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(1, 60)),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_every_row_comes_exactly_once_an_epoch(values, rows, sizes, seed, epoch):
    chunk, n_chunks, size = sizes
    reader = ShuffledReader(of(values), sorted(rows), seed=seed, chunk=chunk, n_chunks=n_chunks)
    batches = list(reader.batches(size, epoch=epoch))
    assert [len(b.rows) for b in batches[:-1]] == [size] * (len(batches) - 1)
    got = np.concatenate([b.rows for b in batches])
    assert sorted(got.tolist()) == sorted(rows)
    np.testing.assert_array_equal(np.concatenate([b.values for b in batches]), values[got])


@pytest.mark.parametrize("kind", ["dense", "sparse", "dense h5ad", "sparse h5ad"])
def test_memory_and_disk_give_the_same_cells_from_any_position(kind, studies, values):
    options = {"seed": 3, "chunk": 7, "n_chunks": 4}
    expected = ShuffledReader(studies["dense"], **options).read(0, 3 * N_OBS)
    reader = ShuffledReader(studies[kind], **options)
    # Forward over two epochs, across buffers and epochs; then back; then in the middle.
    for start, stop in [(0, 10), (10, 60), (60, 250), (5, 6), (N_OBS - 2, N_OBS + 3), (299, 3 * N_OBS)]:
        got = reader.read(start, stop)
        assert sp.issparse(got.values) == kind.startswith("sparse")
        np.testing.assert_array_equal(got.rows, expected.rows[start:stop])
        np.testing.assert_array_equal(dense(got.values), values[got.rows])
    later = list(reader.batches(20, epoch=1, position=90))
    np.testing.assert_array_equal(later[0].rows, expected.rows[N_OBS + 90 : 2 * N_OBS])
    assert len(later) == 1


def test_epochs_and_seeds_differ_and_the_order_is_well_mixed(values):
    x = np.zeros((4000, 1), np.float32)
    reader = ShuffledReader(of(x), seed=0, chunk=20, n_chunks=20)
    first, second = (reader.read(e * 4000, (e + 1) * 4000).rows for e in (0, 1))
    other = ShuffledReader(of(x), seed=1, chunk=20, n_chunks=20).read(0, 4000).rows
    for one, two in ((first, second), (first, other)):
        assert abs(np.corrcoef(one, two)[0, 1]) < 0.1
    # A batch of 100 comes from all over the file, and neighbors in the order are no neighbors in the file.
    for start in range(0, 4000, 400):
        assert np.ptp(first[start : start + 100]) > 2000
    assert (np.abs(np.diff(first)) < 20).mean() < 0.1


def test_genes_are_chosen_by_name_and_in_order(studies, values):
    for kind in ("dense", "sparse h5ad"):
        got = ShuffledReader(studies[kind], genes=["g3", "g0"], seed=0, chunk=10).read(0, N_OBS)
        np.testing.assert_array_equal(dense(got.values), values[got.rows][:, [3, 0]])


def test_a_file_is_read_once_an_epoch(studies, monkeypatch):
    read: list[np.ndarray] = []
    original = Study.values

    def noted(self, rows, genes=None):
        read.append(rows)
        return original(self, rows, genes)

    monkeypatch.setattr(Study, "values", noted)
    reader = ShuffledReader(studies["sparse h5ad"], seed=0, chunk=10, n_chunks=3)
    list(reader.batches(7))
    assert sorted(np.concatenate(read).tolist()) == list(range(N_OBS))
    assert len(read) == 11


@pytest.mark.parametrize("sparse", [True, False])
def test_memory_is_that_of_the_buffer_and_the_bound_is_stated(sparse: bool, tmp_path: Path):
    n_obs, n_vars = 20_000, 500
    x = sp.random(n_obs, n_vars, density=0.05, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    of(x if sparse else x.toarray()).adata.write_h5ad(tmp_path / "big.h5ad")
    del x
    reader = ShuffledReader(Study.read(tmp_path / "big.h5ad", DESIGN, backed=True), seed=0, chunk=100, n_chunks=80)
    row = 0.05 * n_vars * 8 if sparse else n_vars * 4
    assert 8000 * row <= reader.buffer_bytes <= 8000 * row * 1.1
    tracemalloc.start()
    for batch in reader.batches(256):
        del batch
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The buffer twice, plus its row pointers, a batch, and the file's pointers.
    assert reader.buffer_bytes < peak < 2.1 * reader.buffer_bytes + 600_000


def test_bad_input_is_refused(studies):
    study = studies["dense"]
    for rows in ([], [-1, 2], [0, N_OBS]):
        with pytest.raises(DataError, match="needs rows from 0 to 102"):
            ShuffledReader(study, rows, seed=0)
    with pytest.raises(DataError, match="row 4 was asked for twice"):
        ShuffledReader(study, [4, 2, 4], seed=0)
    for sizes in ({"chunk": 0}, {"n_chunks": 0}):
        with pytest.raises(DataError, match="at least 1, found"):
            ShuffledReader(study, seed=0, **sizes)
    with pytest.raises(DataError, match="must grow from 0, found 5 to 5"):
        ShuffledReader(study, seed=0).read(5, 5)

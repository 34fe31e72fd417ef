"""One pass over a file: any storage, shuffled, stopped and continued, shared by workers, and what is refused."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from cellgap.errors import ConfigError, DataError, DesignError
from cellgap.evaluate import local_workers
from cellgap.stream import Atlas, StreamingPCA, StreamWarning
from cellgap.stream.axes import _backed

N, D = 2500, 30


def _counts(*, plates: bool = False, n: int = N, seed: int = 0) -> AnnData:
    """Return counts with a few programmes; with plates, one after the other and with means of their own."""
    rng = np.random.default_rng(seed)
    programmes = rng.normal(size=(4, D)) * np.array([1.0, 0.6, 0.4, 0.3])[:, None]
    plate = np.repeat(np.arange(5), n // 5)
    logs = rng.normal(size=(n, 4)) @ programmes + 0.5
    if plates:
        logs = logs + 0.7 * rng.normal(size=(5, D))[plate]
    x = rng.poisson(np.exp(logs)) + (np.arange(D) == 0)
    obs = pd.DataFrame({"plate": [f"p{i}" for i in plate]}, index=pd.Index([f"c{i}" for i in range(n)]))
    var = pd.DataFrame(index=pd.Index([f"g{i}" for i in range(D)]))
    return AnnData(sp.csr_matrix(x.astype(np.float32)), obs=obs, var=var, layers={"twice": sp.csr_matrix(2.0 * x)})


def _lognorm(x: np.ndarray, target: float = 1e4) -> np.ndarray:
    return np.log1p(x / x.sum(1, keepdims=True) * target)


def _sine(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - (found @ expected.T) @ expected, 2))


def _exact(x: np.ndarray, k: int) -> np.ndarray:
    return np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:k]


def _blocks(k: int = 3, **options) -> StreamingPCA:
    return StreamingPCA(k, solver="blocks", **{"on_order": "ignore", "heavy_rows": 1000, **options})


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return _counts()


@pytest.fixture(scope="module")
def path(cells, tmp_path_factory):
    """File of cells in random order."""
    name = tmp_path_factory.mktemp("atlas") / "cells.h5ad"
    cells.write_h5ad(name)
    return name


@pytest.fixture(scope="module")
def x(cells) -> np.ndarray:
    return cells.X.toarray().astype(np.float64)


# Reading.


@pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning")
@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_storage_and_order_do_not_matter_to_the_exact_axes(cells, x, kind, sparse, shuffle, tmp_path):
    stored = cells.copy() if sparse else AnnData(cells.X.toarray(), obs=cells.obs, var=cells.var)
    name = tmp_path / f"cells.{kind}"
    if kind == "h5ad":
        stored.write_h5ad(name)
    else:
        stored.write_zarr(name)
    stream = StreamingPCA(4, solver="gram").fit_backed(name, shuffle=shuffle)
    # Values are float32 after the transform: 6e-8 of each.
    assert stream.n_samples_seen_ == N and _sine(stream.components_, _exact(_lognorm(x), 4)) < 1e-5
    np.testing.assert_allclose(stream.mean_, _lognorm(x).mean(0), rtol=1e-6)
    assert np.isfinite(stream.design_effect) == shuffle


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"transform": "none"}, lambda x: x),
        ({"transform": "log1p"}, np.log1p),
        ({"transform": "arcsinh", "cofactor": 2.0}, lambda x: np.arcsinh(x / 2)),
        ({"target_sum": 100.0}, lambda x: _lognorm(x, 100.0)),
        ({"layer": "twice", "transform": "none"}, lambda x: 2 * x),
        ({"genes": tuple(f"g{i}" for i in range(20, 5, -1))}, lambda x: _lognorm(x)[:, 20:5:-1]),
    ],
    ids=lambda o: str(o)[:40] if isinstance(o, dict) else "",
)
def test_values_are_transformed_while_they_are_read(path, x, options, expected):
    stream = StreamingPCA(3, solver="gram").fit_backed(path, **options)
    values = expected(x)
    np.testing.assert_allclose(stream.mean_, values.mean(0), rtol=1e-5)
    assert _sine(stream.components_, _exact(values, 3)) < 1e-5
    other = StreamingPCA(3, solver="gram").fit_backed(Atlas(str(path), **options))
    np.testing.assert_array_equal(other.components_, stream.components_)


def test_every_cell_comes_once_and_the_seed_is_the_order(path, x):
    one, two = (_blocks(seed=seed).fit_backed(path, transform="none") for seed in (0, 0))
    np.testing.assert_array_equal(one.components_, two.components_)
    np.testing.assert_allclose(one.mean_ * N, x.sum(0), rtol=1e-10)
    other = _blocks(seed=1).fit_backed(path, transform="none")
    assert (other.components_ != one.components_).any() and _sine(other.components_, one.components_) < 0.2
    in_order = _blocks().fit_backed(path, transform="none", shuffle=False)
    np.testing.assert_array_equal(in_order.components_, _blocks().fit(x.astype(np.float32)).components_)


def test_labels_follow_their_cells(tmp_path):
    sorted_ = _counts(plates=True)
    sorted_.write_h5ad(tmp_path / "plates.h5ad")
    ratio = {}
    for shuffle in (True, False):
        stream = StreamingPCA(3, solver="gram").fit_backed(
            tmp_path / "plates.h5ad", labels="plate", shuffle=shuffle, block_rows=4
        )
        ratio[shuffle], p = stream.report().labels
        assert (p > 1e-3) == shuffle
    assert ratio[True] < 1.5 and ratio[False] > 10
    with pytest.warns(StreamWarning, match="rows are not in random order"):
        _ = _blocks(on_order="warn").fit_backed(tmp_path / "plates.h5ad", shuffle=False).components_
    # Shuffled by single cells: no warning, which would be an error here.
    _ = _blocks(on_order="raise").fit_backed(tmp_path / "plates.h5ad", block_rows=1).components_


def test_the_design_effect_is_large_where_neighbors_are_alike(path, tmp_path):
    # 39 stretches of 64 cells: the variance of a mean square on 38 degrees of freedom leaves an F of up to 2.
    assert 1 <= StreamingPCA(2, solver="gram").fit_backed(path).design_effect < 2
    _counts(plates=True).write_h5ad(tmp_path / "plates.h5ad")
    effect = [
        StreamingPCA(2, solver="gram").fit_backed(tmp_path / "plates.h5ad", block_rows=b).design_effect
        for b in (1, 16, 64)
    ]
    assert effect[1] > 2 and effect[2] > 2 * effect[1]
    assert np.isnan(effect[0]) or effect[0] == 1.0


# Stopping and going on.


def _interrupting(monkeypatch, after: int) -> None:
    """Let Ctrl-C be noticed after some chunks."""

    @contextmanager
    def flag():
        seen = SimpleNamespace(calls=0)

        def interrupted() -> bool:
            seen.calls += 1
            return seen.calls >= after

        yield interrupted

    monkeypatch.setattr(_backed, "deferred_interrupt", flag)
    monkeypatch.setattr(_backed, "_CHUNK", 300)


@pytest.mark.parametrize("solver", ["gram", "blocks", "fd"])
@pytest.mark.parametrize("after", [1, 4])
def test_stopped_and_continued_is_not_stopped(solver, after, path, tmp_path, monkeypatch):
    options = {"labels": "plate", "block_rows": 8, "fetch_blocks": 16}
    kept = tmp_path / "kept"
    whole = StreamingPCA(3, solver=solver, heavy_rows=1000).fit_backed(path, **options)
    with monkeypatch.context() as patch:
        _interrupting(patch, after)
        with pytest.raises(KeyboardInterrupt):
            StreamingPCA(3, solver=solver, heavy_rows=1000).fit_backed(path, checkpoint=kept, **options)
        assert StreamingPCA.load(kept).n_samples_seen_ == 300 * after
    again = StreamingPCA(3, solver=solver, heavy_rows=1000).fit_backed(path, checkpoint=kept, **options)
    assert again.n_samples_seen_ == N and again.design_effect == whole.design_effect
    for name in ("components_", "explained_variance_", "mean_"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    assert again.report().order == whole.report().order and again.report().labels == whole.report().labels
    # What is complete is only read: no cell comes a second time.
    done = StreamingPCA(3, solver=solver, heavy_rows=1000).fit_backed(path, checkpoint=kept, **options)
    assert done.n_samples_seen_ == N
    np.testing.assert_array_equal(done.components_, whole.components_)


def test_a_checkpoint_of_something_else_is_refused(path, cells, tmp_path):
    kept = tmp_path / "kept"
    StreamingPCA(3, solver="gram").fit_backed(path, checkpoint=kept)
    for stream, options, told in (
        (StreamingPCA(4, solver="gram"), {}, "other settings"),
        (StreamingPCA(3, solver="blocks"), {}, "other settings"),
        (StreamingPCA(3, solver="gram"), {"shuffle": False}, "another file or order"),
        (StreamingPCA(3, solver="gram"), {"block_rows": 32}, "another file or order"),
        (StreamingPCA(3, solver="gram"), {"transform": "none"}, "another file or order"),
    ):
        with pytest.raises(ConfigError, match=f"holds a pass with {told}: name another checkpoint"):
            stream.fit_backed(path, checkpoint=kept, **options)
    copy = tmp_path / "copy.h5ad"
    cells.write_h5ad(copy)
    with pytest.raises(ConfigError, match="another file or order"):
        StreamingPCA(3, solver="gram").fit_backed(copy, checkpoint=kept)
    mine = tmp_path / "mine"
    StreamingPCA(3, solver="gram").fit_backed(copy, checkpoint=mine)
    cells[:2000].copy().write_h5ad(copy)
    with pytest.raises(ConfigError, match="a changed file"):
        StreamingPCA(3, solver="gram").fit_backed(copy, checkpoint=mine)


_SCRIPT = """
import signal, sys, time
from cellgap.stream import StreamingPCA
from cellgap.stream.axes import _backed
_backed._CHUNK = 50
signal.signal(signal.SIGINT, signal.default_int_handler)
take = StreamingPCA.partial_fit
def slowly(self, *args, **options):
    print("chunk", flush=True)
    time.sleep(0.05)
    return take(self, *args, **options)
StreamingPCA.partial_fit = slowly
StreamingPCA(3, solver="blocks", heavy_rows=1000).fit_backed(sys.argv[1], checkpoint=sys.argv[2])
"""


@pytest.mark.slow
def test_control_c_keeps_what_was_read(path, tmp_path):
    kept = tmp_path / "kept"
    command = [sys.executable, "-c", _SCRIPT, str(path), str(kept)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(12):
        assert child.stdout.readline() == "chunk\n"
    time.sleep(0.01)
    os.kill(child.pid, signal.SIGINT)
    _, told = child.communicate(timeout=120)
    assert child.returncode != 0 and "KeyboardInterrupt" in told
    seen = StreamingPCA.load(kept).n_samples_seen_
    assert 600 <= seen < N and seen % 50 == 0
    again = StreamingPCA(3, solver="blocks", heavy_rows=1000).fit_backed(path, checkpoint=kept)
    whole = StreamingPCA(3, solver="blocks", heavy_rows=1000).fit_backed(path)
    np.testing.assert_array_equal(again.components_, whole.components_)


# What is refused.


def test_wrong_files_and_names_are_refused(path, cells, tmp_path):
    stream = StreamingPCA(3)
    for options, kind, told in (
        ({"target_sum": "median"}, ConfigError, "target_sum='median' needs all totals before"),
        ({"target_sum": -1.0}, ConfigError, "target_sum"),
        ({"genes": ("g1", "nothing")}, DataError, r"1 of 2 genes are not in .*'nothing'"),
        ({"labels": "batch"}, DataError, r"no column 'batch': found 'plate'"),
        ({"layer": "raw"}, DesignError, "'raw'"),
        ({"transform": "log2"}, ConfigError, "'lognorm', 'log1p'"),
        ({"block_rows": 0}, ConfigError, "at least 1"),
    ):
        with pytest.raises(kind, match=told):
            stream.fit_backed(path, **options)
    with pytest.raises(DataError, match="There is no file"):
        stream.fit_backed(tmp_path / "none.h5ad")
    with pytest.raises(ConfigError, match="An Atlas has its options already, found layer"):
        stream.fit_backed(Atlas(str(path)), layer="twice")
    cells[:3].copy().write_h5ad(tmp_path / "few.h5ad")
    with pytest.raises(DataError, match="k=3 axes need at least 4 cells, found 3"):
        stream.fit_backed(tmp_path / "few.h5ad")
    assert stream.n_samples_seen_ == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("nan", "NaN or infinite"),
        ("negative", "needs raw counts"),
        ("half", "needs raw counts"),
        ("empty cell", "1 of .* cells have no counts"),
        ("csc", "stored by columns"),
    ],
)
@pytest.mark.parametrize("row", [5, 2400])
def test_values_that_cannot_be_are_refused(cells, change, told, row, tmp_path):
    x = cells.X.toarray()
    if change == "nan":
        x[row, 3] = np.nan
    elif change == "negative":
        x[row, 3] = -1
    elif change == "half":
        x[row, 3] = 0.5
    elif change == "empty cell":
        x[row] = 0
    stored = sp.csc_matrix(x) if change == "csc" else sp.csr_matrix(x)
    AnnData(stored, obs=cells.obs, var=cells.var).write_h5ad(tmp_path / "bad.h5ad")
    with pytest.raises(DataError, match=told):
        StreamingPCA(3).fit_backed(tmp_path / "bad.h5ad", shuffle=False)


def test_two_genes_of_one_name_are_refused(cells, tmp_path):
    twice = cells.copy()
    twice.var_names = ["g1", "g1", *twice.var_names[2:]]
    with pytest.warns(UserWarning, match="not unique"):
        twice.write_h5ad(tmp_path / "twice.h5ad")
        with pytest.raises((DataError, pd.errors.InvalidIndexError)) as refused:
            StreamingPCA(3).fit_backed(tmp_path / "twice.h5ad", genes=("g1", "g2", "g3", "g4"))
    assert isinstance(refused.value, DataError) and "genes of one name" in str(refused.value)


# Workers and dask.


def test_chunks_of_a_dask_array(x):
    rows = da.from_array(x, chunks=(400, -1))
    stream = StreamingPCA(3, solver="gram").fit(rows)
    assert stream.n_samples_seen_ == N and _sine(stream.components_, _exact(x, 3)) < 1e-9
    blocks = _blocks().fit(rows)
    np.testing.assert_array_equal(blocks.components_, _blocks().fit(x).components_)
    with pytest.raises(DataError, match="cut between genes: rechunk it"):
        StreamingPCA(3).fit(da.from_array(x, chunks=(400, 10)))


@pytest.mark.slow
def test_workers_give_the_answer_of_one_process(path):
    alone = _blocks().fit_backed(path, block_rows=8, fetch_blocks=32)
    alone.plan()  # takes in what waits for a full batch
    with local_workers(2) as client:
        shared = _blocks().fit_backed(path, block_rows=8, fetch_blocks=32, client=client)
        with pytest.raises(ConfigError, match='solver="blocks"'):
            StreamingPCA(3, solver="gram").fit_backed(path, client=client)
    assert shared.n_samples_seen_ == N
    assert _sine(shared.components_, alone.components_) < 1e-9
    np.testing.assert_allclose(shared.explained_variance_, alone.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(shared.mean_, alone.mean_, rtol=1e-12)
    for name, expected in alone.report().order.items():
        np.testing.assert_allclose(shared.report().order[name], expected, rtol=1e-6)

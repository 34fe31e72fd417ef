"""The blocks of one-pass axes: workers, counted once, and inputs on which such schemes go wrong."""

import dataclasses
import functools
import operator
import pickle
import warnings
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp

from cellgap.errors import ConfigError, DataError
from cellgap.stream import StreamingPCA, StreamWarning
from cellgap.stream.axes._blocks import Blocks

D = 40


def _rows(n: int, seed: int = 0, *, heavy: int = 0, d: int = D, noise: float = 0.05) -> np.ndarray:
    """Return rows in random order whose eigenvalues are 64, 16, 4, 1 n and noise; some of them twelve times as long."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, 4)))[0].T
    x = (rng.normal(size=(n, 4)) * [8, 4, 2, 1]) @ axes + noise * rng.normal(size=(n, d)) + rng.normal(size=d)
    if heavy:
        x[rng.choice(n, heavy, replace=False)] *= 12
    return x


def _stream(k: int = 2, **options) -> StreamingPCA:
    return StreamingPCA(k, solver="blocks", **{"on_order": "ignore", **options})


def _quiet(stream: StreamingPCA, *parts) -> StreamingPCA:
    """Return a stream after some chunks, with its warnings shown already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StreamWarning)
        stream.fit(parts)
        _ = stream.components_
    return stream


def _sine(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - (found @ expected.T) @ expected, 2))


def _exact(x: np.ndarray, k: int, *, center: bool = True) -> np.ndarray:
    return np.linalg.svd(x - x.mean(0) if center else x, full_matrices=False)[2][:k]


def _lost(x: np.ndarray, components: np.ndarray, *, center: bool = True) -> float:
    """Return the share of the best axes' energy that some axes lose."""
    y = x - x.mean(0) if center else x
    best = (np.linalg.svd(y, compute_uv=False)[: len(components)] ** 2).sum()
    return float(1 - ((y @ components.T) ** 2).sum() / best)


def _light(engine: Blocks) -> np.ndarray:
    """Return the factor of all light rows: of the closed blocks and of the open one."""
    factor = 1 / engine.moments.sd if engine.settings.scale else None
    open_, _ = engine._light_factor(engine.heavy, engine.light, factor, engine._mean(factor))
    return np.concatenate([engine.earlier, open_], axis=1)


# Workers.


def _shared(stream: StreamingPCA, x, workers: int, *, reverse: bool) -> StreamingPCA:
    """Take rows in as `workers` would, block after block; their sums are added in another order."""
    at = stream.n_samples_seen_
    while at < x.shape[0]:
        plan = pickle.loads(pickle.dumps(stream.plan()))
        stop = min(plan.end, x.shape[0])
        edges = np.linspace(at, stop, workers + 1).astype(int)
        parts = [StreamingPCA.partial(x[a:b], plan, int(a), stream.order_check) for a, b in pairwise(edges)]
        stream.close(functools.reduce(operator.add, parts[::-1] if reverse else parts))
        at = stop
    return stream


@pytest.mark.parametrize("heavy", [0, 30])
@pytest.mark.parametrize("options", [{}, {"center": False}, {"scale": True}], ids=str)
@pytest.mark.parametrize("sparse", [True, False])
def test_four_workers_are_one(heavy, options, sparse):
    """A7 over four blocks; the next test has one block to the letter."""
    x = _rows(3000, heavy=heavy)
    x = sp.csr_matrix(np.where(np.abs(x) > 0.5, x, 0)) if sparse else x
    alone = _quiet(_stream(**options), x)
    shared = _shared(_quiet(_stream(**options), x[:512]), x, 4, reverse=True)
    alone.plan()  # what waits for a full batch is taken in
    one, four = alone._engine, shared._engine
    assert one.closed == four.closed == 3 and one.end == four.end == 4096 and one.moments.n == four.moments.n == 3000
    np.testing.assert_array_equal(one.heavy.arrivals, four.heavy.arrivals)
    assert one.light.n == four.light.n and (heavy == 0 or len(one.heavy) > 0)
    # Y is compared up to the rotation inside of Z that heavy directions of equal weight leave open.
    y, other = one.light.product @ one.basis.T, four.light.product @ four.basis.T
    assert np.linalg.norm(y - other) <= 1e-10 * np.linalg.norm(y)  # 1e-12 and what the basis inherits of rounding
    np.testing.assert_allclose(one.light.total, four.light.total, rtol=1e-12, atol=1e-9)
    assert _sine(shared.components_, alone.components_) < 1e-10
    np.testing.assert_allclose(shared.explained_variance_, alone.explained_variance_, rtol=1e-10)
    assert shared.order_check.windows == alone.order_check.windows
    for name, expected in alone.order_check.result().items():
        np.testing.assert_allclose(shared.order_check.result()[name], expected, rtol=1e-9)


def test_sums_of_one_block_are_the_same_to_twelve_digits():
    """A7 to the letter: the same basis, so that Y itself can be compared."""
    x = _rows(1024, heavy=10)
    stream = _quiet(_stream(), x[:512])
    plan = stream.plan()
    whole = StreamingPCA.partial(x[512:], plan, 512)
    parts = [StreamingPCA.partial(x[a : a + 128], plan, a) for a in range(512, 1024, 128)]
    added = parts[2] + parts[0] + (parts[3] + parts[1])
    assert added.covered() == whole.covered() == (512, 1024)
    assert added.taken.light.n == whole.taken.light.n and len(whole.taken.heavy) > 0
    y = whole.taken.light.product
    assert np.linalg.norm(added.taken.light.product - y) <= 1e-12 * np.linalg.norm(y)
    np.testing.assert_array_equal(added.taken.heavy.arrivals, whole.taken.heavy.arrivals)
    np.testing.assert_allclose(added.taken.moments.squares, whole.taken.moments.squares, rtol=1e-12)


def test_workers_go_on_after_a_block_that_is_begun():
    x = _rows(2000)
    stream = _quiet(_stream(), x[:700])
    alone = _quiet(_stream(), x)
    _shared(stream, x, 3, reverse=True)
    assert _sine(stream.components_, alone.components_) < 1e-10


def test_chunks_are_counted_once():
    x = _rows(1024)
    stream = _quiet(_stream(), x[:512])
    plan = stream.plan()
    a, b, c = (StreamingPCA.partial(x[i : i + 100], plan, i) for i in (512, 612, 712))
    with pytest.raises(DataError, match=r"Row 512 is in two of the sums: count every chunk once\."):
        a + b + a
    with pytest.raises(DataError, match="in two of the sums"):
        a + StreamingPCA.partial(x[611:700], plan, 611)
    with pytest.raises(DataError, match=r"Rows 612 to 712 are missing"):
        stream.close(a + c)
    with pytest.raises(DataError, match="begin at row 612 but the stream is at row 512"):
        stream.close(b)
    assert stream.n_samples_seen_ == 512
    stream.close(c + a + b)
    assert stream.n_samples_seen_ == 812
    with pytest.raises(DataError, match="begin at row 512"):  # a task that was repeated after its block went in
        stream.close(a)


def test_sums_of_another_block_are_refused():
    x = _rows(2048)
    stream = _quiet(_stream(), x[:512])
    plan = stream.plan()
    old = StreamingPCA.partial(x[512:1024], plan, 512)
    for start, stop in ((400, 500), (1000, 1100)):
        with pytest.raises(DataError, match="not of the open block, 512 to 1024"):
            StreamingPCA.partial(x[start:stop], plan, start)
    stream.close(old)
    new = StreamingPCA.partial(x[1024:1100], stream.plan(), 1024)
    with pytest.raises(DataError, match="do not add up"):
        old + new
    with pytest.raises(DataError, match="not of the open block"):
        stream.close(old)
    with pytest.raises(DataError, match="stream has 40 genes, but a chunk has 41"):
        StreamingPCA.partial(np.ones((3, 41)), stream.plan(), 1024)


def test_there_is_a_plan_of_later_blocks_only():
    with pytest.raises(ConfigError, match="first 512 rows"):
        _quiet(_stream(), _rows(511)).plan()
    with pytest.raises(ConfigError, match='solver="blocks"'):
        StreamingPCA(2, solver="gram").fit(_rows(600)).plan()
    with pytest.raises(DataError, match="not of the open block"):
        StreamingPCA(2, solver="gram").fit(_rows(600)).close(
            StreamingPCA.partial(_rows(9), _quiet(_stream(), _rows(512)).plan(), 512)
        )


# Why a block stands for the whole.


def test_a_block_of_light_rows_stands_for_all():
    """A9: with kappa as in the matrix Bernstein bound, a block is within 0.3 sigma_1^2 in 95 of 100 draws."""
    d, blocks, epsilon, delta = 5, 2, 0.3, 0.05
    kappa = 2 * (1 + epsilon / 3) * blocks * np.log(2 * d * blocks / delta) / epsilon**2
    rng = np.random.default_rng(0)
    n = 4000
    # Rows of one norm; F / (d kappa) is what the largest may have.
    x = rng.normal(size=(n, d)) * [2, 1, 1, 1, 1]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert n / (d * kappa) >= 1
    gram = x.T @ x
    sigma = np.linalg.eigvalsh(gram)[-1]
    far = []
    for _ in range(100):
        part = x[rng.permutation(n)[: n // blocks]]
        far.append(np.linalg.norm(blocks * part.T @ part - gram, 2) / sigma)
    print("A9 largest", max(far))
    assert sum(f <= epsilon for f in far) >= 95
    # It can fail: four rows are too few.
    short = x[rng.permutation(n)[:4]]
    assert np.linalg.norm(n / 4 * short.T @ short - gram, 2) / sigma > epsilon


# Every row counts once.


@pytest.mark.parametrize("chunk", [100, 3000])
@pytest.mark.parametrize("center", [True, False])
def test_every_row_is_counted_once(chunk, center):
    """Light and heavy rows together have the trace of all, though heavy ones come, are displaced, and handed back."""
    x = _rows(3000, heavy=60, d=12)
    # With as many columns as genes, Nystrom is exact, so that energies can be compared.
    stream = _stream(oversample=10, rank=24, heavy_rows=15, center=center)
    stream = _quiet(stream, *(x[i : i + chunk] for i in range(0, 3000, chunk)))
    engine = stream._current()
    assert engine.passed > 0 and 0 < len(engine.heavy) <= 15
    assert len(np.unique(engine.heavy.arrivals)) == len(engine.heavy)
    assert engine.moments.n == 3000
    np.testing.assert_allclose(engine.moments.mean, x.mean(0), rtol=1e-10)
    np.testing.assert_allclose(engine.moments.raw_squares, (x**2).sum(0), rtol=1e-10)
    np.testing.assert_allclose(engine.moments.centered_squares, ((x - x.mean(0)) ** 2).sum(0), rtol=1e-10)
    mean = x.mean(0) if center else np.zeros(12)
    heavy = x[engine.heavy.arrivals]
    np.testing.assert_array_equal(engine.heavy.rows.matrix.toarray(), heavy)
    light = np.delete(x, engine.heavy.arrivals, axis=0)
    gram = _light(engine) @ _light(engine).T
    expected = (light - mean).T @ (light - mean)
    if center:  # earlier blocks keep the mean they were closed with
        np.testing.assert_allclose(np.trace(gram), np.trace(expected), rtol=0.02)
    else:
        np.testing.assert_allclose(gram, expected, atol=1e-9 * np.abs(expected).max())


def test_rows_of_the_open_block_add_up():
    x = _rows(2000, heavy=80, d=12)
    stream = _quiet(_stream(oversample=10, heavy_rows=10), x)
    engine = stream._engine
    plan = engine.plan()
    inside = np.setdiff1d(np.arange(1024, engine.moments.n), engine.heavy.arrivals)
    # Light rows of the open block are its own and the heavy rows of before that were displaced in it.
    assert engine.light.n >= len(inside)
    extra = engine.light.n - len(inside)
    missing = engine.light.total - x[inside].sum(0)
    if extra == 0:
        np.testing.assert_allclose(missing, 0, atol=1e-9)
    else:
        assert np.linalg.norm(missing) > 1
    assert plan.bar >= plan.threshold


# Worst cases.


def test_one_row_has_all_the_energy():
    x = 1e-3 * _rows(2000)
    for place in (3, 511, 512, 1999):
        y = x.copy()
        y[place] = 1e4 * np.random.default_rng(0).normal(size=D)
        for center in (True, False):
            stream = _quiet(_stream(1, center=center), y)
            assert 1 - (stream.components_[0] @ _exact(y, 1, center=center)[0]) ** 2 < 1e-12
            np.testing.assert_allclose(stream.explained_variance_ratio_, 1, rtol=1e-5)
            if center is False:
                np.testing.assert_array_equal(stream._current().heavy.arrivals, [place])


def test_two_equal_eigenvalues_are_one_plane():
    x = np.random.default_rng(0).normal(size=(3000, 20)) * np.r_[5, 5, np.full(18, 0.2)]
    for solver in ("gram", "blocks"):
        stream = StreamingPCA(2, solver=solver, heavy_rows=1000).fit(x)
        if solver == "blocks":
            with pytest.warns(StreamWarning, match="first two eigenvalues are alike"):
                _ = stream.components_
        assert _sine(stream.components_, np.eye(20)[:2]) < 0.01
        assert _sine(stream.components_, _exact(x, 2)) < 1e-3
        report = stream.report()
        assert report.unstable[0] and not report.unstable[1]


def test_many_identical_rows_and_another():
    x = np.tile(np.arange(20.0), (10_000, 1))
    x[7777, 3] += 5
    for solver in ("gram", "blocks", "fd"):
        if solver != "gram":  # whose further axes have no energy
            with pytest.raises(DataError, match="directions only"):
                _quiet(StreamingPCA(2, solver=solver, on_order="ignore"), x)
        stream = _quiet(StreamingPCA(1, solver=solver, on_order="ignore"), x)
        np.testing.assert_allclose(stream.components_[0], np.eye(20)[3], atol=1e-9)
        np.testing.assert_allclose(
            stream.explained_variance_[0], 25 * (1 - 1e-4) / 9999, rtol=1e-6 if solver != "blocks" else 1e-3
        )
    with pytest.raises(DataError, match="All rows are alike"):
        _quiet(StreamingPCA(1, solver="blocks", on_order="ignore"), np.tile(np.arange(20.0), (1000, 1)))


def test_genes_that_are_never_seen():
    x = _rows(2000)
    y = np.concatenate([np.zeros((2000, 15)), x, np.zeros((2000, 15))], axis=1)
    for options in ({}, {"scale": True}, {"center": False}):
        narrow, wide = _quiet(_stream(**options), x), _quiet(_stream(**options), y)
        assert np.abs(wide.components_[:, :15]).max() < 1e-12 and np.abs(wide.components_[:, -15:]).max() < 1e-12
        assert _sine(wide.components_[:, 15:-15], narrow.components_) < 1e-9
        assert np.isfinite(wide.transform(y)).all()


def test_a_constant_gene_of_a_million():
    x = _rows(2000)
    y = np.concatenate([x, np.full((2000, 1), 1e6)], axis=1)
    for scale in (True, False):
        stream = _quiet(_stream(scale=scale), y)
        assert np.abs(stream.components_[:, -1]).max() < 1e-9
        # The constant has 1e10 times the energy of the rest, of which 16 digits leave 1e-6 per row and less in sums.
        assert _sine(stream.components_[:, :-1], _quiet(_stream(scale=scale), x).components_) < 1e-5
    raw = _stream(center=False).fit(y)
    with pytest.warns(StreamWarning, match="mean has more than half of the energy"):
        components = raw.components_
    assert components[0, -1] > 1 - 1e-9


@pytest.mark.parametrize("where", ["last 1 %", "first block"])
def test_heavy_rows_come_all_at_once(where):
    """Both are out of order, so the check is off; the rows are kept as they are, so that nothing is lost."""
    rng = np.random.default_rng(0)
    x = _rows(4000, noise=0.02)
    place = np.arange(3960, 4000) if where == "last 1 %" else rng.choice(512, 40, replace=False)
    other = np.linalg.qr(rng.normal(size=(D, 1)))[0][:, 0]
    x[place] = 150 * rng.choice([-1.0, 1.0], (40, 1)) * other
    stream = _quiet(_stream(), x)
    engine = stream._current()
    np.testing.assert_array_equal(np.sort(engine.heavy.arrivals), np.sort(place))
    assert _sine(stream.components_[:1], _exact(x, 1)) < 1e-3
    assert _lost(x, stream.components_) < 1e-4


@pytest.mark.parametrize("solver", ["gram", "blocks", "fd"])
def test_one_row_more_than_axes(solver):
    x = np.random.default_rng(0).normal(size=(4, 12))
    stream = StreamingPCA(3, solver=solver)
    stream.partial_fit(x[:3])
    with pytest.raises(DataError, match=r"k=3 axes need at least 4 rows, and 3 are in so far\."):
        _ = stream.components_
    stream = _quiet(stream, x[3:])
    assert _sine(stream.components_, _exact(x, 3)) < 1e-9
    np.testing.assert_allclose(stream.explained_variance_ratio_.sum(), 1, rtol=1e-9)


@pytest.mark.parametrize("n", [511, 512, 513, 1023, 1024, 1025, 2047, 2048, 2049])
def test_ends_of_blocks_are_no_special_place(n):
    x = _rows(n)
    stream = _quiet(_stream(), x)
    engine = stream._current()
    assert engine.closed == (n >= 512) + (n >= 1024) + (n >= 2048) and engine.moments.n == n
    assert (engine.light.n == 0) == (n in (511, 512, 1024, 2048))
    assert _sine(stream.components_, _exact(x, 2)) < (1e-9 if n <= 512 else 1e-3)
    assert _lost(x, stream.components_) < 1e-5
    truth = np.linalg.svd(x - x.mean(0), compute_uv=False)[:2] ** 2 / (n - 1)
    # From the longer of the last two blocks: at least a third of the rows, so 3 sqrt(2 / (n / 3)) off at most.
    np.testing.assert_allclose(stream.explained_variance_, truth, rtol=1e-9 if n <= 512 else 3 * (6 / n) ** 0.5)


def test_a_chunk_longer_than_blocks():
    x = _rows(9000, heavy=20)
    stream = _quiet(_stream(), x)
    assert stream._engine.closed == 5 and stream._engine.end == 16384
    assert _lost(x, stream.components_) < 1e-4
    other = _quiet(_stream(), *(x[i : i + 300] for i in range(0, 9000, 300)))
    np.testing.assert_array_equal(stream.components_, other.components_)


@pytest.mark.parametrize("solver", ["gram", "blocks", "fd", "incremental"])
def test_small_variance_on_a_large_mean_in_float32(solver):
    """Mean 1e3 and variance 1e-2: values of float32 are 6e-5 apart, which is noise of the data and not of the sums."""
    x = (1e3 + 0.1 * _rows(3000, noise=0.01) / 8).astype(np.float32)
    y = x.astype(np.float64)
    assert 1e-4 < y.var(0).max() < 1e-1
    stream = _quiet(StreamingPCA(2, solver=solver, on_order="ignore"), x)
    assert _sine(stream.components_, _exact(y, 2)) < (1e-6 if solver == "gram" else 2e-3)
    np.testing.assert_allclose(stream._current().energy(), ((y - y.mean(0)) ** 2).sum(), rtol=1e-8)


def test_an_axis_that_shows_after_the_first_block_only():
    """It is found once a block has passed in which it may grow from what oversampling leaves it."""
    rng = np.random.default_rng(0)
    x = _rows(16_000, noise=0.1)
    new = np.linalg.qr(np.concatenate([_exact(x, 4), rng.normal(size=(1, D))]).T)[0][:, 4]
    x[512:] += 12 * rng.normal(size=(16_000 - 512, 1)) * new
    stream = _quiet(_stream(heavy_rows=1000), x)
    assert abs(_exact(x, 1)[0] @ new) > 0.999
    assert 1 - (stream.components_[0] @ _exact(x, 1)[0]) ** 2 < 1e-4


def test_an_axis_that_shows_after_a_first_block_of_identical_rows():
    rng = np.random.default_rng(0)
    x = np.ones((8000, D))
    x[600:] += rng.normal(size=(7400, D)) * np.r_[5, 2, np.full(D - 2, 0.1)]
    stream = _quiet(_stream(heavy_rows=1000), x)
    assert 1 - (stream.components_[0] @ _exact(x, 1)[0]) ** 2 < 1e-4


def test_summaries_are_values():
    x = _rows(2000, heavy=10)
    stream = _quiet(_stream(), x[:1100])
    engine, before = stream._engine, stream._engine.light.product.copy()
    after = engine.absorb(sp.csr_matrix(x[1024:1100]))
    assert after is not engine
    np.testing.assert_array_equal(engine.light.product, before)
    assert dataclasses.replace(engine).nbytes == engine.nbytes > 0

"""The check of the order of rows: few false alarms, alarms where plates come sorted, and honest labels."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import binom

from cellgap.errors import DataError
from cellgap.stream import StreamingPCA, StreamWarning
from cellgap.stream.axes import LabelCheck, OrderCheck

SORTED = "rows are not in random order"
ROOM = {"heavy_rows": 1000}  # for all: heavy rows are not the matter here


def _plates(n: int = 3000, d: int = 25, *, effect: float = 3.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of six plates, one after the other, and their plates."""
    rng = np.random.default_rng(seed)
    plates = np.repeat(np.arange(6), n // 6)
    x = rng.normal(size=(n, d)) * np.linspace(3, 0.3, d)
    return x + effect * rng.normal(size=(6, d))[plates], plates.astype(str)


def _checked(x, chunk: int, window: int = 64) -> OrderCheck:
    check = OrderCheck.start(x.shape[1], window)
    rows = sp.csr_matrix(x)
    for start in range(0, x.shape[0], chunk):
        check = check.add(check.statistics(rows[start : start + chunk]))
    return check


def test_shuffled_rows_raise_no_alarm():
    """A11: 200 seeds; the number of alarms is one that a rate of 1 % allows (binomial, 99 %)."""
    x, _ = _plates(1800, 12)
    alarms, low = 0, []
    for seed in range(200):
        check = OrderCheck.start(12, seed=seed)
        check = check.add(check.statistics(sp.csr_matrix(np.random.default_rng(seed).permutation(x))))
        alarms += check.alarm() is not None
        low.append([p for _, p in check.result().values()])
    print("A11 alarms", alarms)
    assert alarms <= binom.ppf(0.99, 200, 0.01)
    # p values are p values: a tenth of them is below 0.1 (standard error 0.02 for 200 independent draws, 4 of them).
    assert (np.abs((np.array(low) < 0.1).mean(axis=0) - 0.1) < 0.085).all()


def test_plates_in_order_raise_an_alarm():
    """A12: 64 windows of 100 rows, 16 plates, whose means of the statistic differ by 0.3 standard deviations."""
    alarms = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(6400, 4)) + 0.3 * np.repeat(rng.normal(size=(16, 4)), 400, axis=0)
        check = OrderCheck.start(5, window=100).add(values)
        assert check.windows == 64
        alarms += check.alarm() is not None
    print("A12 alarms of 60:", alarms)
    assert alarms >= 0.9 * 60


@pytest.mark.parametrize("window", [64, 100])
def test_the_statistic_is_that_of_an_analysis_of_variance(window):
    from scipy.stats import f_oneway

    values = np.random.default_rng(0).normal(size=(window * 20 + 17, 4)) ** 2
    check = OrderCheck.start(3, window=window).add(values)
    parts = values[: window * 20].reshape(20, window, 4)
    for i, (found, p) in enumerate(check.result().values()):
        expected = f_oneway(*parts[:, :, i])
        np.testing.assert_allclose((found, p), (expected.statistic, expected.pvalue), rtol=1e-9)


def test_chunks_do_not_change_the_check():
    x, labels = _plates(1500)
    whole = _checked(x, 1500)
    assert whole.alarm() is not None
    for chunk in (1, 7, 64, 200):
        other = _checked(x, chunk)
        # Sums of a window in parts: rounding only.
        for name, expected in whole.result().items():
            np.testing.assert_allclose(other.result()[name], expected, rtol=1e-9)
        np.testing.assert_allclose(other.course, whole.course, rtol=1e-9)
    counted = LabelCheck(64).add(labels)
    for chunk in (1, 7, 64, 200):
        other = LabelCheck(64)
        for start in range(0, 1500, chunk):
            other = other.add(labels[start : start + chunk])
        assert other.result() == counted.result()
    streams = [
        StreamingPCA(2, solver="blocks", on_order="ignore", **ROOM).fit([x[i : i + c] for i in range(0, 1500, c)])
        for c in (7, 200, 1500)
    ]
    assert streams[0].report().order == streams[1].report().order == streams[2].report().order


def test_the_course_stays_small_and_is_the_mean_of_the_stream():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(8 * 3000, 4)) + np.linspace(0, 50, 8 * 3000)[:, None]
    check, largest = OrderCheck.start(2, window=8), 0
    for start in range(0, len(values), 777):
        check = check.add(values[start : start + 777])
        largest = max(largest, len(check.course))
    assert largest <= 512 and check.windows == 3000 and check.stretch == 8 and check.part_n == 0
    np.testing.assert_allclose(check.course, values.reshape(375, 64, 4).mean(axis=1), rtol=1e-9)


def test_few_windows_say_nothing():
    check = OrderCheck.start(3).add(np.zeros((64 * 7 + 63, 4)))
    assert check.result() == {} and check.alarm() is None
    assert LabelCheck(10).add(np.array(["a", "b"] * 39)).result() is None
    assert LabelCheck(10).add(np.array(["a"] * 100)).result() is None


def test_rows_that_never_change_are_in_any_order():
    check = _checked(np.ones((64 * 10, 4)), 100)
    assert check.alarm() is None and all(p > 0.1 for _, p in check.result().values())
    halves = _checked(np.repeat([[1.0, 0, 0, 0], [0, 0, 0, 9.0]], 320, axis=0), 100)
    assert halves.alarm() is not None


def test_labels_are_spread_evenly_or_not():
    x, labels = _plates()
    rng = np.random.default_rng(0)
    ps = []
    for _ in range(40):
        ratio, p = LabelCheck(64).add(rng.permutation(labels)).result()
        assert 0.5 < ratio < 1.5
        ps.append(p)
    assert min(ps) > 1e-4 and np.mean(np.array(ps) < 0.5) > 0.2
    ratio, p = LabelCheck(64).add(labels).result()
    assert p < 1e-100 and ratio > 20
    stream = StreamingPCA(2, solver="gram").partial_fit(x, labels=labels)
    assert stream.report().labels == (ratio, p)
    assert StreamingPCA(2, solver="gram").partial_fit(x).report().labels is None


def test_chi_square_is_that_of_the_table():
    from scipy.stats import chi2_contingency

    labels = np.random.default_rng(2).choice(["a", "b", "c"], 640, p=[0.5, 0.3, 0.2])
    table = [[(labels[i : i + 64] == name).sum() for name in "abc"] for i in range(0, 640, 64)]
    expected = chi2_contingency(np.array(table), correction=False)
    ratio, p = LabelCheck(64).add(labels).result()
    np.testing.assert_allclose((ratio * expected.dof, p), (expected.statistic, expected.pvalue), rtol=1e-9)


def test_sorted_rows_are_told_refused_or_let_through():
    x, _ = _plates()
    for solver in ("blocks", "incremental"):
        with pytest.warns(StreamWarning, match=SORTED):
            _ = StreamingPCA(2, solver=solver, **ROOM).fit(x).components_
        refused = StreamingPCA(2, solver=solver, on_order="raise", **ROOM).fit(x)
        with pytest.raises(DataError, match=SORTED):
            _ = refused.components_
        _ = StreamingPCA(2, solver=solver, on_order="ignore", **ROOM).fit(x).components_
        # The same rows in random order: no warning, which would be an error here.
        _ = (
            StreamingPCA(2, solver=solver, on_order="raise", **ROOM)
            .fit(np.random.default_rng(0).permutation(x))
            .components_
        )


def test_a_warning_comes_once():
    x, _ = _plates()
    stream = StreamingPCA(2, solver="blocks", heavy_rows=10).fit(x)
    with pytest.warns(StreamWarning) as first:
        stream.components_, stream.report()
    with warnings.catch_warnings(record=True) as later:
        warnings.simplefilter("always")
        for _ in range(3):  # the number of heavy rows without room changes, and is no news
            _ = stream.partial_fit(x).components_
    kinds = (SORTED, "heavy rows found no room")
    for kind in kinds:
        assert sum(kind in str(w.message) for w in first) == 1, kind
        assert not [w for w in later if kind in str(w.message)]


def test_solvers_of_any_order_never_warn():
    x, _ = _plates()
    for solver in ("gram", "fd"):
        stream = StreamingPCA(2, solver=solver, on_order="raise", **ROOM).fit(x)
        assert stream.components_.shape == (2, 25)
        report = stream.report()
        assert report.alarm is not None and SORTED in report.alarm and report.any_order
    # The first block is exact as well.
    first = StreamingPCA(2, solver="blocks", first_block=2944, on_order="raise").fit(x[:2900])
    assert first.components_.shape == (2, 25)


def test_blocks_of_rows_as_given_always_warn():
    x = np.random.default_rng(0).normal(size=(100, 8))
    with pytest.warns(StreamWarning, match="as_given"):
        _ = StreamingPCA(2, solver="blocks", order="as_given").fit(x).components_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert StreamingPCA(2, order="as_given").fit(x).solver_ == "gram"


def test_gaps_say_how_far_the_order_is_off():
    x, _ = _plates()
    stream = StreamingPCA(2, solver="blocks", on_order="ignore", **ROOM).fit(x)
    gaps = {gap.name: gap for gap in stream.gaps()}
    assert gaps["order of rows"].value > 1
    mixed = StreamingPCA(2, solver="blocks", **ROOM).fit(np.random.default_rng(0).permutation(x))
    assert {gap.name: gap for gap in mixed.gaps()}["order of rows"].value < 0.8

"""A pass whose blocks are shared, without a cluster: the sums of workers that are computed in this process."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from axes_exact import counts, quiet, sine, spectrum

from cellgap.errors import ConfigError
from cellgap.stream.axes import StreamingPCA, fit_backed


class Done:
    """A task that is done."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def result(self) -> Any:
        return self.value


class Here:
    """As much of a Dask client as a pass asks for; a task is computed when it is submitted."""

    def __init__(self) -> None:
        self.tasks = 0

    def scatter(self, value: Any, *, broadcast: bool) -> Any:
        assert broadcast
        return value

    def submit(self, task: Any, *args: Any, pure: bool) -> Done:
        assert not pure
        self.tasks += 1
        return Done(task(*args))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Return a file of 3,000 cells, of three plates one after the other."""
    obs = pd.DataFrame({"plate": np.repeat(["a", "b", "c"], 1000)}, index=[f"c{i}" for i in range(3000)])
    file = tmp_path_factory.mktemp("shared") / "cells.h5ad"
    AnnData(counts(3000, 24, 0).astype(np.float32) + 1, obs=obs).write_h5ad(file)
    return file


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_shared_pass_is_that_of_one_process(path, shuffle):
    """Labels and the order of all rows are checked too: those of the blocks that workers sum up as those before."""
    client = Here()
    options = {"shuffle": shuffle, "labels": "plate", "block_rows": 8, "fetch_blocks": 20}
    alone, shared = (
        quiet(fit_backed(StreamingPCA(3, solver="blocks", on_order="ignore"), path, client=c, **options))
        for c in (None, client)
    )
    assert client.tasks >= 3 and shared.n_samples_seen_ == 3000
    assert sine(shared.components_, alone.components_) < 1e-9
    np.testing.assert_allclose(shared.explained_variance_, alone.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(shared.mean_, alone.mean_, rtol=1e-12)
    one, two = alone.report(), shared.report()
    assert two.labels == one.labels and (two.labels[1] < 1e-100) == (not shuffle)
    assert two.heavy_kept == one.heavy_kept and two.heavy_passed == one.heavy_passed
    for name, found in one.order.items():
        np.testing.assert_allclose(two.order[name], found, rtol=1e-9)
    assert shared.design_effect == alone.design_effect or not shuffle


def test_a_shared_pass_needs_blocks(path):
    with pytest.raises(ConfigError, match='needs solver="blocks"'):
        fit_backed(StreamingPCA(3, solver="gram"), path, client=Here())


@pytest.mark.parametrize("n", [700, 1500, 2900])
@pytest.mark.parametrize("solver", ["blocks", "incremental", "fd", "gram"])
def test_the_order_of_rows_that_wait_for_their_batch_is_checked(solver, n):
    """Up to a thousand rows wait; F is that of all complete windows of 64, by hand."""
    x = spectrum(n, 20, 0)
    x[512:] *= 3.0
    stream = quiet(StreamingPCA(2, solver=solver, on_order="ignore"), x)
    found = stream.report()
    windows = np.log((x**2).sum(1))[: n // 64 * 64].reshape(-1, 64)
    by_hand = 64 * windows.mean(1).var(ddof=1) / windows.var(1, ddof=1).mean()
    np.testing.assert_allclose(
        found.order["log squared norm"][0], by_hand, rtol=1e-6
    )  # but for what counts as rounding
    assert found.alarm is not None and found.rows == n
    same = quiet(StreamingPCA(2, solver=solver, on_order="ignore"), x[: n // 3], x[n // 3 :]).report()
    assert same.order == found.order


@pytest.mark.parametrize("solver", ["gram", "blocks", "fd", "incremental"])
@pytest.mark.parametrize("seed", range(6))
def test_rounding_of_identical_rows_is_no_spread(solver, seed):
    """10,000 rows of any size that are alike, and one other: it is the axis, and nothing is told."""
    rng = np.random.default_rng(seed)
    row, at = rng.normal(size=(5, 40, 300)[seed % 3]) * 10 ** rng.uniform(-3, 5), (9999, 600, 10_000, 3)[seed % 4]
    x = np.tile(row, (10_001, 1))
    x[at] += np.abs(row).max() * rng.normal(size=len(row))
    stream = StreamingPCA(1, solver=solver).partial_fit(x)  # any warning is an error
    axis = x[at] - row
    assert sine(stream.components_, axis[None] / np.linalg.norm(axis)) < 1e-6
    energy = float(axis @ axis) * (1 - 1 / 10_001)
    # In blocks a heavy row counts about the mean, and its 10,000 fellows not at all: one or two parts in n.
    np.testing.assert_allclose(stream.singular_values_[0] ** 2, energy, rtol=3e-4)
    report = stream.report()
    assert report.heavy_passed == 0 and report.heavy_kept <= 1 and report.alarm is None

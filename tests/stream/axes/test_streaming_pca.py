"""One-pass principal axes: exact where they should be, and near the known axis where a single pass allows it."""

import re
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA, IncrementalPCA

from cellgap.errors import ConfigError, DataError, StorageError
from cellgap.stream import StreamingPCA, StreamWarning
from cellgap.stream.axes import Instance, known_axis
from cellgap.stream.axes._blocks import Blocks
from cellgap.stream.axes._frequent import FrequentDirections
from cellgap.stream.axes._heavy import HeavyRows
from cellgap.stream.axes._moments import Moments
from cellgap.stream.axes._rows import as_rows

SOLVERS = ("gram", "blocks", "fd", "incremental")
SEEDS = range(10)  # of the propositions A1 to A3


def _low_rank(n: int, d: int, seed: int = 0, *, rank: int = 6, noise: float = 0.05, mean: float = 1.0) -> np.ndarray:
    """Return rows in random order with well separated eigenvalues: each is four times the next."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, rank)))[0].T
    values = rng.normal(size=(n, rank)) * 8 * 0.5 ** np.arange(rank)
    return values @ axes + noise * rng.normal(size=(n, d)) + mean * rng.normal(size=d)


def _sine(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest sine between the spans of two sets of orthonormal rows."""
    return float(np.linalg.norm(found - (found @ expected.T) @ expected, 2))


def _exact(x: np.ndarray, k: int, *, center: bool = True) -> np.ndarray:
    return np.linalg.svd(x - x.mean(0) if center else x, full_matrices=False)[2][:k]


def _error(vector: np.ndarray, axis: np.ndarray) -> float:
    return max(0.0, 1.0 - float(vector @ axis) ** 2)


def _fit(x, k: int = 4, *, chunk: int | None = None, **options) -> StreamingPCA:
    stream = StreamingPCA(k, **options)
    size = chunk or len(x)
    for start in range(0, x.shape[0], size):
        stream.partial_fit(x[start : start + size])
    return stream


# The exact solver.


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_gram_is_the_singular_value_decomposition(center, scale):
    x = _low_rank(1500, 30)
    stream = _fit(x, 5, solver="gram", center=center, scale=scale, chunk=333)
    scaled = x / x.std(0) if scale else x
    used = scaled - scaled.mean(0) if center else scaled
    _, values, vectors = np.linalg.svd(used, full_matrices=False)
    # The gram squares the condition: 1e-16 (s1/sk)^2 = 1e-16 * 4^4 for each axis, with room for the sums.
    np.testing.assert_allclose(np.abs((stream.components_ * vectors[:5]).sum(1)), 1, rtol=1e-10)
    assert _sine(stream.components_, vectors[:5]) < 1e-9
    np.testing.assert_allclose(stream.singular_values_, values[:5], rtol=1e-10)
    np.testing.assert_allclose(stream.explained_variance_, values[:5] ** 2 / 1499, rtol=1e-10)
    np.testing.assert_allclose(stream.explained_variance_ratio_, values[:5] ** 2 / (values**2).sum(), rtol=1e-10)
    np.testing.assert_allclose(stream.mean_, x.mean(0) if center else 0, atol=1e-12)
    np.testing.assert_allclose(stream.scale_, x.std(0) if scale else 1, rtol=1e-12)
    report = stream.report()
    np.testing.assert_allclose(report.ratio, values[:5] ** 2 / values[1:6] ** 2, rtol=1e-9)
    np.testing.assert_allclose(report.whole, (used**2).sum(), rtol=1e-12)
    assert report.solver == "gram" and report.unmodelled_share == 0 and report.any_order


@pytest.mark.parametrize("scale", [True, False])
def test_gram_agrees_with_scikit_learn(scale):
    x = _low_rank(700, 25, 3)
    x = x / x.std(0) if scale else x
    stream, other = _fit(x, 6, solver="gram", scale=scale), PCA(6, svd_solver="full").fit(x)
    np.testing.assert_allclose(np.abs((stream.components_ * other.components_).sum(1)), 1, rtol=1e-10)
    for name in ("explained_variance_", "explained_variance_ratio_", "singular_values_", "mean_"):
        np.testing.assert_allclose(getattr(stream, name), getattr(other, name), rtol=1e-9, atol=1e-12)
    signs = np.sign((stream.components_ * other.components_).sum(1))
    np.testing.assert_allclose(stream.transform(x), other.transform(x) * signs, atol=1e-9)


def test_the_entry_of_largest_size_is_positive():
    x = _low_rank(600, 20)
    for solver in SOLVERS:
        components = _fit(x, 4, solver=solver).components_
        assert (components[np.arange(4), np.abs(components).argmax(1)] > 0).all()
        np.testing.assert_allclose(components @ components.T, np.eye(4), atol=1e-10)


# Rows of which the first axis is known: A1, A2, A3.


def _ours(instance: Instance) -> np.ndarray:
    stream = StreamingPCA(1, solver="blocks", center=False, heavy_rows=60, on_order="ignore")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StreamWarning)
        return stream.fit(instance.rows).components_[0]


def _scikit_learn(instance: Instance) -> np.ndarray:
    model = IncrementalPCA(5)
    for start in range(0, len(instance.rows), 200):
        model.partial_fit(instance.rows[start : start + 200])
    return model.components_[0]


def _two_candidates(instance: Instance, seed: int, blocks: int = 8) -> np.ndarray:
    """Return the published shape: the top of the heavy rows or a blocked iterate, whichever has more energy."""
    rows = instance.rows
    norms = (rows**2).sum(axis=1)
    heavy = np.argsort(-norms)[:60]
    heavy = heavy[norms[heavy] > 4 * norms.mean()]
    vector = np.random.default_rng(seed).normal(size=rows.shape[1])
    for block in np.array_split(np.delete(rows, heavy, axis=0), blocks):
        vector = block.T @ (block @ vector)
        vector /= np.linalg.norm(vector)
    candidates = [vector, np.linalg.svd(rows[heavy], full_matrices=False)[2][0]]
    return max(candidates, key=lambda v: float(((rows @ v) ** 2).sum()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spikes", "both", "few", "mixed"])
def test_error_stays_below_the_published_bound(kind):
    """A1: err sqrt(R) <= 0.5 for every seed, with the gap as it is; A2 beside it, for the same rows."""
    for gap in (1.5, 3.0, 10.0):
        errors, others = [], []
        for seed in SEEDS:
            made = known_axis(kind, gap, seed)
            errors.append(_error(_ours(made), made.axis))
            assert errors[-1] * made.gap**0.5 <= 0.5, (kind, gap, seed)
            if kind in ("spikes", "both") and gap < 10:
                others.append(_error(_scikit_learn(made), made.axis))
        if others:
            print(f"{kind} R={gap}: ours {np.median(errors):.2g}, IncrementalPCA {np.median(others):.2g}")
            assert np.median(errors) <= 1e-4
            assert np.median(others) >= (0.99 if gap == 1.5 else 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("gap", [2.0, 4.0, 10.0])
def test_one_model_beats_two_candidates(gap):
    """A3: where the axis is half in heavy rows and half in light ones, a choice between the two loses."""
    found = []
    for seed in SEEDS:
        made = known_axis("mixed", gap, seed)
        found.append([_error(_ours(made), made.axis), _error(_two_candidates(made, seed), made.axis)])
    ours, theirs = np.median(found, axis=0)
    print(f"mixed R={gap}: ours {ours:.2g}, two candidates {theirs:.2g}")
    assert ours <= theirs / 4

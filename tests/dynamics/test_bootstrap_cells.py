"""Trajectories drawn again from cells."""

from dataclasses import replace

import jax.random as jr
import numpy as np
import pytest

import cellgap as cg
from cellgap.dynamics import LawTraining, bootstrap_cells, trajectories_of
from cellgap.errors import DataError
from cellgap.train import Loop


def with_cells(n: int = 200, seed: int = 0):
    """Two courses of three genes, seen in single cells."""
    rng = np.random.default_rng(seed)
    cells = []
    for k in range(2):
        times = np.sort(rng.uniform(1.0, 3.0, n))
        means = np.stack([times, (k + 1) * np.exp(-times), np.full(n, 2.0)], 1)
        cells.append((times, means + 0.1 * rng.normal(size=means.shape)))
    parts = [np.array_split(np.arange(n), 5)] * 2
    values = [np.stack([x[p].mean(0) for p in q]) for (_, x), q in zip(cells, parts, strict=True)]
    clocks = [np.array([t[p].mean() for p in q]) for (t, _), q in zip(cells, parts, strict=True)]
    return replace(trajectories_of(values, clocks, names=["a", "b"]), cells=tuple(cells))


def test_copies_keep_the_course_and_the_names_of_where_they_come_from():
    given = with_cells()
    drawn = bootstrap_cells(given, 30, n_bins=8, warp=0.0, seed=1)
    assert len(drawn) == 60
    assert drawn.names[:2] == ("a#0", "a#1")
    assert drawn.values.shape == (60, 9, 3)
    # The first gene is the time itself: bins of a copy lie where their cells do.
    np.testing.assert_allclose(drawn.values[:, 1:, 0], drawn.times[:, 1:], atol=0.1)
    first = given.cells[0]
    assert abs(drawn.values[:30, 1:].mean((0, 1)) - first[1].mean(0)).max() < 0.03


def test_starts_are_means_of_early_cells_and_scatter_as_their_number_says():
    given = with_cells(n=2000)
    spread = [
        bootstrap_cells(given, 200, start_cells=k, start_share=0.05, warp=0.0, seed=2).starts[:200, 2].std()
        for k in (1, 16)
    ]
    early = given.cells[0][1][:100, 2].std()
    assert spread[0] == pytest.approx(early, rel=0.15)
    assert spread[1] == pytest.approx(early / 4, rel=0.15)


def test_a_warped_clock_keeps_order_and_ends():
    given = with_cells()
    drawn = bootstrap_cells(given, 50, warp=0.8, seed=3)
    assert (np.diff(drawn.times, axis=1) >= 0).all()
    assert drawn.times.min() == pytest.approx(min(t[0] for t, _ in given.cells))
    assert drawn.times.max() <= max(t[-1] for t, _ in given.cells) + 1e-9
    assert drawn.times[:, 5].std() > 0.1


def test_the_same_seed_gives_the_same_copies():
    given = with_cells()
    a, b, c = (bootstrap_cells(given, 3, seed=s).values for s in (5, 5, 6))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_trajectories_without_cells_or_with_too_few_are_refused():
    given = with_cells()
    with pytest.raises(DataError, match="no single cells"):
        bootstrap_cells(replace(given, cells=None), 2)
    with pytest.raises(DataError, match="a has 200 cells: too few for 198 bins"):
        bootstrap_cells(given, 2, n_bins=198)


def test_noise_on_starts_makes_a_law_that_forgets_where_it_starts():
    """A constant with noisy starts: the best law goes back to the constant, and faster with noise in training."""
    rng = np.random.default_rng(0)
    times = np.linspace(0.0, 2.0, 9)
    level = np.array([1.0, -1.0])
    values = level + 0.5 * np.exp(-0.3 * times)[None, :, None] * rng.normal(size=(16, 1, 2))
    trajectories = trajectories_of(values, times)

    def error(noise: float) -> float:
        how = LawTraining(loop=Loop(n_steps=200, chunk=50, valid_every=50), start_noise=noise)
        model = cg.NeuralLaw(members=1, null=0, hidden=4, valid=0.0, training=how)
        law = model.fit(trajectories, key=jr.key(0))
        start = level + 3.0 * rng.normal(size=(64, 2))
        return float(np.mean((law.forecast(start, [2.0])[:, 0] - level) ** 2))

    rng = np.random.default_rng(1)
    plain = error(0.0)
    rng = np.random.default_rng(1)
    assert error(2.0) < 0.5 * plain

"""The simulated screen: counts that follow its truth, effects that can be learnt, honest refusals."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import read_h5ad

from cellgap.errors import ConditionError, ConfigError
from cellgap.study._condition import Condition
from cellgap.study._simulate import SimulatedScreen, simulate_screen
from cellgap.study._study import Study


@pytest.fixture(scope="module")
def screen() -> SimulatedScreen:
    return simulate_screen(n_drugs=6, n_genes=60, n_cells=80, n_controls=200, seed=1)


def _lognorm(counts) -> np.ndarray:
    counts = np.asarray(counts.todense() if sp.issparse(counts) else counts, float)
    return np.log1p(1e4 * counts / counts.sum(1, keepdims=True))


def test_study_has_the_conditions_asked_for(screen):
    study = screen.study()
    assert len(study.conditions) == (6 * 4 + 2) * 2
    assert len(study.controls) == 2
    assert sum(len(c.treatments) == 2 for c in study.conditions) == 4
    assert {c.treatments[0].dose for c in study.conditions} == {10, 100, 1000, 10000}
    assert study.is_counts and sp.isspmatrix_csr(screen.adata.X) and screen.adata.X.dtype == np.int32
    assert len(study.rows("A1@1000nM + B1@1000nM | line2")) == 80


def test_counts_are_as_large_and_as_scattered_as_asked(screen):
    x = screen.adata.X.toarray().astype(float)
    assert 1700 < np.median(x.sum(1)) < 2300
    rows = screen.study().rows("control | line1")
    mean = screen.rates("control | line1", rows) * screen.library[rows][:, None]
    expected = mean + mean**2 / screen.biology.inverse_dispersion
    ratio = ((x[rows] - mean) ** 2).mean(0) / expected.mean(0)
    assert 0.85 < ratio.mean() < 1.15


@pytest.mark.parametrize("condition", ["B2@10000nM | line1", "A1@1000nM + B1@1000nM | line2"])
def test_treated_cells_have_the_law_of_the_counterfactual(screen, condition):
    study = screen.study()
    measured = _lognorm(study.values(study.rows(condition)))

    def discrepancy(claim):
        imagined = _lognorm(screen.counts(claim))
        variance = measured.var(0) / len(measured) + imagined.var(0) / len(imagined)
        return np.mean((measured.mean(0) - imagined.mean(0)) ** 2 / variance)

    assert discrepancy(condition) < 3  # genes move together, so this is 1 on average but scatters
    assert discrepancy(Condition.parse(condition, ("cell_line",)).control) > 6
    assert discrepancy("C1@10000nM") > 6


def test_own_state_of_treated_cells_predicts_their_counts(screen):
    rows = screen.study().rows("C1@10000nM | line1")
    measured = _lognorm(screen.adata.X[rows])
    own, others = (screen.truth("C1@10000nM | line1", r) for r in (rows, np.roll(rows, 1)))
    assert np.mean((measured - own) ** 2) < 0.9 * np.mean((measured - others) ** 2)


def test_truth_grows_with_the_dose_and_saturates(screen):
    control = screen.truth("control | line1")
    steps = [np.abs(screen.truth(f"A1@{dose}nM | line1") - control).mean() for dose in (1, 100, 1e4, 1e6, 1e8)]
    assert all(low < high for low, high in pairwise(steps))
    assert steps[0] < 0.05 * steps[-1]
    assert steps[-1] < 1.01 * steps[-2]


def test_truth_needs_no_cell_line_and_takes_any_unit(screen):
    rows = screen.study().rows("control | line2")[:7]
    np.testing.assert_array_equal(screen.truth("A1@1uM", rows), screen.truth("A1@1000nM | line2", rows))
    assert screen.truth("A1@1uM").shape == (400, 60)
    both = screen.truth(Condition("A1", dose=1000, unit="nM", cell_line="line2"))
    np.testing.assert_allclose(np.expm1(both).sum(1), 1e4)


def test_cell_lines_respond_alike_but_not_the_same(screen):
    effect = [
        screen.truth(f"B1@10000nM | {c}").mean(0) - screen.truth(f"control | {c}").mean(0) for c in screen.cell_lines
    ]
    assert 0.5 < np.corrcoef(*effect)[0, 1] < 0.999


def test_held_out_drugs_can_be_learnt_from_descriptors():
    screen = simulate_screen(doses=(10000.0,), n_combinations=0, n_cells=5, n_controls=200, cell_lines=("one",), seed=4)
    control = screen.truth("control").mean(0)
    effects = np.array([screen.truth(f"{d}@10000nM").mean(0) - control for d in screen.descriptors.index])
    u = screen.descriptors.to_numpy()
    better = 0
    for k in range(len(u)):
        others = np.arange(len(u)) != k
        weights = np.linalg.solve(u[others].T @ u[others] + 0.05 * np.eye(4), u[others].T @ effects[others])
        error, trivial = (np.sum((effects[k] - guess) ** 2) for guess in (u[k] @ weights, effects[others].mean(0)))
        better += error < 0.5 * trivial
    assert better >= 7


def test_screen_survives_a_file(screen, tmp_path):
    screen.adata.write_h5ad(tmp_path / "screen.h5ad")
    back = read_h5ad(tmp_path / "screen.h5ad")
    assert Study(back, screen.design).fingerprint == screen.study().fingerprint
    np.testing.assert_allclose(back.uns["treatment_descriptors"].to_numpy(), screen.descriptors.to_numpy())


def test_same_seed_same_counts_other_seed_others():
    first, again, other = (simulate_screen(n_drugs=2, n_cells=5, n_combinations=0, seed=s) for s in (0, 0, 1))
    assert (first.adata.X != again.adata.X).nnz == 0
    assert (first.adata.X != other.adata.X).nnz > 0
    assert (first.counts("A1@10nM", seed=0) != first.counts("A1@10nM", seed=1)).nnz > 0


@pytest.mark.parametrize(
    ("condition", "says"),
    [("Z9@10nM", "was not simulated"), ("A1", "needs a dose"), ("A1@10nM | HeLa", "line1, line2")],
)
def test_truth_refuses_what_it_does_not_know(screen, condition, says):
    with pytest.raises(ConditionError, match=says):
        screen.truth(condition)


def test_truth_refuses_cells_of_another_line(screen):
    with pytest.raises(ConditionError, match="of another one"):
        screen.truth("A1@10nM | line1", screen.study().rows("control | line2"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_drugs": 0},
        {"n_drugs": 1},
        {"n_genes": 3},
        {"doses": (0.0,)},
        {"doses": (1.0, 1.0)},
        {"cell_lines": ()},
        {"counts_per_cell": 0.0},
        {"n_cells": 0},
    ],
)
def test_impossible_screens_are_refused(wrong):
    with pytest.raises(ConfigError):
        simulate_screen(**wrong)

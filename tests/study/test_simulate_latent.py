"""The known-answer problem: its reference values, its truth, and how it refuses what it cannot simulate."""

import numpy as np
import pytest

from cellgap.errors import ConditionError, ConfigError
from cellgap.study._condition import Condition
from cellgap.study._simulate_latent import SimulatedLatent, simulate_latent

SEEDS = range(10)
IDENTITY, MEAN_SHIFT, GAUSSIAN, RATIO, RATIO_GAUSSIAN = range(5)


def _sqrtm(s: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(s)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _gaussian_map(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    root = _sqrtm(np.cov(x.T))
    inverse = np.linalg.inv(root)
    a = inverse @ _sqrtm(root @ np.cov(y.T) @ root) @ inverse
    return y.mean(0) + (at - x.mean(0)) @ a


def _scores(problem: SimulatedLatent, condition: str) -> list[float]:
    x, y = problem.cells("control", "train").astype(float), problem.cells(condition, "train").astype(float)
    x_test, y_test = (problem.cells(c, "test").astype(float) for c in ("control", condition))
    truth, variance = problem.truth(x_test, condition), y_test.var(0).sum()
    gaussian = _gaussian_map(x, y, x_test)
    maps = (x_test, x_test + y.mean(0) - x.mean(0), gaussian)
    uvp = [100 * np.mean(np.sum((t - truth) ** 2, 1)) / variance for t in maps]
    return [*uvp, x_test.var(0).sum() / variance, gaussian.var(0).sum() / variance]


@pytest.fixture(scope="module")
def small() -> SimulatedLatent:
    return simulate_latent(drugs=6, doses=(10, 1000), n_train=200, n_test=50, seed=3)


def test_reference_values_at_the_high_dose():
    table = np.array([[_scores(p, f"{d}@10000nM") for d in "ABC"] for p in (simulate_latent(seed=s) for s in SEEDS)])
    mean = table.mean((0, 1))
    assert 78 < mean[IDENTITY] < 103
    assert 3.7 < mean[MEAN_SHIFT] < 5.7
    assert 0.65 < mean[GAUSSIAN] < 0.69
    assert 0.70 < mean[RATIO] < 0.94
    assert 0.99 < mean[RATIO_GAUSSIAN] < 1.03
    # One drug of one seed is a noisy draw: the Gaussian map's error is mostly estimation error.
    rows = table.reshape(-1, 5)
    assert (rows[:, IDENTITY] > 70).all() and (rows[:, IDENTITY] < 110).all()
    assert (rows[:, MEAN_SHIFT] > 3.2).all() and (rows[:, MEAN_SHIFT] < 6.2).all()
    assert (rows[:, GAUSSIAN] > 0.5).all() and (rows[:, GAUSSIAN] < 0.9).all()
    assert (rows[:, RATIO] > 0.66).all() and (rows[:, RATIO] < 0.82).all()


def test_low_dose_keeps_most_of_the_variance():
    scores = _scores(simulate_latent(seed=0), "B@10nM")
    assert 5 < scores[IDENTITY] < 10
    assert 0.88 < scores[RATIO] < 0.97


def test_treated_cells_follow_the_truth_in_law_and_are_other_cells(small):
    x = small.cells("control", "train")
    for condition in ("A@10nM", "F@1000nM"):
        y, t = small.cells(condition, "train"), small.truth(x, condition)
        standard_error = np.sqrt(y.var(0) / len(y) + t.var(0) / len(t))
        assert np.abs((y.mean(0) - t.mean(0)) / standard_error).max() < 5
        nearest = np.sqrt(((t[:, None] - y[None]) ** 2).sum(-1)).min(1)
        assert nearest.min() > 0.5  # no treated cell is the image of a control cell


def test_the_true_map_is_optimal(small):
    from scipy.optimize import linear_sum_assignment

    x = small.cells("control", "test").astype(float)
    t = small.truth(x, "C@1000nM")
    cost = ((x[:, None] - t[None]) ** 2).sum(-1)
    _, columns = linear_sum_assignment(cost)
    assert (columns == np.arange(len(x))).all()


def test_held_out_drugs_follow_from_the_descriptors_of_others(small):
    from dataclasses import replace

    x = small.cells("control", "test")
    fewer = replace(small, descriptors=small.descriptors.iloc[:4], shifts=small.shifts[:4], weights=small.weights[:4])
    row = small.descriptors.loc["F"].to_numpy()
    np.testing.assert_allclose(fewer.truth_of(x, row, 1000), small.truth(x, "F@1000nM"), atol=1e-6)


def test_dose_enters_through_its_logarithm(small):
    x = small.cells("control", "test").astype(float)
    low, middle, high = (small.truth(x, f"B@{d}nM") - x for d in (10, 100, 10000))
    np.testing.assert_allclose(middle, 2 * low, atol=1e-9)
    np.testing.assert_allclose(high, 4 * low, atol=1e-9)
    np.testing.assert_allclose(small.truth(x, "B@10uM") - x, high, atol=1e-9)


def test_control_stays_and_combinations_add(small):
    x = small.cells("control", "test").astype(float)
    np.testing.assert_array_equal(small.truth(x, Condition()), x)
    both = small.truth(x, "A@10nM + C@100nM") - x
    np.testing.assert_allclose(both, (small.truth(x, "A@10nM") - x) + (small.truth(x, "C@100nM") - x), atol=1e-9)


def test_same_seed_same_cells_other_seed_others():
    first, again, other = (simulate_latent(n_train=20, n_test=5, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.adata.X, again.adata.X)
    assert np.abs(first.adata.X - other.adata.X).max() > 0.1


def test_study_finds_every_population(small):
    study = small.study()
    assert len(study.conditions) == 12
    assert all(rows.size == 250 for rows in study.populations.values())
    assert not study.is_counts


@pytest.mark.parametrize("condition", ["Z@10nM", "A", "A@0.5nM"])
def test_truth_refuses_what_it_does_not_know(small, condition):
    with pytest.raises(ConditionError):
        small.truth(small.cells("control", "test"), condition)


@pytest.mark.parametrize(
    "wrong", [{"dim": 5}, {"n_train": 0}, {"doses": (1.0,)}, {"doses": ()}, {"drugs": ("A", "A")}, {"drugs": 0}]
)
def test_impossible_problems_are_refused(wrong):
    with pytest.raises(ConfigError):
        simulate_latent(**wrong)


def test_cells_of_a_condition_that_was_not_simulated(small):
    with pytest.raises(ConditionError, match="No train cells of A@77nM"):
        small.cells("A@77nM", "train")

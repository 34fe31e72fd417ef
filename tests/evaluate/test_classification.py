"""Scores of classifiers against scikit-learn, closed forms, and small cases that can be counted."""

import numpy as np
import pytest
import sklearn.metrics as known

from cellgap.errors import ConfigError, DataError
from cellgap.evaluate import (
    absent_rate,
    accuracy,
    brier_score,
    calibration_curve,
    confusion,
    coverage_at,
    coverage_curve,
    expected_calibration_error,
    log_loss,
    macro_f1,
    unseen_auroc,
)

CLASSES = ("a", "b", "c", "d")


@pytest.fixture
def said():
    """Truth, probabilities and prediction of 300 cells; the truth has no "d", the prediction has."""
    rng = np.random.default_rng(0)
    truth = rng.choice(["a", "b", "c"], 300, p=[0.6, 0.3, 0.1])
    p = rng.dirichlet(np.ones(4), 300)
    p[np.arange(300), np.searchsorted(CLASSES, truth)] += 0.7
    p /= p.sum(axis=1, keepdims=True)
    return truth, p, np.asarray(CLASSES)[p.argmax(axis=1)]


def test_scores_agree_with_scikit_learn(said):
    truth, p, best = said
    assert (best == "d").any()
    assert accuracy(truth, best) == pytest.approx(known.accuracy_score(truth, best))
    present = known.f1_score(truth, best, labels=["a", "b", "c"], average="macro")
    assert macro_f1(truth, best) == pytest.approx(present)
    assert macro_f1(truth, best) > known.f1_score(truth, best, average="macro"), "absent classes are no terms"
    assert log_loss(truth, p, CLASSES) == pytest.approx(known.log_loss(truth, p, labels=list(CLASSES)))
    score = known.brier_score_loss(truth, p, labels=list(CLASSES), scale_by_half=False)
    assert brier_score(truth, p, CLASSES) == pytest.approx(score)
    table = confusion(truth, best, CLASSES)
    assert (table.to_numpy() == known.confusion_matrix(truth, best, labels=list(CLASSES))).all()
    new = truth == "c"
    assert unseen_auroc(1 - p.max(axis=1), new) == pytest.approx(known.roc_auc_score(new, 1 - p.max(axis=1)))


def test_columns_of_probabilities_may_be_in_any_order(said):
    truth, p, _ = said
    order = [2, 0, 3, 1]
    moved = p[:, order], [CLASSES[i] for i in order]
    assert brier_score(truth, *moved) == pytest.approx(brier_score(truth, p, CLASSES))
    assert log_loss(truth, *moved) == pytest.approx(log_loss(truth, p, CLASSES))


def test_absent_classes_are_counted_and_unassigned_is_no_class():
    truth, best = ["a", "a", "b", "b"], ["a", "d", "b", "unassigned"]
    assert absent_rate(truth, best, CLASSES) == 0.25
    assert absent_rate(truth, truth, CLASSES) == 0.0
    # Of "a": 2 / 3; of "b": 2 / 3.
    assert macro_f1(truth, best) == pytest.approx(2 / 3)
    assert list(confusion(truth, best).columns) == ["a", "b", "d", "unassigned"]


def test_probability_zero_of_the_truth_is_finite():
    assert log_loss(["a"], np.array([[0.0, 1.0]]), ("a", "b")) == pytest.approx(-np.log(np.finfo(float).eps))
    assert brier_score(["a"], np.array([[0.0, 1.0]]), ("a", "b")) == 2.0


def test_the_calibration_error_of_bins_of_equal_mass():
    confidence = np.repeat([0.6, 0.9], 50)
    correct = np.r_[np.arange(50) < 30, np.arange(50) < 35]
    curve = calibration_curve(confidence, correct, 2)
    np.testing.assert_allclose(curve, [[0.6, 0.9], [0.6, 0.7], [50, 50]])
    assert expected_calibration_error(confidence, correct, 2) == pytest.approx(0.1)
    # Cells of equal confidence share a bin: their order does not matter, and empty bins are left out.
    assert expected_calibration_error(confidence, correct, 15) == pytest.approx(0.1)
    order = np.random.default_rng(0).permutation(100)
    assert expected_calibration_error(confidence[order], correct[order]) == pytest.approx(0.1)
    assert calibration_curve(np.linspace(0.3, 0.9, 45), np.ones(45, bool)).n.tolist() == [3] * 15


def test_few_calibrated_cells_have_the_error_that_is_said():
    """80 cells at p = 0.9 in 15 bins: about 0.10 by chance alone; many cells: none."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(300):
        p = rng.uniform(0.88, 0.92, 80)
        found.append(expected_calibration_error(p, rng.random(80) < p))
    assert np.mean(found) == pytest.approx(np.sqrt(2 * 15 * 0.9 * 0.1 / (np.pi * 80)), abs=0.01)
    p = rng.uniform(0.5, 1.0, 200_000)
    assert expected_calibration_error(p, rng.random(200_000) < p) < 0.005


def test_coverage_is_the_largest_share_that_is_right_enough():
    confidence = np.linspace(0.99, 0.5, 40)
    correct = np.ones(40, bool)
    correct[[5, 30, 31]] = False
    # The first 30 have one error (0.967), 31 two (0.935), and all 40 three (0.925).
    assert coverage_at(confidence, correct) == pytest.approx(30 / 40)
    assert coverage_at(confidence, correct, 0.9) == 1.0
    assert coverage_at(confidence, ~correct, 0.95) == 0.0
    # 19 of 20 are 95 % exactly.
    assert coverage_at(np.linspace(0.9, 0.5, 20), np.arange(20) != 0) == 1.0
    tied = coverage_curve(np.array([0.9, 0.8, 0.8, 0.8]), np.array([True, True, False, False]))
    np.testing.assert_allclose(tied, [[0.25, 1.0], [1.0, 0.5], [0.9, 0.8]])


def test_novelty_of_ties_and_of_one_kind():
    assert unseen_auroc(np.zeros(4), np.array([True, False, True, False])) == 0.5
    assert unseen_auroc(np.array([3.0, 1.0, 2.0]), np.array([True, False, False])) == 1.0
    assert np.isnan(unseen_auroc(np.zeros(3), np.zeros(3, bool)))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: accuracy([], []), DataError, "needs a cell"),
        (lambda: macro_f1(["a", "b"], ["a"]), DataError, "for each cell"),
        (lambda: brier_score(["e"], np.ones((1, 1)), ("a",)), DataError, "'e' is none of the classes"),
        (lambda: log_loss(["a"], np.full((1, 2), 0.6), ("a", "b")), DataError, "sum to 1"),
        (lambda: brier_score(["a"], np.ones((1, 2)), ("a",)), DataError, "must be \\(cells, 1 classes\\)"),
        (lambda: coverage_at(np.array([1.2]), np.array([True])), DataError, "between 0 and 1"),
        (lambda: coverage_at(np.array([np.nan]), np.array([True])), DataError, "between 0 and 1"),
        (lambda: coverage_at(np.array([0.5]), np.array([True]), 1.5), ConfigError, "at most 1"),
        (lambda: calibration_curve(np.array([0.5]), np.array([True]), 0), ConfigError, "needs a bin"),
        (lambda: unseen_auroc(np.array([np.inf]), np.array([True])), DataError, "finite number"),
    ],
)
def test_mistakes(call, error, says):
    with pytest.raises(error, match=says):
        call()

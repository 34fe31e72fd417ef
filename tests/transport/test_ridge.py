"""The ridge regression against scikit-learn, and how conditions are left out to choose its penalty."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge as Reference

from cellgap.study import Condition, Treatment
from cellgap.transport._ridge import PENALTIES, feature_scale, fit_ridge, groups_of, residuals_without

GROUPS = np.repeat(np.arange(6), 3)


def problem(noise: float = 1.0, p: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return features with the number of treatments (1) first, of unequal scale, and two targets."""
    rng = np.random.default_rng(p)
    descriptors = np.repeat(rng.normal(size=(6, p)), 3, axis=0) + 0.3 * rng.normal(size=(18, p))
    features = np.column_stack([np.ones(18), descriptors * 10.0 ** np.arange(p)])
    targets = features[:, 1:3] * [1.0, 0.1] + 2.0 + noise * rng.normal(size=(18, 2))
    return features, targets


def reference(features: np.ndarray, targets: np.ndarray, penalty: float) -> Reference:
    """Return scikit-learn's ridge with an unpenalized intercept in place of the column of ones."""
    return Reference(alpha=penalty, fit_intercept=True, solver="cholesky").fit(features[:, 1:], targets)


def test_coefficients_and_the_choice_of_penalty_are_those_of_scikit_learn():
    features, targets = problem()
    scaled = features / feature_scale(features)
    errors = []
    for penalty in PENALTIES:
        wrong = 0.0
        for g in range(6):
            kept = g != GROUPS
            model = reference(scaled[kept], targets[kept], penalty)
            wrong += ((model.predict(scaled[~kept][:, 1:]) - targets[~kept]) ** 2).sum()
        errors.append(wrong)
    baseline = sum(((targets[g != GROUPS].mean(0) - targets[g == GROUPS]) ** 2).sum() for g in range(6))
    found = fit_ridge(features, targets, GROUPS)
    np.testing.assert_allclose(found.error, np.asarray(errors) / baseline, rtol=1e-6)
    assert found.penalty == PENALTIES[int(np.argmin(errors))] and PENALTIES[0] < found.penalty < PENALTIES[-1]
    model = reference(scaled, targets, found.penalty)
    np.testing.assert_allclose(features @ found.coefficients, model.predict(scaled[:, 1:]), rtol=1e-6)
    np.testing.assert_allclose(found.coefficients[0], model.intercept_, rtol=1e-6)


def test_without_noise_the_law_is_found_and_the_penalty_is_small():
    features, targets = problem(noise=0.0)
    found = fit_ridge(features, targets, GROUPS)
    assert found.penalty == PENALTIES[0]
    np.testing.assert_allclose(features @ found.coefficients, targets, rtol=1e-3, atol=1e-3)


def test_the_largest_penalty_is_the_mean_effect_and_features_that_say_nothing_do_not_beat_it_by_much():
    features, targets = problem()
    np.testing.assert_allclose(fit_ridge(features, targets, GROUPS).error[-1], 1.0, rtol=1e-2)
    best = [
        min(fit_ridge(features, np.random.default_rng(seed).normal(size=(18, 2)), GROUPS).error) for seed in range(20)
    ]
    assert np.mean(best) > 0.9


def test_a_treatment_counts_once_in_a_single_and_twice_in_a_pair():
    """Only the number of treatments explains the targets: pairs have the double effect, controls none."""
    features = np.array([[1.0], [1.0], [2.0], [1.0]])
    found = fit_ridge(features, np.array([[3.0], [3.0], [6.0], [3.0]]), np.arange(4))
    np.testing.assert_allclose(found.coefficients, [[3.0]], rtol=1e-6)


def test_one_group_has_nothing_to_leave_out():
    features, targets = problem()
    found = fit_ridge(features, targets, np.zeros(18, int))
    assert np.isnan(found.error).all() and found.penalty == 1.0


def test_features_that_are_never_there_have_scale_1():
    np.testing.assert_allclose(feature_scale(np.array([[3.0, 0.0], [4.0, 0.0]])), [np.sqrt(12.5), 1.0])


@pytest.mark.parametrize(
    ("conditions", "groups"),
    [
        (["a@1nM", "a@2nM", "b@1nM", "a@1nM + b@1nM"], [0, 0, 1, 2]),
        (["a@1nM", "a@2nM"], [0, 1]),
        (["a@1nM | d=x", "a@2nM | d=x", "a@1nM | d=y"], [0, 1, 0]),
        (["a@1nM | d=x", "a@1nM | d=y"], [0, 1]),
        (["a@1nM"], [0]),
    ],
)
def test_what_is_left_out_together(conditions, groups):
    parsed = [Condition.parse(text) for text in conditions]
    assert groups_of(parsed).tolist() == groups
    assert Condition.of([Treatment("a")], []) not in parsed


def test_leaving_a_group_out_is_a_fit_without_it():
    features, targets = problem()
    scale = feature_scale(features)
    scaled = features / scale
    seen = []
    for rows, residuals in residuals_without(features, targets, GROUPS, 3.0):
        kept = np.setdiff1d(np.arange(18), rows)
        model = reference(scaled[kept], targets[kept], 3.0)
        np.testing.assert_allclose(residuals, targets - model.predict(scaled[:, 1:]), rtol=1e-6, atol=1e-9)
        seen += rows.tolist()
    assert sorted(seen) == list(range(18))


def test_hundreds_of_treatments_with_more_descriptors_than_conditions():
    """The published screen has 178 training compounds at four doses, and 194 descriptors with their products."""
    rng = np.random.default_rng(0)
    descriptors = np.repeat(rng.normal(size=(30, 100)), 4, axis=0)
    features = np.column_stack([np.ones(120), descriptors, np.tile(np.linspace(0, 1, 4), 30)])
    targets = descriptors[:, :2] + rng.normal(size=(120, 2))
    groups = np.repeat(np.arange(30), 4)
    found = fit_ridge(features, targets, groups)
    assert np.isfinite(found.coefficients).all() and 0 < min(found.error) < 1.2
    scaled = features / feature_scale(features)
    model = reference(scaled, targets, found.penalty)
    np.testing.assert_allclose(features @ found.coefficients, model.predict(scaled[:, 1:]), rtol=1e-6, atol=1e-8)

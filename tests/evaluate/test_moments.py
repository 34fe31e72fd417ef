"""Metrics of means and variances, and of effects."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellgap.errors import DataError
from cellgap.evaluate import metrics as m


def clouds(seed=0, n=60, d=12, shift=0.5):
    rng = np.random.default_rng(seed)
    c = rng.normal(size=(n, d))
    q = rng.normal(size=(n, d)) * rng.uniform(0.5, 2, d) + shift * rng.normal(size=d)
    p = rng.normal(size=(n, d)) + shift * rng.normal(size=d)
    return p, q, c


def test_equal_populations_are_perfect():
    _, q, c = clouds()
    assert m.r2_mean(q, q) == pytest.approx(1)
    assert m.r2_delta(q, q, c) == pytest.approx(1)
    assert m.pearson_delta(q, q, c) == pytest.approx(1)
    assert m.r2_var(q, q) == pytest.approx(1)
    assert m.variance_ratio(q, q) == pytest.approx(1)
    assert m.total_variance_ratio(q, q) == pytest.approx(1)
    assert m.drug_signature(q, q) == 0
    assert m.sign_accuracy(q, q, c) == 1
    assert m.top_overlap(q, q, c) == 1


def test_no_predicted_effect_is_undefined_not_zero_or_one():
    _, q, c = clouds()
    assert np.isnan(m.r2_delta(c, q, c))
    assert np.isnan(m.pearson_delta(c, q, c))
    permuted = c[np.random.default_rng(0).permutation(len(c))]  # means differ by rounding only
    assert np.isnan(m.r2_delta(permuted, q, c))
    assert np.isnan(m.top_overlap(permuted, q, c))
    assert np.isnan(m.r2_delta(q, c, c))  # no measured effect
    assert np.isnan(m.top_overlap(c, q, c))
    assert np.isnan(m.sign_accuracy(q, c, c))
    assert m.sign_accuracy(c, q, c) == 0  # no direction predicted is no right direction


def test_correlations_agree_with_numpy():
    p, q, c = clouds(1)
    delta_p, delta_q = p.mean(0) - c.mean(0), q.mean(0) - c.mean(0)
    r = np.corrcoef(delta_p, delta_q)[0, 1]
    assert m.pearson_delta(p, q, c) == pytest.approx(r)
    assert m.r2_delta(p, q, c) == pytest.approx(r**2)
    assert m.r2_mean(p, q) == pytest.approx(np.corrcoef(p.mean(0), q.mean(0))[0, 1] ** 2)
    assert m.r2_var(p, q) == pytest.approx(np.corrcoef(p.var(0), q.var(0))[0, 1] ** 2)
    assert m.drug_signature(p, q) == pytest.approx(np.linalg.norm(delta_p - delta_q))


def test_the_sign_of_an_effect_is_kept():
    _, q, c = clouds(2)
    opposite = 2 * c.mean(0) - q.mean(0) + (q - q.mean(0))
    assert m.pearson_delta(opposite, q, c) == pytest.approx(-1)
    assert m.r2_delta(opposite, q, c) == pytest.approx(1)
    assert m.sign_accuracy(opposite, q, c) == 0


def test_variance_ratio_sees_a_narrow_prediction():
    _, q, _ = clouds(3)
    narrow = q.mean(0) + 0.5 * (q - q.mean(0))
    assert m.variance_ratio(narrow, q) == pytest.approx(0.25)
    assert m.total_variance_ratio(narrow, q) == pytest.approx(0.25)


def test_features_that_never_vary_are_left_out_of_the_ratio():
    _, q, _ = clouds(4)
    q[:, 0] = 3.0
    p = q.copy()
    p[:, 0] += np.random.default_rng(0).normal(size=len(p))
    assert m.variance_ratio(p, q) == pytest.approx(1)
    assert np.isnan(m.variance_ratio(p, np.ones_like(q)))
    assert np.isnan(m.total_variance_ratio(p, np.ones_like(q)))


def test_one_row_has_means_but_no_variance():
    p, q, c = (x[:1] for x in clouds(5))
    assert np.isfinite(m.r2_delta(p, q, c))
    assert np.isnan(m.r2_var(p, q))
    assert np.isnan(m.variance_ratio(p, q))


def test_l2_uvp_of_a_shift_is_its_length_over_the_variance():
    true = np.random.default_rng(0).normal(size=(500, 4))
    assert m.l2_uvp(true, true) == 0
    assert m.l2_uvp(true + 0.3, true) == pytest.approx(100 * 4 * 0.09 / true.var(0).sum())
    assert np.isnan(m.l2_uvp(true, np.ones_like(true)))
    with pytest.raises(DataError, match="same cells"):
        m.l2_uvp(true[:10], true)


def test_direction_metrics_look_at_the_most_moved_features():
    c = np.zeros((4, 20))
    effect = np.array([4.0, -3, 2, 1, *[0.01] * 16])
    q = c + effect
    wrong = effect.copy()
    wrong[1] = 3  # one of the four (20 // 5) most moved features goes the other way
    assert m.sign_accuracy(c + wrong, q, c) == 0.75
    moved = effect.copy()
    moved[3], moved[10] = 0, 5  # one of the four is missed, another feature is called
    assert m.top_overlap(c + moved, q, c) == 0.75


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_discrimination_is_a_rank(distance):
    rng = np.random.default_rng(0)
    measured = rng.normal(size=(6, 30))
    assert m.discrimination(measured, measured, distance=distance).tolist() == [1.0] * 6
    same = np.tile(rng.normal(size=30), (6, 1))
    assert m.discrimination(same, measured, distance=distance).mean() == pytest.approx(0.5)
    two = m.discrimination(measured[:2][::-1], measured[:2], distance=distance)
    assert two.tolist() == [0.0, 0.0]


def test_discrimination_of_no_effect_is_undefined():
    measured = np.random.default_rng(0).normal(size=(3, 5))
    predicted = measured.copy()
    predicted[0] = 0
    score = m.discrimination(predicted, measured)
    assert np.isnan(score[0])
    assert score[1:].tolist() == [1, 1]
    assert np.isnan(m.discrimination(measured[:1], measured[:1])).all()
    with pytest.raises(DataError, match="one measured effect belongs"):
        m.discrimination(measured[:2], measured)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_permuting_cells_or_genes_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    p, q, c = clouds(seed, n=15, d=10)
    cells = rng.permutation(15)
    genes = rng.permutation(10)
    for name in ("r2_mean", "r2_var", "variance_ratio", "total_variance_ratio", "drug_signature"):
        metric = getattr(m, name)
        assert metric(p[cells], q) == pytest.approx(metric(p, q), abs=1e-6)
        assert metric(p[:, genes], q[:, genes]) == pytest.approx(metric(p, q), abs=1e-6)
    for name in ("r2_delta", "pearson_delta", "sign_accuracy", "top_overlap"):
        metric = getattr(m, name)
        assert metric(p[cells], q[cells[::-1]], c[cells]) == pytest.approx(metric(p, q, c), abs=1e-6)
        assert metric(p[:, genes], q[:, genes], c[:, genes]) == pytest.approx(metric(p, q, c), abs=1e-6)


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (np.zeros(3), "cells x features"),
        (np.zeros((0, 3)), "at least one"),
        (np.array([[np.nan, 0, 0]]), "NaN or infinite values in 1 of 1 cells"),
        (np.zeros((2, 4)), "p 4, q 3"),
    ],
)
def test_unusable_populations_are_refused(p, said):
    with pytest.raises(DataError, match=said):
        m.r2_mean(p, np.ones((2, 3)))

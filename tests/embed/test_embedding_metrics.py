"""Metrics of embeddings: closed forms on the sphere, other implementations, invariances, and levels of tests."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from scipy.stats import norm, ortho_group
from sklearn.linear_model import LinearRegression
from sklearn.metrics import balanced_accuracy_score, f1_score

from cellgap.embed import (
    agreement,
    angle_preservation_error,
    effective_rank,
    knn_overlap,
    knn_probe,
    linear_probe,
    linear_r2,
    mean_correlation_coefficient,
    procrustes_error,
    ridge_probe,
)
from cellgap.errors import ConfigError, DataError

SEEDS = st.integers(0, 2**32 - 1)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def sphere(n, k=3, seed=0):
    return unit(np.random.default_rng(seed).normal(size=(n, k)))


def rotation(k, seed):
    """Return an orthogonal matrix: of both determinants, over seeds."""
    return ortho_group.rvs(k, random_state=seed)


def squeezed(z, scale):
    """Return the map that scales all but the first coordinate, back on the sphere."""
    return unit(z * np.array([1.0, *[scale] * (z.shape[1] - 1)]))


def blobs(n, seed=0, apart=3.0, k=5, n_labels=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_labels, n)
    centers = apart * np.eye(n_labels, k)
    return centers[labels] + rng.normal(size=(n, k)), np.array([f"type {i}" for i in range(n_labels)])[labels]


# --- a truth -----------------------------------------------------------------------------------------------------


def test_r2_of_the_collapsed_frozen_coordinate():
    z = sphere(100_000)
    lost = np.c_[np.zeros(len(z)), unit(z[:, 1:])]
    fit = linear_r2(z, lost)
    assert fit.pooled == pytest.approx((np.pi / 4) ** 2, abs=5e-3)
    assert fit.per_coordinate[0] < 1e-3  # the coordinate that was lost
    # E[z_2 v] / sqrt(Var z_2 Var v) is 3 pi / 8 / sqrt(3 / 2); squared.
    np.testing.assert_allclose(fit.per_coordinate[1:], 3 * np.pi**2 / 32, atol=5e-3)


def test_published_figures_of_the_squeezed_sphere():
    z = sphere(5000)
    h = squeezed(z, 0.730)  # the map that the published losses single out
    assert linear_r2(z, h).pooled == pytest.approx(0.994, abs=1e-3)
    assert angle_preservation_error(z, h) / 2 == pytest.approx(0.047, abs=1e-3)


def test_r2_is_that_of_sklearn():
    rng = np.random.default_rng(0)
    h, truth = rng.normal(size=(60, 4)), rng.normal(size=(60, 3)) * [1.0, 3.0, 0.1]
    truth += h[:, :3]
    told = LinearRegression().fit(h, truth).predict(h)
    each = 1 - ((truth - told) ** 2).sum(0) / ((truth - truth.mean(0)) ** 2).sum(0)
    fit = linear_r2(truth, h)
    np.testing.assert_allclose(fit.per_coordinate, each, rtol=1e-10)
    # Pooled by sums of squares, which is not the mean over coordinates.
    weights = truth.var(0) / truth.var(0).sum()
    assert fit.pooled == pytest.approx(each @ weights, rel=1e-10)
    assert abs(fit.pooled - each.mean()) > 0.01


def test_held_out_r2_does_not_reward_width():
    rng = np.random.default_rng(0)
    truth, h = rng.normal(size=(200, 2)), rng.normal(size=(200, 80))
    assert linear_r2(truth, h).pooled == pytest.approx(80 / 199, abs=0.1)
    assert linear_r2(truth, h, held_out=True).pooled < 0
    assert linear_r2(h[:, :2] * 2 + 1, h, held_out=True).pooled == pytest.approx(1, abs=1e-9)


def test_a_coordinate_that_does_not_vary_has_no_r2():
    z = sphere(50)
    fit = linear_r2(np.c_[z, np.ones(50)], z)
    assert fit.pooled == pytest.approx(1)
    assert np.isnan(fit.per_coordinate[3]) and not np.isnan(fit.per_coordinate[:3]).any()


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_what_rotations_change_and_what_they_do_not(seed):
    z, h = sphere(60, 4, seed), squeezed(sphere(60, 4, seed), 0.5)
    turned = h @ rotation(4, seed)
    assert linear_r2(z, turned).pooled == pytest.approx(linear_r2(z, h).pooled, abs=1e-9)
    assert procrustes_error(z, turned) == pytest.approx(procrustes_error(z, h), abs=1e-9)
    assert angle_preservation_error(z, turned) == pytest.approx(angle_preservation_error(z, h), abs=1e-12)
    assert knn_overlap(z, turned, 5) == pytest.approx(knn_overlap(z, h, 5))
    assert effective_rank(turned) == pytest.approx(effective_rank(h), rel=1e-9)
    assert procrustes_error(h, turned) < 1e-12 < procrustes_error(h, z)
    assert angle_preservation_error(h, turned) < 1e-12 < angle_preservation_error(h, z)
    # The matched correlation is the one that a rotation changes.
    assert mean_correlation_coefficient(h, h) == pytest.approx(1)
    assert mean_correlation_coefficient(h, h[:, ::-1] * [-1, 1, -2, 1]) == pytest.approx(1)
    assert mean_correlation_coefficient(h, turned) < 0.999


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_procrustes_is_that_of_scipy(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(30, 3)), rng.normal(size=(30, 3)) + 1
    turn, _ = orthogonal_procrustes(a, b)
    expected = np.sqrt(np.mean(np.sum((a @ turn - b) ** 2, axis=1)))
    assert procrustes_error(a, b) == pytest.approx(expected, rel=1e-12)
    assert procrustes_error(b, a) == pytest.approx(expected, rel=1e-12)


def test_procrustes_of_a_scaled_embedding_is_closed():
    z = sphere(100)
    assert procrustes_error(3 * z, z) == pytest.approx(2)  # nothing is scaled
    assert procrustes_error(z, z[:, [1, 2, 0]] * [1, -1, 1]) < 1e-12  # a reflection is orthogonal


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, block=st.sampled_from([1, 7, 23, 64]))
def test_angles_in_blocks_are_all_pairs(seed, block):
    a, b = sphere(23, 3, seed), sphere(23, 5, seed + 1)
    off = ~np.eye(23, dtype=bool)
    expected = np.abs(a @ a.T - b @ b.T)[off].mean()
    # Lengths do not count.
    assert angle_preservation_error(2 * a, b * 0.1, block=block) == pytest.approx(expected, rel=1e-12)


def test_largest_angle_error_is_two():
    line, other = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert angle_preservation_error(line, other) == pytest.approx(2)


def test_matched_correlation_of_rotations_of_the_sphere():
    z = sphere(2000)
    scores = [mean_correlation_coefficient(z, z @ rotation(3, seed)) for seed in range(300)]
    assert 0.78 < np.mean(scores) < 0.86  # as published for perfect recoveries
    assert min(scores) > 0.6


def test_matched_correlation_is_one_to_one():
    z = sphere(2000)
    twice = np.c_[z[:, 0], z[:, 0], z[:, 1]]
    # Coordinate 0 can be matched once; the other copy is left to coordinate 2, of which it says nothing.
    assert mean_correlation_coefficient(z, twice) == pytest.approx(2 / 3, abs=0.02)
    assert mean_correlation_coefficient(z, z[:, :2]) == pytest.approx(2 / 3, abs=1e-9)
    assert mean_correlation_coefficient(z, np.c_[z[:, :2], np.ones(len(z))]) == pytest.approx(2 / 3, abs=1e-9)


def test_knn_overlap():
    line = np.arange(10.0)[:, None]
    assert knn_overlap(line, 2 * line, 2) == 1
    # On a line of 4, with places exchanged: neighbors of (0, 1, 2, 3) are (1, 0 or 2, ..) by hand, k = 1.
    a, b = np.array([[0.0], [1.0], [10.0], [11.5]]), np.array([[0.0], [10.0], [1.0], [11.5]])
    assert knn_overlap(a, b, 1) == 0
    rng = np.random.default_rng(0)
    assert knn_overlap(rng.normal(size=(1000, 3)), rng.normal(size=(1000, 3)), 100) == pytest.approx(0.1, abs=0.01)


def test_effective_rank():
    z = sphere(20_000, 8)
    assert effective_rank(z) == pytest.approx(8, abs=0.01)
    assert effective_rank(z[:, :1] @ np.ones((1, 8)) + 5) == pytest.approx(1, abs=1e-9)
    assert effective_rank(np.full((10, 3), 0.1)) == 0
    # Singular values 3 and 1: the entropy of (3/4, 1/4).
    x = np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    assert effective_rank(x) == pytest.approx(4 / 3**0.75)


def test_agreement_takes_the_worse_direction_and_the_worst_pair():
    z = sphere(500)
    lost = np.c_[z[:, :2], np.zeros(500)]
    found = agreement([z, z @ rotation(3, 1), lost])
    r2 = found.pairs.set_index(["first", "second"])["r2"]
    assert r2[0, 1] == pytest.approx(1)
    # From z all of `lost` is told, from `lost` two coordinates of three.
    assert r2[0, 2] == pytest.approx(linear_r2(z, lost).pooled) and r2[0, 2] < 0.8
    assert found.minimum == pytest.approx(min(r2[0, 2], r2[1, 2]))
    procrustes = found.pairs.set_index(["first", "second"])["procrustes"]
    assert procrustes[0, 1] < 1e-12
    assert procrustes[0, 2] == pytest.approx(procrustes_error(z, lost))
    with pytest.raises(DataError, match="two embeddings"):
        agreement([z])


# --- labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
def test_probes_of_separate_and_of_unrelated_labels(probe):
    h, labels = blobs(300, apart=12)
    found = probe(h, labels)
    assert found.accuracy == found.balanced_accuracy == found.macro_f1 == 1
    assert found.p_value < 1e-10
    assert (found.n_cells, found.n_labels) == (300, 3)
    assert found.chance == pytest.approx(np.unique(labels, return_counts=True)[1].max() / 300)
    unrelated = probe(np.random.default_rng(1).normal(size=h.shape), labels)
    assert unrelated.p_value > 0.05 and unrelated.accuracy < 0.5


def test_one_neighbor_by_hand_on_a_line():
    # Two folds of a line of pairs: the other of a pair is nearest, if it is in the other fold.
    h = np.array([[0.0], [0.1], [5.0], [5.1], [9.0], [9.1], [20.0], [20.1]])
    labels = np.array(list("aabbabcc"))
    groups = np.array([0, 1] * 4)
    found = knn_probe(h, labels, k=1, groups=groups)
    truth, told = labels, labels[[1, 0, 3, 2, 5, 4, 7, 6]]
    assert found.accuracy == pytest.approx(6 / 8)
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, told))
    assert found.macro_f1 == pytest.approx(f1_score(truth, told, average="macro"))
    assert found.chance == pytest.approx(3 / 8)


def test_p_value_by_hand():
    # Every group is told by the cell of the other at the same place; hits are then a permutation statistic.
    h, groups = np.arange(24.0)[:, None] % 12, np.repeat([0, 1], 12)
    labels = np.array(list("aabbbbccccbaabbbcbccccca"))
    found = knn_probe(h, labels, k=1, groups=groups)
    rng = np.random.default_rng(0)
    over, variance = 0.0, 0.0
    for held in (groups == 0, groups == 1):
        known = dict(zip(h[~held, 0], labels[~held], strict=True))
        told = np.array([known[x] for x in h[held, 0]])
        drawn = [np.sum(told == rng.permutation(labels[held])) for _ in range(20_000)]
        over, variance = over + np.sum(told == labels[held]) - np.mean(drawn), variance + np.var(drawn)
    assert 0.001 < found.p_value < 0.1
    assert found.p_value == pytest.approx(norm.sf(over / np.sqrt(2 * variance)), rel=0.05)


def test_the_test_keeps_its_level_and_finds_little():
    """Neighbors are mutual, which is where a test that takes folds as independent fails."""

    def p_value(seed, shift):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 120)
        return knn_probe(rng.normal(size=(120, 3)) + shift * labels[:, None], labels, k=1, seed=seed).p_value

    null = np.array([p_value(seed, 0.0) for seed in range(300)])
    # 5 % of 300 trials are 15; variances of independent folds give about 25.
    assert np.sum(null < 0.05) <= 15
    assert 100 <= np.sum(null < 0.5) <= 200
    assert np.mean([p_value(seed, 1.0) < 0.05 for seed in range(50)]) > 0.8


def test_a_constant_prediction_tells_nothing():
    labels = np.array(["a"] * 95 + ["b"] * 5)
    found = knn_probe(np.random.default_rng(0).normal(size=(100, 2)), labels)
    assert found.accuracy == found.chance == 0.95
    assert found.balanced_accuracy == 0.5
    assert found.p_value == 1


def test_groups_are_held_out_whole():
    # The label is told by a shortcut of each donor alone: known cells of a donor tell it, other donors do not.
    rng = np.random.default_rng(0)
    donors, labels = np.repeat(np.arange(6), 40), np.tile([0, 1], 120)
    sides = rng.permutation([1, 1, 1, -1, -1, -1])[donors] * (2 * labels - 1)
    h = np.c_[10 * np.eye(6)[donors], 3.0 * sides] + 0.1 * rng.normal(size=(240, 7))
    assert knn_probe(h, labels).accuracy == 1
    across = knn_probe(h, labels, groups=donors)
    assert across.accuracy < 0.6 and across.p_value > 0.05


def test_labels_that_are_constant_in_groups_cannot_be_tested():
    h, labels = blobs(90, n_labels=3)
    donors = np.array([f"{label}{i % 2}" for i, label in enumerate(labels)])
    assert np.isnan(knn_probe(h, labels, groups=donors).p_value)
    assert knn_probe(h, labels, groups=donors).accuracy > 0.8


def test_a_rare_label_is_held_out_as_often_as_it_can():
    h, labels = blobs(100, apart=12)
    labels = labels.astype(object)
    labels[:3], h[:3] = "rare", -20 + 0.1 * h[:3]
    found = linear_probe(h, labels, n_folds=5)  # three cells, five folds
    assert found.n_labels == 4 and found.accuracy == 1
    assert knn_probe(h, labels).balanced_accuracy == pytest.approx(0.75)  # two known cells never win 15 votes


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1000))
def test_probes_are_the_same_for_every_rotation_and_scale(seed):
    h, labels = blobs(80, seed=seed, apart=1.5, k=3)
    turned = 30 * h @ rotation(3, seed)
    wider = np.c_[turned + 7, np.ones(80)]  # a direction without spread changes the mean variance alone
    assert linear_probe(turned + 7, labels).accuracy == pytest.approx(linear_probe(h, labels).accuracy, abs=1e-9)
    assert knn_probe(wider, labels) == knn_probe(h, labels)
    values = h[:, 0] + np.sin(h[:, 1])
    assert ridge_probe(turned + 7, values).r2 == pytest.approx(ridge_probe(h, values).r2, rel=1e-9)


def test_directions_that_hold_little_stay_small():
    # Donors differ in a direction that is narrow within them: scaled up, the shift would drown the label.
    rng = np.random.default_rng(0)
    labels, donors = np.tile([0, 1], 100), np.repeat([0, 1], 100)
    h = np.c_[2.0 * labels + rng.normal(size=200), 0.1 * donors + 1e-3 * rng.normal(size=200) + 1e-3 * labels]
    assert linear_probe(h, labels, groups=donors).accuracy > 0.8
    constant = linear_probe(np.ones((200, 2)), labels)
    assert constant.accuracy == 0.5 and constant.p_value == 1


def test_linear_and_nearest_neighbor_probes_tell_different_things():
    rng = np.random.default_rng(0)
    h = rng.normal(size=(400, 2))
    ring = np.where(np.linalg.norm(h, axis=1) > 1.2, "out", "in")
    assert knn_probe(h, ring).balanced_accuracy > 0.9
    assert linear_probe(h, ring).balanced_accuracy < 0.65


def test_a_number_is_told_by_ridge():
    rng = np.random.default_rng(0)
    h = rng.normal(size=(500, 4))
    found = ridge_probe(h, h @ [1.0, -1, 2, 0] + rng.normal(size=500) * np.sqrt(6))
    assert found.r2 == pytest.approx(0.5, abs=0.07)  # half of the variance is noise
    assert found.p_value < 1e-10
    unrelated = ridge_probe(h, rng.normal(size=500))
    assert unrelated.r2 < 0.01 and unrelated.p_value > 0.05
    donors = np.repeat(np.arange(5), 100)
    assert ridge_probe(h, h[:, 0], groups=donors, penalty=1e-6).r2 == pytest.approx(1)
    with pytest.raises(DataError, match="vary"):
        ridge_probe(h, np.ones(500))


# --- what is refused ---------------------------------------------------------------------------------------------


def test_refused_arrays():
    z = sphere(20)
    bad = z.copy()
    bad[3, 1] = np.nan
    for metric in (linear_r2, procrustes_error, angle_preservation_error, mean_correlation_coefficient, knn_overlap):
        with pytest.raises(DataError, match="same cells, found 20 and 19"):
            metric(z, z[:-1])
        with pytest.raises(DataError, match="1 of 20 cells"):
            metric(z, bad)
        with pytest.raises(DataError, match=r"found shape \(20,\)"):
            metric(z[:, 0], z)
        with pytest.raises(DataError, match="array of numbers"):
            metric([["a"]], z)
    with pytest.raises(DataError, match="more cells to fit on, found 4"):
        linear_r2(z[:4], z[:4])
    with pytest.raises(DataError, match="does not vary"):
        linear_r2(np.ones((20, 2)), z)
    with pytest.raises(DataError, match="3 and 2 coordinates"):
        procrustes_error(z, z[:, :2])
    with pytest.raises(DataError, match="no direction"):
        angle_preservation_error(z, np.zeros((20, 2)))
    with pytest.raises(DataError, match="at least 2 cells, found 1"):
        effective_rank(z[:1])
    with pytest.raises(ConfigError, match="19 other cells"):
        knn_overlap(z, z, 20)
    with pytest.raises(ConfigError, match="block=0"):
        angle_preservation_error(z, z, block=0)


def test_refused_probes():
    h, labels = blobs(40)
    with pytest.raises(DataError, match=r"labels must be one a cell \(40\)"):
        linear_probe(h, labels[:-1])
    with pytest.raises(DataError, match="missing in 1 of 40"):
        knn_probe(h, [None, *labels[1:]])
    with pytest.raises(DataError, match="two labels"):
        linear_probe(h, ["a"] * 40)
    with pytest.raises(DataError, match="two groups"):
        linear_probe(h, labels, groups=[0] * 40)
    with pytest.raises(DataError, match="two labels"):
        linear_probe(h, labels == labels[0], groups=labels == labels[0])
    with pytest.raises(ConfigError, match="n_folds=1"):
        linear_probe(h, labels, n_folds=1)
    with pytest.raises(ConfigError, match="k=33"):
        knn_probe(h, labels, k=33)

"""The scale, intervals over conditions, and paired comparisons on constructed data."""

import numpy as np
import pytest

from cellgap.evaluate._bootstrap import Resamples, interval, paired_bootstrap
from cellgap.evaluate._scale import merit, scale


def test_the_scale_runs_from_the_baseline_to_the_replicate_and_beyond():
    assert scale(3.0, 3.0, 1.0) == 0
    assert scale(1.0, 3.0, 1.0) == 1
    assert scale(4.0, 3.0, 1.0) == -0.5  # worse than the mean effect: shown, not clipped
    assert scale(0.0, 3.0, 1.0) == 1.5
    assert np.isnan(scale(1.0, 2.0, 2.0))
    assert np.isnan(scale(float("nan"), 0.0, 1.0))


def test_merit_turns_every_metric_so_that_higher_is_better():
    assert merit([1, 2], "r2_delta").tolist() == [1, 2]
    assert merit([1, 2], "energy").tolist() == [-1, -2]
    ratio = merit([0.5, 1, 2, 0, np.nan], "variance_ratio")
    assert ratio[0] == pytest.approx(ratio[2])
    assert ratio[1] == 0
    assert ratio[3] == pytest.approx(np.log(1e-3))
    assert np.isnan(ratio[4])


def test_better_in_every_condition_beats():
    rng = np.random.default_rng(0)
    b = rng.normal(size=(20, 5))
    a = b + 1 + 0.1 * rng.normal(size=(20, 5))
    found = paired_bootstrap(a, b)
    assert found.n_conditions == 20
    assert found.difference == pytest.approx(1, abs=0.05)
    assert found.low < found.difference < found.high
    assert found.low == pytest.approx(1, abs=0.1)
    assert found.share == 1
    assert found.beats


def test_no_difference_does_not_beat():
    rng = np.random.default_rng(1)
    found = paired_bootstrap(rng.normal(size=(20, 5)), rng.normal(size=(20, 5)))
    assert found.low < 0 < found.high
    assert not found.beats
    equal = paired_bootstrap(np.ones((4, 2)), np.ones((4, 2)))
    assert (equal.difference, equal.low, equal.high, equal.share) == (0, 0, 0, 0.5)
    assert not equal.beats


def test_pairing_removes_what_conditions_share():
    rng = np.random.default_rng(2)
    hard = 10 * rng.normal(size=(15, 1))
    found = paired_bootstrap(hard + 0.3 + 0.1 * rng.normal(size=(15, 5)), hard + 0.1 * rng.normal(size=(15, 5)))
    assert found.beats
    assert found.high - found.low < 0.2


def test_conditions_without_an_answer_are_left_out_and_counted():
    a, b = np.ones((6, 3)), np.zeros((6, 3))
    a[0, 1] = np.nan
    b[5] = np.nan
    assert paired_bootstrap(a, b).n_conditions == 4
    none = paired_bootstrap(np.full((2, 2), np.nan), np.ones((2, 2)))
    assert none.n_conditions == 0
    assert np.isnan(none.difference)
    assert not none.beats


def test_one_condition_has_no_interval():
    found = paired_bootstrap(np.ones((1, 5)), np.zeros((1, 5)))
    assert found.difference == 1
    assert np.isnan(found.low)
    assert not found.beats


def test_the_interval_covers_the_spread_of_a_mean_over_conditions():
    values = np.random.default_rng(3).normal(size=(400, 1)) * np.ones((1, 3))
    low, high = interval(Resamples.of(400, 3).means(values), n_conditions=400)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert low < values.mean() < high


def test_draws_are_resampled_too():
    values = np.random.default_rng(4).normal(size=(1, 400)) * np.ones((30, 1))
    spread = Resamples.of(30, 400).means(values).std()
    assert spread == pytest.approx(values.std() / np.sqrt(30 * 400), rel=0.1)
    assert (Resamples.of(30, 4, seed=1).draws == Resamples.of(30, 4, seed=1).draws).all()

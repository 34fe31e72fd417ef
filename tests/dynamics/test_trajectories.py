"""Trajectories: any number, lengths and times; parts, windows, tables; what cannot be one."""

import numpy as np
import pandas as pd
import pytest

from cellgap.dynamics import Trajectories, trajectories_of
from cellgap.errors import DataError

RAGGED = [np.arange(8.0).reshape(4, 2), 10 + np.arange(4.0).reshape(2, 2), 20 + np.arange(6.0).reshape(3, 2)]
CLOCKS = [[0.0, 1.0, 3.0, 3.5], [2.0, 5.0], [1.0, 1.0, 4.0]]
ABOUT = pd.DataFrame({"donor": ["a", "b", "a"], "batch": [1, 2, 3]}, index=["one", "two", "three"])


@pytest.fixture
def ragged() -> Trajectories:
    return trajectories_of(RAGGED, CLOCKS, about=ABOUT, inputs={"dose": [1.0, 2.0, 3.0]})


def test_ragged_lists_are_filled_up_with_their_last_state(ragged):
    assert ragged.values.shape == (3, 4, 2) and ragged.times.shape == (3, 4)
    np.testing.assert_array_equal(ragged.lengths, [4, 2, 3])
    np.testing.assert_array_equal(ragged.values[1], [[10, 11], [12, 13], [12, 13], [12, 13]])
    np.testing.assert_array_equal(ragged.times[1], [2, 5, 5, 5])
    np.testing.assert_array_equal(ragged.seen.sum(1), ragged.lengths)
    for (t, v), clock, values in zip(ragged.each(), CLOCKS, RAGGED, strict=True):
        np.testing.assert_array_equal(t, clock)
        np.testing.assert_array_equal(v, values)
    np.testing.assert_array_equal(ragged.states, np.concatenate(RAGGED))
    np.testing.assert_array_equal(ragged.starts, [v[0] for v in RAGGED])
    assert ragged.horizon == 3.5 and ragged.dim == 2 and len(ragged) == 3
    assert ragged.names == ("one", "two", "three") and ragged.variables == ("x0", "x1")
    assert repr(ragged) == "Trajectories(3 x 2 to 4 times x 2 variables)"


def test_times_are_sorted_with_their_states_and_ties_keep_their_order():
    made = trajectories_of(np.array([[3.0], [1.0], [2.0], [1.5]]), [3.0, 1.0, 2.0, 1.0])
    np.testing.assert_array_equal(made.times, [[1, 1, 2, 3]])
    np.testing.assert_array_equal(made.values[0, :, 0], [1.0, 1.5, 2.0, 3.0])
    assert repr(made) == "Trajectories(1 x 4 times x 1 variables)"


def test_one_list_of_times_serves_all_and_one_trajectory_may_be_a_table():
    values = np.arange(12.0).reshape(2, 3, 2)
    made = trajectories_of(values, [0, 1, 2], variables=["a", "b"], names=["p", "q"])
    np.testing.assert_array_equal(made.times, [[0, 1, 2]] * 2)
    np.testing.assert_array_equal(made.values, values)
    assert made.variables == ("a", "b") and made.names == ("p", "q") and made.inputs.shape == (2, 0)
    alone = trajectories_of(pd.DataFrame({"u": [1.0, 2.0], "v": [3.0, 4.0]}), [0.0, 1.0])
    np.testing.assert_array_equal(alone.values, [[[1, 3], [2, 4]]])


def test_what_is_given_is_copied_by_value_and_not_changed():
    values, times = [np.array([[1.0], [2.0]])], [np.array([1.0, 0.0])]
    trajectories_of(values, times)
    np.testing.assert_array_equal(values[0][:, 0], [1.0, 2.0])
    np.testing.assert_array_equal(times[0], [1.0, 0.0])


def test_some_are_taken_by_number_mask_and_label(ragged):
    assert ragged.take([2, 0]).names == ("three", "one")
    np.testing.assert_array_equal(ragged.take([2, 0]).inputs[:, 0], [3.0, 1.0])
    assert ragged.take(np.array([False, True, False])).names == ("two",)
    assert ragged.where(donor="a").names == ("one", "three")
    assert ragged.where(donor="a", batch=3).names == ("three",)
    assert ragged.where(batch=[1, 2]).names == ("one", "two")
    for wrong in (lambda: ragged.where(lineage="x"), lambda: ragged.where(donor="c")):
        with pytest.raises(DataError):
            wrong()
    with pytest.raises(DataError, match="no trajectories are left"):
        ragged.take(np.zeros(3, bool))


def test_an_empty_list_takes_nothing_and_says_so(ragged):
    with pytest.raises(DataError, match="no trajectories are left"):
        ragged.take([])


def test_parts_keep_what_is_early(ragged):
    part = ragged.until(3.0)
    np.testing.assert_array_equal(part.lengths, [3, 2, 3])
    assert part.values.shape[1] == 3
    np.testing.assert_array_equal(part.values[0], RAGGED[0][:3])
    np.testing.assert_array_equal(ragged.until(0.5).lengths, [1, 1, 2])  # two states of the third are of one time
    np.testing.assert_array_equal(ragged.first(2).lengths, [2, 2, 2])
    np.testing.assert_array_equal(ragged.first(3).values[1], [[10, 11], [12, 13], [12, 13]])
    with pytest.raises(DataError):
        ragged.first(0)
    with pytest.raises(DataError):
        ragged.until(-1.0)


def test_every_other_state(ragged):
    part = ragged.every(2)
    np.testing.assert_array_equal(part.lengths, [2, 1, 2])
    np.testing.assert_array_equal(part.values[0], RAGGED[0][[0, 2]])
    np.testing.assert_array_equal(part.times[2], [1.0, 4.0])
    np.testing.assert_array_equal(ragged.every(1).values, ragged.values)


def test_a_random_share_keeps_the_first_state_and_the_order():
    made = trajectories_of(np.arange(400.0).reshape(4, 100, 1), np.arange(100.0))
    thin = made.thinned(0.3, seed=1)
    assert 0.2 < thin.lengths.sum() / 400 < 0.4
    for i, (t, v) in enumerate(thin.each()):
        assert t[0] == 0 and (np.diff(t) > 0).all()
        np.testing.assert_array_equal(v[:, 0], 100 * i + t)
    np.testing.assert_array_equal(thin.values, made.thinned(0.3, seed=1).values)
    assert (
        thin.values.shape != made.thinned(0.3, seed=2).values.shape
        or (thin.times != made.thinned(0.3, seed=2).times).any()
    )
    np.testing.assert_array_equal(made.thinned(1.0, seed=0).values, made.values)


def test_noise_is_normal_and_what_is_filled_up_still_repeats(ragged):
    noisy = ragged.noisy(0.5, seed=0)
    np.testing.assert_array_equal(noisy.values[1, 2], noisy.values[1, 1])
    np.testing.assert_array_equal(noisy.values[1, 3], noisy.values[1, 1])
    assert (noisy.states != ragged.states).all()
    np.testing.assert_array_equal(noisy.times, ragged.times)
    np.testing.assert_array_equal(noisy.values, ragged.noisy(0.5, seed=0).values)
    large = trajectories_of(np.zeros((10, 200, 5)), np.arange(200.0)).noisy(0.5, seed=3).values
    # Five standard errors of a mean and a deviation of 10,000 numbers.
    assert abs(large.mean()) < 5 * 0.5 / 100 and abs(large.std() - 0.5) < 5 * 0.5 / np.sqrt(2e4)


def test_windows_are_all_stretches_and_short_trajectories_whole(ragged):
    cut = ragged.windows(2)
    assert cut.names == ("one[0]", "one[1]", "two[0]", "three[0]")
    np.testing.assert_array_equal(cut.lengths, [3, 3, 2, 3])
    np.testing.assert_array_equal(cut.values[1], RAGGED[0][1:4])
    np.testing.assert_array_equal(cut.times[1], CLOCKS[0][1:4])
    np.testing.assert_array_equal(cut.values[2], [[10, 11], [12, 13], [12, 13]])
    assert list(cut.about["trajectory"]) == ["one", "one", "two", "three"]
    assert list(cut.about["first"]) == [0, 1, 0, 0] and list(cut.about["donor"]) == ["a", "a", "b", "a"]
    np.testing.assert_array_equal(cut.inputs[:, 0], [1, 1, 2, 3])
    assert ragged.windows(1, stride=2).names == ("one[0]", "one[2]", "two[0]", "three[0]")
    assert ragged.windows(9).names == ("one[0]", "two[0]", "three[0]")
    np.testing.assert_array_equal(ragged.windows(3).take([0]).values[0], RAGGED[0])


def test_a_table_has_a_row_a_state(ragged):
    table = ragged.to_frame()
    assert list(table.columns) == ["trajectory", "time", "donor", "batch", "x0", "x1"]
    assert len(table) == 9
    third = table[table["trajectory"] == "three"]
    np.testing.assert_array_equal(third["time"], CLOCKS[2])
    np.testing.assert_array_equal(third[["x0", "x1"]], RAGGED[2])
    assert set(third["donor"]) == {"a"} and set(third["batch"]) == {3}


def test_windows_become_a_table_too(ragged):
    table = ragged.windows(1).to_frame()
    assert len(table) == 2 * 6 and {"trajectory", "first", "time"} <= set(table.columns)


def one(values, times, **more):
    return lambda: trajectories_of(values, times, **more)


TWO = np.zeros((2, 2, 1)) + np.arange(2.0)[:, None]


@pytest.mark.parametrize(
    "make",
    [
        one([], []),
        one([np.zeros((2, 1)), np.zeros((2, 2))], [0, 1]),
        one([np.zeros(3)], [0, 1, 2]),
        one([np.zeros((3, 1))], [0, 1]),
        one([np.zeros((1, 1))], [[0]]),
        one([np.array([[0.0], [np.nan]])], [0, 1]),
        one([np.array([[0.0], [np.inf]])], [0, 1]),
        one([np.zeros((2, 1))], [0, np.nan]),
        one([np.zeros((2, 1))], [1, 1]),
        one(TWO, [[0, 1]]),
        one(TWO, [0, 1], variables=["a", "b"]),
        one(np.zeros((2, 2, 2)), [0, 1], variables=["a", "a"]),
        one(TWO, [0, 1], names=["p", "p"]),
        one(TWO, [0, 1], about=pd.DataFrame({"donor": ["a"]})),
        one(TWO, [0, 1], names=["p", "q", "r"]),
        pytest.param(one(TWO, [0, 1], inputs={"dose": [1.0, 2.0, 3.0]})),
        pytest.param(one(TWO, [0, 1], inputs={"dose": [1.0, np.nan]})),
        pytest.param(one(TWO, [0, 1], inputs={"dose": ["much", "little"]})),
    ],
)
def test_what_is_no_trajectory_is_refused_in_one_sentence(make):
    with pytest.raises(DataError) as caught:
        make()
    assert str(caught.value).count(". ") == 0

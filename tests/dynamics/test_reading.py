"""Tables of trajectories: both layouts, round trips, and what is wrong with a table in one sentence."""

import numpy as np
import pandas as pd
import pytest

from cellgap.dynamics import hill_network, read_trajectories
from cellgap.errors import DataError


def simulated():
    return hill_network(dim=5, seed=1).simulate(6, np.linspace(0, 2, 8), seed=0, keep=0.7)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.tsv.gz"])
def test_what_was_written_is_read(tmp_path, name):
    made = simulated()
    frame = made.to_frame()
    frame["dose"] = frame["trajectory"].astype(int) * 0.5
    frame.sample(frac=1.0, random_state=0).to_csv(tmp_path / name, sep="\t" if ".tsv" in name else ",", index=False)
    read = read_trajectories(tmp_path / name, labels=["system", "starts", "held"], inputs=["dose"])
    assert read.variables == made.variables and set(read.names) == set(made.names)
    read = read.take([read.names.index(n) for n in made.names])
    np.testing.assert_allclose(read.values, made.values, rtol=1e-12)
    np.testing.assert_allclose(read.times, made.times)
    np.testing.assert_array_equal(read.lengths, made.lengths)
    pd.testing.assert_frame_equal(read.about, made.about)
    np.testing.assert_allclose(read.inputs[:, 0], 0.5 * np.arange(6))
    assert read.input_names == ("dose",)


def test_a_long_table_is_the_same_as_a_wide_one(tmp_path):
    frame = simulated().to_frame().drop(columns=["system", "held"])
    frame.to_csv(tmp_path / "wide.csv")  # with the index, as pandas writes it
    long = frame.melt(["trajectory", "time", "starts"])
    long.to_csv(tmp_path / "long.csv", index=False)
    wide = read_trajectories(tmp_path / "wide.csv", labels=["starts"])
    other = read_trajectories(tmp_path / "long.csv", labels=["starts"])
    np.testing.assert_array_equal(wide.values, other.values)
    np.testing.assert_array_equal(wide.times, other.times)
    assert wide.variables == other.variables == ("g0", "g1", "g2", "g3", "g4")
    pd.testing.assert_frame_equal(wide.about, other.about)
    some = read_trajectories(tmp_path / "long.csv", labels=["starts"], variables=["g3", "g0"])
    np.testing.assert_array_equal(some.values, wide.values[:, :, [3, 0]])


def test_columns_may_be_called_otherwise(tmp_path):
    frame = simulated().to_frame().rename(columns={"trajectory": "mouse", "time": "day"})
    frame.to_csv(tmp_path / "a.csv", index=False)
    read = read_trajectories(tmp_path / "a.csv", trajectory="mouse", time="day", labels=["system", "starts", "held"])
    assert len(read) == 6 and read.dim == 5
    read = read_trajectories(tmp_path / "a.csv", trajectory="mouse", time="day", variables=["g1"])
    assert read.variables == ("g1",) and read.about.shape == (6, 0)


GOOD = "trajectory,time,donor,dose,g0,g1\na,0,d1,1,0.5,1\na,1,d1,1,0.6,2\nb,0,d2,2,0.1,3\nb,1,d2,2,0.2,4\n"
LONG = "trajectory,time,variable,value\na,0,g0,1\na,1,g0,2\na,0,g1,3\na,1.0,g1,4\n"


@pytest.mark.parametrize(
    ("text", "change", "says"),
    [
        (GOOD, ("time", "when"), "no column 'time': there are trajectory, when"),
        (GOOD, ("0.6", "high"), "column 'g0' holds the text 'high' in row 2, where a number is due: name it in labels"),
        (GOOD, ("0.6", ""), "column 'g0' has no number in row 2"),
        (GOOD, ("0.6", "NaN"), "column 'g0' has no number in row 2"),
        (GOOD, ("0.6", "inf"), "column 'g0' is infinite in row 2"),
        (GOOD, ("a,1,", "a,later,"), "column 'time' holds the text 'later' in row 2"),
        (GOOD, ("a,1,d1", "a,1,d2"), "'donor' changes within the trajectory 'a', from 'd1' to 'd2' in row 2"),
        (GOOD, ("d1,1,0.6", "d1,3,0.6"), "'dose' changes within the trajectory 'a', from '1' to '3' in row 2"),
        (GOOD, ("d1,1,0.6", "d1,much,0.6"), "column 'dose' holds the text 'much' in row 2"),
        (GOOD, ("a,1,", "c,1,"), "trajectory 'a' has 1 state: a law needs at least two"),
        (GOOD, ("a,1,", "a,0,"), "all states of the trajectory 'a' have the same time, 0"),
        (GOOD, ("\na,1", "\n,1"), "column 'trajectory' is empty in row 2"),
        (GOOD, ("g1\n", "g0\n"), "two columns are called 'g0'"),
        (GOOD, ("g1\n", "\n"), "a column has no name"),
        (GOOD, (",g0,g1\n", "\n"), "cannot be read as a table"),
        (GOOD, (GOOD, ""), "cannot be read as a table"),
        (GOOD, (GOOD, "trajectory,time,donor,dose,g0\n"), "no row"),
        (LONG, ("a,1,g0,2\n", ""), "trajectory 'a' has no value of 'g0' at time 1"),
        (LONG, ("a,1,g0", "a,0,g0"), "trajectory 'a' has more than one value of 'g0' at time 0"),
        (LONG, ("g0,2", "g0,two"), "column 'value' holds the text 'two' in row 2, where a number is due."),
    ],
)
def test_mistakes_name_column_and_row(tmp_path, text, change, says):
    labels = {"labels": ["donor"], "inputs": ["dose"]} if text is GOOD else {}
    (tmp_path / "a.csv").write_text(text)
    assert read_trajectories(tmp_path / "a.csv", **labels).dim == 2
    assert change[0] in text
    (tmp_path / "a.csv").write_text(text.replace(change[0], change[1], 1))
    with pytest.raises(DataError, match=r"a\.csv") as error:
        read_trajectories(tmp_path / "a.csv", **labels)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_mistakes_of_the_call(tmp_path):
    (tmp_path / "a.csv").write_text(GOOD)
    with pytest.raises(DataError, match="no column 'g7': there are"):
        read_trajectories(tmp_path / "a.csv", variables=["g7"])
    with pytest.raises(DataError, match="has two meanings"):
        read_trajectories(tmp_path / "a.csv", labels=["donor"], inputs=["donor"])
    with pytest.raises(DataError, match="'donor' holds the text 'd1' in row 1"):
        read_trajectories(tmp_path / "a.csv")
    with pytest.raises(DataError, match="There is no file"):
        read_trajectories(tmp_path / "b.csv")
    with pytest.raises(DataError, match="expected a file that ends with"):
        read_trajectories(tmp_path / "a.xlsx")

"""Trajectories from text files: tables with a row a state, or with a row a value."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellgap.dynamics._trajectories import Trajectories, trajectories_of
from cellgap.errors import DataError

TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
"""Names of files that `read_trajectories` reads end like this."""

_LONG = ("variable", "value")
_MISSING = ("", "na", "nan", "n/a", "null", "none")


def read_trajectories(
    path: str | Path,
    *,
    trajectory: str = "trajectory",
    time: str = "time",
    labels: Sequence[str] = (),
    inputs: Sequence[str] = (),
    variables: Sequence[str] | None = None,
) -> Trajectories:
    """Return the trajectories of a table; `Trajectories.to_frame` makes one.

    Parameters
    ----------
    path
        File with commas (``.csv``) or tabs (``.tsv``) between columns, also with ``.gz`` behind. Wide: a row a state, a
        column a variable. Long: a row a value, with the columns ``variable`` and ``value``.
    trajectory, time
        Columns that say of which trajectory a state is, and when it was.
    labels
        Columns of what is known of each trajectory (donor, lineage), for ``about``.
    inputs
        Columns of numbers that may enter the law as constants, the same in all rows of a trajectory.
    variables
        Which variables to take, in this order; None: all of a long table, and all further columns of a wide one.

    Raises
    ------
    DataError
        The file cannot be read, a column is missing, a number is missing or is text, a label changes within a
        trajectory, or a trajectory has fewer than two states.
    """
    found = read_courses(
        path, trajectory=trajectory, time=time, labels=labels, inputs=inputs, variables=variables
    )  # fmt: skip
    for name, times in zip(found.names, found.times, strict=True):
        if len(times) < 2:
            raise DataError(f"{path}: the trajectory {name!r} has {len(times)} state: a law needs at least two.")
        if np.ptp(times) <= 0:
            raise DataError(f"{path}: all states of the trajectory {name!r} have the same {time}, {times[0]:g}.")
    return trajectories_of(
        list(found.values),
        list(found.times),
        variables=found.variables,
        about=found.about,
        inputs={name: found.inputs[:, i] for i, name in enumerate(inputs)},
    )


@dataclass(frozen=True, eq=False)
class Courses:
    """What a table holds of every trajectory; also of those with a single state, from which a forecast starts.

    Parameters
    ----------
    times, values
        Of the states of each, sorted by time.
    variables
        Names.
    about
        Labels, a row a trajectory, indexed by its name.
    inputs
        Numbers, a row a trajectory.
    """

    times: tuple[np.ndarray, ...]
    values: tuple[np.ndarray, ...]
    variables: tuple[str, ...]
    about: pd.DataFrame
    inputs: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each trajectory."""
        return tuple(map(str, self.about.index))


def read_courses(
    path: str | Path,
    *,
    trajectory: str = "trajectory",
    time: str = "time",
    labels: Sequence[str] = (),
    inputs: Sequence[str] = (),
    variables: Sequence[str] | None = None,
) -> Courses:
    """Return what `read_trajectories` reads, of trajectories of any number of states."""
    path = Path(path)
    table = _table(path)
    long = set(_LONG) <= set(table.columns) and not set(_LONG) & {
        trajectory,
        time,
        *labels,
        *inputs,
        *(variables or ()),
    }
    named = [trajectory, time, *labels, *inputs, *(_LONG if long else ())]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise DataError(f"{path}: the column {twice[0]!r} has two meanings: a column has one.")
    _refuse_missing(path, table, named)
    states = _pivoted(path, table, trajectory, time, labels, inputs) if long else table
    kept = [c for c in states.columns if c not in named] if variables is None else list(variables)
    what = "variable" if long else "column"
    lacking = [name for name in kept if name not in states.columns]
    if lacking:
        raise DataError(f"{path} has no {what} {lacking[0]!r}: there are {_some(states.columns)}.")
    if not kept:
        raise DataError(f"{path} has no column of a variable beside {', '.join(map(repr, named))}.")
    clock = _numbers(path, states[[time]])[:, 0]
    values = _numbers(path, states[kept], hint="" if long else ": name it in labels, or list the variables")
    given = _numbers(path, states[list(inputs)])
    of = states[trajectory].to_numpy(str)
    empty = np.flatnonzero(of == "")
    if len(empty):
        raise DataError(f"{path}: the column {trajectory!r} is empty in row {states.index[empty[0]]}.")
    names = list(dict.fromkeys(of.tolist()))
    groups = [np.flatnonzero(of == name) for name in names]
    for column in (*labels, *inputs):
        _refuse_changes(path, states, column, names, groups)
    order = [rows[np.argsort(clock[rows], kind="stable")] for rows in groups]
    first = [rows[0] for rows in groups]
    return Courses(
        times=tuple(clock[rows] for rows in order),
        values=tuple(values[rows] for rows in order),
        variables=tuple(kept),
        about=states[list(labels)].iloc[first].set_axis(pd.Index(names)),
        inputs=given[first],
    )


def _table(path: Path) -> pd.DataFrame:
    """Return a table of texts; its index counts the rows from 1, without the names of the columns."""
    if not path.name.lower().endswith(TABLES):
        raise DataError(f"{path} is no table of trajectories: expected a file that ends with {', '.join(TABLES)}.")
    if not path.is_file():
        raise DataError(f"There is no file {str(path)!r}: check the path.")
    tabs = path.name.lower().removesuffix(".gz").endswith(".tsv")
    try:
        whole = pd.read_csv(
            path, sep="\t" if tabs else ",", header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig"
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError, EOFError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"{path} cannot be read as a table: {reason}.") from None
    whole = whole.fillna("")
    names = whole.iloc[0].str.strip().tolist()
    # What pandas writes of an index has no name.
    kept = [i for i, name in enumerate(names) if name or i]
    names = [names[i] for i in kept]
    odd = [name for name in names if not name or names.count(name) > 1]
    if odd:
        raise DataError(f"{path}: {f'two columns are called {odd[0]!r}' if odd[0] else 'a column has no name'}.")
    if len(whole) < 2:
        raise DataError(f"{path} has names of columns and no row.")
    return whole.iloc[1:, kept].set_axis(names, axis=1)


def _refuse_missing(path: Path, table: pd.DataFrame, named: Sequence[str]) -> None:
    for name in named:
        if name not in table:
            raise DataError(f"{path} has no column {name!r}: there are {_some(table.columns)}.")


def _some(names: Any) -> str:
    names = list(map(str, names))
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _numbers(path: Path, table: Any, *, hint: str = "") -> np.ndarray:
    """Return columns as finite numbers, or say which entry is none."""
    if not table.shape[1]:
        return np.zeros((len(table), 0))
    values = np.column_stack([np.asarray(pd.to_numeric(table[c], errors="coerce"), np.float64) for c in table])
    if np.isfinite(values).all():
        return values
    row, column = (int(i[0]) for i in np.nonzero(~np.isfinite(values)))
    text, where = str(table.iat[row, column]), f"{path}: the column {table.columns[column]!r}"
    if text.strip().lower() in _MISSING:
        raise DataError(f"{where} has no number in row {table.index[row]}: leave out states that were not measured.")
    if np.isinf(values[row, column]):
        raise DataError(f"{where} is infinite in row {table.index[row]}.")
    raise DataError(f"{where} holds the text {text!r} in row {table.index[row]}, where a number is due{hint}.")


def _refuse_changes(
    path: Path, table: pd.DataFrame, column: str, names: Sequence[str], groups: Sequence[np.ndarray]
) -> None:
    texts = table[column].to_numpy(str)
    for name, rows in zip(names, groups, strict=True):
        other = np.flatnonzero(texts[rows] != texts[rows[0]])
        if len(other):
            row = rows[other[0]]
            raise DataError(
                f"{path}: {column!r} changes within the trajectory {name!r}, from {str(texts[rows[0]])!r} to "
                f"{str(texts[row])!r} in row {table.index[row]}: what is known of a trajectory is the same in all rows."
            )


def _pivoted(
    path: Path, table: pd.DataFrame, trajectory: str, time: str, labels: Sequence[str], inputs: Sequence[str]
) -> pd.DataFrame:
    """Return a long table with a row a state; a state has the number of its first row."""
    values = _numbers(path, table[["value"]])[:, 0]
    # Times are compared as numbers: 0 and 0.0 are the same.
    clock = _numbers(path, table[[time]])[:, 0]
    states, first = pd.factorize(pd.MultiIndex.from_arrays([table[trajectory], clock]))
    columns, variables = pd.factorize(table["variable"])
    wide, times = np.full((len(first), len(variables)), np.nan), np.zeros((len(first), len(variables)), int)
    np.add.at(times, (states, columns), 1)
    wide[states, columns] = values
    for wrong, words in ((times > 1, "more than one value"), (times == 0, "no value")):
        if wrong.any():
            row, column = (int(i[0]) for i in np.nonzero(wrong))
            name, at = first[row]
            raise DataError(f"{path}: the trajectory {name!r} has {words} of {variables[column]!r} at {time} {at:g}.")
    rows = np.unique(states, return_index=True)[1]
    for column in (*labels, *inputs):
        texts = table[column].to_numpy(str)
        odd = np.flatnonzero(texts != texts[rows][states])
        if len(odd):
            raise DataError(
                f"{path}: {column!r} changes within a state of the trajectory {first[states[odd[0]]][0]!r}, in row "
                f"{table.index[odd[0]]}."
            )
    about = table[[trajectory, time, *labels, *inputs]].iloc[rows]
    made = pd.DataFrame(wide, columns=pd.Index([str(v) for v in variables]), index=about.index)
    clash = [c for c in made.columns if c in about.columns]
    if clash:
        raise DataError(f"{path}: {clash[0]!r} is the name of a column and of a variable.")
    return pd.concat([about, made], axis=1)

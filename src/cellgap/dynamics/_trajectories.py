"""Trajectories: states seen at times, of any number and length, with what does not change along each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from cellgap.errors import DataError


@dataclass(frozen=True, eq=False)
class Trajectories:
    """States at times; made by `trajectories_of`, `read_trajectories`, `bin_cells`, or a simulation.

    Trajectories may have different times and lengths. Beyond its length, the times and values of a trajectory repeat
    the last ones, so that a solver stands still there.

    Parameters
    ----------
    values
        States, in the units of the data.
    times
        Of each state, ascending within a trajectory; equal times are allowed.
    lengths
        Number of states of each trajectory.
    variables
        Names of the coordinates of a state: genes, channels, components.
    about
        What is known of each trajectory (donor, lineage); indexed by its name.
    inputs
        Numbers that may enter the law and stay constant along a trajectory: a dose, a context as 0 and 1.
    input_names
        Their names.
    cells
        The single cells behind the states of each trajectory, where there are any: times and values.
    """

    values: Float[np.ndarray, "n t d"]
    times: Float[np.ndarray, "n t"]
    lengths: Int[np.ndarray, " n"]
    variables: tuple[str, ...]
    about: pd.DataFrame
    inputs: Float[np.ndarray, "n c"]
    input_names: tuple[str, ...] = ()
    cells: tuple[tuple[np.ndarray, np.ndarray], ...] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        least, most = int(self.lengths.min()), int(self.lengths.max())
        of = f"{least}" if least == most else f"{least} to {most}"
        return f"Trajectories({len(self)} x {of} times x {self.dim} variables)"

    @property
    def dim(self) -> int:
        """Number of variables."""
        return self.values.shape[2]

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each trajectory."""
        return tuple(map(str, self.about.index))

    @property
    def seen(self) -> Bool[np.ndarray, "n t"]:
        """Which entries are measured, and not filled up."""
        return np.arange(self.values.shape[1]) < self.lengths[:, None]

    @property
    def starts(self) -> Float[np.ndarray, "n d"]:
        """First state of each trajectory."""
        return self.values[:, 0]

    @property
    def states(self) -> Float[np.ndarray, "states d"]:
        """All measured states, one after the other."""
        return self.values[self.seen]

    @property
    def horizon(self) -> float:
        """Longest time from the first to the last state of a trajectory."""
        return float((self.times[:, -1] - self.times[:, 0]).max())

    def take(self, rows: Sequence[int] | np.ndarray) -> "Trajectories":
        """Return some trajectories, by number or as a mask."""
        rows = np.asarray(rows)
        rows = np.arange(len(self))[rows] if rows.size else rows
        if not rows.size:
            raise DataError("no trajectories are left: none fits what was asked for.")
        return replace(
            self,
            values=self.values[rows],
            times=self.times[rows],
            lengths=self.lengths[rows],
            about=self.about.iloc[rows],
            inputs=self.inputs[rows],
            cells=None if self.cells is None else tuple(self.cells[i] for i in rows),
        )

    def where(self, **labels: Any) -> "Trajectories":
        """Return the trajectories with these labels in `about`: ``where(donor="s1d2", lineage=["a", "b"])``.

        Raises
        ------
        DataError
            There is no such column, or nothing fits.
        """
        kept = np.ones(len(self), bool)
        for name, value in labels.items():
            if name not in self.about:
                known = ", ".join(map(str, self.about.columns)) or "none"
                raise DataError(f"trajectories have no label {name!r}: there are {known}.")
            wanted = [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)
            kept &= self.about[name].astype(str).isin([str(v) for v in wanted]).to_numpy()
        if not kept.any():
            raise DataError(f"no trajectory has {', '.join(f'{k} = {v}' for k, v in labels.items())}.")
        return self.take(kept)

    def until(self, time: float) -> "Trajectories":
        """Return the part up to a time (included) after the start of each trajectory."""
        kept = self.seen & (self.times - self.times[:, :1] <= time + 1e-9)
        return self._shortened(kept.sum(1))

    def first(self, n: int) -> "Trajectories":
        """Return the first `n` states of each trajectory."""
        return self._shortened(np.minimum(self.lengths, n))

    def every(self, step: int) -> "Trajectories":
        """Return every `step`-th state."""
        return self.picked([np.arange(0, n, step) for n in self.lengths])

    def thinned(self, share: float, *, seed: int) -> "Trajectories":
        """Return a random share of the states of each trajectory, its first one always."""
        rng = np.random.default_rng(seed)
        return self.picked([np.flatnonzero((rng.random(n) < share) | (np.arange(n) == 0)) for n in self.lengths])

    def noisy(self, sd: float, *, seed: int) -> "Trajectories":
        """Return the trajectories with normal noise of this standard deviation on every state."""
        noise = np.random.default_rng(seed).normal(0.0, sd, self.values.shape)
        noise[~self.seen] = 0.0
        noisy = self.values + noise
        last = noisy[np.arange(len(self)), self.lengths - 1]
        noisy[~self.seen] = np.broadcast_to(last[:, None], noisy.shape)[~self.seen]
        return replace(self, values=noisy.astype(self.values.dtype))

    def windows(self, length: int, *, stride: int = 1) -> "Trajectories":
        """Return all stretches of ``length + 1`` states, starting every `stride` states; short ones whole.

        Their ``about`` has ``trajectory`` and ``first`` (the number of the first state) as further columns.
        """
        parts = [
            (i, a, min(length + 1, n - a))
            for i, n in enumerate(self.lengths)
            for a in (range(0, n - length, stride) if n > length else (0,))
        ]
        i, a, n = (np.array(column) for column in zip(*parts, strict=True))
        at = a[:, None] + np.minimum(np.arange(length + 1), n[:, None] - 1)
        about = self.about.iloc[i].assign(trajectory=np.array(self.names)[i], first=a)
        return replace(
            self,
            values=self.values[i[:, None], at],
            times=self.times[i[:, None], at],
            lengths=n,
            about=about.set_axis([f"{self.names[j]}[{b}]" for j, b in zip(i, a, strict=True)]),
            inputs=self.inputs[i],
            cells=None,
        )

    def each(self) -> Iterator[tuple[Float[np.ndarray, " t"], Float[np.ndarray, "t d"]]]:
        """Yield times and values of each trajectory, without what is filled up."""
        for times, values, n in zip(self.times, self.values, self.lengths, strict=True):
            yield times[:n], values[:n]

    def to_frame(self) -> pd.DataFrame:
        """Return a row a state: ``trajectory``, ``time``, the labels, the variables."""
        rows = []
        for name, (_, labels), (times, values) in zip(self.names, self.about.iterrows(), self.each(), strict=True):
            part = pd.DataFrame(values, columns=pd.Index(self.variables))
            for column in reversed([c for c in self.about.columns if c not in ("trajectory", "time")]):
                part.insert(0, column, labels[column])
            part.insert(0, "time", times)
            part.insert(0, "trajectory", name)
            rows.append(part)
        return pd.concat(rows, ignore_index=True)

    def _shortened(self, lengths: np.ndarray) -> "Trajectories":
        if (lengths < 1).any():
            raise DataError("a trajectory has no state left.")
        return self.picked([np.arange(n) for n in lengths])

    def picked(self, picked: Sequence[np.ndarray]) -> "Trajectories":
        """Return some states of each trajectory, by their numbers."""
        lengths = np.array([len(p) for p in picked])
        at = np.stack([np.pad(p, (0, lengths.max() - len(p)), mode="edge") for p in picked])
        rows = np.arange(len(self))[:, None]
        return replace(self, values=self.values[rows, at], times=self.times[rows, at], lengths=lengths.astype(np.int64))


def trajectories_of(
    values: Any,
    times: Any,
    *,
    variables: Sequence[str] | None = None,
    about: pd.DataFrame | None = None,
    inputs: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
) -> Trajectories:
    """Return trajectories given as arrays.

    Parameters
    ----------
    values
        States, (trajectories, times, variables), or a list of (times, variables), one a trajectory, of any lengths;
        (times, variables) is one trajectory.
    times
        Of the states: one list for all trajectories, or one for each. They need not be sorted.
    variables
        Names of the variables; by default ``x0``, ``x1``, ...
    about
        A row of labels (donor, lineage) a trajectory.
    inputs
        Numbers by name, one a trajectory, that may enter the law as constants.
    names
        Of the trajectories; by default those of `about`, or 0, 1, ...

    Raises
    ------
    DataError
        Shapes do not match, a number is not finite, a trajectory has fewer than two states, or names repeat.
    """
    listed = [np.asarray(v, np.float64) for v in _listed(values)]
    clocks = _clocks(times, listed)
    dims = {v.shape[1] if v.ndim == 2 else -1 for v in listed}
    if not listed or len(dims) > 1 or -1 in dims:
        raise DataError("trajectories are (times, variables) arrays with the same variables, one a trajectory.")
    for i, (t, v) in enumerate(zip(clocks, listed, strict=True)):
        if len(t) != len(v):
            raise DataError(f"trajectory {i} has {len(v)} states and {len(t)} times: give one time a state.")
        if len(v) < 2:
            raise DataError(f"trajectory {i} has {len(v)} state: a law needs at least two.")
        if not (np.isfinite(v).all() and np.isfinite(t).all()):
            raise DataError(f"trajectory {i} holds values or times that are not finite: remove those states.")
        if np.ptp(t) <= 0:
            raise DataError(f"all states of trajectory {i} have the same time, {t[0]:g}: a law needs time to pass.")
    order = [np.argsort(t, kind="stable") for t in clocks]
    lengths = np.array([len(v) for v in listed])
    longest = int(lengths.max())
    padded = [np.pad(o, (0, longest - len(o)), mode="edge") for o in order]
    d = dims.pop()
    called = tuple(f"x{i}" for i in range(d)) if variables is None else tuple(map(str, variables))
    if len(called) != d or len(set(called)) < d:
        raise DataError(f"there are {d} variables and {len(set(called))} different names of variables.")
    rows = pd.DataFrame(index=pd.RangeIndex(len(listed))) if about is None else about
    if names is not None:
        rows = rows.set_axis(list(names))
    index = rows.index.astype(str)
    if len(rows) != len(listed) or index.has_duplicates:
        raise DataError(f"there are {len(listed)} trajectories and {index.nunique()} different names of them.")
    given = {name: _constant(name, v, len(listed)) for name, v in (inputs or {}).items()}
    return Trajectories(
        values=np.stack([v[p] for v, p in zip(listed, padded, strict=True)]),
        times=np.stack([t[p] for t, p in zip(clocks, padded, strict=True)]),
        lengths=lengths,
        variables=called,
        about=rows.set_axis(index),
        inputs=np.column_stack(list(given.values())) if given else np.zeros((len(listed), 0)),
        input_names=tuple(given),
    )


def _constant(name: str, value: Any, n: int) -> np.ndarray:
    """Return a number a trajectory."""
    try:
        found = np.broadcast_to(np.asarray(value, np.float64), n)
    except ValueError:
        found = np.array([np.nan])
    if not np.isfinite(found).all():
        raise DataError(f"the input {name!r} is a finite number for each of {n} trajectories, found {value!r}.")
    return found


def _listed(values: Any) -> list[Any]:
    """Return one array a trajectory."""
    single = isinstance(values, np.ndarray | pd.DataFrame) and values.ndim == 2
    return [values] if single else list(values)


def _clocks(times: Any, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the times of every trajectory."""
    if np.ndim(times[0] if len(times) else 0) == 0:
        return [np.asarray(times, np.float64)] * len(values)
    if len(times) != len(values):
        raise DataError(f"there are {len(values)} trajectories and times of {len(times)}.")
    return [np.asarray(t, np.float64) for t in times]

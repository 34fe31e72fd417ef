"""From trajectories to what a law is trained on: units, held-out parts, windows, constants, a shuffled variant."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float

from cellgap.dynamics._law import Units
from cellgap.dynamics._train_law import LawData
from cellgap.dynamics._trajectories import Trajectories
from cellgap.errors import DataError
from cellgap.storage import storable

Scale = Literal["each", "all", "none"]
_FEW, _SHORT = 5, 10


def units_of(trajectories: Trajectories, scale: Scale) -> Units:
    """Return units in which variables have mean 0 and spread 1, and move by about that in a unit of time.

    Parameters
    ----------
    trajectories
        Of training.
    scale
        ``"each"`` variable by its own standard deviation (a floor of a hundredth of the largest), ``"all"`` by one
        for all of them, ``"none"``.
    """
    states = trajectories.states
    center, spread = states.mean(0), states.std(0)
    if scale == "none":
        center, spread = np.zeros_like(center), np.ones_like(spread)
    elif scale == "all":
        spread = np.full_like(spread, np.sqrt(np.mean(spread**2)))
    if scale != "none":
        if not spread.max() > 0:
            raise DataError("no variable changes: all states of the training trajectories are the same.")
        spread = np.maximum(spread, 0.01 * spread.max())
    return Units(center, spread, _clock(trajectories, spread))


def _clock(trajectories: Trajectories, spread: np.ndarray) -> float:
    """Return the time in which states move half as far (in squares) as they ever do: no multiple of noise."""
    longest = int(trajectories.lengths.max())
    moved, taken = [], []
    for lag in range(1, longest):
        near = trajectories.seen[:, lag:]
        steps = (trajectories.values[:, lag:] - trajectories.values[:, :-lag])[near] / spread
        passed = (trajectories.times[:, lag:] - trajectories.times[:, :-lag])[near]
        moved.append(float(np.mean(steps**2)))
        taken.append(float(np.mean(passed)))
        if lag >= 64 and moved[-1] < 0.9 * max(moved):
            break
    enough = np.flatnonzero(np.asarray(moved) >= 0.5 * max(moved))
    return max(taken[int(enough[0])], 1e-12)


def divided(
    trajectories: Trajectories, share: float, rng: np.random.Generator, history: int = 1
) -> tuple[Trajectories, Trajectories | None, str]:
    """Return trajectories to train on, those to judge with (None: there is nothing to spare), and which they are.

    Whole trajectories where there are at least five; else the last part of each, where they are long, with the
    `history` before it.
    """
    n = len(trajectories)
    if share == 0:
        return trajectories, None, "nothing"
    if n >= _FEW:
        held = np.sort(rng.permutation(n)[: max(1, round(share * n))])
        return trajectories.take(np.setdiff1d(np.arange(n), held)), trajectories.take(held), "trajectories"
    kept = np.minimum(np.ceil((1 - share) * trajectories.lengths).astype(int), trajectories.lengths - 1)
    if trajectories.lengths.min() < _SHORT or kept.min() <= history:
        return trajectories, None, "nothing"
    numbers = [np.arange(a - history, n) for a, n in zip(kept, trajectories.lengths, strict=True)]
    return trajectories.picked([np.arange(n) for n in kept]), trajectories.picked(numbers), "the last states"


def shuffled(trajectories: Trajectories, rng: np.random.Generator) -> Trajectories:
    """Return trajectories whose variables have nothing to do with each other: each keeps its courses.

    Every variable takes its courses from other trajectories, in an order of its own; where there are fewer than five,
    or lengths differ, its course is shifted in time, around the end.
    """
    values = trajectories.values.copy()
    n, _, d = values.shape
    same = n >= _FEW and len(set(trajectories.lengths.tolist())) == 1
    for j in range(d):
        if same:
            values[:, :, j] = trajectories.values[rng.permutation(n), :, j]
        else:
            for i, length in enumerate(trajectories.lengths):
                part = np.roll(trajectories.values[i, :length, j], rng.integers(1, length))
                values[i, :length, j], values[i, length:, j] = part, part[-1]
    return replace(trajectories, values=values)


@storable
class Constants(eqx.Module):
    """How what is constant along a trajectory becomes numbers: labels as 0 and 1, given numbers standardized.

    Parameters
    ----------
    labels, categories
        Columns of ``about``, and the values of each in training.
    names, center, spread
        Of the given numbers.
    """

    labels: tuple[str, ...]
    categories: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    center: Float[np.ndarray, " c"]
    spread: Float[np.ndarray, " c"]

    @classmethod
    def of(cls, trajectories: Trajectories, labels: Sequence[str]) -> "Constants":
        """Return the constants of training trajectories.

        Raises
        ------
        DataError
            There is no such label.
        """
        for label in labels:
            if label not in trajectories.about:
                known = ", ".join(map(str, trajectories.about.columns)) or "none"
                raise DataError(f"trajectories have no label {label!r} to tell the law: there are {known}.")
        known = tuple(tuple(sorted(set(trajectories.about[label].astype(str)))) for label in labels)
        given = trajectories.inputs
        spread = given.std(0)
        return cls(tuple(labels), known, trajectories.input_names, given.mean(0), np.where(spread > 0, spread, 1.0))

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the numbers."""
        told = [f"{label}={value}" for label, of in zip(self.labels, self.categories, strict=True) for value in of]
        return (*told, *self.names)

    def numbers(self, about: pd.DataFrame, inputs: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n s"]:
        """Return the numbers of trajectories.

        Raises
        ------
        DataError
            A label is missing, or has a value that training did not have.
        """
        parts = []
        for label, of in zip(self.labels, self.categories, strict=True):
            found = about[label].astype(str).to_numpy() if label in about else None
            odd = sorted(set(found) - set(of)) if found is not None else ["none"]
            if found is None or odd:
                raise DataError(f"the law knows {label} {', '.join(of)}; found {odd[0]!r}.")
            parts.append((found[:, None] == np.array(of)).astype(np.float32))
        if inputs.shape[1] != len(self.names):
            raise DataError(f"the law was told {len(self.names)} numbers a trajectory, found {inputs.shape[1]}.")
        parts.append(((inputs - self.center) / self.spread).astype(np.float32))
        return np.concatenate(parts, 1)


def law_data(
    variants: Sequence[Trajectories],
    units: Units,
    constants: Constants,
    *,
    window: int | None,
    stride: int,
    history: int,
) -> LawData:
    """Return trajectories, or windows of them, in standardized units on the device.

    Parameters
    ----------
    variants
        The trajectories, and variants of them with other values.
    units, constants
        Of training.
    window
        States that are predicted in a window; None: whole trajectories.
    stride
        States from one window to the next.
    history
        States that are seen before.
    """
    if window is not None:
        variants = [v.windows(window + history - 1, stride=stride) for v in variants]
    first = variants[0]
    if first.lengths.min() <= history:
        raise DataError(
            f"a trajectory (window) has {first.lengths.min()} states: with history {history} it needs more."
        )
    # The first time of a window is 0: laws do not know the time.
    times = (first.times - first.times[:, [history - 1]]) / units.clock
    follows = np.zeros(max(len(first) - 1, 0), bool)
    if window is not None and len(first) > 1:
        name, number = first.about["trajectory"].to_numpy(), first.about["first"].to_numpy()
        whole = first.lengths[:-1] == window + history
        follows = (name[1:] == name[:-1]) & (number[1:] == number[:-1] + window) & whole
    return LawData(
        values=jnp.asarray(np.stack([units.inward(v.values) for v in variants])),
        times=jnp.asarray(times, jnp.float32),
        weights=jnp.asarray(first.seen, jnp.float32),
        inputs=jnp.asarray(constants.numbers(first.about, first.inputs), jnp.float32),
        follows=jnp.asarray(follows),
        history=history,
    )

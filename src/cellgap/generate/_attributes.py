"""Attributes of cells as numbers: their categories, which combinations were seen, and how often."""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from cellgap.errors import ConditionError, DataError
from cellgap.storage import storable
from cellgap.study._column import labels_in
from cellgap.study._design import text_of
from cellgap.study._wording import close_to

Asked = Mapping[str, Any]
"""A value for all cells, or one a cell (a sequence or column), by name of the attribute."""


@storable
class Attributes(eqx.Module):
    """The attributes that a generator knows.

    Parameters
    ----------
    names
        Columns of ``obs``.
    categories
        Values of every attribute, sorted.
    seen, counts
        Combinations of values in the training cells, as numbers, and their numbers of cells.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    categories: tuple[tuple[str, ...], ...] = eqx.field(static=True)
    seen: Int[np.ndarray, "combinations k"]
    counts: Int[np.ndarray, " combinations"]

    @classmethod
    def of(cls, obs: pd.DataFrame, names: Sequence[str], rows: np.ndarray) -> "Attributes":
        """Return the attributes of training cells.

        Parameters
        ----------
        obs
            Of all cells.
        names
            Columns.
        rows
            Training cells.

        Raises
        ------
        DataError
            A column is missing, or has no label in some cell.
        """
        texts = [_texts(obs.iloc[rows], name) for name in names]
        categories = tuple(tuple(sorted(set(column))) for column in texts)
        columns = [np.searchsorted(known, column) for known, column in zip(categories, texts, strict=True)]
        seen, counts = np.unique(np.stack(columns, 1).astype(np.int32), axis=0, return_counts=True)
        return cls(tuple(names), categories, seen, counts.astype(np.int64))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of categories of every attribute."""
        return tuple(len(c) for c in self.categories)

    def labels(self, obs: pd.DataFrame) -> Int[np.ndarray, "n k"]:
        """Return the attributes of cells as numbers.

        Raises
        ------
        DataError
            A column is missing or has no label in some cell.
        ConditionError
            A value was not seen in training.
        """
        columns = [self._numbers(name, _texts(obs, name)) for name in self.names]
        return np.stack(columns, 1).astype(np.int32) if len(obs) else np.empty((0, len(self.names)), np.int32)

    def asked(self, n: int, values: Asked, rng: np.random.Generator) -> Int[np.ndarray, "n k"]:
        """Return the attributes of cells to generate; those that are not asked for are drawn as in the training cells.

        Parameters
        ----------
        n
            Number of cells.
        values
            A value for all cells, or one a cell, by name of the attribute.
        rng
            Of the attributes that are not asked for.

        Raises
        ------
        ConditionError
            An attribute or a value is unknown, or there is not one value a cell.
        """
        for name in values:
            if name not in self.names:
                raise ConditionError(f"There is no attribute {name!r}: {close_to(name, self.names)}")
        given = np.full((n, len(self.names)), -1, np.int32)
        for name, value in values.items():
            one = isinstance(value, str) or not isinstance(value, Sequence | np.ndarray | pd.Series)
            texts = np.full(n, text_of(value), object) if one else np.asarray([text_of(v) for v in value], object)
            if len(texts) != n:
                raise ConditionError(f"{name} has {len(texts)} values for {n} cells: give one for all, or one a cell.")
            given[:, self.names.index(name)] = self._numbers(name, texts)
        return self._filled(given, rng)

    def is_seen(self, labels: Int[np.ndarray, "n k"]) -> Bool[np.ndarray, " n"]:
        """Return whether the combination of every cell was in the training cells."""
        known = {tuple(row) for row in self.seen.tolist()}
        return np.asarray([tuple(row) in known for row in labels.tolist()], bool)

    def known(self, obs: pd.DataFrame) -> Bool[np.ndarray, " n"]:
        """Return whether all values of a cell were seen in training."""
        told = [np.isin(_texts(obs, name), known) for name, known in zip(self.names, self.categories, strict=True)]
        return np.all(told, axis=0)

    def frame(self, labels: Int[np.ndarray, "n k"]) -> pd.DataFrame:
        """Return the values of cells, a column an attribute."""
        columns = {
            name: pd.Categorical.from_codes(labels[:, k], categories=list(self.categories[k]))
            for k, name in enumerate(self.names)
        }
        return pd.DataFrame(columns, index=pd.Index([f"cell{i}" for i in range(len(labels))]))

    def _numbers(self, name: str, texts: Sequence[object] | np.ndarray) -> Int[np.ndarray, " n"]:
        known = self.categories[self.names.index(name)]
        index = {value: i for i, value in enumerate(known)}
        given = [str(t) for t in texts]
        wrong = next((t for t in dict.fromkeys(given) if t not in index), None)
        if wrong is not None:
            raise ConditionError(f"{name} {wrong!r} is not among the training cells: {close_to(wrong, known)}")
        return np.asarray([index[t] for t in given], np.int32)

    def _filled(self, given: Int[np.ndarray, "n k"], rng: np.random.Generator) -> Int[np.ndarray, "n k"]:
        """Return labels with those that are -1 drawn from the training cells that agree in the others."""
        out = given.copy()
        for asked in np.unique(given, axis=0):
            if (asked >= 0).all():
                continue
            rows = np.flatnonzero((given == asked).all(1))
            agree = ((self.seen == asked) | (asked < 0)).all(1)
            if not agree.any():
                # No training cell has this combination: what is missing is drawn as among all of them.
                agree[:] = True
            weight = np.where(agree, self.counts, 0).astype(float)
            drawn = self.seen[rng.choice(len(weight), len(rows), p=weight / weight.sum())]
            out[rows] = np.where(asked >= 0, asked, drawn)
        return out


def _texts(obs: pd.DataFrame, name: str) -> np.ndarray:
    if name not in obs.columns:
        raise DataError(f"obs has no column {name!r}: {close_to(name, [str(c) for c in obs.columns])}")
    column = labels_in(obs, name)
    missing = column.isna().to_numpy()
    if missing.any():
        raise DataError(
            f'obs["{name}"] has no label in {missing.sum()} of {len(obs)} cells '
            f'(first: "{obs.index[int(np.argmax(missing))]}"): fill it, or remove these cells.'
        )
    return np.asarray([text_of(v) for v in column], object)

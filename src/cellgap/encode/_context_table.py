"""The context of the cells by numeric descriptors: cell lines that were not trained on can be encoded."""

from collections.abc import Mapping
from typing import Annotated

import equinox as eqx
import numpy as np
from jaxtyping import Float
from pydantic import BeforeValidator, Field

from cellgap.encode._block import AbstractBlock
from cellgap.encode._descriptors import Descriptors, read_descriptors, source_of
from cellgap.encode._fitted import FittedEncoder
from cellgap.encode._interface import AbstractEncoder
from cellgap.encode._joint import Joint, join
from cellgap.encode._table import outside, standardized
from cellgap.errors import ConditionError, ConfigError
from cellgap.settings import settings
from cellgap.storage import storable
from cellgap.study import Condition, Split, Treatment
from cellgap.study._wording import close_to, listed


@settings
class ContextTable(AbstractEncoder):
    """Each value of a context column is the row of a table of numeric descriptors: ``ContextTable("cell_line", ...)``.

    Standardized over the values with treated cells to train on; columns that are constant over them are dropped. Values
    that were not trained on can be encoded if the table has them.

    Parameters
    ----------
    column
        Context column of the design.
    source
        Path of a CSV, TSV or parquet file whose first column holds values of `column`; a pandas DataFrame indexed by
        them; or ``"uns:key"`` for a DataFrame in ``uns`` of the AnnData.
    """

    column: Annotated[str, Field(min_length=1)]
    source: Annotated[str | Descriptors, BeforeValidator(source_of)] = "uns:context_descriptors"

    @property
    def parts(self) -> tuple[AbstractEncoder, ...]:
        """Itself."""
        return (self,)

    def fit_blocks(self, split: Split) -> tuple[AbstractBlock, ...]:
        """Return the block of standardized descriptors.

        Raises
        ------
        DataError
            The table cannot be read, or has values that are not finite numbers.
        ConditionError
            A context value of the split is not in the table.
        ConfigError
            The column does not belong to the context of the design, or no descriptor varies over the training values.
        """
        if self.column not in split.study.context_names:
            has = ", ".join(map(repr, split.study.context_names)) or "no columns"
            raise ConfigError(f"ContextTable({self.column!r}) is not in the context of the design, which has {has}.")
        table = self.source if isinstance(self.source, Descriptors) else read_descriptors(self.source, split.study)
        for condition in (*split.train_conditions, *split.valid_conditions, *split.test_conditions):
            if dict(condition.context)[self.column] not in table.names:
                raise _missing(self.column, dict(condition.context)[self.column], table.names)
        trained = tuple(sorted({dict(c.context)[self.column] for c in split.train_conditions}))
        values, keep = standardized(table, trained)
        if not keep.any():
            raise ConfigError(
                f"ContextTable({self.column!r}) has no descriptor that differs between the {len(trained)} training "
                "values: train on more, or leave it out."
            )
        kept, dropped = (tuple(n for n, k in zip(table.columns, keep, strict=True) if k == w) for w in (True, False))
        return (ContextTableBlock(self.column, table.names, kept, dropped, trained, values),)

    def fit(self, split: Split) -> FittedEncoder:
        """Return the fitted encoder, from the training conditions of a split."""
        return FittedEncoder(self.fit_blocks(split))

    def __or__(self, other: AbstractEncoder) -> Joint:
        return join(self, other)


@storable
class ContextTableBlock(AbstractBlock):
    """Standardized descriptors of every context value in the table.

    Parameters
    ----------
    column
        Context column.
    names
        Its values, one a row.
    kept, dropped
        Names of the columns, and of those that were constant over `trained`.
    trained
        Values trained on, sorted.
    values
        (names, kept), mean 0 and standard deviation 1 over `trained`.
    """

    column: str = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    kept: tuple[str, ...] = eqx.field(static=True)
    dropped: tuple[str, ...] = eqx.field(static=True)
    trained: tuple[str, ...] = eqx.field(static=True)
    values: Float[np.ndarray, "names kept"]

    @property
    def columns(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def context_columns(self) -> tuple[str, ...]:
        """Names of the columns, such as ``cell_line: doubling time``."""
        return tuple(f"{self.column}: {name}" for name in self.kept)

    @property
    def is_dose(self) -> bool:
        """No."""
        return False

    @property
    def saw_held_out(self) -> bool:
        """No."""
        return False

    @property
    def notes(self) -> tuple[str, ...]:
        """Which columns were dropped."""
        if not self.dropped:
            return ()
        return (f"constant over the training values of {self.column} and dropped: {listed(self.dropped)}",)

    def treatment(self, treatment: Treatment) -> Float[np.ndarray, " columns"]:
        """Return no columns."""
        return np.zeros(0, np.float32)

    def context(self, condition: Condition) -> Float[np.ndarray, " context_columns"]:
        """Return the row of the context value."""
        found = self._value(condition)
        if found not in self.names:
            raise _missing(self.column, found, self.names)
        return np.asarray(self.values)[self.names.index(found)]

    def extrapolation(self, condition: Condition) -> tuple[str, ...]:
        """Return the value where it was not trained on, and how many of its descriptors leave the trained range."""
        found = self._value(condition)
        if found in self.trained:
            return ()
        where = outside(self.values, self.names, self.trained, found)
        return (f"the {self.column} {found} was not trained on{where}",)

    def with_structures(self, smiles: Mapping[str, str]) -> "ContextTableBlock":
        """Return the block itself: molecules do not matter here."""
        return self

    def _value(self, condition: Condition) -> str:
        found = dict(condition.context).get(self.column, self.trained[0] if len(self.trained) == 1 else None)
        if found is None:
            raise ConditionError(f"{str(condition)!r} lacks {self.column!r}: give one of {', '.join(self.trained)}.")
        return found


def _missing(column: str, value: str, known: tuple[str, ...]) -> ConditionError:
    return ConditionError(f"The descriptor table has no row for the {column} {value!r}: {close_to(value, known)}")

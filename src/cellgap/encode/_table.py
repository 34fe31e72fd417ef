"""Treatments by numeric descriptors that the user brings: fingerprints, targets, learned vectors."""

from collections.abc import Mapping
from typing import Annotated

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float
from pydantic import BeforeValidator

from cellgap.encode._block import AbstractBlock
from cellgap.encode._descriptors import Descriptors, read_descriptors, source_of
from cellgap.encode._fitted import FittedEncoder
from cellgap.encode._interface import AbstractEncoder
from cellgap.encode._joint import Joint, join
from cellgap.errors import ConditionError, ConfigError
from cellgap.settings import settings
from cellgap.storage import storable
from cellgap.study import Condition, Split, Treatment
from cellgap.study._wording import close_to, listed

_FLAT = 1e-6  # a column whose spread is this small a part of its size is constant


@settings
class Table(AbstractEncoder):
    """Each treatment is the row of a table of numeric descriptors, standardized over the training treatments.

    Treatments that were not trained on can be encoded if the table has them. Columns that are constant over the
    training treatments are dropped; `TableBlock.dropped` names them.

    Parameters
    ----------
    source
        Path of a CSV, TSV or parquet file whose first column holds treatment names; a pandas DataFrame indexed by
        treatment name (such settings cannot be written to a file; the fitted encoder keeps the numbers);
        ``"uns:key"`` for a DataFrame in ``uns`` of the AnnData; or, where treatments are named after genes
        (knock-outs), ``"varm:key"`` for a vector and ``"var:key"`` for a number that the AnnData keeps for each gene.
    """

    source: Annotated[str | Descriptors, BeforeValidator(source_of)] = "uns:treatment_descriptors"

    @property
    def path(self) -> str | None:
        """Where the table comes from; None where it was given in memory."""
        return self.source if isinstance(self.source, str) else None

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
            A treatment of the split is not in the table.
        ConfigError
            No column varies over the training treatments.
        """
        table = self.source if isinstance(self.source, Descriptors) else read_descriptors(self.source, split.study)
        train = sorted({name for condition in split.train_conditions for name in condition.names})
        for condition in (*split.train_conditions, *split.valid_conditions, *split.test_conditions):
            for name in condition.names:
                if name not in table.names:
                    raise _missing(name, table.names)
        standard, keep = standardized(table, tuple(train))
        if not keep.any():
            raise ConfigError(
                f"Table() has no column that differs between the {len(train)} training treatments: give other "
                "descriptors, or train on more treatments."
            )
        kept = tuple(name for name, k in zip(table.columns, keep, strict=True) if k)
        dropped = tuple(name for name, k in zip(table.columns, keep, strict=True) if not k)
        return (TableBlock(table.names, kept, dropped, tuple(train), standard),)

    def fit(self, split: Split) -> FittedEncoder:
        """Return the fitted encoder, from the training conditions of a split."""
        return FittedEncoder(self.fit_blocks(split))

    def __or__(self, other: AbstractEncoder) -> Joint:
        return join(self, other)


@storable
class TableBlock(AbstractBlock):
    """Standardized descriptors of every treatment in the table.

    Parameters
    ----------
    names
        Treatments, one a row.
    kept
        Names of the columns.
    dropped
        Columns of the table that were constant over the training treatments.
    trained
        Treatments trained on, sorted.
    values
        (names, kept), mean 0 and standard deviation 1 over `trained`.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    kept: tuple[str, ...] = eqx.field(static=True)
    dropped: tuple[str, ...] = eqx.field(static=True)
    trained: tuple[str, ...] = eqx.field(static=True)
    values: Float[np.ndarray, "names kept"]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self.kept

    @property
    def context_columns(self) -> tuple[str, ...]:
        """None."""
        return ()

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
        return (f"constant over the training treatments and dropped: {listed(self.dropped)}",)

    def treatment(self, treatment: Treatment) -> Float[np.ndarray, " columns"]:
        """Return the row of the treatment."""
        if treatment.name not in self.names:
            raise _missing(treatment.name, self.names)
        return np.asarray(self.values)[self.names.index(treatment.name)]

    def context(self, condition: Condition) -> Float[np.ndarray, " context_columns"]:
        """Return no columns."""
        return np.zeros(0, np.float32)

    def extrapolation(self, condition: Condition) -> tuple[str, ...]:
        """Return the treatments not trained on, and how many of their descriptors leave the trained range."""
        reasons = []
        for name in condition.names:
            if name not in self.trained:
                where = outside(self.values, self.names, self.trained, name)
                reasons.append(f"the treatment {name} was not trained on{where}")
        return tuple(reasons)

    def with_structures(self, smiles: Mapping[str, str]) -> "TableBlock":
        """Return the block itself: molecules do not matter here."""
        return self


def standardized(
    table: Descriptors, trained: tuple[str, ...]
) -> tuple[Float[np.ndarray, "names kept"], Bool[np.ndarray, " columns"]]:
    """Return the columns that vary over `trained`, with mean 0 and standard deviation 1 there, and which those are."""
    own = table.values[[table.names.index(name) for name in trained]]
    mean, sd = own.mean(axis=0), own.std(axis=0)
    keep = sd > _FLAT * np.abs(own).max(axis=0)
    return ((table.values[:, keep] - mean[keep]) / sd[keep]).astype(np.float32), keep


def outside(
    values: Float[np.ndarray, "names kept"], names: tuple[str, ...], trained: tuple[str, ...], name: str
) -> str:
    """Return how many descriptors of a row lie outside of those of the rows trained on, in words; empty for none."""
    table = np.asarray(values)
    own, others = table[names.index(name)], table[[names.index(n) for n in trained]]
    n = int(((own < others.min(axis=0)) | (own > others.max(axis=0))).sum())
    return f", and {n} of its {len(own)} descriptors lie outside of those that were" if n else ""


def _missing(name: str, known: tuple[str, ...]) -> ConditionError:
    return ConditionError(f"The descriptor table has no row for the treatment {name!r}: {close_to(name, known)}")

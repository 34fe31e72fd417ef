"""The context of the cells: cell line, cell type, donor."""

import dataclasses
from collections.abc import Mapping, Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Float

from cellgap.encode._block import AbstractBlock
from cellgap.encode._fitted import FittedEncoder
from cellgap.encode._interface import AbstractEncoder
from cellgap.encode._joint import Joint, join
from cellgap.errors import ConditionError, ConfigError
from cellgap.settings import register
from cellgap.storage import storable
from cellgap.study import Condition, Split, Treatment


@register
@dataclasses.dataclass(frozen=True, init=False)
class Context(AbstractEncoder):
    """Each value of some context columns is a column of its own: ``Context("cell_line", "donor")``.

    Only values with treated cells to train on are known; others cannot be encoded.

    Parameters
    ----------
    *names
        Context columns of the design, at least one.
    columns
        The same as one sequence, as a settings file gives them.

    Raises
    ------
    ConfigError
        No column is named, or one twice.
    """

    columns: tuple[str, ...]

    def __init__(self, *names: str, columns: Sequence[str] = ()) -> None:
        chosen = (*names, *([columns] if isinstance(columns, str) else columns))
        if not chosen or len(set(chosen)) < len(chosen) or not all(isinstance(n, str) and n for n in chosen):
            raise ConfigError(
                f'Context needs the names of context columns, each once, as in Context("cell_line"); found {chosen}.'
            )
        object.__setattr__(self, "columns", chosen)

    @property
    def parts(self) -> tuple[AbstractEncoder, ...]:
        """Itself."""
        return (self,)

    def fit_blocks(self, split: Split) -> tuple[AbstractBlock, ...]:
        """Return the block of the context values of the training conditions.

        Raises
        ------
        ConfigError
            A column does not belong to the context of the design.
        """
        known = split.study.context_names
        for name in self.columns:
            if name not in known:
                has = ", ".join(map(repr, known)) or "no columns"
                raise ConfigError(f"Context({name!r}) is not in the context of the design, which has {has}.")
        contexts = [dict(condition.context) for condition in split.train_conditions]
        return (ContextBlock(self.columns, tuple(tuple(sorted({c[n] for c in contexts})) for n in self.columns)),)

    def fit(self, split: Split) -> FittedEncoder:
        """Return the fitted encoder, from the training conditions of a split."""
        return FittedEncoder(self.fit_blocks(split))

    def __or__(self, other: AbstractEncoder) -> Joint:
        return join(self, other)


@storable
class ContextBlock(AbstractBlock):
    """One context column for each value trained on.

    Parameters
    ----------
    names
        Context names.
    values
        Values of each name, sorted.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    values: tuple[tuple[str, ...], ...] = eqx.field(static=True)

    @property
    def columns(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def context_columns(self) -> tuple[str, ...]:
        """Names of the columns, such as ``cell_line=A549``."""
        return tuple(f"{n}={v}" for n, values in zip(self.names, self.values, strict=True) for v in values)

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
        """None."""
        return ()

    def treatment(self, treatment: Treatment) -> Float[np.ndarray, " columns"]:
        """Return no columns."""
        return np.zeros(0, np.float32)

    def context(self, condition: Condition) -> Float[np.ndarray, " context_columns"]:
        """Return 1 in the column of each context value and 0 elsewhere."""
        given: dict[str, str] = dict(condition.context)
        hot: list[bool] = []
        for name, values in zip(self.names, self.values, strict=True):
            found = given.get(name, values[0] if len(values) == 1 else None)
            if found is None:
                raise ConditionError(f"{str(condition)!r} lacks {name!r}: give one of {', '.join(values)}.")
            if found not in values:
                raise ConditionError(
                    f"Context({name!r}) cannot encode {found!r}, in which no treated cells were trained on (trained on "
                    f"were {', '.join(values)}): leave {name!r} out of the encoder to predict for a new one."
                )
            hot += [value == found for value in values]
        return np.array(hot, np.float32)

    def extrapolation(self, condition: Condition) -> tuple[str, ...]:
        """Return nothing: what was not trained on cannot be encoded at all."""
        return ()

    def with_structures(self, smiles: Mapping[str, str]) -> "ContextBlock":
        """Return the block itself: molecules do not matter here."""
        return self

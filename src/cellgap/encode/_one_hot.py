"""Treatments by name only."""

from collections.abc import Mapping

import equinox as eqx
import numpy as np
from jaxtyping import Float

from cellgap.encode._block import AbstractBlock
from cellgap.encode._fitted import FittedEncoder
from cellgap.encode._interface import AbstractEncoder
from cellgap.encode._joint import Joint, join
from cellgap.errors import ConditionError
from cellgap.settings import settings
from cellgap.storage import storable
from cellgap.study import Condition, Split, Treatment


@settings
class OneHot(AbstractEncoder):
    """Each training treatment is a column of its own. Treatments that were not trained on cannot be encoded."""

    @property
    def parts(self) -> tuple[AbstractEncoder, ...]:
        """Itself."""
        return (self,)

    def fit_blocks(self, split: Split) -> tuple[AbstractBlock, ...]:
        """Return the block of the treatments of the training conditions."""
        names = {name for condition in split.train_conditions for name in condition.names}
        return (OneHotBlock(tuple(sorted(names))),)

    def fit(self, split: Split) -> FittedEncoder:
        """Return the fitted encoder, from the training conditions of a split."""
        return FittedEncoder(self.fit_blocks(split))

    def __or__(self, other: AbstractEncoder) -> Joint:
        return join(self, other)


@storable
class OneHotBlock(AbstractBlock):
    """One column for each treatment trained on.

    Parameters
    ----------
    names
        The treatments, sorted.
    """

    names: tuple[str, ...] = eqx.field(static=True)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self.names

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
        """None."""
        return ()

    def treatment(self, treatment: Treatment) -> Float[np.ndarray, " columns"]:
        """Return 1 in the column of the treatment and 0 elsewhere."""
        if treatment.name not in self.names:
            raise ConditionError(
                f"OneHot() cannot encode the treatment {treatment.name!r}, which was not trained on (trained on were "
                f"{', '.join(self.names)}): an unseen treatment needs a descriptor, use "
                'encode.Table("drugs.csv") instead.'
            )
        return np.array([name == treatment.name for name in self.names], np.float32)

    def context(self, condition: Condition) -> Float[np.ndarray, " context_columns"]:
        """Return no columns."""
        return np.zeros(0, np.float32)

    def extrapolation(self, condition: Condition) -> tuple[str, ...]:
        """Return nothing: what was not trained on cannot be encoded at all."""
        return ()

    def with_structures(self, smiles: Mapping[str, str]) -> "OneHotBlock":
        """Return the block itself: molecules do not matter here."""
        return self

"""The identity: treated cells are the control cells."""

import numpy as np

from cellgap.encode import AbstractEncoder, FittedEncoder
from cellgap.gap import Gap
from cellgap.settings import settings
from cellgap.space import AbstractFittedSpace, AbstractSpace
from cellgap.storage import storable
from cellgap.study import Condition, Split
from cellgap.transport._codes import Codes
from cellgap.transport._familiarity import Vocabulary
from cellgap.transport._map import AbstractMap, vocabulary_of


@settings
class Identity:
    """Leaves the controls as they are: the reference of every effect."""

    space: AbstractSpace
    encoder: AbstractEncoder

    def fit(self, split: Split, *, key=None) -> "FittedIdentity":
        """Return the identity on a split."""
        return self.fit_codes(Codes.of(split, self.space, self.encoder))

    def fit_codes(self, codes: Codes, *, key=None) -> "FittedIdentity":
        """Return the identity on encoded cells."""
        return FittedIdentity("identity", codes.space, codes.encoder, vocabulary_of(codes), ())


@storable
class FittedIdentity(AbstractMap):
    """See `Identity`."""

    name: str
    space: AbstractFittedSpace
    encoder: FittedEncoder
    vocabulary: Vocabulary
    measured_gaps: tuple[Gap, ...]

    def transport(self, z: np.ndarray, condition: Condition) -> np.ndarray:
        """Return `z`."""
        return z

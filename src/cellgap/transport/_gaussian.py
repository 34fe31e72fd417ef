"""The Gaussian (Bures) map: the optimal map between populations that differ in mean and covariance."""

import jax.numpy as jnp
import numpy as np

from cellgap.encode import AbstractEncoder, FittedEncoder
from cellgap.gap import Gap
from cellgap.settings import settings
from cellgap.space import AbstractFittedSpace, AbstractSpace
from cellgap.storage import storable
from cellgap.study import Condition, Split
from cellgap.transport._affine import AffinePath, condition_features, fit_affine_path
from cellgap.transport._codes import Codes
from cellgap.transport._familiarity import Vocabulary
from cellgap.transport._map import AbstractMap, vocabulary_of


@settings
class Gaussian:
    """Closed-form optimal maps between Gaussians; no training.

    ``T(x) = m_y + A (x - m_x)`` with ``A = S_x^(-1/2) (S_x^(1/2) S_y S_x^(1/2))^(1/2) S_x^(-1/2)`` for a condition that
    was trained on, its covariance shrunk towards that of the controls; for another one, `A` and the shift follow from
    the condition's features (see `AffinePath`).

    Parameters
    ----------
    space, encoder
        Where cells and conditions live.
    """

    space: AbstractSpace
    encoder: AbstractEncoder

    def fit(self, split: Split, *, key=None) -> "FittedGaussian":
        """Return the maps of a split's training conditions."""
        return self.fit_codes(Codes.of(split, self.space, self.encoder))

    def fit_codes(self, codes: Codes, *, key=None) -> "FittedGaussian":
        """Return the maps of encoded training conditions."""
        path = fit_affine_path(codes, "gaussian")
        return FittedGaussian("Gaussian", codes.space, codes.encoder, vocabulary_of(codes), (), path)


@storable
class FittedGaussian(AbstractMap):
    """See `Gaussian`."""

    name: str
    space: AbstractFittedSpace
    encoder: FittedEncoder
    vocabulary: Vocabulary
    measured_gaps: tuple[Gap, ...]
    path: AffinePath

    def transport(self, z: np.ndarray, condition: Condition) -> np.ndarray:
        """Return the mapped cells; see `AbstractMap.transport`."""
        return np.asarray(self.path(condition_features(self.encoder, condition), jnp.asarray(z)))

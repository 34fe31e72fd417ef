"""The Gaussian (Bures) map: the optimal map between populations that differ in mean and covariance."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cellgap.encode import AbstractEncoder, FittedEncoder
from cellgap.gap import Gap
from cellgap.settings import settings
from cellgap.space import AbstractFittedSpace, AbstractSpace
from cellgap.storage import storable
from cellgap.study import Condition, Split
from cellgap.transport._affine import AffinePath, condition_features, displacement, fit_affine_path
from cellgap.transport._codes import Codes
from cellgap.transport._familiarity import Vocabulary
from cellgap.transport._map import AbstractMap, vocabulary_of


@settings
class Gaussian:
    """Closed-form optimal maps between Gaussians; no training.

    ``T(x) = m_y + A (x - m_x)`` with ``A = S_x^(-1/2) (S_x^(1/2) S_y S_x^(1/2))^(1/2) S_x^(-1/2)`` for a condition that was
    trained on, its covariance shrunk towards that of the controls; for another one, `A` and the shift are ridge
    regressions from the condition's features.

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
        center = np.asarray(path.center, np.float64)
        own = [displacement(m, center, "gaussian") for m in codes.moments]
        shifts = np.stack([shift for shift, _ in own]).astype(np.float32)
        linears = np.stack([linear for _, linear in own]).astype(np.float32)
        vocabulary = vocabulary_of(codes)
        return FittedGaussian("Gaussian", codes.space, codes.encoder, vocabulary, (), path, shifts, linears)


@storable
class FittedGaussian(AbstractMap):
    """See `Gaussian`."""

    name: str
    space: AbstractFittedSpace
    encoder: FittedEncoder
    vocabulary: Vocabulary
    measured_gaps: tuple[Gap, ...]
    path: AffinePath
    shifts: Float[np.ndarray, "k d"]
    linears: Float[np.ndarray, "k d d"]

    def transport(self, z: np.ndarray, condition: Condition) -> np.ndarray:
        """Return the mapped cells; see `AbstractMap.transport`."""
        known = self.vocabulary.parsed()
        if condition in known:
            k = known.index(condition)
            return z + self.shifts[k] + (z - np.asarray(self.path.center)) @ self.linears[k]
        features = jnp.asarray(condition_features(self.encoder, condition), jnp.float32)
        return np.asarray(self.path(features, jnp.asarray(z)))

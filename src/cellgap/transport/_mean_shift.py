"""Mean shifts: every cell moves by one vector, which a rule takes from the training conditions."""

import numpy as np

from cellgap.encode import AbstractEncoder, FittedEncoder
from cellgap.gap import Gap
from cellgap.settings import settings
from cellgap.space import AbstractFittedSpace, AbstractSpace
from cellgap.storage import storable
from cellgap.study import Condition, Split
from cellgap.transport._affine import condition_features
from cellgap.transport._codes import Codes
from cellgap.transport._familiarity import Vocabulary
from cellgap.transport._map import AbstractMap, vocabulary_of
from cellgap.transport._ridge import fit_ridge, groups_of
from cellgap.transport._shift_rule import NAMES, Known, Rule, shift_by_rule


@settings
class MeanShift:
    """Adds a mean effect (treated minus matched control mean, from training cells) to every cell.

    Parameters
    ----------
    space, encoder
        Where cells and conditions live.
    rule
        - ``"own"``: the effect of the condition itself; only for conditions that were trained on (latent arithmetic).
        - ``"all"``: the equal-weight average over all training conditions.
        - ``"nearest"``: that of the nearest training condition by descriptor.
        - ``"dose"``: linear interpolation in log-dose between measured doses of the treatment; beyond them, the
          nearest.
        - ``"additive"``: the sum of the members' single effects, for combinations.
        - ``"ridge"``: ridge regression from descriptor, dose and their products; its penalty is chosen by leaving
          treatments out.

    Notes
    -----
    The ridge rule is the strongest simple predictor for unseen treatments (Ahlmann-Eltze et al. 2025).
    """

    space: AbstractSpace
    encoder: AbstractEncoder
    rule: Rule = "ridge"

    def fit(self, split: Split, *, key=None) -> "FittedMeanShift":
        """Return the shifts of a split's training conditions."""
        return self.fit_codes(Codes.of(split, self.space, self.encoder))

    def fit_codes(self, codes: Codes, *, key=None) -> "FittedMeanShift":
        """Return the shifts of encoded training conditions."""
        conditions = codes.split.train_conditions
        shifts = np.stack([m.shift for m in codes.moments])
        coefficients = None
        if self.rule == "ridge":
            features = np.stack([condition_features(codes.encoder, c) for c in conditions])
            coefficients = fit_ridge(features, shifts, groups_of(conditions)).coefficients
        return FittedMeanShift(
            NAMES[self.rule], codes.space, codes.encoder, vocabulary_of(codes), (), self.rule, shifts, coefficients
        )


@storable
class FittedMeanShift(AbstractMap):
    """See `MeanShift`."""

    name: str
    space: AbstractFittedSpace
    encoder: FittedEncoder
    vocabulary: Vocabulary
    measured_gaps: tuple[Gap, ...]
    rule: Rule
    shifts: np.ndarray
    coefficients: np.ndarray | None

    def transport(self, z: np.ndarray, condition: Condition) -> np.ndarray:
        """Return ``z + shift(condition)``; see `AbstractMap.transport`."""
        if condition.is_control:
            return z
        return (z + self.shift(condition)).astype(np.float32)

    def shift(self, condition: Condition) -> np.ndarray:
        """Return the mean effect of a condition, shape (d,).

        Raises
        ------
        ConditionError
            The rule has no answer for the condition.
        """
        if self.coefficients is not None:
            return condition_features(self.encoder, condition) @ self.coefficients
        known = Known(self.vocabulary.parsed(), self.vocabulary.vectors, self.vocabulary.scale, self.shifts)
        # Only the nearest condition is a question of features; a condition need not be encodable for the others.
        features = condition_features(self.encoder, condition) if self.rule == "nearest" else None
        return shift_by_rule(self.rule, condition, features, known)

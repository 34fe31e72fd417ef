"""Mean shifts: every cell moves by one vector, which a rule takes from the training conditions."""

from typing import Literal

import numpy as np

from cellgap.encode import AbstractEncoder, FittedEncoder
from cellgap.errors import ConditionError
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

Rule = Literal["own", "all", "nearest", "dose", "additive", "ridge"]
NAMES: dict[Rule, str] = {
    "own": "mean shift",
    "all": "mean effect",
    "nearest": "nearest condition",
    "dose": "dose interpolation",
    "additive": "additive",
    "ridge": "ridge mean shift",
}


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
        known = self.vocabulary.parsed()
        if self.rule == "all":
            return self.shifts.mean(0)
        if self.rule == "nearest":
            return self._nearest(condition)
        if self.rule == "dose":
            return _by_dose(condition, known, self.shifts)
        if self.rule == "additive":
            return _additive(condition, known, self.shifts)
        if condition not in known:
            raise ConditionError(f"{str(condition)!r} was not trained on, so its own mean shift is unknown.")
        return self.shifts[known.index(condition)]

    def _nearest(self, condition: Condition) -> np.ndarray:
        features = condition_features(self.encoder, condition) / self.vocabulary.scale
        gaps = np.linalg.norm(self.vocabulary.vectors - features, axis=1)
        # Conditions that the descriptor does not tell apart (such as two donors) count equally.
        return self.shifts[gaps <= gaps.min() + 1e-6].mean(0)


def _same_context(condition: Condition, candidates: list[int], known: tuple[Condition, ...]) -> list[int]:
    """Return the candidates in the context of the condition, or all where there is none."""
    here = [i for i in candidates if known[i].control == condition.control]
    return here or candidates


def _by_dose(condition: Condition, known: tuple[Condition, ...], shifts: np.ndarray) -> np.ndarray:
    if len(condition.treatments) != 1 or condition.treatments[0].dose is None:
        raise ConditionError(f"{str(condition)!r} is not one treatment with a dose: nothing to interpolate.")
    wanted = condition.treatments[0]
    candidates = [i for i, c in enumerate(known) if c.names == condition.names and c.treatments[0].dose is not None]
    candidates = _same_context(condition, candidates, known)
    if not candidates:
        raise ConditionError(f"{wanted.name!r} was not trained on at any dose: nothing to interpolate.")
    doses = np.asarray([known[i].treatments[0].dose for i in candidates], float)
    levels = np.unique(doses)
    means = np.stack([shifts[np.asarray(candidates)[doses == level]].mean(0) for level in levels])
    at = np.log10(float(wanted.dose or 0.0))
    position = np.clip(np.interp(at, np.log10(levels), np.arange(len(levels))), 0, len(levels) - 1)
    low = int(np.floor(position))
    high = min(low + 1, len(levels) - 1)
    return means[low] + (position - low) * (means[high] - means[low])


def _additive(condition: Condition, known: tuple[Condition, ...], shifts: np.ndarray) -> np.ndarray:
    if len(condition.treatments) < 2:
        raise ConditionError(f"{str(condition)!r} is not a combination: nothing to add.")
    total = np.zeros(shifts.shape[1])
    for treatment in condition.treatments:
        candidates = [i for i, c in enumerate(known) if c.treatments == (treatment,)]
        if not candidates:
            raise ConditionError(f"{treatment} was not trained on alone: the additive rule has no answer.")
        total += shifts[_same_context(condition, candidates, known)].mean(0)
    return total

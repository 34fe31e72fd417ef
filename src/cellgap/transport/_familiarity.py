"""How far a condition is from the ones a model was trained on."""

from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from cellgap.errors import ConditionError
from cellgap.storage import storable
from cellgap.study import Condition, Treatment
from cellgap.transport._ridge import feature_scale


class Nearness(NamedTuple):
    """Distance of a condition to the training conditions.

    Parameters
    ----------
    nearest
        The closest training condition.
    distance
        Distance to it in the scaled space of condition features, in units of the median distance between neighboring
        training conditions: 0 = trained on, about 1 = as far as they are from one another.
    extrapolates
        Why the answer extrapolates; empty where it does not.
    """

    nearest: str
    distance: float
    extrapolates: tuple[str, ...]


@storable
class Vocabulary(eqx.Module):
    """The words a fitted model understands, and the training conditions as vectors.

    Parameters
    ----------
    conditions
        Training conditions as keyed text.
    vectors
        Their features, shape (conditions, p), scaled by `scale`.
    scale
        Root mean square of every feature over the training conditions.
    context_names
        Context names of the study.
    unit
        Median distance between neighboring training conditions; 1 where all are at one point.
    """

    conditions: tuple[str, ...]
    vectors: Float[np.ndarray, "k p"]
    scale: Float[np.ndarray, " p"]
    context_names: tuple[str, ...]
    unit: float

    @classmethod
    def of(
        cls, conditions: tuple[Condition, ...], features: np.ndarray, context_names: tuple[str, ...]
    ) -> "Vocabulary":
        """Return the vocabulary of training conditions and their features."""
        scale = feature_scale(features)
        vectors = features / scale
        between = cdist(vectors, vectors)
        neighbor = np.where(between <= 1e-9, np.inf, between).min(1)
        finite = neighbor[np.isfinite(neighbor)]
        unit = float(np.median(finite)) if len(finite) else 1.0
        return cls(tuple(repr(c) for c in conditions), vectors, scale, tuple(context_names), unit)

    def parsed(self) -> tuple[Condition, ...]:
        """Return the training conditions."""
        return tuple(Condition.parse(text, self.context_names) for text in self.conditions)

    def resolve(self, condition: Condition | str) -> Condition:
        """Return a condition in the words and units of the training conditions.

        As in ``Study.resolve``: a dose without a unit gets theirs, another unit is converted, and a dose or a context
        that is left out is filled in where only one was trained on.

        Raises
        ------
        ConditionError
            A dose is missing or its unit does not convert, or a context name is unknown.
        """
        if isinstance(condition, str):
            condition = Condition.parse(condition, self.context_names)
        unknown = [name for name, _ in condition.context if name not in self.context_names]
        if unknown:
            known = ", ".join(self.context_names) or "none"
            raise ConditionError(f"{str(condition)!r} names the context {unknown[0]!r}; this model knows {known}.")
        known = self.parsed()
        given = dict(condition.context)
        context = [(name, given[name]) for name in self.context_names if name in given]
        for name in self.context_names:
            values = {dict(c.context).get(name) for c in known}
            if name not in given and len(values) == 1 and None not in values:
                context.append((name, str(values.pop())))
        return Condition.of([self._resolve(t, known) for t in condition.treatments], context)

    def _resolve(self, treatment: Treatment, known: tuple[Condition, ...]) -> Treatment:
        everything = [t for c in known for t in c.treatments]
        same = [t for t in everything if t.name == treatment.name] or everything
        units = {t.unit for t in same if t.dose is not None}
        own = sorted({t for t in same if t.name == treatment.name})
        if treatment.dose is None:
            if not units or any(t.dose is None for t in same):
                return treatment
            if len(own) == 1:
                return own[0]
            doses = ", ".join(map(str, own)) or f"other treatments, all with a dose, such as {same[0]}"
            raise ConditionError(f"{treatment.name!r} needs a dose: trained on were {doses}.")
        if not units:
            raise ConditionError(f"{str(treatment)!r} has a dose, but training treatments have none: leave it out.")
        if treatment.unit is None and len(units) > 1:
            raise ConditionError(
                f"{str(treatment)!r} needs a unit: training doses are in {', '.join(map(str, units))}."
            )
        if len(units) > 1:
            return treatment
        converted = treatment.to_unit(str(units.pop()))
        # Conversion may be off in the last digit; a dose that was trained on is that dose.
        for other in own:
            if other.dose is not None and np.isclose(other.dose, converted.dose or 0.0, rtol=1e-9, atol=0.0):
                return other
        return converted

    def nearness(self, condition: Condition, features: np.ndarray, reasons: tuple[str, ...]) -> Nearness:
        """Return how far a condition with these features is from the training conditions.

        Parameters
        ----------
        condition
            In the words of the study.
        features
            Its features, shape (p,).
        reasons
            What the encoder finds outside of its training range.
        """
        gaps = np.linalg.norm(self.vectors - features / self.scale, axis=1)
        nearest = int(np.argmin(gaps))
        extra = tuple(self._unseen_together(condition))
        return Nearness(self.conditions[nearest], float(gaps[nearest] / self.unit), (*reasons, *extra))

    def _unseen_together(self, condition: Condition):
        known = self.parsed()
        alone = {t.name for c in known if len(c.treatments) == 1 for t in c.treatments}
        if len(condition.treatments) > 1 and condition.names not in {c.names for c in known}:
            missing = [name for name in condition.names if name not in alone]
            yield "the combination was never seen" + (f", nor {', '.join(missing)} alone" if missing else "")
        contexts = {pair for c in known for pair in c.context}
        for pair in condition.context:
            if pair not in contexts:
                yield f"{pair[0]} {pair[1]} was never trained on"

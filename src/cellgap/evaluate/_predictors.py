"""Who stands in the table: the models, the baselines that every model must beat, and the anchors of the scale."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np

from cellgap.encode import OneHot
from cellgap.errors import ConditionError, ConfigError, SplitError
from cellgap.evaluate._plan import generator
from cellgap.space import PCA, AbstractFittedSpace
from cellgap.study import Condition, Role, Split
from cellgap.transport import AbstractMap, Codes, Identity, MeanShift

MEAN_EFFECT = "mean effect"
"""The baseline whose score is 0 on the scale."""

REPLICATE = "replicate"
"""The repeat of the experiment, whose score is 1: other held-out treated cells of the same condition."""

DECODED = "replicate, decoded"
"""The same cells encoded and decoded: what the space alone costs in gene space."""

CONTROL = "control"
"""The reference controls themselves: the point where nothing of the effect is captured."""

RANDOM_PAIRING = "random pairing"
"""Random treated training cells of the same context."""

Rule = Literal["all", "nearest", "ridge", "dose", "additive"]

ANCHORS = (REPLICATE, DECODED, CONTROL)


class Predictor(Protocol):
    """What `evaluate` asks of a fitted model: a name, a space, and where control cells go."""

    @property
    def name(self) -> str:
        """Name in the table."""
        ...

    @property
    def space(self) -> AbstractFittedSpace:
        """Where cells live."""
        ...

    def transport(self, z: np.ndarray, condition: Condition) -> Any:
        """Return where control cells, (cells, d), go under a condition; ConditionError where there is no answer."""
        ...


def models_of(fitted: Predictor | Mapping[str, Predictor], split: Split) -> dict[str, Predictor]:
    """Return the models by name, refusing what cannot be compared on this split.

    Raises
    ------
    ConfigError
        There is no model, or the genes of two models differ.
    SplitError
        A model was trained on a condition that this split holds out.
    """
    models = dict(fitted) if isinstance(fitted, Mapping) else {fitted.name: fitted}
    if not models:
        raise ConfigError("evaluate needs at least one fitted model, found none.")
    genes = [np.asarray(model.space.genes).astype(str) for model in models.values()]
    if any(not np.array_equal(genes[0], other) for other in genes[1:]):
        raise ConfigError("the models predict different genes: evaluate them one at a time.")
    trainable = {repr(c) for c in split.train_conditions}
    held_out = {repr(c) for c in split.test_conditions} - trainable
    for name, model in models.items():
        seen = held_out.intersection(model.vocabulary.conditions) if isinstance(model, AbstractMap) else ()
        if seen:
            raise SplitError(
                f"{name!r} was trained on {min(seen)}, which this split holds out: evaluate it on the split it was "
                "fitted with."
            )
    return models


def standard_baselines(codes: Codes) -> dict[str, Predictor]:
    """Return the fitted baselines that stand in every table, in the space of the model.

    Identity, mean effect, nearest condition and ridge always; dose interpolation where treatments have doses;
    the additive rule where a combination is tested.

    Parameters
    ----------
    codes
        Encoded cells of the split, in the space of the model.
    """
    split = codes.split
    rules: list[Rule] = ["all", "nearest", "ridge"]
    if any(t.dose is not None for c in split.study.conditions for t in c.treatments):
        rules.append("dose")
    if any(len(c.treatments) > 1 for c in split.test_conditions):
        rules.append("additive")
    # The codes say in which space and with which encoder they live; those of the estimators are not used.
    unused: dict[str, Any] = {"space": PCA(), "encoder": OneHot()}
    fitted: list[Predictor] = [Identity(**unused).fit_codes(codes)]
    fitted += [MeanShift(rule=rule, **unused).fit_codes(codes) for rule in rules]
    return {predictor.name: predictor for predictor in fitted}


def random_pairing(split: Split, condition: Condition, n: int, seed: int) -> np.ndarray:
    """Return `n` random treated training cells of the context of a condition, without replacement.

    Raises
    ------
    ConditionError
        The context has fewer than `n`: distances between samples of different size are not comparable.
    """
    same = [c for c in split.train_conditions if c.control == condition.control]
    rows = np.concatenate([split.rows(c, Role.TRAIN) for c in same]) if same else np.zeros(0, np.int64)
    if len(rows) < n:
        raise ConditionError(f"its context has {len(rows)} treated training cells, {n} are needed")
    return generator(seed, repr(condition), RANDOM_PAIRING).permutation(rows)[:n]


def decoded(space: AbstractFittedSpace, z: np.ndarray) -> np.ndarray:
    """Return codes as expression, as a prediction reports it: not negative where the space's values cannot be."""
    values = np.asarray(space.decode(z))
    return np.maximum(values, 0.0) if space.nonnegative else values

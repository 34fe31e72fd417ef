"""The Monge map of one condition."""

import dataclasses
from pathlib import Path
from typing import Annotated

from jaxtyping import PRNGKeyArray
from pydantic import Field

from cellgap.encode import AbstractEncoder
from cellgap.errors import ConditionError
from cellgap.ot import Cost
from cellgap.settings import settings
from cellgap.space import AbstractSpace
from cellgap.study import Condition, Role, Split
from cellgap.transport._affine import Start
from cellgap.transport._codes import Codes
from cellgap.transport._conditional_monge import ConditionalMonge, FittedConditionalMonge, Widths, treatments_of
from cellgap.transport._objective import FitLoss
from cellgap.transport._train_map import Optimization


@settings
class Monge:
    """One map for one measured condition, by Sinkhorn divergence and Monge gap.

    The network sees cells only. It answers for the treatment it was fitted on, in any context, and leaves controls
    where they are.

    Parameters
    ----------
    space, encoder
        Where cells live; the encoder describes the condition in reports only.
    condition
        Text of the condition to fit; may be left out where the split trains on one only.
    start, fit_loss, cost, gap_cost, epsilon, gap_epsilon, relative, gap_weight, hidden, optimization
        As in `ConditionalMonge`.

    Notes
    -----
    Source: Uscidda and Cuturi 2023 ("The Monge Gap"), section 4; two-batch loss and start as in `ConditionalMonge`.
    """

    space: AbstractSpace
    encoder: AbstractEncoder
    condition: str | None = None
    start: Start = "gaussian"
    fit_loss: FitLoss = "two_batch"
    cost: Cost = "euclidean"
    gap_cost: Cost = "euclidean"
    epsilon: Annotated[float, Field(gt=0)] = 0.1
    gap_epsilon: Annotated[float, Field(gt=0)] = 0.001
    relative: bool = True
    gap_weight: Annotated[float, Field(ge=0)] = 1.0
    hidden: Widths = (64, 64, 64, 64)
    optimization: Optimization = Optimization()

    def fit(
        self, split: Split, *, key: PRNGKeyArray, folder: str | Path | None = None, progress: bool = False
    ) -> FittedConditionalMonge:
        """Return the map of the condition; see `ConditionalMonge.fit`.

        Raises
        ------
        ConditionError
            No condition was named and the split trains on several, or the named one is not trained on.
        """
        codes = Codes.of(split, self.space, self.encoder, progress=progress)
        return self.fit_codes(codes, key=key, folder=folder, progress=progress)

    def fit_codes(
        self, codes: Codes, *, key: PRNGKeyArray, folder: str | Path | None = None, progress: bool = False
    ) -> FittedConditionalMonge:
        """Return the map fitted on encoded cells; see `fit`."""
        condition = self._chosen(codes.split)
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "condition"}
        estimator = ConditionalMonge(**shared, conditioning="concat", embedding=1)
        one = dataclasses.replace(codes, split=only(codes.split, condition))
        fitted = estimator.fit_codes(one, key=key, folder=folder, progress=progress)
        return dataclasses.replace(fitted, name="Monge", only=treatments_of(condition))

    def _chosen(self, split: Split) -> Condition:
        if self.condition is None:
            if len(split.train_conditions) != 1:
                raise ConditionError(
                    f"Monge fits one condition, the split trains on {len(split.train_conditions)}: "
                    'name it, Monge(condition="..."), or take ConditionalMonge.'
                )
            return split.train_conditions[0]
        condition = split.study.resolve(self.condition)
        if condition not in split.train_conditions:
            raise ConditionError(f"{str(condition)!r} is not among the training conditions of the split.")
        return condition


def only(split: Split, condition: Condition) -> Split:
    """Return a split that trains and validates on one treated condition."""
    roles = split.roles.copy()
    for other in (*split.train_conditions, *split.valid_conditions):
        if other != condition:
            roles[split.rows(other, Role.TRAIN, Role.VALID)] = Role.UNUSED
    return dataclasses.replace(split, roles=roles, train_conditions=(condition,), valid_conditions=())

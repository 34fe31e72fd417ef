"""One fitted part of an encoder, and what encoding gives."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

from cellgap.study import Condition, Treatment


class EncodedCondition(NamedTuple):
    """A condition as numbers: one row a treatment (none for a control), and the context.

    The rows follow the sorted treatments; what reads them must not depend on their order.
    """

    entities: Float[np.ndarray, "m dim"]
    context: Float[np.ndarray, " context_dim"]


class EncodedConditions(NamedTuple):
    """Conditions as arrays of one size: ``mask`` says which rows are treatments."""

    entities: Float[np.ndarray, "k m dim"]
    mask: Bool[np.ndarray, "k m"]
    context: Float[np.ndarray, "k context_dim"]


class AbstractBlock(eqx.Module):
    """One fitted part of an encoder: it gives some columns of the treatment rows, or of the context."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of a treatment row."""

    @property
    @abstractmethod
    def context_columns(self) -> tuple[str, ...]:
        """Names of the columns of the context."""

    @property
    @abstractmethod
    def is_dose(self) -> bool:
        """Whether the first column is the dose, by which `FittedEncoder.vector` multiplies the descriptors."""

    @property
    @abstractmethod
    def saw_held_out(self) -> bool:
        """Whether held-out treated cells were read, so that results on them are not predictions of unseen data."""

    @property
    @abstractmethod
    def notes(self) -> tuple[str, ...]:
        """What a user should know about the fit, in sentences; empty where there is nothing."""

    @abstractmethod
    def treatment(self, treatment: Treatment) -> Float[np.ndarray, " columns"]:
        """Return the columns of one treatment; raises ``ConditionError`` where it cannot be encoded."""

    @abstractmethod
    def context(self, condition: Condition) -> Float[np.ndarray, " context_columns"]:
        """Return the columns of the context; raises ``ConditionError`` where it cannot be encoded."""

    @abstractmethod
    def extrapolation(self, condition: Condition) -> tuple[str, ...]:
        """Return in which respects a condition lies outside of what was trained on, in words."""

    @abstractmethod
    def with_structures(self, smiles: Mapping[str, str]) -> "AbstractBlock":
        """Return the block that also encodes new treatments by their SMILES; itself where it reads no molecules."""

"""What an encoder is: how a condition becomes numbers."""

from abc import ABC, abstractmethod

from cellgap.encode._block import AbstractBlock
from cellgap.encode._fitted import FittedEncoder
from cellgap.study import Split


class AbstractEncoder(ABC):
    """How a condition becomes numbers. ``first | second`` puts the columns of two encoders side by side."""

    @property
    @abstractmethod
    def parts(self) -> "tuple[AbstractEncoder, ...]":
        """The elementary encoders, in order; itself where it is elementary."""

    @abstractmethod
    def fit_blocks(self, split: Split) -> tuple[AbstractBlock, ...]:
        """Return the fitted blocks, one for each part, from the training conditions of a split."""

    @abstractmethod
    def fit(self, split: Split) -> FittedEncoder:
        """Return the fitted encoder, from the training conditions of a split."""

    @abstractmethod
    def __or__(self, other: "AbstractEncoder") -> "AbstractEncoder": ...

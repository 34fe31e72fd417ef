"""Encoders side by side: ``Table("drugs.csv") | Dose() | Context("cell_line")``."""

from cellgap.encode._block import AbstractBlock
from cellgap.encode._fitted import FittedEncoder
from cellgap.encode._interface import AbstractEncoder
from cellgap.errors import ConfigError
from cellgap.settings import settings
from cellgap.study import Split


@settings
class Joint(AbstractEncoder):
    """Several encoders, their columns side by side; written ``first | second``.

    Parameters
    ----------
    encoders
        Elementary encoders, at least one; a joint encoder among them is taken apart.
    """

    encoders: tuple[AbstractEncoder, ...]

    def __post_init__(self) -> None:
        flat = tuple(part for encoder in self.encoders for part in encoder.parts)
        if not flat:
            raise ConfigError("Joint needs at least one encoder, found none.")
        if len(set(flat)) < len(flat):
            twice = next(part for part in flat if flat.count(part) > 1)
            raise ConfigError(f"The encoder {twice!r} is joined twice: name each once.")
        object.__setattr__(self, "encoders", flat)

    @property
    def parts(self) -> tuple[AbstractEncoder, ...]:
        """The elementary encoders, in order."""
        return self.encoders

    def fit_blocks(self, split: Split) -> tuple[AbstractBlock, ...]:
        """Return the fitted blocks, one for each part, from the training conditions of a split."""
        return tuple(block for part in self.encoders for block in part.fit_blocks(split))

    def fit(self, split: Split) -> FittedEncoder:
        """Return the fitted encoder, from the training conditions of a split."""
        return FittedEncoder(self.fit_blocks(split))

    def __or__(self, other: AbstractEncoder) -> "Joint":
        return join(self, other)


def join(first: AbstractEncoder, second: AbstractEncoder) -> Joint:
    """Return two encoders side by side."""
    if not isinstance(second, AbstractEncoder):
        raise ConfigError(f"An encoder can be joined with an encoder only, found {type(second).__name__}.")
    return Joint((*first.parts, *second.parts))

"""How much noise hides a donor: Gaussian for rho, Laplace for pure epsilon."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import final, get_args

import numpy as np

from cellgap.errors import ConfigError
from cellgap.stream.release._noise import Backend, discrete_gaussian, discrete_laplace
from cellgap.stream.release._randomness import AbstractRandomness

_GRAIN = 1024


@final
@dataclass(frozen=True)
class Noise:
    """Noise of a mechanism, in lattice units.

    Parameters
    ----------
    variance
        Of the discrete Gaussian, exactly; None for Laplace noise.
    scale
        Of the discrete Laplace law, exactly; None for Gaussian noise.
    backend
        Who draws it.
    """

    variance: Fraction | None
    scale: Fraction | None
    backend: Backend

    def __post_init__(self) -> None:
        if self.backend not in get_args(Backend):
            raise ConfigError(f"Noise comes from {', '.join(get_args(Backend))}, found {self.backend!r}.")

    @property
    def sd(self) -> float:
        """Standard deviation (of Gaussian noise: a bound that is sharp from sigma = 1 on)."""
        if self.variance is not None:
            return math.sqrt(self.variance)
        assert self.scale is not None
        return math.sqrt(0.5) / math.sinh(0.5 / float(self.scale))

    @property
    def reach(self) -> int:
        """A size that a draw passes with a probability below exp(-60)."""
        if self.variance is not None:
            return 16 * (math.isqrt(math.ceil(self.variance)) + 1)
        assert self.scale is not None
        return 64 * math.ceil(self.scale)

    def draw(self, size: int, randomness: AbstractRandomness) -> np.ndarray:
        """Return `size` independent draws, (size,)."""
        if self.variance is not None:
            return discrete_gaussian(self.variance, size, randomness, self.backend)
        assert self.scale is not None
        return discrete_laplace(self.scale, size, randomness, self.backend)

    def in_words(self) -> str:
        """Return the law for a line of text."""
        law = "Gaussian" if self.variance is not None else "Laplace"
        return f"discrete {law} noise of sd {self.sd:.4g} lattice steps"


def gaussian_for(squared_sensitivity: int, rho: Fraction, backend: Backend) -> Noise:
    """Return Gaussian noise of variance ``sensitivity^2 / (2 rho)``."""
    return Noise(squared_sensitivity / (2 * rho), None, backend)


def laplace_for(sensitivity: int, epsilon: Fraction, backend: Backend) -> Noise:
    """Return Laplace noise of scale ``sensitivity / epsilon``, rounded up to a multiple of 1/1024.

    Rounded, its numerator stays small whatever epsilon is, and the sampler on arrays can take it.
    """
    return Noise(None, Fraction(math.ceil(sensitivity / epsilon * _GRAIN), _GRAIN), backend)

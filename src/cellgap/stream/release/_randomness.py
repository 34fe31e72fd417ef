"""Where noise comes from: the operating system, or, for tests alone, a seed."""

import os
from abc import ABC, abstractmethod
from typing import final

import numpy as np


class AbstractRandomness(ABC):
    """A source of uniform bits."""

    safe: bool
    """Whether nobody can predict them."""

    @abstractmethod
    def words(self, n: int) -> np.ndarray:
        """Return `n` uniform 64-bit words, (n,) uint64."""


@final
class SystemRandomness(AbstractRandomness):
    """The operating system's generator, `os.urandom`."""

    safe = True

    def words(self, n: int) -> np.ndarray:
        """Return `n` uniform 64-bit words, (n,) uint64."""
        return np.frombuffer(os.urandom(8 * n), np.uint64)


@final
class SeededRandomness(AbstractRandomness):
    """A seeded generator: for tests and simulations; what is drawn with it protects nobody.

    Parameters
    ----------
    seed
        Of the generator.
    """

    safe = False

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def words(self, n: int) -> np.ndarray:
        """Return `n` 64-bit words, (n,) uint64."""
        return self._generator.integers(0, 2**64, n, np.uint64)

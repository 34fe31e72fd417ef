"""What an engine is: rows in, axes out, in memory that does not grow with the rows."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from cellgap.stream.axes._moments import Moments
from cellgap.stream.axes._rows import Csr

Solver = Literal["gram", "blocks", "fd", "incremental"]


@dataclass(frozen=True, eq=False)
class Found:
    """The axes of the rows so far.

    Parameters
    ----------
    components
        Unit vectors, the largest first, (axes, genes).
    energy
        Sum of squares of the rows along each, (axes,).
    further
        Energy along the next axis, where it is known; else nan.
    modelled
        Share of the whole energy that the engine's own state accounts for.
    """

    components: Float[np.ndarray, "axes genes"]
    energy: Float[np.ndarray, " axes"]
    further: float
    modelled: float


class AbstractEngine(ABC):
    """A summary of rows from which their principal axes can be read at any time.

    Engines are values: `absorb` returns a new one. All arrays are float64.
    """

    solver: Solver
    moments: Moments
    center: bool
    factor: np.ndarray | None
    """One over the scale of each gene that the summary is in; None: unscaled."""

    @abstractmethod
    def absorb(self, rows: Csr) -> "AbstractEngine":
        """Return the summary of the rows so far and these."""

    @abstractmethod
    def axes(self, k: int) -> Found:
        """Return the first `k` axes, in units of the final scale."""

    @property
    @abstractmethod
    def next_end(self) -> int | None:
        """Number of the row before which a batch has to end; None: none has to."""

    @property
    def nbytes(self) -> int:
        """Memory of the summary, in bytes."""
        return _bytes(self)

    def energy(self) -> float:
        """Sum of squares about the mean (about 0 where rows are not centered), in units of the final scale."""
        return float(self.squares().sum())

    def squares(self) -> Float[np.ndarray, " genes"]:
        """Sum of squares of every gene, as in `energy`."""
        of_genes = self.moments.centered_squares if self.center else self.moments.raw_squares
        return of_genes if self.factor is None else of_genes / self.moments.sd**2


def _bytes(value: Any) -> int:
    if is_dataclass(value):
        return sum(_bytes(getattr(value, field.name)) for field in fields(value))
    return int(getattr(value, "nbytes", 0))

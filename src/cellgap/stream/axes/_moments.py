"""Mean and sum of squares of every gene, kept in one pass without losing digits."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cellgap.storage import storable
from cellgap.stream.axes._rows import Csr


@storable
@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over the rows so far, taken about a point near the mean: differences of large squares would lose digits.

    Parameters
    ----------
    n
        Rows.
    origin
        The point: the mean of the first batch, (genes,).
    total, squares
        Sums of ``x - origin`` and of its square, (genes,).
    """

    n: int
    origin: Float[np.ndarray, " genes"]
    total: Float[np.ndarray, " genes"]
    squares: Float[np.ndarray, " genes"]

    @classmethod
    def about(cls, rows: Csr) -> "Moments":
        """Return empty sums about the mean of some rows."""
        n, width = rows.shape
        origin = np.bincount(rows.indices, rows.data, minlength=width) / max(1, n)
        return cls(0, origin, np.zeros(width), np.zeros(width))

    def of(self, rows: Csr) -> "Moments":
        """Return the sums of these rows alone, about the same origin."""
        n, width = rows.shape
        off = rows.data - self.origin[rows.indices]
        zeros = n - np.bincount(rows.indices, minlength=width)
        total = np.ones(n) @ rows - n * self.origin
        squares = np.bincount(rows.indices, off * off, minlength=width) + zeros * self.origin**2
        return Moments(n, self.origin, total, squares)

    def __add__(self, other: "Moments") -> "Moments":
        return dataclasses.replace(
            self,
            n=self.n + other.n,
            total=self.total + other.total,
            squares=self.squares + other.squares,
        )

    @property
    def mean(self) -> Float[np.ndarray, " genes"]:
        """Mean of every gene."""
        return self.origin + self.total / max(1, self.n)

    @property
    def centered_squares(self) -> Float[np.ndarray, " genes"]:
        """Sum of the squared distances from the mean, for every gene; exactly 0 for a gene that is constant."""
        squares = self.squares - self.total**2 / max(1, self.n)
        # What rounding leaves of a constant gene is no spread.
        return np.where(squares > 1e-24 * self.n * self.mean**2, squares, 0.0)

    @property
    def raw_squares(self) -> Float[np.ndarray, " genes"]:
        """Sum of the squares of every gene."""
        return np.maximum(self.squares + 2 * self.origin * self.total + self.n * self.origin**2, 0.0)

    @property
    def sd(self) -> Float[np.ndarray, " genes"]:
        """Standard deviation of every gene (with n in the denominator); 1 for a gene that is constant."""
        sd = np.sqrt(self.centered_squares / max(1, self.n))
        return np.where(sd == 0, 1.0, sd)

"""What workers return: sums over some rows of the open block, which add up in any order."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cellgap.errors import DataError
from cellgap.stream.axes._blocks import Taken


@dataclass(frozen=True, eq=False)
class Partial:
    """Sums over some rows of a block.

    Parameters
    ----------
    block
        Number of the block.
    spans
        First row and row after the last of every stretch of rows that is in.
    taken
        The sums.
    numbers
        Statistics of the order check by first row.
    """

    block: int
    spans: tuple[tuple[int, int], ...]
    taken: Taken
    numbers: tuple[tuple[int, np.ndarray], ...]

    def __add__(self, other: "Partial") -> "Partial":
        """Return the sums over both.

        Raises
        ------
        DataError
            They are of different blocks, or rows are in both (a task that was repeated).
        """
        if self.block != other.block:
            raise DataError(f"Sums of the blocks {self.block} and {other.block} do not add up.")
        spans = sorted(self.spans + other.spans)
        joined: list[tuple[int, int]] = []
        for start, stop in spans:
            if joined and start < joined[-1][1]:
                raise DataError(f"Row {start} is in two of the sums: count every chunk once.")
            if joined and start == joined[-1][1]:
                joined[-1] = joined[-1][0], stop
            else:
                joined.append((start, stop))
        return Partial(self.block, tuple(joined), self.taken + other.taken, self.numbers + other.numbers)

    def covered(self) -> tuple[int, int]:
        """Return the first row and the row after the last.

        Raises
        ------
        DataError
            Rows are missing in between.
        """
        if len(self.spans) != 1:
            raise DataError(f"Rows {self.spans[0][1]} to {self.spans[1][0]} are missing in the sums.")
        return self.spans[0]

    def statistics(self) -> Iterator[np.ndarray]:
        """Yield the statistics of the order check in the order of the stream."""
        for _, values in sorted(self.numbers, key=lambda pair: pair[0]):
            if len(values):
                yield values

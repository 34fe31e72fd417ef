"""Are rows in random order? A check on numbers that do not depend on the directions of the data."""

import dataclasses
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from cellgap.storage import storable
from cellgap.stream.axes._rows import Csr, squared_norms

STATISTICS = ("log squared norm", "projection 1", "projection 2", "projection 3")
ALARM = 1e-4 / len(STATISTICS)
"""p value below which a statistic says that rows are not in random order."""
_COURSE = 512  # means kept for the picture


@storable
@dataclass(frozen=True, eq=False)
class OrderCheck:
    """Means of windows of rows against their spread inside: alike under random order.

    For each statistic ``F = b Var(window means) / mean(variance inside)`` follows an F distribution with
    ``C - 1`` and ``C (b - 1)`` degrees of freedom, for C windows of b rows. A check that is passed is no proof.

    Parameters
    ----------
    window
        Rows of a window (b).
    signs
        Directions of the projections, fixed before the stream, (genes, 3).
    windows
        Windows that are complete (C).
    means, squares, inside
        Sums over complete windows of the mean, of its square, and of the variance inside, (4,).
    open_n, open_sum, open_squares
        Of the open window.
    course
        Means of stretches of equal length, for a picture; at most 512, (stretches, 4).
    stretch, part_n, part
        Windows of a stretch, and those of the open one with the sum of their means.
    """

    window: int
    signs: Float[np.ndarray, "genes 3"]
    windows: int = 0
    means: Float[np.ndarray, " 4"] = field(default_factory=lambda: np.zeros(4))
    squares: Float[np.ndarray, " 4"] = field(default_factory=lambda: np.zeros(4))
    inside: Float[np.ndarray, " 4"] = field(default_factory=lambda: np.zeros(4))
    open_n: int = 0
    open_sum: Float[np.ndarray, " 4"] = field(default_factory=lambda: np.zeros(4))
    open_squares: Float[np.ndarray, " 4"] = field(default_factory=lambda: np.zeros(4))
    course: Float[np.ndarray, "stretches 4"] = field(default_factory=lambda: np.zeros((0, 4)))
    stretch: int = 1
    part_n: int = 0
    part: Float[np.ndarray, " 4"] = field(default_factory=lambda: np.zeros(4))

    @classmethod
    def start(cls, width: int, window: int = 64, seed: int = 0) -> "OrderCheck":
        """Return the check of no rows."""
        return cls(window, np.random.default_rng(seed).choice([-1.0, 1.0], (width, 3)))

    def statistics(self, rows: Csr) -> Float[np.ndarray, "rows 4"]:
        """Return the four numbers of every row."""
        norms = squared_norms(rows, None)
        safe = np.where(norms > 0, norms, 1.0)
        # The largest gene alone must not decide: projections are of the row's direction.
        return np.column_stack([np.log(safe), (rows @ self.signs) / np.sqrt(safe)[:, None]])

    def add(self, values: Float[np.ndarray, "rows 4"]) -> "OrderCheck":
        """Return the check with the numbers of further rows."""
        new = self
        for start in self._cuts(len(values)):
            new = new._window(values[start])
        return new

    def _cuts(self, n: int) -> list[slice]:
        edges = list(range(self.window - self.open_n, n, self.window))
        return [slice(a, b) for a, b in zip([0, *edges], [*edges, n], strict=True) if b > a]

    def _window(self, values: Float[np.ndarray, "rows 4"]) -> "OrderCheck":
        n = self.open_n + len(values)
        total, squares = self.open_sum + values.sum(axis=0), self.open_squares + (values**2).sum(axis=0)
        if n < self.window:
            return dataclasses.replace(self, open_n=n, open_sum=total, open_squares=squares)
        mean = total / n
        inside = np.maximum(squares - n * mean**2, 0.0) / (n - 1)
        course, stretch, part, part_n = self.course, self.stretch, self.part + mean, self.part_n + 1
        if part_n == stretch:
            course, part, part_n = np.concatenate([course, (part / part_n)[None]]), np.zeros(4), 0
        if len(course) > _COURSE:
            # The last one begins a stretch of twice the length.
            part, part_n = course[-1] * stretch, stretch
            course, stretch = (course[:-1:2] + course[1::2]) / 2, 2 * stretch
        return dataclasses.replace(
            self, windows=self.windows + 1, means=self.means + mean, squares=self.squares + mean**2,
            inside=self.inside + inside, open_n=0, open_sum=np.zeros(4), open_squares=np.zeros(4),
            course=course, stretch=stretch, part=part, part_n=part_n,
        )  # fmt: skip

    def result(self) -> dict[str, tuple[float, float]]:
        """Return ``(F, p)`` of every statistic; empty below eight windows, which say nothing."""
        from scipy.special import fdtrc

        c, b = self.windows, self.window
        if c < 8:
            return {}
        between = b * np.maximum(self.squares - self.means**2 / c, 0.0) / (c - 1)
        inside = self.inside / c
        # Numbers that never change are in any order, and their rounding is no change.
        level = 1e-12 * b * self.squares / c + np.finfo(float).tiny
        ratio = (between + level) / (inside + level)
        return {
            name: (float(value), float(fdtrc(c - 1, c * (b - 1), value)))
            for name, value in zip(STATISTICS, ratio, strict=True)
        }

    def alarm(self) -> str | None:
        """Return which statistic says that rows are not in random order, and how clearly; None: none does."""
        found = {name: fp for name, fp in self.result().items() if fp[1] < ALARM}
        if not found:
            return None
        name = max(found, key=lambda n: found[n][0])
        return (
            f"rows are not in random order: the {name} varies between windows of {self.window} rows "
            f"{found[name][0]:.3g} times as much as inside (p = {found[name][1]:.1g})"
        )


@storable
@dataclass(frozen=True, eq=False)
class LabelCheck:
    """Are the labels of rows (plates, donors) spread evenly? In memory that grows with the labels alone.

    Parameters
    ----------
    window
        Rows of a window.
    counts, squares
        Rows of each label, and the sum over complete windows of the squares of its count.
    open_n, open_counts
        Of the open window.
    """

    window: int
    counts: dict[str, int] = field(default_factory=dict)
    squares: dict[str, int] = field(default_factory=dict)
    open_n: int = 0
    open_counts: dict[str, int] = field(default_factory=dict)

    def add(self, labels: np.ndarray) -> "LabelCheck":
        """Return the check with the labels of further rows."""
        counts, squares = dict(self.counts), dict(self.squares)
        inside, n = dict(self.open_counts), self.open_n
        start = 0
        while start < len(labels):
            stop = min(len(labels), start + self.window - n)
            names, found = np.unique(np.asarray(labels[start:stop], str), return_counts=True)
            for name, number in zip(names.tolist(), found.tolist(), strict=True):
                inside[name] = inside.get(name, 0) + number
            n += stop - start
            start = stop
            if n == self.window:
                for name, number in inside.items():
                    counts[name] = counts.get(name, 0) + number
                    squares[name] = squares.get(name, 0) + number * number
                inside, n = {}, 0
        return LabelCheck(self.window, counts, squares, n, inside)

    def result(self) -> tuple[float, float] | None:
        """Return chi-square over its degrees of freedom, and p; None where there are too few windows or labels."""
        from scipy.special import chdtrc

        n = sum(self.counts.values())
        windows, labels = n // self.window, len(self.counts)
        if windows < 8 or labels < 2:
            return None
        value = sum(self.squares[name] * n / self.counts[name] for name in self.counts) / self.window - n
        freedom = (windows - 1) * (labels - 1)
        return value / freedom, float(chdtrc(freedom, value))

"""What a one-pass answer is worth: eigenvalue ratios, heavy rows, the order of rows, what was not modelled."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from cellgap.gap import Gap
from cellgap.stream.axes._blocks import Blocks
from cellgap.stream.axes._engine import AbstractEngine, Found
from cellgap.stream.axes._order import LabelCheck, OrderCheck
from cellgap.stream.axes._stream_settings import StreamSettings

UNSTABLE = 1.05
"""Ratio of neighboring eigenvalues below which only the plane of two axes is known."""


@dataclass(frozen=True, eq=False)
class StreamReport:
    """What is known of a stream.

    Parameters
    ----------
    solver
        The engine.
    rows, genes
        Rows taken in, and genes.
    energy
        Sum of squares along each axis, (k,).
    ratio
        Of each eigenvalue to the next, (k,); nan where the next is not known.
    whole
        Sum of squares of all rows about the mean.
    unmodelled_share
        Share of it that the summary does not hold; 0 for "gram".
    blocks, heavy_kept, heavy_passed, threshold
        Of "blocks": closed blocks, heavy rows kept and those without room, squared norm of a heavy row.
    order
        ``{statistic: (F, p)}``; see `OrderCheck`.
    alarm
        Which of them is in alarm; None: none.
    labels
        Chi-square over degrees of freedom of labels against windows, and p; None: no labels were given.
    course
        Means of the statistics over the stream, (stretches, 4).
    nbytes
        Memory of the summary.
    any_order
        Whether the answer stands whatever the order of rows.
    """

    solver: str
    rows: int
    genes: int
    energy: Float[np.ndarray, " k"]
    ratio: Float[np.ndarray, " k"]
    whole: float
    unmodelled_share: float
    blocks: int
    heavy_kept: int
    heavy_passed: int
    threshold: float
    order: dict[str, tuple[float, float]]
    alarm: str | None
    labels: tuple[float, float] | None
    course: Float[np.ndarray, "stretches 4"]
    nbytes: int
    any_order: bool

    @property
    def gap(self) -> float:
        """R: the first eigenvalue over the second."""
        return float(self.ratio[0])

    @property
    def unstable(self) -> Bool[np.ndarray, " k"]:
        """Which axes are so close to the next that only their plane is known."""
        return self.ratio < UNSTABLE

    def table(self) -> pd.DataFrame:
        """Return a row an axis: ``axis, variance, share, cumulated, ratio, unstable``."""
        share = self.energy / self.whole
        return pd.DataFrame(
            {
                "axis": np.arange(1, len(self.energy) + 1),
                "variance": self.energy / max(1, self.rows - 1),
                "share": share,
                "cumulated": np.cumsum(share),
                "ratio": self.ratio,
                "unstable": self.unstable,
            }
        )

    def facts(self) -> dict[str, Any]:
        """Return the numbers as plain values for JSON."""
        return {
            "solver": self.solver, "rows": self.rows, "genes": self.genes, "gap": _plain(self.gap),
            "explained": float(self.energy.sum() / self.whole), "unmodelled_share": self.unmodelled_share,
            "blocks": self.blocks, "heavy_kept": self.heavy_kept, "heavy_passed": self.heavy_passed,
            "order": {name: {"F": _plain(f), "p": p} for name, (f, p) in self.order.items()}, "alarm": self.alarm,
            "labels": None if self.labels is None else list(self.labels), "nbytes": self.nbytes,
            "energy": self.energy.tolist(), "ratio": [_plain(r) for r in self.ratio],
        }  # fmt: skip


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def report_of(
    engine: AbstractEngine, found: Found, settings: StreamSettings, order: OrderCheck, labels: LabelCheck | None
) -> StreamReport:
    """Return what is known of a stream."""
    following = np.append(found.energy[1:], found.further)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(following > 0, found.energy / following, np.where(np.isnan(following), np.nan, np.inf))
    blocks = engine if isinstance(engine, Blocks) else None
    any_order = engine.solver in ("gram", "fd") or (blocks is not None and blocks.first is not None)
    return StreamReport(
        engine.solver, engine.moments.n, len(engine.moments.origin), found.energy, ratio, engine.energy(),
        1.0 - found.modelled, blocks.closed if blocks else 0, len(blocks.heavy) if blocks else 0,
        blocks.passed if blocks else 0, blocks.threshold if blocks else 0.0, order.result(),
        order.alarm() if settings.order == "check" else None, labels.result() if labels else None, order.course,
        engine.nbytes, any_order,
    )  # fmt: skip


def gaps_of(report: StreamReport) -> list[Gap]:
    """Return the gaps of a stream."""
    r = report.gap
    exact = report.solver == "gram"
    if exact:
        promise = "the answer is exact whatever the gap"
    elif report.any_order:
        promise = "the answer does not depend on the order of rows"
    elif not r > 1:
        promise = "the published guarantee says nothing at a gap of 1"
    else:
        promise = (
            f"in random order the published guarantee is a correlation of 1 - O(1/sqrt(R)), 1/sqrt(R) = {r**-0.5:.2g}"
        )
    worst = int(np.nanargmin(report.ratio)) if np.isfinite(report.ratio).any() else 0
    gaps = [
        Gap(
            "spectral gap",
            0.0 if math.isinf(r) else float(r**-0.5),
            f"1/sqrt(R), R = {r:.3g}; 0 = one axis has all energy; {promise}",
            "near 1 the first two axes cannot be told apart, and a one-pass answer may turn them",
            "read the plane of such axes, not each; use solver='gram', or refine() with a second pass",
        ),
        Gap(
            "closest axes",
            0.0 if not np.isfinite(report.ratio[worst]) else float(1.0 / report.ratio[worst]),
            f"largest ratio of an eigenvalue to the one before it, axis {worst + 1}; 1 = the two are one plane; "
            f"{int(report.unstable.sum())} of {len(report.ratio)} axes are within 5 % of the next",
            "such axes are known up to a rotation among themselves",
            "choose k where the spectrum falls, or use what does not depend on rotations",
        ),
        Gap(
            "not modelled",
            report.unmodelled_share,
            "share of the energy that the summary does not hold; what lies beyond the axes counts as well",
            "a flat spectrum, or axes that were missed",
            "raise k, oversample or rank",
        ),
    ]
    if report.order and not report.any_order:
        name = max(report.order, key=lambda n: report.order[n][0])
        f, p = report.order[name]
        gaps.append(
            Gap(
                "order of rows",
                max(0.0, f - 1.0),
                f"excess of the variance between windows over that inside, {name}, p = {p:.2g}; 0 = random order",
                "rows come sorted (plates, donors), and directions of the last ones win",
                "read in shuffled chunks (fit_backed does), or use solver='gram' or 'fd'",
            )
        )
    if report.solver == "blocks":
        gaps.append(
            Gap(
                "heavy rows without room",
                float(report.heavy_passed),
                f"rows above the threshold that were not kept; {report.heavy_kept} are kept",
                "the guarantee needs every heavy row",
                "raise heavy_rows",
            )
        )
    return gaps

"""Figures of one-pass principal axes: spectrum, ratios of eigenvalues, order of rows, cells on the first two axes."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cellgap.report._density import sample
from cellgap.report._draw import (
    CONTROL,
    GRID,
    INK,
    MEASURED,
    MUTED,
    PREDICTED,
    SMALL,
    dots,
    linear,
    logarithmic,
    panel,
    subpanel,
    to_svg,
)
from cellgap.report._picture import Picture
from cellgap.report._words import count, listing, number, shorten

if TYPE_CHECKING:
    from cellgap.stream.axes import StreamReport

STATISTICS = ("log squared norm", "projection 1", "projection 2", "projection 3")
ALARM = 1e-4 / len(STATISTICS)
"""p value below which a statistic says that rows are not in random order, as in the check itself."""
LABELS = tuple(f"#0{i}a0b{i}" for i in range(8))
"""Placeholder colors of labels; the page gives them their colors, light and dark."""
_WINDOW = 64  # rows of a window of the check
_TOP = 1.6  # ratios above are drawn at the edge
_CELLS = 4000


def percent(share: float) -> str:
    """Return a share as ``"12.3 %"``."""
    if not np.isfinite(share):
        return "n/a"
    value = 100 * float(share)
    return f"{value:.1f} %" if value >= 0.95 or value == 0 else f"{number(value, 2)} %"


def scree_picture(report: "StreamReport") -> Picture | None:
    """Return the share of the variance of each axis, and the cumulated share below; None where there is no variance."""
    if not report.whole > 0 or not np.isfinite(report.energy).all():
        return None
    share = 100 * report.energy / report.whole
    axis = np.arange(1, len(share) + 1)
    fig, _ = panel(360, 330)
    fig.clear()
    ax = subpanel(fig, 52, 14, 294, 160)
    unstable = report.unstable
    for drawn, color in ((~unstable, MEASURED), (unstable, "none")):
        ax.bar(axis[drawn], share[drawn], width=0.72, facecolor=color, edgecolor=MEASURED, linewidth=1.2)
    ax.set_ylabel("share (%)")
    ax.set_ylim(0, 1.06 * max(float(share.max()), 1e-9))
    low = subpanel(fig, 52, 190, 294, 96)
    low.plot(axis, np.cumsum(share), color=INK, linewidth=1.6, marker="o", markersize=3.5 if len(axis) <= 30 else 0)
    low.set_ylim(0, max(106.0 if np.sum(share) > 60 else 1.15 * float(np.sum(share)), 1e-9))
    low.set_ylabel("cumulated (%)")
    low.set_xlabel("axis")
    for part in (ax, low):
        _axis_numbers(part, len(axis))
        linear(part.yaxis)
        part.grid(axis="y", color=GRID, linewidth=0.8)
        part.set_axisbelow(True)
    ax.set_xticklabels([])
    hollow = " Hollow: within 5 % of the next axis, so that only their plane is known." if unstable.any() else ""
    sentence = (
        f"Share of the variance along {count(len(axis), 'axis', 'axes')}, and below it the cumulated share: "
        f"{percent(share[0] / 100)} along the first, {percent(share.sum() / 100)} along all.{hollow}"
    )
    return Picture(to_svg(fig, sentence, "scree"), sentence)


def ratio_picture(report: "StreamReport") -> Picture | None:
    """Return the ratio of each eigenvalue to the next; None where none is known."""
    ratio, k = report.ratio, len(report.ratio)
    axis = np.arange(1, k + 1)
    known = ~np.isnan(ratio)
    if not known.any():
        return None
    finite = ratio[np.isfinite(ratio)]
    largest = float(finite.max()) if len(finite) else 0.0
    top = _TOP if not np.isfinite(ratio[known]).all() else min(_TOP, max(1.12, 1 + 1.15 * (largest - 1)))
    fig, ax = panel(360, 330, left=52, top=42, bottom=44)
    ax.axhspan(1.0, 1.05, color=GRID, alpha=0.6, linewidth=0, zorder=0)
    ax.axhline(1.0, color=MUTED, linewidth=1.2, zorder=1)
    ax.axhline(1.05, color=PREDICTED, linewidth=1.4, linestyle=(0, (4, 2)), zorder=1)
    inside, above = known & (ratio <= top), known & (ratio > top)
    stem = np.minimum(ratio, top)
    ax.vlines(axis[known], 1.0, stem[known], color=CONTROL, linewidth=1.2, alpha=0.6)
    unstable = report.unstable
    for drawn, face in ((inside & ~unstable, MEASURED), (inside & unstable, "none")):
        ax.plot(axis[drawn], ratio[drawn], "o", color=MEASURED, markerfacecolor=face, markersize=5.5, linestyle="none")
    edge = axis[above]
    ax.plot(edge, np.full(len(edge), top), "^", color=MEASURED, markersize=6.5, clip_on=False, linestyle="none")
    texts = [number(ratio[place - 1]) for place in edge]
    if all(a + 1 < b or 296 / k > 30 for a, b in pairwise(edge)) and 296 / k > 14:
        for place, text in zip(edge, texts, strict=True):
            ax.annotate(text, (place, top), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=SMALL)
    bottom = min(0.98, float(finite.min()) - 0.01) if len(finite) else 0.98
    ax.set_ylim(bottom, top)
    _axis_numbers(ax, k)
    step = 0.2 if top > 1.3 else 0.05
    ax.set_yticks([t for t in np.arange(1.0, top + 0.01, step) if t >= bottom])
    ax.yaxis.set_major_formatter(lambda x, _: f"{x:.2f}")
    fig.text(
        1 - 14 / 360, 1 - 14 / 330, "plane only below 1.05", color=PREDICTED, weight="bold", va="center", ha="right"
    )
    ax.set_xlabel("axis")
    ax.set_ylabel("eigenvalue over the next")
    beyond = f" Triangles: above {number(top)}, see the table." if len(edge) else ""
    under = " Below 1 the estimates are not in order." if (finite < 1).any() else ""
    lost = f" Not known for {count(int((~known).sum()), 'axis', 'axes')}." if not known.all() else ""
    sentence = (
        "Each eigenvalue over the next: at 1 the two axes are one plane, and below 1.05 (dashed, hollow) only that "
        f"plane is known.{beyond}{under}{lost}"
    )
    return Picture(to_svg(fig, sentence, "ratio"), sentence)


def _axis_numbers(ax: Axes, k: int) -> None:
    ax.set_xlim(0.4, k + 0.6)
    if k <= 10:
        ax.set_xticks(range(1, k + 1))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.set_xticks([t for t in ax.get_xticks() if 1 <= t <= k])


def alarm_line(report: "StreamReport") -> float:
    """Return F at which a statistic is in alarm; nan where the number of windows cannot be told from F and p."""
    from scipy.special import fdtrc, fdtri

    if not report.order:
        return float("nan")
    told = [(f, p) for f, p in report.order.values() if np.isfinite(f)]
    # The newest rows may wait for their batch.
    for windows in range(report.rows // _WINDOW, max(7, report.rows // _WINDOW - 64), -1):
        freedom = (windows - 1, windows * (_WINDOW - 1))
        if all(np.isclose(fdtrc(*freedom, f), p, rtol=1e-6, atol=1e-12) for f, p in told):
            return float(fdtri(*freedom, 1 - ALARM))
    return float("nan")


def order_picture(report: "StreamReport") -> Picture | None:
    """Return F of each statistic of the rows against the line of alarm; None where they were not checked."""
    if not report.order:
        return None
    names = list(report.order)
    values = np.array([report.order[name][0] for name in names])
    alarmed = np.array([report.order[name][1] < ALARM for name in names])
    line = alarm_line(report)
    finite = np.concatenate([values[np.isfinite(values)], [line] if np.isfinite(line) else [], [1.0]])
    height = 96 + 34.0 * len(names)
    fig, ax = panel(360, height, left=124, right=52, top=34, bottom=44)
    least, most = float(finite.min()), float(finite.max())
    if most > 6:
        low, high = min(0.8, 0.9 * max(least, 0.1)), 1.3 * most
        ax.set_xscale("log")
        logarithmic(ax.xaxis, low, high, 5)
    else:
        low, high = min(0.5, least), most + 0.12 * (most - min(0.5, least))
        linear(ax.xaxis)
    ax.set_xlim(low, high)
    ax.axvline(1.0, color=MUTED, linewidth=1.2)
    if np.isfinite(line):
        ax.axvline(line, color=PREDICTED, linewidth=1.6, linestyle=(0, (4, 2)))
    for y, (value, alarm) in enumerate(zip(values, alarmed, strict=True)):
        x = min(max(value, low), high)
        ax.plot([1.0, x], [y, y], color=PREDICTED if alarm else MEASURED, linewidth=3.0, solid_capstyle="butt")
        marker = "D" if alarm else "o"
        ax.plot(x, y, marker, color=PREDICTED if alarm else MEASURED, markersize=7, clip_on=False)
        fig.text(1 - 6 / 360, 1 - (34 + (y + 0.5) * (height - 78) / len(names)) / height, number(value), ha="right",
                 va="center", fontsize=SMALL)  # fmt: skip
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.set_xlabel("F: between stretches over inside")
    fig.text(12 / 360, 1 - 14 / height, "random order: 1", color=MUTED, weight="bold", va="center")
    if np.isfinite(line):
        text = f"alarm: {number(line)} (dashed)"
        fig.text(134 / 360, 1 - 14 / height, text, color=PREDICTED, weight="bold", va="center")
    bad = [name for name, alarm in zip(names, alarmed, strict=True) if alarm]
    told = f"in alarm: {listing(bad)}" if bad else "none is in alarm"
    sentence = (
        "Variance of four numbers of the rows between windows of the stream, over what random order gives (F); "
        f"{told}. The projections are along directions fixed before the stream."
    )
    return Picture(to_svg(fig, sentence, "order"), sentence)


def course_picture(report: "StreamReport") -> Picture | None:
    """Return the four statistics over the stream; None where there are fewer than two stretches."""
    course = np.asarray(report.course, float)
    if len(course) < 2 or course.shape[1] != len(STATISTICS):
        return None
    fig, _ = panel(860, 360)
    fig.clear()
    # Stretches are of equal length; the rows after the last one are not drawn.
    at = (np.arange(len(course)) + 0.5) / len(course) * 100
    for j, name in enumerate(STATISTICS):
        row, column = divmod(j, 2)
        x, y = 60 + 420 * column, 30 + 166 * row
        ax = subpanel(fig, x, y, 366, 106)
        ax.axhline(float(course[:, j].mean()), color=CONTROL, linewidth=1.2, linestyle=(0, (2, 2)))
        if len(course) <= 60:
            ax.plot(at, course[:, j], color=MEASURED, linewidth=1.4, marker="o", markersize=3.5)
        else:
            ax.plot(at, course[:, j], color=MEASURED, linewidth=1.0)
        ax.set_xlim(0, 100)
        ax.margins(y=0.12)
        linear(ax.xaxis, 5)
        linear(ax.yaxis, 3)
        alarm = report.order.get(name, (np.nan, 1.0))[1] < ALARM
        text, color = (f"{name}: in alarm", PREDICTED) if alarm else (name, INK)
        fig.text(x / 860, 1 - (y - 14) / 360, text, color=color, weight="bold", va="center")
        if row:
            ax.set_xlabel("of the stream (%)")
        else:
            ax.set_xticklabels([])
    sentence = (
        f"Means over {count(len(course), 'stretch', 'stretches')} of the stream, each number on its own scale, with "
        "the mean of all (dotted). In random order they scatter about it without a trend, and without steps."
    )
    return Picture(to_svg(fig, sentence, "course"), sentence)


def scatter_picture(
    coordinates: np.ndarray, labels: Sequence[Any] | np.ndarray, name: str, report: "StreamReport"
) -> Picture | None:
    """Return cells on the first two axes in the colors of their labels; None where there is nothing to draw."""
    xy = np.asarray(coordinates, float)
    if xy.ndim != 2 or xy.shape[1] < 2 or not len(xy):
        return None
    kept = np.isfinite(xy[:, :2]).all(axis=1)
    of = np.array(["none" if pd.isna(label) else str(label) for label in labels]) if len(labels) else None
    xy = xy[kept, :2]
    some = sample(len(xy), _CELLS)
    xy = xy[some]
    if not len(xy):
        return None
    groups: list[tuple[str, str, np.ndarray]] = [("", MEASURED, np.ones(len(xy), bool))]
    if of is not None:
        of = of[kept][some]
        names, sizes = np.unique(of, return_counts=True)
        names = names[np.argsort(-sizes, kind="stable")]
        shown = names if len(names) <= len(LABELS) else names[: len(LABELS) - 1]
        groups = [(str(label), LABELS[i], of == label) for i, label in enumerate(shown)]
        rest = ~np.isin(of, shown)
        if rest.any():
            groups.insert(0, (count(len(names) - len(shown), "other"), CONTROL, rest))
    side = 170 if of is not None else 0
    width, height = 520.0 + side, 430.0
    fig, ax = panel(width, height, left=56, right=14 + side, top=14, bottom=44)
    for _, color, cells in groups:
        dots(ax, xy[cells, 0], xy[cells, 1], color, size=3.4, alpha=0.65)
    low, high = xy.min(axis=0), xy.max(axis=0)
    margin = 0.05 * np.where(high > low, high - low, 1.0)
    ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    share = report.energy / report.whole
    for axis, label in ((ax.xaxis, 0), (ax.yaxis, 1)):
        linear(axis)
        told = f" ({percent(share[label])} of the variance)" if len(share) > label else ""
        axis.label.set_text(f"axis {label + 1}{told}")
    if of is not None:
        _named(ax, xy, [group for group in groups if group[1] != CONTROL], (450.0, 372.0))
        ordered = [group for group in groups if group[1] != CONTROL] + [g for g in groups if g[1] == CONTROL]
        for place, (label, color, cells) in enumerate(ordered):
            y = 1 - (24 + 20 * place) / height
            x = (width - side + 4) / width
            text = f"{shorten(label, 16)} ({int(cells.sum()):,})"
            fig.text(x, y, "●", color=color, va="center")
            fig.text(x + 15 / width, y, text, va="center", fontsize=SMALL)
    drawn = count(len(xy), "cell")
    colors = f", by {name}" if of is not None else ""
    unstable = len(report.ratio) and report.ratio[0] < 1.05
    turned = " The two axes are known up to a rotation in this plane." if unstable else ""
    sentence = f"A sample of {drawn} on the first two axes{colors}.{turned}"
    svg = to_svg(fig, sentence, "cloud")
    for i, color in enumerate(LABELS):
        svg = svg.replace(color, f"var(--label-{i})")
    return Picture(svg, sentence)


def _named(ax: Axes, xy: np.ndarray, groups: list[tuple[str, str, np.ndarray]], pixels: tuple[float, float]) -> None:
    """Write labels at the medians of their cells, the larger first, where there is room."""
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    taken: list[tuple[float, float, float]] = []
    for label, _, cells in groups:
        x, y = np.median(xy[cells], axis=0)
        text = shorten(label, 16)
        at = (x - x0) / (x1 - x0) * pixels[0], (y - y0) / (y1 - y0) * pixels[1]
        half = 3.8 * len(text)
        if any(abs(at[1] - v) < 15 and abs(at[0] - u) < half + w for u, v, w in taken):
            continue
        if not half < at[0] < pixels[0] - half:
            continue
        taken.append((at[0], at[1], half))
        ax.annotate(text, (x, y), ha="center", va="center", fontsize=SMALL, weight="bold", color=INK, zorder=6)

"""Figures of private releases: what the budget went to, courses with their bounds, and the last values."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cellgap.report._draw import (
    CONTROL,
    GRID,
    INK,
    MEASURED,
    MUTED,
    PREDICTED,
    SMALL,
    linear,
    panel,
    subpanel,
    to_svg,
)
from cellgap.report._picture import Picture
from cellgap.report._words import count, number, shorten

if TYPE_CHECKING:
    from cellgap.report._release import ReleaseData, ReleasedStatistic

RHO = "\N{GREEK SMALL LETTER RHO}"
DRAWN = 8
"""Columns of a statistic whose course is drawn."""
BARS = 20
"""Last values that are drawn."""
_BUDGETED = 12


def budget_picture(data: "ReleaseData") -> Picture | None:
    """Return how the statistics fill the budget, one after the other; None where there is no budget."""
    if not (np.isfinite(data.rho_total) and data.rho_total > 0):
        return None
    rows = [(s.name, float(s.rho), MEASURED) for s in data.statistics]
    if len(rows) > _BUDGETED:
        rest = rows[_BUDGETED - 1 :]
        rows = [*rows[: _BUDGETED - 1], (f"{len(rest)} further", sum(rho for _, rho, _ in rest), MEASURED)]
    known = sum(rho for _, rho, _ in rows)
    if data.rho_spent - known > 1e-9 * data.rho_total:
        rows.append(("not on this page", data.rho_spent - known, CONTROL))
    left = max(0.0, data.rho_total - max(data.rho_spent, known))
    names = [shorten(name, 20) for name, _, _ in rows] + ["left"]
    side, height = 24 + 7.2 * max(map(len, names)), 54 + 24.0 * len(names)
    fig, ax = panel(760, height, left=side, right=96, top=10, bottom=44)
    start = 0.0
    for y, (_, rho, color) in enumerate(rows):
        ax.barh(y, rho, left=start, color=color, height=0.68, linewidth=0)
        start += rho
    if left > 0:
        ax.barh(len(rows), left, left=start, facecolor="none", edgecolor=CONTROL, height=0.68, linewidth=1.4)
    for y, rho in enumerate([*(rho for _, rho, _ in rows), left]):
        text = f"{number(rho)} ({100 * rho / data.rho_total:.0f} %)"
        at = 1 - (10 + (y + 0.5) * (height - 54) / len(names)) / height
        fig.text(1 - 6 / 760, at, text, ha="right", va="center", fontsize=SMALL)
    most = max(data.rho_total, start)
    ax.axvline(data.rho_total, color=PREDICTED if start > data.rho_total * (1 + 1e-9) else MUTED, linewidth=1.4)
    ax.set_xlim(0, most * 1.005)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    linear(ax.xaxis, 6)
    ax.set_xlabel(RHO)
    sentence = (
        f"What the budget of {RHO} = {number(data.rho_total)} is reserved for, one statistic after the other: "
        f"{number(data.rho_spent)} is reserved, {number(left)} is left."
    )
    return Picture(to_svg(fig, sentence, "budget"), sentence)


def courses_picture(statistic: "ReleasedStatistic", name: str) -> Picture | None:
    """Return the released course of some columns with their bounds; None where no value is a number."""
    values = statistic.values
    low, high = statistic.ends()
    drawable = np.flatnonzero(np.isfinite(values).any(axis=0))
    if not len(drawable):
        return None
    drawn = drawable
    if len(drawable) > DRAWN:
        drawn = drawable[np.argsort(-np.abs(np.nan_to_num(values[-1, drawable])), kind="stable")[:DRAWN]]
    n = len(drawn)
    columns = n if n < 4 else 4
    rows = -(-n // columns)
    left, top, gap, over = 66.0, 12.0, 14.0, 24.0
    width = min(300.0, (860 - left - 14 - gap * (columns - 1)) / columns)
    height = 150.0 if columns < 4 else 120.0
    full = left + columns * width + gap * (columns - 1) + 14, top + rows * (over + height) + 46
    fig, _ = panel(*full)
    fig.clear()
    ends = _frame(values[:, drawn], low[:, drawn], high[:, drawn])
    for place, column in enumerate(drawn):
        row, at = divmod(place, columns)
        x, y = left + at * (width + gap), top + over + row * (over + height)
        ax = subpanel(fig, x, y, width, height)
        _course(ax, statistic.times, values[:, column], low[:, column], high[:, column], ends)
        lowest = place + columns >= n
        if not lowest:
            ax.set_xticklabels([])
        if lowest:
            ax.set_xlabel("step")
        if at:
            ax.set_yticklabels([])
        title = shorten(statistic.columns[column], int(width / 7.4))
        fig.text(x / full[0], 1 - (y - 11) / full[1], title, weight="bold", va="center", fontsize=SMALL)
    if statistic.unit:
        middle = 1 - (top + over + (full[1] - top - over - 46) / 2) / full[1]
        text = shorten(statistic.unit, int((full[1] - 20) / 6.8))
        fig.text(13 / full[0], middle, text, rotation=90, ha="center", va="center")
    which = ""
    if n < len(statistic.columns):
        which = f"The {n} of {count(len(statistic.columns), 'feature')} whose last released value is largest in size. "
    band = (
        "The intervals hold at all steps and features together with 95 %." if _any(low, high) else "No bound is known."
    )
    open_end = " An interval without an end runs to the edge." if _open(low, high) else ""
    sentence = f"{which}Released values over {count(len(values), 'step')}. {band}{open_end}"
    return Picture(to_svg(fig, sentence, name), sentence)


def _course(
    ax: Axes, times: np.ndarray, values: np.ndarray, low: np.ndarray, high: np.ndarray, ends: tuple[float, float]
) -> None:
    low, high = np.clip(low, *ends), np.clip(high, *ends)
    if ends[0] < 0 < ends[1]:
        ax.axhline(0, color=CONTROL, linewidth=1.0, zorder=0)
    if len(times) == 1:
        ax.vlines(times, low, high, color=MEASURED, linewidth=6, alpha=0.3)
        ax.plot(times, values, "o", color=MEASURED, markersize=6)
        ax.set_xticks(times, [f"{int(t):,}" for t in times])
        ax.set_xlim(float(times[0]) - 1, float(times[0]) + 1)
    else:
        ax.fill_between(times, low, high, color=MEASURED, alpha=0.2, linewidth=0)
        few = len(times) <= 24
        ax.plot(times, values, color=MEASURED, linewidth=1.6, marker="o" if few else "", markersize=3.5)
        linear(ax.xaxis)
        margin = 0.03 * float(times[-1] - times[0])
        ax.set_xlim(float(times[0]) - margin, float(times[-1]) + margin)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.set_ylim(*ends)
    linear(ax.yaxis, 4)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)


def last_picture(statistic: "ReleasedStatistic", name: str) -> Picture | None:
    """Return the largest last values with their intervals; None for fewer than two features, and for quantiles."""
    last = statistic.values[-1]
    known = np.flatnonzero(np.isfinite(last))
    if statistic.kind not in ("sum", "mean") or len(known) < 2:
        return None
    drawn = known[np.argsort(-np.abs(last[known]), kind="stable")[:BARS]]
    low, high = (end[-1, drawn] for end in statistic.ends())
    value = last[drawn]
    ends = _frame(value, low, high, zero=True)
    names = [shorten(statistic.columns[i], 22) for i in drawn]
    side, height = 24 + 7.0 * max(map(len, names)), 60 + 20.0 * len(drawn)
    fig, ax = panel(700, height, left=side, right=16, top=10, bottom=44)
    ax.axvline(0, color=CONTROL, linewidth=1.2)
    y = np.arange(len(drawn))
    clear = ~((low <= 0) & (high >= 0)) & np.isfinite(low) & np.isfinite(high)
    ax.barh(y, value, color=MEASURED, alpha=0.25, height=0.62, linewidth=0)
    ax.hlines(y, np.clip(low, *ends), np.clip(high, *ends), color=INK, linewidth=1.6)
    for some, face in ((clear, MEASURED), (~clear, "none")):
        ax.plot(value[some], y[some], "o", color=MEASURED, markerfacecolor=face, markersize=6, linestyle="none")
    ax.set_xlim(*ends)
    ax.set_ylim(len(drawn) - 0.5, -0.5)
    ax.set_yticks(y, names)
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    linear(ax.xaxis, 6)
    ax.set_xlabel(shorten(statistic.unit or "value", 60))
    more = f" of {len(last):,}, the largest in size" if len(drawn) < len(last) else ""
    step = f"at step {int(statistic.times[-1]):,}"
    sentence = f"{count(len(drawn), 'value')}{more}, {step}, with simultaneous intervals (95 %)."
    if not clear.all():
        sentence += " Hollow: the interval holds 0 or is not known."
    return Picture(to_svg(fig, sentence, name), sentence)


def _frame(values: np.ndarray, low: np.ndarray, high: np.ndarray, *, zero: bool = False) -> tuple[float, float]:
    """Return the range to draw: all values and ends that are numbers."""
    parts = [part[np.isfinite(part)] for part in (values, low, high)]
    every = np.concatenate([*parts, [0.0] if zero else []])
    least, most = float(every.min()), float(every.max())
    margin = 0.06 * (most - least) or 0.5
    return least - margin, most + margin


def _any(low: np.ndarray, high: np.ndarray) -> bool:
    return bool((np.isfinite(low) | np.isfinite(high)).any())


def _open(low: np.ndarray, high: np.ndarray) -> bool:
    return bool((np.isinf(low) | np.isinf(high)).any())

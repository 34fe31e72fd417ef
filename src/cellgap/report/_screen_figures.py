"""Figures of a knock-out screen: the largest effects, which variables they reach, and when."""

from typing import TYPE_CHECKING

import numpy as np

from cellgap.report._draw import GRID, MEASURED, PREDICTED, linear, panel, to_svg
from cellgap.report._matrix import matrix
from cellgap.report._picture import Picture
from cellgap.report._words import count, number, shorten

if TYPE_CHECKING:
    from cellgap.report._dynamics import KnockOuts

MOST = 20
"""Knock-outs, and variables that they change, that are drawn."""

_TIMES = 16
_LEGEND = (("goes up", PREDICTED), ("goes down", MEASURED))


def screen_pictures(screen: "KnockOuts") -> tuple[Picture, ...]:
    """Return the largest effects, the change at the end of each, and the change in time of the largest."""
    table = screen.table.head(min(MOST, len(screen.change)))
    if not len(table) or not np.isfinite(table["effect"]).all():
        return ()
    held = f"held at {number(screen.value)}"
    pictures = [_effects(screen, held)]
    change = screen.change[: len(table)]
    names = [str(name) for name in table.index]
    # A held variable changes because it is held: its own entry says nothing.
    own = np.array([[v == name for v in screen.variables] for name in names])
    others = np.where(own[:, None], np.nan, change)
    sizes = np.nan_to_num(np.abs(others)).max((0, 1))
    if not sizes.max() > 0:
        return tuple(pictures)
    kept = np.sort(np.argsort(-sizes, kind="stable")[:MOST])
    variables = [screen.variables[i] for i in kept]
    last = f"time {number(screen.times[-1])}"
    fig = matrix(others[:, -1][:, kept], names, variables, rows=held, columns="changed", legend=_LEGEND)
    sentence = f"Change at {last}, in standard deviations, of every variable where another one is {held}."
    pictures.append(Picture(to_svg(fig, sentence, "reached"), sentence))
    first = np.abs(np.nan_to_num(others[0])).max(0)
    kept = np.argsort(-first, kind="stable")[:MOST]
    kept = kept[first[kept] > 0]
    if len(kept):
        some = np.unique(np.linspace(0, len(screen.times) - 1, min(_TIMES, len(screen.times))).astype(int))
        values = others[0][some][:, kept].T
        heads = [number(t, 2) for t in screen.times[some]]
        fig = matrix(values, [screen.variables[i] for i in kept], heads, rows="changed", columns="time", legend=_LEGEND)
        sentence = (
            f"Change in time, in standard deviations, where {names[0]} (the largest effect) is {held}: "
            f"{count(len(kept), 'variable')} by size."
        )
        pictures.append(Picture(to_svg(fig, sentence, "in-time"), sentence))
    return tuple(pictures)


def _effects(screen: "KnockOuts", held: str) -> Picture:
    table = screen.table.head(MOST)
    names = [shorten(str(name), 14) for name in table.index]
    left, height = 24 + 6.6 * max(map(len, names)), 60 + 19.0 * len(table)
    fig, ax = panel(360, height, left=left, top=10, bottom=44)
    values = table["effect"].to_numpy(float)
    ax.barh(np.arange(len(values)), values, color=PREDICTED, height=0.7, linewidth=0)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.set_xlim(0, max(float(values.max()) * 1.05, 1e-9))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    linear(ax.xaxis)
    ax.set_xlabel("mean change of the others (sd)")
    more = f" of {len(screen.table):,}" if len(screen.table) > len(table) else ""
    sentence = (
        f"Effect of the {count(len(table), 'knock-out')}{more} that change most: mean absolute change of all other "
        f"variables over time, in standard deviations, where one is {held}."
    )
    return Picture(to_svg(fig, sentence, "effects"), sentence)

"""Figures of a law: courses against data, error along the strength of the penalty, the network as a matrix."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from cellgap.report._draw import (
    ACCENT,
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
from cellgap.report._matrix import matrix
from cellgap.report._picture import Picture
from cellgap.report._words import count, listing, shorten

if TYPE_CHECKING:
    from cellgap.report._dynamics import Course

MOST = 24
"""Regulators, and targets, that are drawn of a network."""

_ERRORS = (("train", INK, "training", "-"), ("valid", ACCENT, "validation", "--"), ("test", PREDICTED, "test", "-"))
_ZEROS = (
    ("weights", INK, "weights", "-"),
    ("paths", PREDICTED, "paths", "-"),
    ("spurious", ACCENT, "spurious inputs", "--"),
)


def courses_picture(
    variables: Sequence[str], courses: "Sequence[Course]", mean: Float[np.ndarray, " v"]
) -> Picture | None:
    """Return measured states and forecasts, a row a variable, a column a trajectory; None where there are none."""
    if not courses or not variables:
        return None
    columns, rows = len(courses), len(variables)
    left, top, gap, height = 74.0, 62.0, 16.0, 118.0
    width = min(250.0, (860 - left - 12 - gap * (columns - 1)) / columns)
    full = (left + columns * width + (columns - 1) * gap + 12, top + rows * (height + gap) + 30)
    fig, _ = panel(*full)
    fig.clear()
    for j in range(rows):
        low, high = _range(courses, j, float(mean[j]))
        for i, course in enumerate(courses):
            ax = subpanel(fig, left + i * (width + gap), top + j * (height + gap), width, height)
            if len(course.cell_times):
                dots(ax, course.cell_times, course.cells[:, j], MEASURED, size=2.4, alpha=0.4)
            ax.axhline(mean[j], color=CONTROL, linewidth=1.4, linestyle=(0, (2, 2)))
            line, spread = course.line[:, j], course.spread[:, j]
            ax.fill_between(course.line_times, line - spread, line + spread, color=PREDICTED, alpha=0.2, linewidth=0)
            ax.plot(course.line_times, line, color=PREDICTED, linewidth=1.8)
            ax.plot(course.times, course.measured[:, j], "o", color=MEASURED, markersize=4)
            ax.set_ylim(low, high)
            linear(ax.xaxis)
            linear(ax.yaxis, 3)
            if j < rows - 1:
                ax.set_xticklabels([])
            else:
                ax.set_xlabel("time since the start")
            if i:
                ax.set_yticklabels([])
            else:
                ax.set_ylabel(shorten(variables[j], 16))
            if not j:
                x = (left + i * (width + gap)) / full[0]
                fig.text(x, 1 - 46 / full[1], shorten(course.name, int(width / 7)), fontsize=SMALL, color=MUTED)
    legend = (("measured", MEASURED), ("forecast", PREDICTED), ("training mean", CONTROL))
    for place, (text, color) in enumerate(legend):
        fig.text((left + 90 * place) / full[0], 1 - 14 / full[1], text, color=color, va="center", weight="bold")
    cells = " Small dots are single cells." if any(len(c.cell_times) for c in courses) else ""
    sentence = (
        f"{listing(variables)}: the {'variable' if rows == 1 else 'variables'} that move most, measured and as "
        f"forecast from the start of {count(columns, 'trajectory', 'trajectories')} (band: standard deviation over "
        f"members).{cells}"
    )
    return Picture(to_svg(fig, sentence, "courses"), sentence)


def _range(courses: "Sequence[Course]", j: int, mean: float) -> tuple[float, float]:
    """Return the range of a variable in all panels of its row; a forecast that runs away does not flatten the rest."""
    measured = np.concatenate([c.measured[:, j] for c in courses])
    low, high = min(float(measured.min()), mean), max(float(measured.max()), mean)
    size = max(high - low, 1e-6)
    lines = np.concatenate([c.line[:, j] for c in courses])
    lines = lines[np.isfinite(lines)]
    if len(lines):
        low, high = min(low, max(lines.min(), low - size)), max(high, min(lines.max(), high + size))
    margin = 0.08 * max(high - low, 1e-6)
    return low - margin, high + margin


def path_pictures(path: pd.DataFrame, strength: float) -> tuple[Picture, ...]:
    """Return errors, and shares that are zero, along the strengths of the penalty that were tried."""
    drawn: Any = path[path["strength"] > 0] if len(path) else path
    if len(drawn) < 2:
        return ()
    drawn = drawn.sort_values("strength")
    x = drawn["strength"].to_numpy(float)
    ends = (x[0] / 1.3, x[-1] * 1.3)
    zero = len(path) - len(drawn)
    more = f" The strength 0 is not drawn ({count(zero, 'row')} of the table)." if zero else ""
    first, last = (int(n) for n in drawn["edges"].iloc[[0, -1]])
    edges = f"edges kept: {first:,} at {x[0]:g}, {last:,} at {x[-1]:g}"
    made = []
    for name, lines, label in (("path-error", _ERRORS, "mean squared error"), ("path-zeros", _ZEROS, "share of zeros")):
        known = [line for line in lines if line[0] in drawn and np.isfinite(drawn[line[0]]).any()]
        if not known:
            continue
        fig, ax = panel(400, 250, left=60, top=34)
        ax.set_xscale("log")
        if ends[0] < strength < ends[1]:
            ax.axvline(strength, color=GRID, linewidth=5, zorder=0)
        values = np.concatenate([drawn[line[0]].to_numpy(float) for line in known])
        values = values[np.isfinite(values)]
        for place, (column, color, text, dash) in enumerate(known):
            ax.plot(
                x, drawn[column].to_numpy(float), color=color, linestyle=dash, marker="o", markersize=4, linewidth=1.6
            )
            fig.text((60 + 82 * place) / 400, 1 - 14 / 250, text, color=color, va="center", weight="bold")
        if name == "path-error" and values.min() > 0 and values.max() > 10 * values.min():
            ax.set_yscale("log")
            logarithmic(ax.yaxis, float(values.min()), float(values.max()))
        else:
            if name == "path-zeros":
                ax.set_ylim(-0.04, 1.04)
            linear(ax.yaxis)
        logarithmic(ax.xaxis, *ends)
        ax.set_xlim(*ends)
        ax.set_xlabel("strength of the penalty")
        ax.set_ylabel(label)
        ax.grid(axis="y", color=GRID, linewidth=0.8)
        here = f" The band marks the law of this page, {strength:g}." if ends[0] < strength < ends[1] else ""
        of = listing(text for _, _, text, _ in known)
        if name == "path-error":
            sentence = f"Error of forecasts, in the units of the data, of trajectories for {of}"
        else:
            sentence = f"Share of {of} that are zero ({edges})"
        sentence = f"{sentence}, along the strength of the penalty.{here}{more}"
        made.append(Picture(to_svg(fig, sentence, name), sentence))
    return tuple(made)


def network_picture(network: pd.DataFrame, kept: pd.DataFrame) -> Picture | None:
    """Return the strongest regulators by the targets that they drive most; None where there is no edge."""
    if not network.size or not np.abs(network.to_numpy(float)).max() > 0:
        return None
    sizes: Any = network.abs()
    # By their strongest edge: sums would prefer what drives everything a little.
    regulators = sizes.max(axis=1).sort_values(ascending=False, kind="stable").index[:MOST]
    targets = sizes.loc[regulators].max(axis=0).sort_values(ascending=False, kind="stable").index[:MOST]
    regulators = [name for name in network.index if name in set(regulators)]
    targets = [name for name in network.columns if name in set(targets)]
    marks = kept.reindex(index=regulators, columns=targets).fillna(False).to_numpy(bool) if kept.size else None
    fig = matrix(
        network.loc[regulators, targets].to_numpy(float), regulators, targets, marks=marks, rows="regulator",
        columns="target", legend=(("activates", PREDICTED), ("represses", MEASURED)),
    )  # fmt: skip
    d = len(network)
    sentence = "Score of every edge, the strongest in full color; a dot: the law keeps the edge."
    if d > len(regulators):
        sentence += f" Of {d:,} variables the {len(regulators)} strongest regulators and their targets are drawn."
    return Picture(to_svg(fig, sentence, "network"), sentence)

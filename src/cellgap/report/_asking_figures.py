"""Figures of a run of the benchmark: systems with their intervals and floors, and scores question by question."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from cellgap.report._draw import CONTROL, GRID, INK, MEASURED, PREDICTED, SMALL, linear, panel, to_svg
from cellgap.report._picture import Picture
from cellgap.report._words import fixed, shorten

Row = tuple[str, float, float, float, float]
"""Label, value, ends of its interval, and floor; NaN where one is not known."""


def systems_picture(rows: Sequence[Row], metric: str, name: str) -> Picture | None:
    """Return the systems with their intervals for one metric, the floor of each hollow; None where there is none."""
    rows = [row for row in rows if math.isfinite(row[1])]
    if not rows:
        return None
    height = 62 + 30 * len(rows)
    fig, ax = panel(360, height, left=136, right=46, top=14, bottom=44)
    known = [x for row in rows for x in row[1:] if math.isfinite(x)]
    top, low_end = max(0.1, 1.08 * max(known)), min(0.0, 1.08 * min(known))
    for place, (_, value, low, high, floor) in enumerate(rows):
        color = PREDICTED if place == 0 else MEASURED
        if math.isfinite(low) and math.isfinite(high):
            ax.plot([low, high], [place, place], color=color, linewidth=2.2, solid_capstyle="round")
        ax.plot(value, place, "o", color=color, markersize=6.5)
        if math.isfinite(floor):
            ax.plot(floor, place, "D", markerfacecolor="none", color=CONTROL, markersize=5.5, markeredgewidth=1.3)
        ax.annotate(
            fixed(value, 3), (1, place), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
            va="center", fontsize=SMALL, color=INK, annotation_clip=False,
        )  # fmt: skip
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_yticks(range(len(rows)), [shorten(row[0], 22) for row in rows])
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.set_xlim(low_end, top)
    linear(ax.xaxis)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.set_xlabel(metric)
    floors = " Hollow: the floor." if any(math.isfinite(row[4]) for row in rows) else ""
    sentence = f"{metric}: mean over the questions, with 95 % intervals.{floors}"
    return Picture(to_svg(fig, sentence, name), sentence)


def questions_picture(
    scores: Float[np.ndarray, " questions"], floor: Float[np.ndarray, " questions"], metric: str, system: str
) -> Picture | None:
    """Return the share of questions that score at least so much, of the system and of the floor."""
    scores, floor = scores[np.isfinite(scores)], floor[np.isfinite(floor)]
    if len(scores) == 0:
        return None
    fig, ax = panel(360, 250, left=52, right=16, top=30, bottom=44)
    for values, color, width in ((floor, CONTROL, 1.4), (scores, PREDICTED, 2.2)):
        if len(values):
            at = np.concatenate(([0.0], np.sort(values), [1.0]))
            share = 100 * np.concatenate(([1.0], 1 - np.arange(len(values)) / len(values), [0.0]))
            ax.step(at, share, where="pre", color=color, linewidth=width)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 103)
    linear(ax.xaxis, 5)
    linear(ax.yaxis, 5)
    ax.grid(color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.set_xlabel(f"{metric}, of one question")
    ax.set_ylabel("questions (%)")
    fig.text(1 - 16 / 360, 1 - 14 / 250, shorten(system, 30), color=PREDICTED, weight="bold", ha="right", va="center")
    if len(floor):
        fig.text(52 / 360, 1 - 14 / 250, "floor", color=CONTROL, weight="bold", ha="left", va="center")
    sentence = f"Share of the questions that score at least as much. Half of them reach {fixed(np.median(scores))}."
    return Picture(to_svg(fig, sentence, "questions"), sentence)

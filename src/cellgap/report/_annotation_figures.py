"""Figures of an annotator: scores by target, calibration, coverage, confusion, attacks, and distances of weights."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

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
from cellgap.report._picture import Picture
from cellgap.report._stream_figures import percent
from cellgap.report._words import fixed, number, shorten

if TYPE_CHECKING:
    from cellgap.report._annotation import DistanceLines

_SCORES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
_LETTER = 6.6
_ROW = 46.0
_MOST_NUMBERS = 14
_ATTACKS = {
    "l_inf": ("largest change of a gene (log expression)", "Attack on expression: every gene may change by so much."),
    "counts": ("molecules added or removed", "Attack on counts: so many molecules more or fewer, in few genes."),
}
_SIDE = 24.0


def targets_picture(table: pd.DataFrame, score: str, order: Sequence[str], own: str) -> Picture | None:
    """Return a score of every method on every target as dots, with their mean as a bar; None without a table.

    Parameters
    ----------
    table
        Columns ``method, target`` and the score.
    score
        "accuracy" or "macro_f1".
    order
        Methods from above.
    own
        The annotator.
    """
    methods = [m for m in order if len(table) and (table["method"] == m).any()]
    if not methods:
        return None
    left = 26 + _LETTER * max(len(shorten(m, 18)) for m in methods)
    width, height = 460.0, 54 + _ROW * len(methods)
    fig, ax = panel(width, height, left=left, right=18, top=10, bottom=44)
    low = 1.0
    told = []
    for y, method in enumerate(methods):
        rows: Any = table[table["method"] == method]
        values = rows[score].to_numpy(float)
        kept = np.isfinite(values)
        values, names = values[kept], np.asarray(rows["target"].astype(str))[kept]
        if not len(values):
            continue
        color = PREDICTED if method == own else MEASURED
        # Dots of about equal values are stacked, so that none hides another.
        offset = _stacked(values)
        dots(ax, values, y + offset, color, size=6.0, alpha=0.6)
        ax.plot([values.mean()] * 2, [y - 0.3, y + 0.3], color=INK, linewidth=2.2, solid_capstyle="butt")
        if len(values) > 1:
            worst = int(np.argmin(values))
            ax.annotate(shorten(names[worst], 12), (values[worst], y), xytext=(-7, 0), textcoords="offset points",
                        ha="right", va="center", fontsize=SMALL, color=MUTED, annotation_clip=False)  # fmt: skip
        low = min(low, float(values.min()))
        told.append(f"{method} {fixed(values.mean())} ({fixed(values.min())} at worst)")
    ax.set_ylim(len(methods) - 0.45, -0.55)
    span = max(1.0 - low, 0.02)
    # Room for the name of the worst target, left of its dot.
    ax.set_xlim(low - 0.3 * span, 1.0 + 0.04 * span)
    ax.set_yticks(range(len(methods)), [shorten(m, 18) for m in methods])
    for text, method in zip(ax.get_yticklabels(), methods, strict=True):
        text.set(color=INK, weight="bold" if method == own else "normal")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    _round_ticks(ax.xaxis)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.set_xlabel(_SCORES[score])
    sentence = (
        f"{_SCORES[score][0].upper()}{_SCORES[score][1:]} on every value left out (dots), and the mean (bar): "
        f"{'; '.join(told)}. The worst one is named."
    )
    return Picture(to_svg(fig, sentence, f"targets-{score}"), sentence)


def _stacked(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return small offsets that keep dots of about equal values apart."""
    span = max(float(np.ptp(values)), 0.02)
    bins = np.round(values / (span / 40)).astype(int)
    offset = np.zeros(len(values))
    for place in np.unique(bins):
        rows = np.flatnonzero(bins == place)
        step = min(0.12, 0.44 / max(len(rows) - 1, 1))
        offset[rows] = (np.arange(len(rows)) - (len(rows) - 1) / 2) * step
    return offset


def calibration_picture(curves: Mapping[str, Any], own: str) -> Picture | None:
    """Return accuracy over confidence of the annotator and of the other methods; None where there is no curve."""
    if not curves:
        return None
    lowest = min(float(min(c[0].min(), c[1].min())) for c in curves.values())
    low = max(0.0, np.floor(10 * lowest - 0.5) / 10)
    fig, ax, names = _curves(curves, own, "confidence (bins of equal numbers of cells)", "share that is right")
    ax.plot([low, 1], [low, 1], color=MUTED, linewidth=1.1, linestyle=(0, (4, 2)), zorder=1)
    for name in names:
        confidence, right, _ = curves[name]
        marker = "o" if name == own else ""
        ax.plot(confidence, right, marker=marker, markersize=4.5, clip_on=False, **_line(name, names, own))
    ax.set(xlim=(low, 1.0), ylim=(low, 1.0))
    linear(ax.xaxis)
    linear(ax.yaxis)
    sentence = "Accuracy over confidence, all cells of all targets. On the dashed line probabilities mean what they say"
    if own in curves:
        confidence, right, n = (np.asarray(values, float) for values in curves[own])
        error = float(np.sum(n * np.abs(right - confidence)) / n.sum())
        over = float(np.sum(n * (confidence - right)) / n.sum())
        word = "too sure" if over > 0 else "too careful"
        sentence += f"; those of {own} are off by {number(error, 2)}, and {word} by {number(abs(over), 2)} in the mean"
    return Picture(to_svg(fig, f"{sentence}.", "calibration"), f"{sentence}.")


def coverage_picture(curves: Mapping[str, Any], own: str) -> Picture | None:
    """Return the accuracy of the most confident cells over their share; None where there is no curve."""
    if not curves:
        return None
    fig, ax, names = _curves(curves, own, "share of cells that get a label", "share of these that is right")
    low = 0.95
    told = ""
    for name in names:
        coverage, right = (np.asarray(values, float) for values in curves[name])
        step = max(1, len(coverage) // 400)
        kept = np.unique(np.r_[np.arange(0, len(coverage), step), len(coverage) - 1])
        # The first few cells say little and swing most.
        kept = kept[coverage[kept] >= min(0.02, coverage[-1])]
        ax.plot(coverage[kept], right[kept], **_line(name, names, own))
        low = min(low, float(right[kept].min()))
        if name == own:
            enough = coverage[right >= 0.95 - 1e-12]
            at = float(enough.max()) if len(enough) else 0.0
            ax.plot([at], [0.95], "o", color=PREDICTED, markersize=6, zorder=4, clip_on=False)
            told = f" {own} reaches 95 % for {percent(at)} of the cells."
    ax.axhline(0.95, color=MUTED, linewidth=1.1, linestyle=(0, (4, 2)), zorder=1)
    low = max(0.0, low - 0.06 * (1 - low))
    ax.set(xlim=(0, 1), ylim=(low, 1.0 + 0.02 * (1 - low)))
    _round_ticks(ax.xaxis)
    _round_ticks(ax.yaxis)
    sentence = f"Accuracy where only the most confident cells get a label; dashed: 95 %.{told}"
    return Picture(to_svg(fig, sentence, "coverage"), sentence)


def _curves(curves: Mapping[str, Any], own: str, x: str, y: str) -> tuple[Any, Any, list[str]]:
    """Return a panel with the names of its lines above, the annotator last, so that it is drawn on top."""
    names = [*(name for name in curves if name != own), *([own] if own in curves else [])]
    heads = [*names[-1:], *names[:-1]] if own in curves else names
    width, height = 400.0, 350.0
    fig, ax = panel(width, height, left=54, right=14, top=34, bottom=46)
    place = 14.0
    for name in heads:
        fig.text(place / width, 1 - 14 / height, shorten(name, 16), color=_line(name, names, own)["color"],
                 weight="bold" if name == own else "normal", va="center")  # fmt: skip
        place += 18 + 7.2 * len(shorten(name, 16))
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    return fig, ax, names


def _round_ticks(axis: Any, *, whole: bool = False) -> None:
    """Give an axis few ticks at round numbers, whole ones where asked."""
    linear(axis)
    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=whole))


def _line(name: str, names: Sequence[str], own: str) -> dict[str, Any]:
    """Return how a method is drawn: the annotator strong, others in quieter colors and dashes."""
    if name == own:
        return {"color": PREDICTED, "linewidth": 2.2}
    others = [n for n in names if n != own]
    place = others.index(name)
    color = (MEASURED, ACCENT, CONTROL)[place % 3]
    dash: Any = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)))[place % 3]
    return {"color": color, "linewidth": 1.5, "linestyle": dash}


def confusion_picture(table: pd.DataFrame) -> Picture | None:
    """Return the confusion matrix, each row as shares of the cells of a true class; None where there is none."""
    if not len(table):
        return None
    counts = table.to_numpy(float)
    total = counts.sum(axis=1)
    kept = total > 0
    share = counts[kept] / total[kept, None]
    rows = [str(name) for name in table.index[kept]]
    columns = [str(name) for name in table.columns]
    heads, sides = [shorten(c, 18) for c in columns], [shorten(r, 18) for r in rows]
    side = _SIDE if max(len(rows), len(columns)) > _MOST_NUMBERS else 34.0
    left, top = 40 + _LETTER * max(map(len, sides)), 12.0
    under = 40 + _LETTER * max(map(len, heads))
    width, height = left + side * len(columns) + 16, top + side * len(rows) + under
    fig, _ = panel(width, height)
    fig.clear()
    ax = subpanel(fig, left, top, side * len(columns), side * len(rows))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            value = share[i, j]
            if value < 0.005:
                continue
            color = MEASURED if row == column else CONTROL if column == "unassigned" else PREDICTED
            ax.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, facecolor=color, alpha=0.1 + 0.75 * value,
                                   linewidth=0))  # fmt: skip
            if side > _SIDE:
                ax.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=SMALL, color=INK)
    ax.set_xlim(-0.5, len(columns) - 0.5)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_yticks(range(len(rows)), sides)
    ax.set_xticks(range(len(columns)), heads, rotation=90)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel("label given")
    ax.set_ylabel("true class")
    right = [share[i, columns.index(row)] if row in columns else 0.0 for i, row in enumerate(rows)]
    worst = int(np.argmin(right))
    sentence = (
        f"Of the cells of a true class (row), the share in % that gets each label (column), over all targets: blue is "
        f"right, orange wrong, gray unassigned. Told least well: {rows[worst]}, {percent(float(right[worst]))} right."
    )
    return Picture(to_svg(fig, sentence, "confusion"), sentence)


def robust_pictures(table: pd.DataFrame) -> tuple[Picture, ...]:
    """Return the accuracy over the strength of every kind of attack."""
    if not len(table):
        return ()
    return tuple(_attack(str(kind), part) for kind, part in table.groupby("attack", sort=False))


def _attack(kind: str, table: pd.DataFrame) -> Picture:
    means = table.groupby("strength")["accuracy"].agg(["mean", "min", "max"]).reset_index()
    x, y = means["strength"].to_numpy(float), means["mean"].to_numpy(float)
    axis, about = _ATTACKS.get(kind, (f"strength of {kind}", f"Attack {kind}."))
    fig, ax = panel(400, 300, left=54, right=20, top=20, bottom=46)
    several = bool((means["max"] > means["min"]).any())
    if several:
        ax.fill_between(x, means["min"].to_numpy(float), means["max"].to_numpy(float), color=PREDICTED, alpha=0.15,
                        linewidth=0)  # fmt: skip
    ax.plot(x, y, color=PREDICTED, linewidth=2.0, marker="o", markersize=5, clip_on=False)
    for a, b in zip(x, y, strict=True):
        ax.annotate(fixed(b), (a, b), xytext=(5, 8), textcoords="offset points", fontsize=SMALL, ha="left")
    ax.set(xlim=(0, max(float(x.max()), 1e-9)), ylim=(0, 1.02))
    _round_ticks(ax.xaxis, whole=kind == "counts")
    _round_ticks(ax.yaxis)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_xlabel(axis)
    ax.set_ylabel("share that stays right")
    band = " The band is from the worst target to the best." if several else ""
    sentence = f"{about} From {percent(float(y[0]))} to {percent(float(y[-1]))} at {x[-1]:g}.{band}"
    return Picture(to_svg(fig, sentence, f"attack-{kind.replace('_', '-')}"), sentence)


def distance_picture(
    t: Float[np.ndarray, " n"], d: Float[np.ndarray, " n"], lines: "DistanceLines | None"
) -> Picture | None:
    """Return how far weights have moved over updates, on a logarithmic axis; None where it was not recorded."""
    t, d = np.asarray(t, float), np.asarray(d, float)
    kept = (t >= 1) & np.isfinite(d)
    t, d = t[kept], d[kept]
    if len(t) < 2:
        return None
    width, height = 420.0, 300.0
    fig, ax = panel(width, height, left=54, right=16, top=32, bottom=46)
    ax.set_xscale("log")
    ax.plot(t, d, "o", color=INK, markersize=3.6, clip_on=False)
    ax.set_xlim(float(t.min()), float(t.max()))
    ax.set_ylim(0, 1.08 * float(d.max()))
    logarithmic(ax.xaxis, float(t.min()), float(t.max()))
    linear(ax.yaxis)
    ax.set_xlabel("updates")
    ax.set_ylabel("distance from the start")
    sentence = f"Weights move {number(d[-1])} away from their start in {int(t[-1]):,} updates."
    if lines is not None:
        x = np.geomspace(3, max(lines.until, 3.1), 60)
        for (a, b), of, color, dash in (
            (lines.log, np.log(x), MEASURED, "-"), (lines.sqrt, np.sqrt(x), PREDICTED, (0, (4, 2))),
        ):  # fmt: skip
            ax.plot(x, a + b * of, color=color, linewidth=1.7, linestyle=dash)
        fig.text(14 / width, 1 - 13 / height, f"log t, R² {fixed(lines.r2_log, 3)}", color=MEASURED, weight="bold",
                 va="center")  # fmt: skip
        fig.text(160 / width, 1 - 13 / height, f"√t, R² {fixed(lines.r2_sqrt, 3)} (dashed)", color=PREDICTED,
                 weight="bold", va="center")  # fmt: skip
        told = {
            "log": "the logarithm describes it better, as where many barriers are crossed: more updates help more than "
            "larger batches",
            "sqrt": "the root describes it better, as on a flat landscape",
            "undecided": "neither the logarithm nor the root describes it clearly better",
        }
        sentence += f" Up to update {int(lines.until):,}, {told.get(lines.verdict, lines.verdict)}."
    return Picture(to_svg(fig, sentence, "distance"), sentence)

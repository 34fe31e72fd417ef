"""Figures of an embedding: moved-variance spectrum, coverage, losses, alignment, and cells on two axes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.ticker import MaxNLocator

from cellgap.report._density import fit_projection
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
    panel,
    to_svg,
)
from cellgap.report._picture import Picture
from cellgap.report._stream_figures import LABELS, percent
from cellgap.report._words import count, number, shorten

if TYPE_CHECKING:
    from cellgap.embed import SamplingDiagnosis

FROZEN = 0.02
"""A direction that moves less than this part of the most moved one counts as frozen, as in the diagnosis."""
_NAMED = 3


def spectrum_picture(found: "SamplingDiagnosis") -> Picture | None:
    """Return the moved variance of every direction, least moved first; None where there is none."""
    rho = np.asarray(found.rho, float)
    if not len(rho):
        return None
    axis, frozen = np.arange(1, len(rho) + 1), rho < FROZEN * rho[-1]
    names = [_direction(found, i) for i in range(min(_NAMED, len(rho), len(found.directions)))]
    top = 26 + 16 * len(names)
    width, height = 420.0, 250.0 + top
    fig, ax = panel(width, height, left=48, right=12, top=top, bottom=44)
    for drawn, color in ((frozen, PREDICTED), (~frozen, MEASURED)):
        ax.bar(axis[drawn], rho[drawn], width=0.74, color=color)
    # A frozen direction has no height: a mark on the axis shows that it is there.
    ax.plot(axis[frozen], np.zeros(int(frozen.sum())), "o", color=PREDICTED, markersize=4.5, clip_on=False)
    high = max(1.05, 1.05 * float(rho[-1]))
    ax.axhline(1.0, color=MUTED, linewidth=1.2, linestyle=(0, (4, 2)))
    ax.set(xlim=(0.3, len(rho) + 0.7), ylim=(0, high))
    if len(rho) > 10:
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.set_xticks([1, *(t for t in ax.get_xticks() if 3 <= t <= len(rho))])
    else:
        ax.set_xticks(axis)
    linear(ax.yaxis)
    ax.set_xlabel("direction, least moved first")
    ax.set_ylabel("moved variance")
    for place, text in enumerate(names):
        y = 1 - (12 + 16 * place) / height
        fig.text(14 / width, y, f"{place + 1}", color=PREDICTED if frozen[place] else MEASURED, weight="bold",
                 va="center")  # fmt: skip
        fig.text(30 / width, y, shorten(text, 56), fontsize=SMALL, va="center")
    told = f"{count(int(frozen.sum()), 'direction')} of {len(rho)} never moved" if frozen.any() else "none is frozen"
    sentence = (
        f"How far pairs move each direction of {found.reference}: 0 is frozen, 1 (dashed) as far as random pairs; "
        f"{told}. Above, what explains the least moved directions."
    )
    return Picture(to_svg(fig, sentence, "moved"), sentence)


def _direction(found: "SamplingDiagnosis", place: int) -> str:
    """Return what explains a direction, and its genes."""
    direction = found.directions[place]
    about = ", ".join(f"{name} {share:.2f}" for name, share in direction.factors[:2] if share >= 0.1)
    genes = ", ".join(direction.genes[:3])
    return f"{about}; {genes}" if about else genes


def coverage_picture(found: "SamplingDiagnosis") -> Picture | None:
    """Return how much of all cells the partners of one cell come near; None where it was not measured."""
    if not found.coverage:
        return None
    partners, share = (np.asarray(values, float) for values in zip(*found.coverage, strict=True))
    fig, ax = panel(360, 260, left=52, top=18, bottom=44)
    ax.set_xscale("log")
    ax.plot(partners, share, color=MEASURED, linewidth=1.8, marker="o", markersize=5.5, clip_on=False)
    ends = float(partners.min()) / 1.5, float(partners.max()) * 1.5
    for x, y in zip(partners, share, strict=True):
        ax.annotate(f"{y:.2f}", (x, y), xytext=(0, 8), textcoords="offset points", ha="center", fontsize=SMALL)
    ax.set(xlim=ends, ylim=(0, max(1.0, float(share.max()))))
    ax.set_xticks(partners, [f"{int(x):,}" for x in partners])
    ax.minorticks_off()
    linear(ax.yaxis)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_xlabel("partners of one cell")
    ax.set_ylabel("share of cells that are near")
    sentence = (
        f"Cells near any partner of one cell: {percent(share[0])} with {int(partners[0]):,} partners, "
        f"{percent(share[-1])} with {int(partners[-1]):,}. A low curve alone is no warning: pairs may be local and "
        "still move all directions alike."
    )
    return Picture(to_svg(fig, sentence, "coverage"), sentence)


def loss_picture(history: pd.DataFrame, found: "SamplingDiagnosis", kind: str, best: int | None) -> Picture | None:
    """Return training and held-out loss over steps beside the floor and the matched value; None without a history."""
    lines = [(column, *_course(history, column)) for column in ("loss", "valid") if column in history]
    lines = [line for line in lines if len(line[1])]
    if not lines:
        return None
    width, height = 420.0, 300.0
    fig, ax = panel(width, height, left=54, right=14, top=32, bottom=44)
    styles: dict[str, Any] = {
        "loss": {"color": INK, "linewidth": 1.6},
        "valid": {"color": ACCENT, "linewidth": 1.6, "linestyle": "--", "marker": "o", "markersize": 4},
    }
    for column, x, y in lines:
        ax.plot(x, y, **styles[column])
    place = 12.0
    for column, _, _ in lines:
        text = "training" if column == "loss" else "held out"
        fig.text(place / width, 1 - 13 / height, text, color=styles[column]["color"], weight="bold", va="center")
        place += 70
    trained, compared = found.trained, kind == "infonce"
    if trained is not None and compared:
        for value, text, color in ((trained.matched, "matched", MEASURED), (trained.floor, "floor", PREDICTED)):
            ax.axhline(value, color=color, linewidth=1.4, linestyle=(0, (4, 2)))
            told = f"{text} {number(value)}"
            fig.text(place / width, 1 - 13 / height, told, color=color, weight="bold", va="center")
            place += 9.0 * len(told) + 4
    if best is not None and any(column == "valid" for column, _, _ in lines):
        ax.axvline(best, color=GRID, linewidth=1.4, zorder=0)
    ax.margins(y=0.08)
    linear(ax.xaxis)
    linear(ax.yaxis)
    ax.set_xlabel("training step")
    ax.set_ylabel("loss without log M")
    told = [
        f"{'training' if column == 'loss' else 'held-out'} loss from {number(y[0])} to {number(y[-1])}"
        for column, _, y in lines
    ]
    sentence = f"{'; '.join(told)}. Losses are without log M (M negatives), so that batches of any size compare."
    sentence = sentence[0].upper() + sentence[1:]
    if trained is not None and compared:
        sentence += (
            " Floor: every pair on one point, cells spread evenly. Matched: what a map that keeps the geometry of the "
            "reference space would have. Both are for many negatives."
        )
    elif not compared:
        sentence += f" Floor and matched value are those of loss = “infonce”, not of “{kind}”: see the table."
    if best is not None:
        sentence += f" The state of step {best:,} is kept."
    return Picture(to_svg(fig, sentence, "losses"), sentence)


def alignment_picture(history: pd.DataFrame, found: "SamplingDiagnosis") -> Picture | None:
    """Return the mean cosine of pairs over steps; None without one."""
    x, y = _course(history, "alignment") if "alignment" in history else (np.zeros(0), np.zeros(0))
    if not len(x):
        return None
    width, height = 420.0, 300.0
    fig, ax = panel(width, height, left=54, right=14, top=32, bottom=44)
    ax.plot(x, y, color=INK, linewidth=1.6, marker="o" if len(x) < 3 else "", markersize=5)
    ax.axhline(found.alignment, color=MEASURED, linewidth=1.4, linestyle=(0, (4, 2)))
    ax.set_ylim(min(0.0, float(y.min()), found.alignment), 1.02)
    fig.text(14 / width, 1 - 13 / height, "cosine of pairs", color=INK, weight="bold", va="center")
    fig.text(140 / width, 1 - 13 / height, f"reference space: {number(found.alignment)} (dashed)", color=MEASURED,
             weight="bold", va="center")  # fmt: skip
    linear(ax.xaxis)
    linear(ax.yaxis)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_xlabel("training step")
    ax.set_ylabel("alignment")
    sentence = (
        f"Mean cosine of training pairs, from {number(y[0])} to {number(y[-1])}. Far above the dashed line, pairs are "
        "closer in the embedding than in the reference space: what they move is compressed. At 1 it is dropped."
    )
    return Picture(to_svg(fig, sentence, "alignment"), sentence)


def _course(history: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values of a column where it has any."""
    steps, values = history["step"].to_numpy(float), history[column].to_numpy(float)
    kept = np.isfinite(values)
    return steps[kept], values[kept]


def view_pictures(
    codes: Float[np.ndarray, "cells dim"], labels: "dict[str, Sequence[str]]", cells: str
) -> tuple[Picture, ...]:
    """Return cells on the first two principal axes of their embedding, once for each set of labels.

    Parameters
    ----------
    codes
        The embedding.
    labels
        Name to one text a cell; without any the cells are drawn once, in one color.
    cells
        Which cells they are, in words.
    """
    project = fit_projection(np.asarray(codes, float)) if len(codes) else None
    if project is None:
        return ()
    xy = project(np.asarray(codes, float))
    sets: list[tuple[str, np.ndarray | None]] = [(name, np.asarray(values, str)) for name, values in labels.items()]
    return tuple(_view(xy, project.explained, name, of, cells, i) for i, (name, of) in enumerate(sets or [("", None)]))


def _view(xy: np.ndarray, explained: np.ndarray, name: str, of: np.ndarray | None, cells: str, place: int) -> Picture:
    groups: list[tuple[str, str, np.ndarray]] = [("", MEASURED, np.ones(len(xy), bool))]
    if of is not None:
        names, sizes = np.unique(of, return_counts=True)
        names = names[np.argsort(-sizes, kind="stable")]
        shown = names if len(names) <= len(LABELS) else names[: len(LABELS) - 1]
        groups = [(str(label), LABELS[i], of == label) for i, label in enumerate(shown)]
        rest = ~np.isin(of, shown)
        if rest.any():
            groups.append((count(len(names) - len(shown), "other"), CONTROL, rest))
    lines = -(-len(groups) // 2) if of is not None else 0
    width, height = 400.0, 380.0 + 19 * lines
    fig, ax = panel(width, height, left=48, right=12, top=30, bottom=46 + 19 * lines)
    color = np.array([c for _, c, _ in groups])
    which = np.zeros(len(xy), int)
    for i, (_, _, own) in enumerate(groups):
        which[own] = i
    # Dots in random order in few layers: no group lies wholly above another.
    order = np.random.default_rng(0).permutation(len(xy))
    for part in np.array_split(order, min(8, max(1, len(order) // 50))):
        for i in np.unique(which[part]):
            rows = part[which[part] == i]
            dots(ax, xy[rows, 0], xy[rows, 1], str(color[i]), size=3.2, alpha=0.65)
    low, high = xy.min(axis=0), xy.max(axis=0)
    margin = 0.05 * np.where(high > low, high - low, 1.0)
    ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    for axis, share, number_of in ((ax.xaxis, explained[0], 1), (ax.yaxis, explained[1], 2)):
        linear(axis)
        axis.label.set_text(f"axis {number_of} ({percent(float(share))} of the variance)")
    fig.text(14 / width, 1 - 13 / height, f"by {name}" if name else "cells", weight="bold", va="center")
    for i, (label, own_color, own) in enumerate(groups if of is not None else ()):
        x = (52 + 176 * (i % 2)) / width
        y = (9 + 19 * (lines - 1 - i // 2)) / height
        fig.text(x, y, "●", color=own_color, va="center")
        fig.text(x + 14 / width, y, f"{shorten(label, 17)} ({int(own.sum()):,})", va="center", fontsize=SMALL)
    both = percent(float(explained.sum()))
    colors = f", colored by {name}" if name else ""
    sentence = (
        f"Principal axes 1 and 2 of the embedding ({both} of its variance){colors}: {cells}. A flat view of a sphere: "
        "cells that lie together here may be apart."
    )
    svg = to_svg(fig, sentence, f"view-{place}")
    for i, label in enumerate(LABELS):
        svg = svg.replace(label, f"var(--label-{i})")
    return Picture(svg, sentence)

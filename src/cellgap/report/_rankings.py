"""Scores as figures: where every predictor stands on the common scale, and every condition beside the best baseline."""

import math

import numpy as np
from matplotlib.axes import Axes

from cellgap.report._draw import CONTROL, GRID, INK, MEASURED, MUTED, PREDICTED, SMALL, dots, linear, panel, to_svg
from cellgap.report._lookup import Key, Score
from cellgap.report._picture import Picture
from cellgap.report._scores import LEADING, Scores
from cellgap.report._words import count, fixed, interval, metric_text, shorten

_LINES = 5  # metrics in the headline figure
_NAMES = 22  # characters of a predictor's name
_FRAME = (-1.0, 2.0)  # scaled scores beyond become an arrow at the edge with their number, so that they flatten nothing


def headline_picture(scores: Scores, zero: str, one: str) -> Picture | None:
    """Return the model and the best baseline on the scale from `zero` to `one`, the headline metric first."""
    keys = [k for k in scores.keys if math.isfinite(scores.scaled(scores.model, k))][:_LINES]
    if not keys:
        return None
    height = 70 + 50 * len(keys)
    fig, ax = panel(400, height, left=14, right=14, top=48, bottom=26)
    best_of = {key: scores.best_baseline(key) for key in keys}
    low, high = _limits([scores.summary[n, k] for k in keys for n in (scores.model, best_of[k]) if n])
    ax.set(xlim=(low, high), ylim=(len(keys) - 0.4, -0.5))
    linear(ax.xaxis, 5)
    for row, key in enumerate(keys):
        best = best_of[key]
        ax.text(0, row - 0.26, _title(scores, key), transform=ax.get_yaxis_transform(), va="center")
        ax.vlines(ax.get_xticks(), row - 0.08, row + 0.46, color=GRID, linewidth=0.8, zorder=0)
        ax.vlines((0, 1), row - 0.08, row + 0.46, color=MUTED, linewidth=1.1, linestyle=(0, (2, 2)), zorder=1)
        _dot(ax, scores.summary[scores.model, key], row + 0.08, PREDICTED, "o", 8)
        if best:
            _dot(ax, scores.summary[best, key], row + 0.31, INK, "D", 6)
    ax.set_xlim(low, high)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    for x, text in ((0.0, zero), (1.0, one)):
        place = (14 + 372 * (x - low) / (high - low)) / 400
        fig.text(
            place, 1 - 34 / height, shorten(text, 24), fontsize=SMALL, color=MUTED, ha=_align(x, low, high), va="center"
        )
    fig.text(14 / 400, 1 - 9 / height, f"● {shorten(scores.model, 22)}", color=PREDICTED, weight="bold", va="center")
    fig.text(1 - 14 / 400, 1 - 9 / height, "◆ best baseline", color=INK, ha="right", va="center")
    told = "; ".join(
        f"{_title(scores, key)}: model {_spoken(scores.summary[scores.model, key])}"
        + (f", best baseline {best} {_spoken(scores.summary[best, key])}" if (best := best_of[key]) else "")
        for key in keys
    )
    return Picture(
        to_svg(fig, f"Scaled scores from 0, {zero}, to 1, {one}. {told}.", "headline"),
        f"0 is “{zero}”, 1 is “{one}”. The best baseline may differ from score to score. Bars: 95 % intervals over"
        " conditions.",
    )


def metric_pictures(scores: Scores, zero: str, one: str) -> tuple[Picture, ...]:
    """Return dot-and-interval figures of the leading metrics: every predictor on the scale, best headline on top."""
    pictures = []
    for place, key in enumerate(scores.keys[:LEADING]):
        names = [n for n in scores.predictors if math.isfinite(scores.scaled(n, key))]
        if names:
            pictures.append(_metric(scores, key, names, zero, one, f"metric-{place}"))
    return tuple(pictures)


def _metric(scores: Scores, key: Key, names: list[str], zero: str, one: str, name: str) -> Picture:
    left = 14 + 6.7 * max(len(shorten(n, _NAMES)) for n in names)
    height = 74 + 21 * len(names)
    fig, ax = panel(350, height, left=left, right=12, top=28, bottom=40)
    _scale_lines(ax, _limits([scores.summary[n, key] for n in names]))
    for row, predictor in enumerate(names):
        own = predictor == scores.model
        color = PREDICTED if own else MEASURED if predictor.startswith(scores.one) else CONTROL
        _dot(ax, scores.summary[predictor, key], row, color, "o" if own else "D", 8 if own else 5.5)
        ax.text(
            -8 / (350 - left - 12),
            row,
            shorten(predictor, _NAMES),
            transform=ax.get_yaxis_transform(),
            ha="right",
            va="center",
            fontsize=SMALL,
            weight="bold" if own else "normal",
        )
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(f"0 = {shorten(zero, 18)}, 1 = {shorten(one, 18)}", color=MUTED, fontsize=SMALL)
    fig.text(10 / 350, 1 - 11 / height, shorten(_title(scores, key), 46), weight="bold", va="center")
    told = "; ".join(f"{n} {_spoken(scores.summary[n, key])}" for n in names)
    return Picture(to_svg(fig, f"Scaled {_title(scores, key)} of every predictor. {told}.", name), "")


def conditions_picture(scores: Scores) -> Picture | None:
    """Return every condition as a dot, the model's scaled headline score against the best baseline's."""
    key = scores.headline
    best = scores.best_baseline(key) if key else None
    if key is None or best is None:
        return None
    pairs = [
        (scores.cells[best, c, key][1], scores.cells[scores.model, c, key][1])
        for c in scores.ranked
        if (best, c, key) in scores.cells
    ]
    xy = np.array([pair for pair in pairs if all(map(math.isfinite, pair))])
    if len(xy) < 2:
        return None
    fig, ax = panel(350, 310, left=52, top=14)
    low, high = max(float(xy.min()), _FRAME[0]), min(float(xy.max()), _FRAME[1])
    margin = 0.08 * abs(high - low) or 0.5
    ends = (low - margin, high + margin)
    ax.plot(ends, ends, color=MUTED, linewidth=1.2)
    for at in (0.0, 1.0):
        if ends[0] < at < ends[1]:
            ax.axhline(at, color=GRID, linewidth=1, zorder=0)
            ax.axvline(at, color=GRID, linewidth=1, zorder=0)
    dots(ax, xy[:, 0], xy[:, 1], PREDICTED, size=7 if len(xy) < 60 else 4.5, alpha=0.75)
    ax.set(
        xlim=ends,
        ylim=ends,
        xlabel=shorten(f"scaled score of {best}", 44),
        ylabel=shorten(f"scaled score of {scores.model}", 38),
    )
    linear(ax.xaxis)
    linear(ax.yaxis)
    outside = int(((xy < ends[0]) | (xy > ends[1])).any(axis=1).sum())
    beyond = f" {count(outside, 'condition')} outside the frame." if outside else ""
    ahead = int((xy[:, 1] > xy[:, 0]).sum())
    sentence = f"{scores.model} is ahead of {best} in {ahead} of {count(len(xy), 'condition')} ({_title(scores, key)})"
    return Picture(
        to_svg(fig, f"{sentence}. One dot per condition, with the line of equality.", "conditions"),
        f"{sentence}: the dots above the line.{beyond}",
    )


def _dot(ax: Axes, score: Score, y: float, color: str, marker: str, size: float) -> None:
    """Draw a score and its interval; beyond the frame an arrow at the edge, with the number."""
    low, high = ax.get_xlim()
    ends = (score.scaled_low, score.scaled_high)
    if all(map(math.isfinite, ends)) and ends[0] < high and ends[1] > low:
        ax.plot([max(ends[0], low), min(ends[1], high)], [y, y], color=color, linewidth=2.2, solid_capstyle="butt")
    if low <= score.scaled <= high:
        ax.plot(score.scaled, y, marker, color=color, markersize=size)
        return
    below = score.scaled < low
    ax.annotate(
        f"◂ {fixed(score.scaled)}" if below else f"{fixed(score.scaled)} ▸",
        (low if below else high, y),
        ha="left" if below else "right",
        va="center",
        fontsize=SMALL,
        color=color,
        weight="bold",
    )


def _limits(shown: list[Score]) -> tuple[float, float]:
    """Return the ends of a scaled axis: 0 to 1 always, and as far beyond as the scores go, within the frame."""
    values = [v for s in shown for v in (s.scaled, s.scaled_low, s.scaled_high) if math.isfinite(v)]
    low, high = max(min(0.0, *values, 0.0), _FRAME[0]), min(max(1.0, *values, 1.0), _FRAME[1])
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def _scale_lines(ax: Axes, limits: tuple[float, float]) -> None:
    ax.set_xlim(*limits)
    linear(ax.xaxis, 5)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    for x in (0, 1):
        ax.axvline(x, color=MUTED, linewidth=1.1, linestyle=(0, (2, 2)), zorder=1)


def _align(x: float, low: float, high: float) -> str:
    place = (x - low) / (high - low)
    return "left" if place < 0.3 else "right" if place > 0.7 else "center"


def _title(scores: Scores, key: Key) -> str:
    several = len({space for metric, space in scores.keys if metric == key[0]}) > 1
    return metric_text(key[0]).label + (f", {key[1]}" if several else "")


def _spoken(score: Score) -> str:
    ends = interval(score.scaled_low, score.scaled_high)
    return fixed(score.scaled) + (f" ({ends})" if ends else "")

"""Lines: losses along the training steps, and genes along the dose."""

from itertools import pairwise

import numpy as np
import pandas as pd

from cellgap.report._data import DoseCurve
from cellgap.report._draw import (
    ACCENT,
    CONTROL,
    GRID,
    INK,
    MEASURED,
    MUTED,
    PREDICTED,
    SMALL,
    TEXT,
    linear,
    logarithmic,
    panel,
    to_svg,
)
from cellgap.report._picture import Picture
from cellgap.report._words import count, listing, number, shorten

_POINTS = 300  # points of a line; longer histories are averaged into as many bins
_TITLES = {
    "loss": "loss",
    "valid_loss": "validation loss",
    "fit": "distance to measured cells (fit)",
    "gap": "gap in the loss",
    "learning_rate": "learning rate",
}


def history_pictures(history: pd.DataFrame) -> tuple[Picture, ...]:
    """Return one figure for ``loss`` with ``valid_loss``, and one for each other numeric column that has values."""
    if not len(history):
        return ()
    columns = [
        str(c)
        for c in history
        if c != "step" and pd.api.types.is_numeric_dtype(history[c]) and np.isfinite(history[c]).any()
    ]
    together = [c for c in ("loss", "valid_loss") if c in columns]
    groups = [together] if together else []
    groups += [[c] for c in columns if c not in together]
    steps = history["step"].to_numpy(dtype=float)
    return tuple(
        _history(steps, {c: history[c].to_numpy(dtype=float) for c in g}, f"history-{i}") for i, g in enumerate(groups)
    )


def _history(steps: np.ndarray, columns: dict[str, np.ndarray], name: str) -> Picture:
    fig, ax = panel(275, 210, left=52, top=30)
    styles = {"valid_loss": (ACCENT, "o", "--")}
    told, lost, positive, sizes = [], 0, True, []
    for place, (column, values) in enumerate(columns.items()):
        kept = np.isfinite(values) & np.isfinite(steps)
        lost += int(np.isinf(values).sum())
        x, y = _thin(steps[kept], values[kept])
        color, marker, line = styles.get(column, (INK, "", "-"))
        few = len(x) < 40
        ax.plot(
            x, y, color=color, linestyle=line, marker=marker if few or len(x) == 1 else "", markersize=4, linewidth=1.6
        )
        if len(x) == 1:
            ax.plot(x, y, "o", color=color, markersize=5)
        positive &= bool((y > 0).all())
        sizes += [y.min(), y.max()]
        label = _TITLES.get(column, column)
        fig.text((12 + place * 70) / 275, 1 - 12 / 210, shorten(label, 34), color=color, va="center", weight="bold")
        told.append(f"{label} from {number(y[0])} at step {int(x[0]):,} to {number(y[-1])} at step {int(x[-1]):,}")
    if positive and max(sizes) > 20 * min(sizes):
        ax.set_yscale("log")
        logarithmic(ax.yaxis, min(sizes), max(sizes))
    else:
        linear(ax.yaxis)
    linear(ax.xaxis)
    ax.set_xlabel("training step")
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    sentence = listing(told)
    extra = f" {count(lost, 'infinite value')} {'is' if lost == 1 else 'are'} not drawn." if lost else ""
    sentence = f"{sentence[0].upper()}{sentence[1:]}.{extra}"
    return Picture(to_svg(fig, sentence, name), sentence)


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `_POINTS` points: the first and the last as they are, bins of neighbors averaged between."""
    if len(x) <= _POINTS:
        return x, y
    edges = np.linspace(1, len(x) - 1, _POINTS - 1).astype(int)
    middle = [(x[a:b].mean(), y[a:b].mean()) for a, b in pairwise(edges)]
    xs, ys = np.array([(x[0], y[0]), *middle, (x[-1], y[-1])]).T
    return xs, ys


def dose_picture(curve: DoseCurve, expression: str, name: str) -> Picture | None:
    """Return the figure of `curve`, or None where nothing on it is a number."""
    doses = np.asarray(curve.doses, dtype=float)
    measured, low, high, predicted = (
        np.asarray(v, dtype=float) for v in (curve.measured, curve.measured_low, curve.measured_high, curve.predicted)
    )
    held = np.asarray(curve.held_out, dtype=bool)
    if not (np.isfinite(measured) | np.isfinite(predicted)).any():
        return None
    fig, ax = panel(350, 280, left=54, top=52, bottom=44)
    ax.set_xscale("log")
    step = _log_step(doses)
    for dose in doses[held]:
        ax.axvspan(dose / step, dose * step, color=GRID, alpha=0.7, linewidth=0, zorder=0)
    ends = (doses[0] / step**1.3, doses[-1] * step**1.3)
    if np.isfinite(curve.control_mean):
        ax.axhline(curve.control_mean, color=CONTROL, linewidth=1.8)
    kept = np.isfinite(predicted)
    ax.plot(
        doses[kept], predicted[kept], color=PREDICTED, linestyle=(0, (4, 1.6)), linewidth=1.8, marker="s", markersize=5
    )
    kept = np.isfinite(measured)
    bars = np.isfinite(low) & np.isfinite(high) & kept
    ax.vlines(doses[bars], low[bars], high[bars], color=MEASURED, linewidth=2)
    ax.plot(doses[kept], measured[kept], "o", color=MEASURED, markersize=6)
    ax.set_xlim(*ends)
    logarithmic(ax.xaxis, *ends)
    linear(ax.yaxis)
    ax.margins(y=0.12)
    ax.set_xlabel(f"{shorten(curve.treatment, 30)} ({curve.unit})")
    ax.set_ylabel(shorten(f"{curve.gene}, {expression}", 42))
    for place, (text, color) in enumerate((("control", CONTROL), ("measured", MEASURED), ("predicted", PREDICTED))):
        fig.text((14 + place * 76) / 350, 1 - 34 / 280, text, color=color, weight="bold", va="center")
    where = f" | {curve.context}" if curve.context else ""
    fig.text(14 / 350, 1 - 12 / 280, shorten(f"{curve.gene}{where}", 40), fontsize=TEXT + 1, weight="bold", va="center")
    if held.any():
        fig.text(1 - 10 / 350, 1 - 34 / 280, "shaded: not seen", color=MUTED, fontsize=SMALL, ha="right", va="center")
    hidden = listing(f"{number(d)} {curve.unit}" for d in doses[held])
    unseen = f" The model did not see {hidden}." if held.any() else " The model saw all these doses."
    pairs = "; ".join(
        f"{number(d)} {curve.unit}: measured {number(m)}, predicted {number(p)}"
        for d, m, p in zip(doses, measured, predicted, strict=True)
    )
    return Picture(
        to_svg(fig, f"Mean of {curve.gene} along the dose of {curve.treatment}{where}. {pairs}.{unseen}", name),
        f"{curve.gene} along the dose of {curve.treatment}{where}.{unseen} Bars: 95 % interval of the measured mean.",
    )


def _log_step(doses: np.ndarray) -> float:
    """Return half the smallest distance between doses, as a factor."""
    return float(np.sqrt((doses[1:] / doses[:-1]).min()) ** 0.8) if len(doses) > 1 else 1.6

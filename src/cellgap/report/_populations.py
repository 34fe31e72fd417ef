"""The three figures of one condition: all cells in two dimensions, the most changed genes, the mean effect per gene."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cellgap.report._data import PopulationView
from cellgap.report._density import density_1d, density_2d, fit_projection, sample
from cellgap.report._draw import (
    CONTROL,
    GRID,
    INK,
    MEASURED,
    MUTED,
    PREDICTED,
    SMALL,
    TEXT,
    dots,
    linear,
    panel,
    subpanel,
    to_svg,
)
from cellgap.report._picture import Picture
from cellgap.report._words import count, fixed, listing, number, shorten

_ROLES: tuple[tuple[str, str, Literal["-", "--"]], ...] = (
    ("control", CONTROL, "-"),
    ("measured", MEASURED, "-"),
    ("predicted", PREDICTED, "--"),
)
_FITTED = 600  # cells per population that fix axes and densities
_DRAWN = 220  # dots per population
_GENES = 6


@dataclass(frozen=True)
class ConditionFigures:
    """What is drawn of one condition, and what is said of it instead of a figure."""

    pictures: tuple[Picture, ...]
    remarks: tuple[str, ...]


def condition_figures(view: PopulationView, expression: str, name: str) -> ConditionFigures:
    """Return the figures of `view`; ids inside them start with `name`."""
    cells, remarks = _finite(view)
    empty = [role for role, values in cells.items() if not len(values)]
    if empty or not len(view.genes):
        what = f"no {listing(empty)} cells" if empty else "no genes"
        return ConditionFigures((), (*remarks, f"Nothing to draw: there are {what}."))
    genes = [str(gene) for gene in view.genes]
    spread = cells["measured"].var(axis=0).sum()
    if spread > 0:
        ratio = cells["predicted"].var(axis=0).sum() / spread
        remarks.append(
            f"Predicted cells vary {fixed(ratio)} times as much as the measured ones (variance summed over genes)."
        )
    else:
        remarks.append("The measured cells do not vary at all, so there is no spread to compare.")
    pictures = []
    overview = _overview(cells, view.condition, f"{name}-cells")
    if overview:
        pictures.append(overview)
    else:
        remarks.append(
            "One gene only: no two-dimensional view."
            if len(genes) == 1
            else "Control and measured cells vary in fewer than two directions: no two-dimensional view."
        )
    change = cells["measured"].mean(axis=0) - cells["control"].mean(axis=0)
    top = np.argsort(-np.abs(change), kind="stable")[:_GENES]
    pictures.append(_distributions(cells, genes, top, expression, view.condition, f"{name}-genes"))
    if len(genes) > 1:
        predicted = cells["predicted"].mean(axis=0) - cells["control"].mean(axis=0)
        pictures.append(_effects(change, predicted, genes, top, view.condition, f"{name}-effects"))
    return ConditionFigures(tuple(pictures), tuple(remarks))


def _finite(view: PopulationView) -> tuple[dict[str, np.ndarray], list[str]]:
    cells, remarks = {}, []
    for role, _, _ in _ROLES:
        values = np.asarray(getattr(view, role), dtype=np.float64)
        kept = np.isfinite(values).all(axis=1)
        if not kept.all():
            remarks.append(
                f"{count((~kept).sum(), f'{role} cell')} of {len(values):,} hold values that are not numbers and are"
                " left out of the figures."
            )
        cells[role] = values[kept]
    return cells, remarks


def _overview(cells: dict[str, np.ndarray], condition: str, name: str) -> Picture | None:
    cells = {role: values[sample(len(values), _FITTED)] for role, values in cells.items()}
    projection = fit_projection(np.concatenate([cells["control"], cells["measured"]]))
    if projection is None:
        return None
    points = {role: projection(values) for role, values in cells.items()}
    low, high = _frame(points)
    inside = {role: ((xy >= low) & (xy <= high)).all(axis=1) for role, xy in points.items()}
    fig, ax = panel(350, 310, left=46, bottom=42, top=28)
    for role, color, line in _ROLES:
        xy = points[role][inside[role]]
        xy = xy[sample(len(xy), _DRAWN)]
        dots(ax, xy[:, 0], xy[:, 1], color, alpha=0.6)
        field = density_2d(points[role], low, high)
        if field:
            levels = ax.contour(
                field.x, field.y, field.height, levels=field.levels, colors=color, linewidths=(1.2, 2.0)
            )
            levels.set(linestyle=line, zorder=3)
    for role, color, _ in _ROLES:
        x, y = points[role].mean(axis=0)
        ax.plot(x, y, marker="X", markersize=9, color=color, markeredgecolor=INK, markeredgewidth=0.8, zorder=5)
    ax.set(
        xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="first principal axis", ylabel="second principal axis"
    )
    linear(ax.xaxis)
    linear(ax.yaxis)
    legend(fig, 46)
    first, second = (f"{100 * share:.0f} %" for share in projection.explained)
    outside = sum(int((~kept).sum()) for kept in inside.values())
    beyond = f" {count(outside, 'cell')} outside the frame." if outside else ""
    numbers = listing(f"{len(points[role])} {role}" for role, _, _ in _ROLES)
    return Picture(
        to_svg(
            fig,
            f"Control, measured and predicted cells of {condition} on the first two principal axes of control and"
            f" measured cells: {numbers} cells, each with its mean and two density contours.",
            name,
        ),
        f"All cells seen along the two directions in which control and measured cells vary most ({first} and {second}"
        f" of their variance). Contours hold half and nine tenths of each population; crosses are means.{beyond}",
    )


def _frame(points: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    ends = [np.quantile(xy, [0.005, 0.995], axis=0) for xy in points.values()]
    low, high = np.min([e[0] for e in ends], axis=0), np.max([e[1] for e in ends], axis=0)
    margin = 0.06 * np.maximum(high - low, 1e-12)
    return low - margin, high + margin


def _distributions(
    cells: dict[str, np.ndarray], genes: list[str], top: np.ndarray, expression: str, condition: str, name: str
) -> Picture:
    columns = min(3, len(top))
    rows = -(-len(top) // columns)
    width, height = (350 - 36) / columns, (310 - 36) / rows
    fig = Figure(figsize=(350 / 72, 310 / 72))
    for place, gene in enumerate(top):
        row, column = divmod(place, columns)
        ax = subpanel(fig, 36 + column * width + 14, 26 + row * height + 20, width - 18, height - 32)
        _violins(ax, {role: values[:, gene] for role, values in cells.items()})
        ax.set_title(shorten(genes[gene], 14), fontsize=TEXT, color=INK, pad=3)
    fig.text(9 / 350, 0.5, shorten(expression, 40), rotation=90, ha="center", va="center")
    legend(fig, 30)
    shown = [genes[gene] for gene in top]
    opening = (
        f"The {len(top)} genes whose mean the treatment moved most (measured against control, whatever the prediction)."
        if len(top) < len(genes)
        else "All genes, the one whose mean the treatment moved most first."
    )
    changes = "; ".join(
        f"{genes[gene]}: control {number(cells['control'][:, gene].mean())}, measured"
        f" {number(cells['measured'][:, gene].mean())}, predicted {number(cells['predicted'][:, gene].mean())}"
        for gene in top
    )
    return Picture(
        to_svg(fig, f"Distributions over cells of {listing(shown)} in {condition}; means: {changes}.", name),
        f"{opening} Bodies: how cells are distributed; dots: means.",
    )


def _violins(ax: Axes, values: dict[str, np.ndarray]) -> None:
    values = {role: column[sample(len(column), 2000)] for role, column in values.items()}
    low = min(float(column.min()) for column in values.values())
    high = max(float(column.max()) for column in values.values())
    for x, (role, color, _) in enumerate(_ROLES):
        density = density_1d(values[role], low, high)
        if density:
            grid, half = density
            ax.fill_betweenx(grid, x - 0.42 * half, x + 0.42 * half, color=color, alpha=0.45, linewidth=0)
            ax.fill_betweenx(grid, x - 0.42 * half, x + 0.42 * half, facecolor="none", edgecolor=color, linewidth=1)
        else:
            ax.plot([x - 0.42, x + 0.42], [values[role].mean()] * 2, color=color, linewidth=2)
        ax.plot(x, values[role].mean(), "o", color=color, markersize=5, markeredgecolor=INK, markeredgewidth=0.8)
    margin = 0.06 * (high - low) or 0.5
    ax.set(xlim=(-0.6, 2.6), ylim=(low - margin, high + margin))
    ax.set_xticks([])
    linear(ax.yaxis, 3)
    ax.tick_params(axis="y", pad=1, labelsize=SMALL)


def _effects(
    measured: np.ndarray, predicted: np.ndarray, genes: list[str], top: np.ndarray, condition: str, name: str
) -> Picture:
    fig, ax = panel(350, 310, left=50, bottom=42, top=28)
    ends = np.array([min(measured.min(), predicted.min()), max(measured.max(), predicted.max())])
    margin = 0.08 * (ends[1] - ends[0]) or 0.5
    low, high = ends[0] - margin, ends[1] + margin
    ax.plot([low, high], [low, high], color=MUTED, linewidth=1.2)
    ax.axhline(0, color=GRID, linewidth=1, zorder=0)
    ax.axvline(0, color=GRID, linewidth=1, zorder=0)
    kept = np.union1d(sample(len(genes), 2500), top)
    dots(ax, measured[kept], predicted[kept], PREDICTED, size=4.2, alpha=0.7)
    ax.set(xlim=(low, high), ylim=(low, high), xlabel="measured change", ylabel="predicted change")
    linear(ax.xaxis)
    linear(ax.yaxis)
    _label(ax, measured, predicted, genes, top, (low, high))
    ax.text(high, high, "predicted = measured ", ha="right", va="bottom", fontsize=SMALL, color=MUTED)
    ratio = _slope(measured, predicted)
    most = genes[top[0]]
    text = (
        f" Over all genes the predicted change is {fixed(ratio)} times the measured one (slope through zero)."
        if ratio is not None
        else ""
    )
    fewer = f" {len(kept):,} of {len(genes):,} genes are drawn." if len(kept) < len(genes) else ""
    return Picture(
        to_svg(
            fig,
            f"Predicted against measured mean change of {count(len(genes), 'gene')} in {condition}, with the line of"
            f" equality. The most changed gene, {most}, moves by {number(measured[top[0]])} measured and"
            f" {number(predicted[top[0]])} predicted.",
            name,
        ),
        f"Mean change against control, one dot per gene; on the line the prediction is right.{text}{fewer}",
    )


def _slope(measured: np.ndarray, predicted: np.ndarray) -> float | None:
    size = float(measured @ measured)
    return float(measured @ predicted) / size if size > 0 else None


def _label(
    ax: Axes, x: np.ndarray, y: np.ndarray, genes: list[str], top: np.ndarray, ends: tuple[float, float]
) -> None:
    """Name the most changed genes, skipping a name that would cover another name or several dots."""
    unit = (ends[1] - ends[0]) / 290  # data units per pixel, nearly the same on both axes
    taken: list[tuple[float, float, float]] = []
    for gene in top:
        text = shorten(genes[gene], 12)
        width = 6.9 * len(text) * unit
        right = x[gene] + 7 * unit + width > ends[1]
        start = x[gene] - 7 * unit - width if right else x[gene] + 7 * unit
        covered = (np.abs(y - y[gene]) < 7 * unit) & (x > start) & (x < start + width)
        crowded = any(abs(y[gene] - v) < 14 * unit and start < u + w and u < start + width for u, v, w in taken)
        if crowded or covered.sum() > 1:
            continue
        taken.append((float(start), float(y[gene]), width))
        ax.annotate(
            text,
            (x[gene], y[gene]),
            xytext=(-6 if right else 6, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="center",
            fontsize=SMALL,
            zorder=6,
        )


def legend(fig: Figure, left: float) -> None:
    """Write the three roles in their colors along the top of `fig`."""
    width, height = fig.get_size_inches() * 72
    x = left
    for role, color, line in _ROLES:
        y = 1 - 9 / height
        fig.add_artist(Line2D([x / width, (x + 18) / width], [y, y], color=color, linewidth=2.4, linestyle=line))
        fig.text((x + 23) / width, y, role, va="center")
        x += 23 + 7.4 * len(role) + 14

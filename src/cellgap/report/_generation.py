"""The page of a generator: generated cells beside held-out ones, in two dimensions, gene by gene, as whole cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from cellgap import __version__
from cellgap.errors import StorageError
from cellgap.gap import Gap
from cellgap.report._curves import history_pictures
from cellgap.report._density import fit_projection
from cellgap.report._draw import GRID, MEASURED, MUTED, PREDICTED, SMALL, dots, drawing, linear, panel, subpanel, to_svg
from cellgap.report._picture import Picture
from cellgap.report._template import environment, style
from cellgap.report._words import flatten, number, shorten

_DOTS = 500
_TYPES = 12
_TOTAL = 1e4


@dataclass(frozen=True, eq=False)
class OtherModality:
    """A second kind of measurement of the cells on the page.

    Parameters
    ----------
    name
        Of the modality.
    real, generated
        Share of the cells in which each feature is there (a peak is open), held out and generated.
    scores
        As in `GenerationData`: ``generated, floor, excess``.
    paired
        Whether both modalities are of one cell: ``generated, floor, apart``; see `cellgap.evaluate.paired_scores`.
    """

    name: str
    real: Float[np.ndarray, " features"]
    generated: Float[np.ndarray, " features"]
    scores: pd.DataFrame
    paired: pd.DataFrame


@dataclass(frozen=True, eq=False)
class GenerationData:
    """What a page of generated cells shows.

    Parameters
    ----------
    title, subtitle
        At the head of the page.
    real, generated
        Raw counts of held-out cells and of generated ones with their attributes, one for each, in the same order.
    labels, by
        Category of every cell, and the name of the attribute.
    scores
        A row a score: ``generated``, ``floor`` (training cells in their place), ``excess``; see
        `cellgap.evaluate.generated_scores`.
    history
        Of training; see `cellgap.report.ReportData`.
    gaps
        Of the generator.
    guidance
        What was found about guidance, in a sentence.
    settings
        Of the run.
    others
        Further modalities.
    """

    title: str
    subtitle: str
    real: Float[np.ndarray, "n genes"]
    generated: Float[np.ndarray, "n genes"]
    labels: Sequence[str]
    by: str
    scores: pd.DataFrame
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    gaps: tuple[Gap, ...] = ()
    guidance: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[OtherModality, ...] = ()


def write_generation_report(data: GenerationData, path: str | Path) -> Path:
    """Return the path of the page written from `data`: one HTML file that needs nothing else, not even a script.

    Parameters
    ----------
    data
        What to show.
    path
        Where to write; missing folders are made, an existing file is replaced.

    Raises
    ------
    StorageError
        `path` is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise StorageError(f"The report needs the name of a file, but {str(target)!r} is a folder. Add a name.")
    templates = environment()
    with drawing():
        whole = (_cells(data), *_whole_cells(data))
        genes = _genes(data)
        history = history_pictures(data.history)
        others = [(o.name, (_rates(o),), _rows(o.scores), _rows(o.paired)) for o in data.others]
    page = templates.get_template("generation.html").render(
        data=data,
        version=__version__,
        css=style(templates),
        lead=_lead(data),
        pictures=whole,
        genes=genes,
        history=history,
        scores=_rows(data.scores),
        others=others,
        settings=flatten(data.settings),
        number=number,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8", newline="\n")
    return target


_WORDS = {
    "energy_type": "energy distance, mean over categories",
    "energy": "energy distance, all cells",
    "w2_type": "Wasserstein distance (biased: narrow populations look better)",
    "mmd_type": "kernel discrepancy as published (biased)",
    "rf_auc": "a random forest tells them apart, 0.5 is ideal",
    "rf_auc_normalized": "the same without totals",
    "knn_accuracy": "category by the nearest training cells; floor: of real cells",
    "zeros_w1": "distance of zero fractions",
    "library_w1": "distance of log totals",
    "mean_rmse": "log10 mean of genes",
    "variance_rmse": "log10 variance of genes",
    "open_rate_rmse": "of the shares of cells in which features are there",
    "open_rate_correlation": "of the same shares",
    "open_w1": "distance of the log numbers of features that are there",
    "cross_correlation": "cosine of the correlations of both modalities to those of held-out cells",
    "cross_strength": "ratio of their norms",
    "pair_correlation": "of the coefficients of the strongest pairs of features with those of held-out cells",
    "pair_slope": "mean coefficient of these pairs over that of held-out cells",
    "category_correlation": "of means of both modalities over categories",
}


def _rows(table: pd.DataFrame) -> list[tuple[str, ...]]:
    return [
        (str(name), _WORDS.get(str(name), ""), *(number(float(v)) for v in row))
        for name, row in zip(table.index, table.to_numpy(), strict=True)
    ]


def _lead(data: GenerationData) -> str:
    """Return what the scores say, in a sentence."""
    if "energy_type" not in data.scores.index:
        return f"{len(data.real):,} generated cells beside as many held-out ones."
    row = data.scores.loc["energy_type"]
    text = (
        f"{len(data.real):,} generated cells beside as many held-out ones: the energy distance within categories is "
        f"{number(float(row['generated']))}, that of training cells {number(float(row['floor']))}"
    )
    if "rf_auc" in data.scores.index:
        auc = data.scores.loc["rf_auc"]
        text += (
            f"; a random forest tells them apart with an area under the curve of {number(float(auc['generated']))} "
            f"({number(float(auc['floor']))} for training cells)"
        )
    return text + "."


def _logs(counts: np.ndarray) -> np.ndarray:
    return np.log1p(counts / np.maximum(counts.sum(1, keepdims=True), 1) * _TOTAL)


def _span(*values: np.ndarray) -> tuple[float, float]:
    """Return the smallest and largest of some values, a little apart where they are the same."""
    low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    return low, high if high > low else low + 1.0


def _legend(fig: Any, height: float) -> None:
    for place, (text, color) in enumerate((("held out", MEASURED), ("generated", PREDICTED))):
        fig.text(
            (52 + 80 * place) / (fig.get_figwidth() * 72),
            1 - 12 / height,
            text,
            color=color,
            va="center",
            weight="bold",
        )


def _cells(data: GenerationData) -> Picture:
    """Return both sets of cells along the principal axes of the held-out ones, a panel a category."""
    real, made = _logs(data.real), _logs(data.generated)
    project = fit_projection(real)
    labels = np.asarray(data.labels, dtype=str)
    known, sizes = np.unique(labels, return_counts=True)
    shown = known[np.argsort(-sizes, kind="stable")][:_TYPES]
    side, columns = 190.0, max(1, min(4, len(shown)))
    rows = -(-len(shown) // columns)
    width, height = 20 + columns * (side + 14), 34 + rows * (side + 26)
    fig, _ = panel(width, height)
    fig.clear()
    sentence = "Cells do not vary in two directions."
    if project is not None:
        a, b = project(real), project(made)
        both = np.concatenate([a, b])
        low, high = np.quantile(both, 0.002, 0), np.quantile(both, 0.998, 0)
        margin = 0.05 * (high - low)
        rng = np.random.default_rng(0)
        for place, name in enumerate(shown):
            x, y = 14 + (place % columns) * (side + 14), 34 + (place // columns) * (side + 26)
            ax = subpanel(fig, x, y + 14, side, side)
            here = np.flatnonzero(labels == name)
            here = here if len(here) <= _DOTS else np.sort(rng.choice(here, _DOTS, replace=False))
            for points, color in ((a[here], MEASURED), (b[here], PREDICTED)):
                kept = points[((points >= low - margin) & (points <= high + margin)).all(1)]
                dots(ax, kept[:, 0], kept[:, 1], color, size=3.2, alpha=0.6)
            ax.set_xlim(low[0] - margin[0], high[0] + margin[0])
            ax.set_ylim(low[1] - margin[1], high[1] + margin[1])
            ax.set_xticks([])
            ax.set_yticks([])
            fig.text(
                (x + 2) / width, 1 - (y + 6) / height, shorten(str(name), 22), fontsize=SMALL, va="center", color=MUTED
            )
        share = f"{100 * float(project.explained.sum()):.0f} %"
        more = (
            f" The {len(known) - len(shown)} smallest of {len(known)} are not drawn." if len(known) > len(shown) else ""
        )
        sentence = (
            f"Held-out and generated cells of every {data.by} along the first two principal axes of the held-out cells "
            f"({share} of their variance).{more}"
        )
    _legend(fig, height)
    return Picture(to_svg(fig, sentence, "cells"), sentence)


def _whole_cells(data: GenerationData) -> tuple[Picture, ...]:
    """Return the distributions of zero fractions and of totals."""
    pictures = []
    for name, title, values in (
        ("zeros", "fraction of genes with no count", lambda x: (x == 0).mean(1)),
        ("library", "log10 total of a cell", lambda x: np.log10(np.maximum(x.sum(1), 1))),
    ):
        a, b = values(data.real), values(data.generated)
        fig, ax = panel(300, 230, left=48, top=30)
        edges = np.linspace(*_span(a, b), 21)
        for sample, color in ((a, MEASURED), (b, PREDICTED)):
            height, _ = np.histogram(sample, edges, density=True)
            ax.step(edges, np.append(height, height[-1]), where="post", color=color, linewidth=1.6)
        ax.set_ylim(bottom=0)
        ax.set_yticks([])
        linear(ax.xaxis)
        ax.set_xlabel(title)
        _legend(fig, 230)
        means = f"held out {number(float(a.mean()))} on average, generated {number(float(b.mean()))}"
        sentence = f"{title[0].upper()}{title[1:]}: {means}."
        pictures.append(Picture(to_svg(fig, sentence, name), sentence))
    return tuple(pictures)


def _marks(n: int) -> dict[str, float]:
    """Return size and opacity of n dots: a few must be seen, many must not hide one another."""
    return {"size": 2.2, "alpha": 0.45} if n > 500 else {"size": 4.5, "alpha": 0.75}


def _genes(data: GenerationData) -> tuple[Picture, ...]:
    """Return mean and variance of every gene, generated against held out, and the variance against the mean."""

    def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shares = x / np.maximum(x.sum(1, keepdims=True), 1) * _TOTAL
        return np.log10(shares.mean(0) + 1e-2), np.log10(shares.var(0) + 1e-2)

    a, b = moments(data.real), moments(data.generated)
    pictures = []
    for name, title, x, y in (("mean", "mean", a[0], b[0]), ("variance", "variance", a[1], b[1])):
        fig, ax = panel(270, 250, left=52, top=14, bottom=46)
        low, high = _span(x, y)
        ax.plot([low, high], [low, high], color=GRID, linewidth=1.2)
        dots(ax, x, y, PREDICTED, **_marks(len(x)))
        ax.set_xlim(low, high)
        ax.set_ylim(low, high)
        linear(ax.xaxis)
        linear(ax.yaxis)
        ax.set_xlabel(f"log10 {title}, held out")
        ax.set_ylabel(f"log10 {title}, generated")
        same = f": correlation {number(float(np.corrcoef(x, y)[0, 1]))}" if x.std() > 0 and y.std() > 0 else ""
        sentence = f"The {title} of every gene (counts per 10,000){same}."
        pictures.append(Picture(to_svg(fig, sentence, name), sentence))
    fig, ax = panel(270, 250, left=52, top=30, bottom=46)
    for (x, y), color in ((a, MEASURED), (b, PREDICTED)):
        dots(ax, x, y, color, **_marks(len(x)))
    ax.set_xlim(*_span(a[0], b[0]))
    ax.set_ylim(*_span(a[1], b[1]))
    linear(ax.xaxis)
    linear(ax.yaxis)
    ax.set_xlabel("log10 mean")
    ax.set_ylabel("log10 variance")
    _legend(fig, 250)
    sentence = "Variance against mean of every gene: where generated cells lie above, they are noisier."
    pictures.append(Picture(to_svg(fig, sentence, "mean-variance"), sentence))
    return tuple(pictures)


def _rates(other: OtherModality) -> Picture:
    """Return the share of cells in which each feature is there, generated against held out."""
    fig, ax = panel(300, 270, left=52, top=14, bottom=46)
    x, y = other.real, other.generated
    low, high = _span(x, y)
    ax.plot([low, high], [low, high], color=GRID, linewidth=1.2)
    dots(ax, x, y, PREDICTED, **_marks(len(x)))
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    linear(ax.xaxis)
    linear(ax.yaxis)
    ax.set_xlabel("share of held-out cells")
    ax.set_ylabel("share of generated cells")
    sentence = f"{other.name}: the share of cells in which each of {len(x):,} features is there."
    return Picture(to_svg(fig, sentence, f"rates-{other.name}"), sentence)

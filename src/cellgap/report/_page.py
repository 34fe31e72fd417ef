"""One page out of one `ReportData`: figures and rows are made here, words and order are the template's."""

from dataclasses import dataclass
from pathlib import Path

from cellgap import __version__
from cellgap.errors import StorageError
from cellgap.report._curves import dose_picture, history_pictures
from cellgap.report._data import PopulationView, ReportData
from cellgap.report._draw import drawing
from cellgap.report._picture import Picture
from cellgap.report._populations import ConditionFigures, condition_figures
from cellgap.report._rankings import conditions_picture, headline_picture, metric_pictures
from cellgap.report._scores import LEADING, Scores, scores, spread
from cellgap.report._suite import suite_table
from cellgap.report._tables import condition_table, glossary, plain_rows, role_totals, summary_tables
from cellgap.report._template import environment, style
from cellgap.report._verdict import verdict
from cellgap.report._words import fixed, flatten, metric_text, number


@dataclass(frozen=True)
class ConditionPart:
    """One condition on the page: its place, its rank in words, its view, its scores and its figures."""

    anchor: str
    rank: str
    view: PopulationView
    scored: tuple[tuple[str, str, str], ...]
    figures: ConditionFigures
    note: str


def write_report(data: ReportData, path: str | Path) -> Path:
    """Return the path of the page written from `data`: one HTML file that needs nothing else, not even a script.

    Parameters
    ----------
    data
        What to show. Equal data give equal bytes (with equal versions of this package and of matplotlib).
    path
        Where to write; missing folders are made, an existing file is replaced.

    Raises
    ------
    StorageError
        `path` is a folder.

    Examples
    --------
    >>> import tempfile
    >>> from cellgap.report import ReportData, write_report
    >>> write_report(ReportData(title="Nothing yet"), f"{tempfile.mkdtemp()}/report.html").name
    'report.html'
    """
    target = Path(path)
    if target.is_dir():
        raise StorageError(
            f"The report needs the name of a file, but {str(target)!r} is a folder. Add a name: report.html."
        )
    page = _page(data)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8", newline="\n")
    return target


def _page(data: ReportData) -> str:
    templates = environment()
    known = scores(data)
    with drawing():
        conditions = _conditions(data, known)
        curves = _curves(data)
        parts = {
            "headline_picture": headline_picture(known, data.scale_zero, data.scale_one),
            "history": history_pictures(data.history),
            "metric_pictures": metric_pictures(known, data.scale_zero, data.scale_one),
            "conditions_picture": conditions_picture(known),
        }
    return templates.get_template("report.html").render(
        data=data,
        version=__version__,
        css=style(templates),
        verdict=verdict(data, known),
        headline_label=metric_text(known.headline[0]).label if known.headline else "",
        summary_tables=summary_tables(known),
        condition_table=condition_table(known, {part.view.condition: part.anchor for part in conditions}),
        suite_table=suite_table(data.suite, data.model),
        glossary=glossary(known),
        n_scores=len(known.keys),
        n_leading=min(LEADING, len(known.keys)),
        unscaled=[f"{metric_text(metric).label} in {space}" for metric, space in known.unscaled],
        conditions=conditions,
        curves=curves,
        study_rows=plain_rows(data.study, ("condition", "role", "cells", "controls")) if len(data.study) else (),
        role_totals=role_totals(data.study),
        settings=flatten(data.settings),
        number=number,
        **parts,
    )


def _conditions(data: ReportData, known: Scores) -> tuple[ConditionPart, ...]:
    """Return the parts of the conditions to draw: worst, median and best first, those without a score last."""
    views = {view.condition: view for view in data.populations}
    ranked = tuple(c for c in known.ranked if c in views)
    chosen = spread(ranked, data.max_figures)
    chosen += tuple(c for c in views if c not in set(ranked))[: data.max_figures - len(chosen)]
    return tuple(
        ConditionPart(
            anchor=f"condition-{place}",
            rank=_rank(known.ranked, name),
            view=views[name],
            scored=_scored(known, name),
            figures=condition_figures(views[name], data.expression, f"c{place}"),
            note=known.notes.get(name, ""),
        )
        for place, name in enumerate(chosen)
    )


def _rank(ranked: tuple[str, ...], name: str) -> str:
    if name not in ranked:
        return "not scored"
    n, place = len(ranked), ranked.index(name)
    if n == 1:
        return "the only one scored"
    word = {0: "worst", n - 1: "best"}.get(place, "median" if place == (n - 1) // 2 and n > 2 else "")
    return f"{word} of {n}" if word else f"rank {place + 1} of {n}, counted from the worst"


def _scored(known: Scores, condition: str) -> tuple[tuple[str, str, str], ...]:
    """Return (label, value, scaled) of the model's scores on `condition`, the headline first."""
    several = len({space for _, space in known.keys}) > 1
    rows = []
    for key in known.keys[:LEADING]:
        value, scaled = known.cells.get((known.model, condition, key), (float("nan"), float("nan")))
        if value == value:
            label = metric_text(key[0]).label + (f", {key[1]}" if several else "")
            rows.append((label, number(value), fixed(scaled) if scaled == scaled else ""))
    return tuple(rows)


def _curves(data: ReportData) -> tuple[Picture, ...]:
    pictures = (
        dose_picture(c, data.expression, f"dose-{i}") for i, c in enumerate(data.dose_curves[: data.max_figures])
    )
    return tuple(picture for picture in pictures if picture)

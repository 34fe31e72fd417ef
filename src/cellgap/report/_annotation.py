"""The page of an annotator: what it reaches on domains left out, beside baselines, and when it does not know."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from cellgap import __version__
from cellgap.errors import DataError, StorageError
from cellgap.gap import Gap
from cellgap.report._annotation_figures import (
    calibration_picture,
    confusion_picture,
    coverage_picture,
    distance_picture,
    robust_pictures,
    targets_picture,
)
from cellgap.report._draw import drawing
from cellgap.report._stream_figures import percent
from cellgap.report._template import environment, style
from cellgap.report._verdict import Verdict
from cellgap.report._words import count, fixed, flatten, number

_SUMMARY = (
    "method", "accuracy", "accuracy_se", "accuracy_worst", "worst_target", "macro_f1", "macro_f1_se", "macro_f1_worst",
    "ece_pooled", "brier", "log_loss", "coverage_95_pooled", "absent_rate", "unassigned",
)  # fmt: skip
_COLUMNS = {
    "summary": _SUMMARY,
    "targets": ("method", "target", "accuracy", "macro_f1"),
    "robust": ("attack", "strength", "accuracy"),
    "unseen": ("class", "n_cells", "labelled", "auroc"),
    "trials": ("candidate", "domain", "log_loss", "accuracy", "macro_f1", "chosen"),
}
_CLEAR = 2.0
_MOST_REASONS = 12


@dataclass(frozen=True)
class Difference:
    """How much higher the accuracy of the annotator is than of a baseline, paired over targets.

    Parameters
    ----------
    baseline
        Its name.
    mean, error
        Of the differences, and their standard error; NaN where there is one target.
    n
        Targets.
    """

    baseline: str
    mean: float
    error: float
    n: int


@dataclass(frozen=True, eq=False)
class AnnotationData:
    """What the page of an annotator shows; every part may be left out but the title.

    Parameters
    ----------
    title, subtitle
        At the head of the page.
    annotator
        Name of the annotator among the methods.
    label, domains
        Columns of the classes, and of what was left out.
    summary
        One row a method; columns as those of `cellgap.evaluate.AnnotationEvaluation.summary`.
    targets
        One row a method and target, with the columns ``method, target, accuracy, macro_f1``.
    differences
        To the baselines.
    calibration
        Method to confidence, accuracy and number of cells of bins.
    coverage
        Method to coverage and accuracy of the most confident cells.
    confusion
        Cells by true class (rows) and given label (columns).
    robust
        Accuracy under attack: columns ``attack`` ("l_inf" or "counts"), ``strength`` and ``accuracy``.
    unseen
        Classes left out of the labels in turn: columns ``class, n_cells, labelled, auroc``.
    trials
        How settings were chosen: columns ``candidate, domain, log_loss, accuracy, macro_f1, chosen``.
    distance
        Numbers of updates and distances of weights from their start; empty: none are drawn.
    lines
        Intercept and slope of distance over ``log t`` and over ``sqrt(t)``, with the parts of the variance that they
        explain, and the last update that they were fitted to; None: no lines.
    gaps, settings
        Of the fit, as in `cellgap.report.ReportData`.
    reasons
        Why cells were left unassigned, and how many, most frequent first.
    sentences
        What the fit says of itself.
    notes
        Sentences to know when reading the page.

    Raises
    ------
    DataError
        A column of a table is missing.
    """

    title: str
    subtitle: str = ""
    annotator: str = "annotator"
    label: str = ""
    domains: str = ""
    summary: pd.DataFrame = field(default_factory=pd.DataFrame)
    targets: pd.DataFrame = field(default_factory=pd.DataFrame)
    differences: tuple[Difference, ...] = ()
    calibration: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=dict)
    coverage: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    confusion: pd.DataFrame = field(default_factory=pd.DataFrame)
    robust: pd.DataFrame = field(default_factory=pd.DataFrame)
    unseen: pd.DataFrame = field(default_factory=pd.DataFrame)
    trials: pd.DataFrame = field(default_factory=pd.DataFrame)
    distance: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]] = field(
        default_factory=lambda: (np.zeros(0), np.zeros(0))
    )
    lines: "DistanceLines | None" = None
    gaps: tuple[Gap, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    reasons: tuple[tuple[str, int], ...] = ()
    sentences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, wanted in _COLUMNS.items():
            table: pd.DataFrame = getattr(self, name)
            missing = [column for column in wanted if column not in table] if len(table) else []
            if missing:
                raise DataError(
                    f"The table {name!r} of this page needs the columns {', '.join(wanted)}; {missing[0]!r} is not "
                    "there."
                )


@dataclass(frozen=True)
class DistanceLines:
    """Two lines through distances of weights.

    Parameters
    ----------
    log, sqrt
        Intercept and slope over ``log t``, and over ``sqrt(t)``.
    r2_log, r2_sqrt
        Part of the variance that each explains.
    verdict
        "log", "sqrt" or "undecided".
    until
        Last update that they were fitted to.
    """

    log: tuple[float, float]
    sqrt: tuple[float, float]
    r2_log: float
    r2_sqrt: float
    verdict: str
    until: float


def write_annotation_report(data: AnnotationData, path: str | Path) -> Path:
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
    order = [str(m) for m in data.summary["method"]] if len(data.summary) else []
    with drawing():
        found = [targets_picture(data.targets, score, order, data.annotator) for score in ("accuracy", "macro_f1")]
        sure = [
            calibration_picture(data.calibration, data.annotator),
            coverage_picture(data.coverage, data.annotator),
        ]
        confused = confusion_picture(data.confusion)
        attacked = robust_pictures(data.robust)
        distance = distance_picture(*data.distance, data.lines)
    page = templates.get_template("annotation.html").render(
        data=data,
        version=__version__,
        css=style(templates),
        verdict=annotation_verdict(data),
        targets=[picture for picture in found if picture],
        methods=_methods(data),
        sure=[picture for picture in sure if picture],
        confused=confused,
        mistakes=_mistakes(data.confusion),
        attacked=attacked,
        unseen=_unseen(data.unseen),
        reasons=data.reasons[:_MOST_REASONS],
        n_reasons=len(data.reasons),
        trials=_trials(data.trials),
        n_domains=data.trials["domain"].nunique() if len(data.trials) else 0,
        distance=distance,
        settings=flatten(data.settings),
        number=number,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8", newline="\n")
    return target


def annotation_verdict(data: AnnotationData) -> Verdict:
    """Return where the annotator stands beside the best baseline, paired over targets."""
    rows = {str(row["method"]): row for row in data.summary.to_dict("records")}
    if data.annotator not in rows:
        return Verdict(
            "unknown",
            "Not judged on new domains yet.",
            ("This page shows the fit and its own trials; leaving domains out in turn puts baselines beside it.",),
        )
    own = rows[data.annotator]
    sentences = [
        f"On {count(_targets(data), 'value')} of {data.domains} left out in turn, {percent(own['accuracy'])} of the "
        f"cells get the right most probable class (macro-F1 {fixed(own['macro_f1'])}); at worst "
        f"{percent(own['accuracy_worst'])}, for {own['worst_target']}.",
        f"Ordered by confidence, {percent(own['coverage_95_pooled'])} of the cells can be labelled with 95 % of them "
        f"right; probabilities are off by {number(own['ece_pooled'], 2)} on average.",
    ]
    others = [d for d in data.differences if d.baseline in rows]
    if not others:
        return Verdict("unclear", "No baseline to compare with.", tuple(sentences))
    best = max(others, key=lambda d: float(rows[d.baseline]["accuracy"]))
    error = f" ± {fixed(100 * best.error, 1)}" if math.isfinite(best.error) else ""
    margin = f"{fixed(100 * abs(best.mean), 1)}{error} points"
    clear = math.isfinite(best.error) and abs(best.mean) > _CLEAR * best.error and best.mean != 0
    side = "higher" if best.mean >= 0 else "lower"
    told = f"Paired over {count(best.n, 'target')}, its accuracy is {margin} {side} than that of {best.baseline}."
    if clear and best.mean > 0:
        return Verdict("better", f"It beats the best baseline, {best.baseline}.", (told, *sentences))
    if clear:
        lead = f"The best baseline, {best.baseline}, is better."
        return Verdict("worse", lead, (told, f"Use {best.baseline}, or see the trials and gaps below.", *sentences))
    lead = f"It cannot be told from the best baseline, {best.baseline}."
    return Verdict("unclear", lead, (told, *sentences))


def _targets(data: AnnotationData) -> int:
    return int(data.targets["target"].nunique()) if len(data.targets) else 0


def _methods(data: AnnotationData) -> list[dict[str, Any]]:
    """Return the table of methods, in words."""
    if not len(data.summary):
        return []
    best = float(data.summary["accuracy"].max())
    return [_method(row, data.annotator, best) for row in data.summary.to_dict("records")]


def _method(row: Mapping[Any, Any], own: str, best: float) -> dict[str, Any]:
    return {
        "method": row["method"],
        "own": row["method"] == own,
        "best": float(row["accuracy"]) == best,
        "accuracy": _with_error(row["accuracy"], row["accuracy_se"]),
        "worst": f"{fixed(100 * float(row['accuracy_worst']), 1)} ({row['worst_target']})",
        "macro_f1": _with_error(row["macro_f1"], row["macro_f1_se"]),
        "f1_worst": fixed(100 * float(row["macro_f1_worst"]), 1),
        "ece": fixed(row["ece_pooled"], 3),
        "brier": fixed(row["brier"], 3),
        "log_loss": fixed(row["log_loss"], 3),
        "coverage": percent(float(row["coverage_95_pooled"])),
        "absent": percent(float(row["absent_rate"])),
        "unassigned": percent(float(row["unassigned"])),
    }


def _with_error(value: Any, error: Any) -> str:
    told = fixed(100 * float(value), 1)
    return f"{told} ± {fixed(100 * float(error), 1)}" if math.isfinite(float(error)) else told


def _mistakes(confusion: pd.DataFrame, most: int = 8) -> list[tuple[str, str, str, str]]:
    """Return the most frequent mistakes: truth, label, cells, and their share of the true class."""
    found = []
    for name, row in confusion.iterrows():
        total = row.sum()
        found += [(int(n), str(name), str(label), n / total) for label, n in row.items() if n and str(label) != name]
    found.sort(key=lambda one: (-one[0], one[1], one[2]))
    return [(truth, label, f"{n:,}", percent(float(share))) for n, truth, label, share in found[:most]]


def _unseen(table: pd.DataFrame) -> list[dict[str, str]]:
    return [
        {
            "class": str(row["class"]), "n": f"{int(row['n_cells']):,}", "labelled": percent(float(row["labelled"])),
            "auroc": fixed(row["auroc"]),
        }
        for row in (table.sort_values("labelled", ascending=False).to_dict("records") if len(table) else [])
    ]  # fmt: skip


def _trials(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the mean scores of every candidate over domains left out, lowest log loss first."""
    if not len(table):
        return []
    groups: Any = table.groupby("candidate", sort=False)
    means: Any = groups[["log_loss", "accuracy", "macro_f1"]].mean()
    means["worst"], means["chosen"] = groups["accuracy"].min(), groups["chosen"].any()
    rows: Sequence[Any] = means.sort_values("log_loss", kind="stable").reset_index().to_dict("records")
    return [
        {
            "candidate": str(row["candidate"]), "log_loss": fixed(row["log_loss"], 3),
            "accuracy": fixed(100 * row["accuracy"], 1), "macro_f1": fixed(100 * row["macro_f1"], 1),
            "worst": fixed(100 * row["worst"], 1), "chosen": bool(row["chosen"]),
        }
        for row in rows
    ]  # fmt: skip

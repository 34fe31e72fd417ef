"""What annotators and baselines reach on domains left out: by target, in the mean, at worst, and cell by cell."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from cellgap.errors import ConfigError
from cellgap.evaluate._annotation_part import Part, stored
from cellgap.evaluate._classification import (
    CalibrationCurve,
    CoverageCurve,
    absent_rate,
    accuracy,
    calibration_curve,
    confusion,
    coverage_at,
    coverage_curve,
    expected_calibration_error,
    macro_f1,
    unseen_auroc,
)
from cellgap.study._check import render

if TYPE_CHECKING:
    from rich.console import RenderableType

UNASSIGNED = "unassigned"
_MEANED = ("accuracy", "macro_f1", "ece", "brier", "log_loss", "coverage_95", "absent_rate", "unassigned")


@dataclass(frozen=True, eq=False)
class AnnotationEvaluation:
    """Scores of annotators and baselines on domains that were left out in turn.

    Parameters
    ----------
    label, domains
        Columns of the true labels, and of what was left out.
    annotators, methods
        Names of the annotators, and of all methods.
    table
        One row a method, target and seed, with the columns ``method, target, seed, n_cells`` (of known classes),
        ``n_unseen`` (cells whose class no training cell has), ``accuracy, macro_f1`` (over classes of the target) of
        the most probable class, ``ece, brier, log_loss, coverage_95`` (largest share of cells, most confident first,
        of which 95 % are right), ``absent_rate`` (cells put into a class that the target has no cell of),
        ``unassigned`` (known cells without a label), ``assigned_accuracy`` (of the others), ``unseen_labelled`` (unseen
        cells that got a label) and ``unseen_auroc`` (of novelty). NaN where there is no such cell.
    predictions
        One row a method, target, seed and cell: ``method, target, seed, cell, truth, unseen, label`` ("unassigned"
        possible), ``best, probability, novelty, log_loss, brier`` (NaN for unseen cells), ``reason`` (of the unassigned
        ones).
    gaps
        One row a method, target, seed and gap: ``method, target, seed, name, value, scale, meaning, remedy``.
    robust
        One row a method, target, seed and attack: ``method, target, seed, attack, strength, accuracy``; may be empty.
    """

    label: str
    domains: str
    annotators: tuple[str, ...]
    methods: tuple[str, ...]
    table: pd.DataFrame
    predictions: pd.DataFrame
    gaps: pd.DataFrame
    robust: pd.DataFrame

    @classmethod
    def of(
        cls, parts: Sequence[Part], *, label: str, domains: str, annotators: tuple[str, ...], methods: tuple[str, ...]
    ) -> "AnnotationEvaluation":
        """Return the evaluation that parts are of."""
        rows = [{"method": p.method, "target": p.target, "seed": p.seed} | _scores(p.cells, p.classes) for p in parts]
        tables = (
            pd.concat([t for t in found if len(t)] or list(found[:1]), ignore_index=True)
            for found in ([p.cells for p in parts], [p.gaps for p in parts], [p.robust for p in parts])
        )
        return cls(label, domains, annotators, methods, pd.DataFrame(rows), *tables)

    @classmethod
    def read(cls, folder: str | Path) -> "AnnotationEvaluation":
        """Return the evaluation that `cellgap.evaluate.annotation` kept in a folder, as far as it has come.

        Raises
        ------
        StorageError
            There is none, nothing of it is done, or a file is damaged.
        """
        about, parts = stored(folder)
        done = {p.method for p in parts}
        return cls.of(
            parts, label=about["label"], domains=about["domains"], annotators=tuple(about["own"]),
            methods=tuple(name for name in about["methods"] if name in done),
        )  # fmt: skip

    @property
    def targets(self) -> tuple[str, ...]:
        """What was left out, sorted."""
        return tuple(sorted(set(self.table["target"])))

    def by_target(self) -> pd.DataFrame:
        """Return the scores of every method and target, meaned over seeds."""
        columns = [c for c in self.table.columns if c not in ("method", "target", "seed")]
        means = self.table.groupby(["method", "target"])[columns].mean()
        return means.reindex(list(self.methods), level="method").reset_index()

    def summary(self) -> pd.DataFrame:
        """Return one row a method: means over targets, their standard errors, the worst target, and pooled scores.

        Targets count alike, however many cells they have. ``accuracy_se`` and ``macro_f1_se`` are standard errors over
        targets, ``accuracy_worst, macro_f1_worst`` the least values, and ``worst_target`` is where the accuracy is
        least. ``ece_pooled`` and ``coverage_95_pooled`` are of all cells of all targets together: an ECE of few cells
        is large by chance, see `expected_calibration_error`.
        """
        rows, whole = [], self.by_target()
        for method in self.methods:
            own = _where(whole, (whole["method"] == method) & whole["accuracy"].notna())
            if not len(own):
                continue
            cells = self._known(method)
            confidence, right = _sureness(cells)
            row: dict[str, Any] = {"method": method, "n_targets": len(own), "n_cells": int(own["n_cells"].sum())}
            for name in ("accuracy", "macro_f1"):
                values = own[name].to_numpy(float)
                se = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
                row |= {name: values.mean(), f"{name}_se": se, f"{name}_worst": values.min()}
            row["worst_target"] = str(own["target"].tolist()[int(np.argmin(own["accuracy"]))])
            row |= {name: float(own[name].mean()) for name in _MEANED if name not in row}
            row["ece_pooled"] = expected_calibration_error(confidence, right)
            row["coverage_95_pooled"] = coverage_at(confidence, right)
            row["unseen_auroc"] = float(own["unseen_auroc"].mean())
            rows.append(row)
        return pd.DataFrame(rows)

    def difference(self, first: str, second: str, score: str = "accuracy") -> tuple[float, float, int]:
        """Return how much higher a score of one method is than of another: mean over targets, standard error, targets.

        Raises
        ------
        ConfigError
            A method or score is unknown.
        """
        for name, known in ((first, self.methods), (second, self.methods), (score, tuple(self.table.columns))):
            if name not in known:
                raise ConfigError(f"The evaluation has no {name!r}: expected one of {', '.join(known)}.")
        wide = self.by_target().pivot(index="target", columns="method", values=score)
        values = (wide[first] - wide[second]).dropna().to_numpy(float)
        se = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
        return float(values.mean()) if len(values) else float("nan"), se, len(values)

    def confusion(self, method: str, *, given: bool = False) -> pd.DataFrame:
        """Return numbers of cells by true and most probable class, over all targets and seeds; unseen ones too.

        Parameters
        ----------
        method
            Of which method.
        given
            By the label that was given instead: "unassigned" is then one of the columns.
        """
        cells = self._cells(method)
        names = sorted({*cells["truth"], *cells["best"]})
        return confusion(cells["truth"], cells["label" if given else "best"], names)

    def calibration(self, method: str) -> CalibrationCurve:
        """Return the calibration curve of all cells of known classes, over all targets and seeds."""
        return calibration_curve(*_sureness(self._known(method)))

    def coverage(self, method: str) -> CoverageCurve:
        """Return the accuracy of the most confident cells of known classes, over all targets and seeds."""
        return coverage_curve(*_sureness(self._known(method)))

    def _cells(self, method: str) -> pd.DataFrame:
        if method not in self.methods:
            raise ConfigError(f"The evaluation has no {method!r}: expected one of {', '.join(self.methods)}.")
        return _where(self.predictions, self.predictions["method"] == method)

    def _known(self, method: str) -> pd.DataFrame:
        cells = self._cells(method)
        return _where(cells, ~cells["unseen"].astype(bool))

    def __rich__(self) -> "RenderableType":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        summary = self.summary()
        n = len(self.targets)
        table = Table(title=f"{self.label}: {n} values of {self.domains} left out in turn", title_justify="left")
        table.add_column("method", no_wrap=True)
        heads = ("accuracy", "worst", "macro-F1", "worst", "ECE (pooled)", "Brier", "coverage 95 %", "unassigned")
        for name in heads:
            table.add_column(name, justify="right", no_wrap=True)
        best = summary["accuracy"].max() if len(summary) else np.nan
        for row in summary.to_dict("records"):
            style = "bold" if row["accuracy"] == best else ""
            entries = (
                _with_error(row["accuracy"], row["accuracy_se"]), f"{row['accuracy_worst']:.3f}",
                _with_error(row["macro_f1"], row["macro_f1_se"]), f"{row['macro_f1_worst']:.3f}",
                f"{row['ece_pooled']:.3f}", f"{row['brier']:.3f}", f"{row['coverage_95_pooled']:.2f}",
                f"{row['unassigned']:.3f}",
            )  # fmt: skip
            table.add_row(Text(row["method"], style=style), *entries)
        return Group(table, *(Text(line) for line in self.sentences()))

    def sentences(self) -> tuple[str, ...]:
        """Return what is worth saying beside the table: paired differences, worst targets, unseen cells."""
        lines = []
        others = [m for m in self.methods if m not in self.annotators]
        for name in self.annotators:
            for other in others:
                mean, se, n = self.difference(name, other)
                error = f" ± {100 * se:.1f}" if np.isfinite(se) else ""
                lines.append(f"{name} against {other}: accuracy {100 * mean:+.1f}{error} points over {n} targets.")
        lines += [
            f"{row['method']}: worst target {row['worst_target']}, accuracy {row['accuracy_worst']:.3f}."
            for row in self.summary().to_dict("records")
            if row["method"] in self.annotators
        ]
        first = self._cells(self.methods[0])
        first = _where(first, first["unseen"].astype(bool) & (first["seed"] == 0))
        if len(first):
            names = sorted(set(first["truth"].tolist()))
            lines.append(
                f"{len(first):,} cells are of a class that only their own target has ({', '.join(names[:5])}"
                f"{', ...' if len(names) > 5 else ''}): they are not in these scores."
            )
        return tuple(lines)

    def __str__(self) -> str:
        return render(self)


def _where(table: pd.DataFrame, kept: Any) -> pd.DataFrame:
    """Return the rows of a mask."""
    return cast("pd.DataFrame", table[np.asarray(kept, bool)])


def _sureness(cells: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return cells["probability"].to_numpy(float), (cells["truth"] == cells["best"]).to_numpy(bool)


def _with_error(value: float, error: float) -> str:
    return f"{value:.3f}" + (f" ± {error:.3f}" if np.isfinite(error) else "")


def _scores(cells: pd.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    """Return the scores of one fit on one target."""
    unseen = cells["unseen"].to_numpy(bool)
    known, new = _where(cells, ~unseen), _where(cells, unseen)
    row: dict[str, Any] = {"n_cells": len(known), "n_unseen": len(new)}
    row |= dict.fromkeys((*_MEANED, "assigned_accuracy"), np.nan)
    if len(known):
        truth, best = known["truth"], known["best"]
        confidence, right = _sureness(known)
        given = (known["label"] != UNASSIGNED).to_numpy(bool)
        row |= {
            "accuracy": accuracy(truth, best),
            "macro_f1": macro_f1(truth, best),
            "ece": expected_calibration_error(confidence, right),
            "brier": float(known["brier"].mean()),
            "log_loss": float(known["log_loss"].mean()),
            "coverage_95": coverage_at(confidence, right),
            "absent_rate": absent_rate(truth, best, classes),
            "unassigned": float(1 - given.mean()),
            "assigned_accuracy": accuracy(truth[given], known["label"][given]) if given.any() else np.nan,
        }
    row["unseen_labelled"] = float((new["label"] != UNASSIGNED).mean()) if len(new) else np.nan
    row["unseen_auroc"] = unseen_auroc(np.asarray(cells["novelty"], float), unseen)
    return row

"""What a report is made of: plain arrays, frames and gaps, checked once when they come in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cellgap.errors import DataError
from cellgap.gap import Gap

_COLUMNS = {
    "history": ("step",),
    "table": ("predictor", "condition", "space", "metric", "value", "scaled"),
    "summary": (
        "predictor",
        "metric",
        "space",
        "mean",
        "low",
        "high",
        "scaled",
        "scaled_low",
        "scaled_high",
        "n_conditions",
    ),
    "comparisons": ("a", "b", "metric", "difference", "low", "high", "share", "n_conditions"),
    "suite": ("predictor", "kind", "member", "label", "better", "value", "scaled"),
    "study": ("condition", "cells", "controls", "role"),
}


@dataclass(frozen=True, eq=False)
class PopulationView:
    """The cells of one condition, three times: untreated, measured and predicted, in one gene space.

    Parameters
    ----------
    condition
        The condition as text (``str(condition)``), spelled as in the tables.
    control, measured, predicted
        ``(n_i, genes)`` floats in the transformed gene space named by `ReportData.expression`. The three may differ in
        the number of cells; cells holding NaN or infinity are left out of the figures and counted in a sentence.
    genes
        ``(genes,)`` names, in the order of the columns.
    role
        What the condition was to the model, in words: ``"held out"``, ``"validation"``, ``"training"``.
    warnings
        What the reader must know beside the figures, such as "dose outside the trained range"; empty for none.

    Raises
    ------
    DataError
        The arrays are not two-dimensional or do not have one column per gene.
    """

    condition: str
    control: np.ndarray
    measured: np.ndarray
    predicted: np.ndarray
    genes: np.ndarray
    role: str = "held out"
    warnings: str = ""

    def __post_init__(self):
        n_genes = len(self.genes)
        for name in ("control", "measured", "predicted"):
            shape = np.shape(getattr(self, name))
            if len(shape) != 2 or shape[1] != n_genes:
                raise DataError(
                    f"PopulationView({self.condition!r}).{name} must have shape (cells, {n_genes}), one column per"
                    f" name in genes, but has shape {shape}. Select the same genes for all three populations."
                )


@dataclass(frozen=True, eq=False)
class DoseCurve:
    """The mean expression of one gene along the doses of one treatment.

    Parameters
    ----------
    treatment, unit, gene
        Name of the treatment, unit of `doses` (``"nM"``) and name of the gene.
    doses
        ``(k,)`` positive, increasing.
    control_mean
        Mean of the matched control cells.
    measured, measured_low, measured_high
        ``(k,)`` mean of the measured cells and its 95 % interval; NaN at a dose that was not measured.
    predicted
        ``(k,)`` mean of the predicted cells; NaN at a dose without prediction.
    held_out
        ``(k,)`` true where the model did not see the dose.
    context
        The cells it was measured in (``"A549"``); empty where the study has one context only.

    Raises
    ------
    DataError
        The arrays differ in length, or a dose is not positive or not larger than the one before.
    """

    treatment: str
    unit: str
    gene: str
    doses: np.ndarray
    control_mean: float
    measured: np.ndarray
    measured_low: np.ndarray
    measured_high: np.ndarray
    predicted: np.ndarray
    held_out: np.ndarray
    context: str = ""

    def __post_init__(self):
        where = f"DoseCurve({self.treatment!r}, gene {self.gene!r})"
        k = np.shape(self.doses)
        for name in ("measured", "measured_low", "measured_high", "predicted", "held_out"):
            shape = np.shape(getattr(self, name))
            if len(k) != 1 or shape != k:
                raise DataError(
                    f"{where}.{name} must have one value per dose, shape {k}, but has shape {shape}."
                    " Put NaN where a dose was not measured or not predicted."
                )
        doses = np.asarray(self.doses, dtype=float)
        if not (np.all(doses > 0) and np.all(np.diff(doses) > 0)):
            raise DataError(
                f"{where}.doses must be positive and increasing, but are {doses.tolist()}."
                " Sort them, and give dose 0 as control_mean."
            )


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything one report shows. Only `title` is needed: a part without data becomes a sentence saying so.

    Parameters
    ----------
    title, subtitle
        First two lines of the page.
    command
        The command or code that makes the report again.
    model
        The name, in the `predictor` columns, of the model that the report is about.
    scored_on
        What the scores are averaged over, in words that fit behind "on 9 ...".
    headline, headline_space
        The metric (and the space; empty: the first space of `summary` that has it) of the headline and of the ranking
        of conditions. Where the model has no scaled score on it, the first metric of `summary` that has one is taken,
        and the page says so.
    leading
        The metrics that follow the headline, in this order and first in its space. Tables of predictors hold all
        metrics, figures and the table of conditions the first nine.
    scale_zero, scale_one
        The predictors whose scores are 0 and 1 on the scaled axis. `scale_one` is the repeat of the experiment.
    expression
        Unit of the values in `populations` and `dose_curves`, as an axis label.
    history
        ``step`` and any numeric columns (``loss``, ``fit``, ``gap``, ``valid_loss``, ``learning_rate``); NaN where a
        quantity was not evaluated. ``loss`` and ``valid_loss`` share one figure; each other column has its own.
    table
        One row per score: ``predictor, condition, space, metric, value, scaled`` and, as far as known, ``n_pred,
        n_true, seed, note``. A condition that was not scored has NaN values and a note. Rows that differ in ``seed``
        are averaged. A scaled score is dropped where, on that condition, `scale_one` is no better than `scale_zero`:
        such a scale has no direction.
    summary
        Means over conditions with 95 % intervals: ``predictor, metric, space, mean, low, high, scaled, scaled_low,
        scaled_high, n_conditions`` and, where known, ``kind`` (``"model"``, ``"baseline"``, ``"anchor"``). Without
        kinds, `model` is the model, `scale_one` an anchor and everything else a baseline. Only baselines have to be
        beaten.
    comparisons
        Paired over conditions: ``a, b, metric, difference, low, high, share, n_conditions`` and, where metrics were
        computed in several spaces, ``space``. `difference` (with its 95 % interval) is the mean of a's minus b's
        *scaled* score, so positive means that a is better whatever the metric; `share` is the fraction of conditions
        in which a is better. Where there is no scale, ``gain_low, gain_high`` (the interval in the unit of the metric,
        positive where a is better), if given, still decide who wins.
    suite
        The field's benchmark suite on raw counts: ``predictor, kind, member, label, better, value, scaled``, the mean
        over members as the member "mean".
    populations
        Cells of the conditions to draw; at most `max_figures` of them are drawn: the worst, the median and the best
        first. `shown_conditions` names them in advance, so that the others need not be predicted.
    dose_curves
        Curves along the dose; at most `max_figures` are drawn, in the order given.
    gaps
        What the fitted model reports of itself.
    study
        ``condition, cells, controls, role``: one row per condition and role.
    settings
        The resolved run file as nested mappings.
    versions
        Name of a package or machine part to its version.
    notes
        Remarks that qualify the result: conditions not scored, extrapolations. Shown beside the headline.
    max_figures
        Limit on the conditions and on the dose curves that are drawn. The tables always hold all conditions.

    Raises
    ------
    DataError
        A frame that is not empty lacks a column, or `max_figures` is negative.
    """

    title: str
    subtitle: str = ""
    command: str = ""
    model: str = ""
    scored_on: str = "held-out conditions"
    headline: str = "r2_delta"
    headline_space: str = ""
    leading: tuple[str, ...] = ("r2_delta", "discrimination", "energy", "mmd_u", "divergence2", "variance_ratio")
    scale_zero: str = "mean effect"
    scale_one: str = "replicate"
    expression: str = "expression"
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    summary: pd.DataFrame = field(default_factory=pd.DataFrame)
    comparisons: pd.DataFrame = field(default_factory=pd.DataFrame)
    suite: pd.DataFrame = field(default_factory=pd.DataFrame)
    populations: tuple[PopulationView, ...] = ()
    dose_curves: tuple[DoseCurve, ...] = ()
    gaps: tuple[Gap, ...] = ()
    study: pd.DataFrame = field(default_factory=pd.DataFrame)
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    max_figures: int = 12

    def __post_init__(self):
        for name, needed in _COLUMNS.items():
            frame = getattr(self, name)
            missing = [column for column in needed if len(frame) and column not in frame]
            if missing:
                raise DataError(
                    f"ReportData.{name} needs the columns {', '.join(needed)}, but lacks {', '.join(missing)}"
                    f" (found {', '.join(map(str, frame.columns))}). An empty frame leaves that part out."
                )
        if self.max_figures < 0:
            raise DataError(f"ReportData.max_figures must be 0 or more, but is {self.max_figures}.")

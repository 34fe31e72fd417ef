"""A model under the field's scorer: six members on raw counts, raw and on the scale from mean effect to replicate."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cellgap.errors import ConditionError, ConfigError
from cellgap.evaluate import _predictors as who
from cellgap.evaluate._cell_eval import MEMBERS, NOTHING, Scorer, Scores, competition_score, scorer_needed
from cellgap.evaluate._count_panels import CONTROL, LABEL, CountPanel, count_panels, label_of
from cellgap.evaluate._evaluate import _codes, _standard_baselines
from cellgap.evaluate._predictors import Predictor, models_of
from cellgap.study import Split

if TYPE_CHECKING:
    from rich.console import RenderableType

_BETTER = {member.name: 1.0 if member.better == "higher" else -1.0 for member in MEMBERS}
_SUMMARY = ("predictor", "kind", "member", "label", "better", "value", "scaled", "competition", "n_contexts")
_NO_VALUE = "too few genes, or too small an effect, are left in the measured cells"
_NO_SCALE = "the replicate is not better than the mean effect: no scale"


@dataclass(frozen=True, eq=False)
class SuiteResult:
    """What the suite says about models and baselines; made by `vcc2026`.

    Parameters
    ----------
    table
        One row a predictor, context and member: ``predictor, context, member, value, scaled, competition, total,
        weight, n_perturbations, n_pred, n_true, seed, note``. ``scaled``: 0 is the mean effect of the training
        conditions, 1 the replicate. ``competition``: the score of the package itself, whose 0 is the mean of the
        *measured* held-out effects; NaN with fewer than two perturbations. ``value`` is ``total / weight``. Whatever is
        undefined is NaN, with the reason in ``note``.
    kinds
        ``"model"``, ``"baseline"`` or ``"anchor"`` by predictor, in the order of the table.
    settings
        Arguments and split.
    """

    table: pd.DataFrame
    kinds: Mapping[str, str]
    settings: Mapping[str, Any]

    def summary(self) -> pd.DataFrame:
        """Return each predictor's members pooled over contexts, and their mean over members as the member "mean".

        Columns ``predictor, kind, member, label, better, value, scaled, competition, n_contexts``. Pooled are
        perturbations (the error: sums of squares), over the contexts in which prediction, mean effect and replicate
        have values; ``scaled`` compares what was pooled, so that contexts whose ends nearly agree do not dominate. The
        mean over members leaves out those without a scale. ``competition`` is the mean over contexts.
        """
        return self._summary.copy()

    @functools.cached_property
    def _summary(self) -> pd.DataFrame:
        found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        for row in self.table.to_dict("records"):
            found.setdefault((row["predictor"], row["member"]), {})[row["context"]] = row
        rows = []
        for predictor, kind in self.kinds.items():
            own = {"predictor": predictor, "kind": kind}
            mine = [
                {**own, "label": member.short, "better": member.better, **_pooled(found, predictor, member.name)}
                for member in MEMBERS
            ]
            mean = {**own, "member": "mean", "label": "mean", "better": "higher", "value": math.nan}
            mean |= {name: _mean([row[name] for row in mine]) for name in ("scaled", "competition")}
            rows += [*mine, {**mean, "n_contexts": max(row["n_contexts"] for row in mine)}]
        return pd.DataFrame(rows, columns=pd.Index(_SUMMARY))

    def score(self, predictor: str, member: str = "mean") -> float:
        """Return the scaled score of a predictor: of one member, or the mean over members.

        Raises
        ------
        ConfigError
            There is no such predictor or member.
        """
        summary = self._summary
        for what, value in (("predictor", predictor), ("member", member)):
            if value not in set(summary[what]):
                raise ConfigError(
                    f"the suite has no {what} {value!r}: choose from {', '.join(summary[what].unique())}."
                )
        chosen = (summary["predictor"] == predictor) & (summary["member"] == member)
        return float(summary.loc[chosen, "scaled"].iloc[0])

    def to_csv(self, path: str | Path) -> None:
        """Write the table as CSV."""
        self.table.to_csv(path, index=False)

    def __rich__(self) -> "RenderableType":
        from cellgap.evaluate._suite_printing import rendered

        return rendered(self)

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=120, no_color=True)
        with console.capture() as captured:
            console.print(self)
        return captured.get()

    def __repr__(self) -> str:
        models = ", ".join(name for name, kind in self.kinds.items() if kind == "model")
        return f"SuiteResult of {models} in {len(set(self.table['context']))} contexts"


def vcc2026(
    fitted: Predictor | Mapping[str, Predictor],
    split: Split,
    *,
    max_cells: int = 1000,
    n_replicates: int = 5,
    seed: int = 0,
    target_genes: bool | Mapping[str, str] = False,
    baselines: Mapping[str, Predictor] | None = None,
    progress: bool = True,
) -> SuiteResult:
    """Return the six members of the field's benchmark suite on the held-out conditions of a split.

    The members are computed by the package cell-eval2 with its preset ``vcc2026`` and nothing else. It compares
    perturbations against the controls of one population, so every context (cell line, donor, cell type) is a panel of
    its own, and panels are averaged. Predicted counts start from SOURCE controls, as many cells as were measured;
    measured TEST cells and predictions are both compared with the same measured REFERENCE controls.

    Parameters
    ----------
    fitted
        A fitted model, or several by name, in spaces that give counts of the same genes.
    split
        The split they were fitted on.
    max_cells
        Most treated cells of a condition.
    n_replicates
        Random splits into halves that the replicate is averaged over.
    seed
        Of the choice of cells, of drawn counts, and of the splits.
    target_genes
        Whether treatments are named after the genes that they hit (knock-outs), or that gene by treatment: it is left
        out of the scores of its treatment. False for drugs and cytokines.
    baselines
        Replaces the standard baselines, by name; the one called ``"mean effect"`` is 0 on the scale.
    progress
        Whether to show a progress bar on the standard error.

    Raises
    ------
    MissingExtraError
        cell-eval2 is not installed.
    DataError
        The study holds no raw counts, or the scorer refuses the predicted ones.
    ConfigError
        A space gives no counts, or a number is out of range.
    SplitError
        A model was trained on what the split holds out, or no condition can be scored.

    Source
    ------
    cell-eval2 (Arc Institute, MIT licence), preset ``vcc2026``. Deviations: the 0 of ``scaled`` is the mean effect of
    the training conditions, which a model could know (its own 0 is the column ``competition``); the Wilcoxon test is
    that of scanpy on every machine.
    """
    if isinstance(n_replicates, bool) or not isinstance(n_replicates, int | np.integer) or n_replicates < 1:
        raise ConfigError(f"n_replicates must be a whole number of at least 1, found {n_replicates!r}.")
    scorer_needed()
    panels = count_panels(fitted, split, max_cells=max_cells, seed=seed)
    genes = _target_genes(target_genes, panels)
    models = models_of(fitted, split)
    if baselines is None:
        first = next(iter(models.values()))
        baselines = _standard_baselines(first, split, _codes(first, split))
    if who.MEAN_EFFECT not in baselines or who.REPLICATE in baselines:
        raise ConfigError(f"the baselines must have one called {who.MEAN_EFFECT!r} and none called {who.REPLICATE!r}.")
    models = {f"{name} (fitted)" if name in (*baselines, who.REPLICATE) else name: m for name, m in models.items()}
    kinds = {who.REPLICATE: "anchor"} | dict.fromkeys(models, "model") | dict.fromkeys(baselines, "baseline")
    rows = []
    for panel in _shown(panels, progress):
        with Scorer(panel.measured, genes) as scorer:
            ends = scorer.replicate(n_splits=n_replicates, seed=seed), scorer.generic(seed=seed)
            found = {name: _scores(scorer, panel, p) for name, p in {**models, **baselines}.items()}
        rows += _rows(panel, seed, {who.REPLICATE: ends[0], **found}, ends[1])
    order = {name: i for i, name in enumerate(kinds)}
    rows.sort(key=lambda row: order[row["predictor"]])
    settings = {
        "suite": "vcc2026",
        "split": split.kind,
        "split_seed": split.seed,
        "max_cells": int(max_cells),
        "n_replicates": int(n_replicates),
        "seed": int(seed),
    }
    return SuiteResult(pd.DataFrame(rows), kinds, settings)


def scaled(member: str, value: float, zero: float, one: float) -> float:
    """Return ``(value - zero) / (one - zero)``; NaN where the upper end is not better than the lower one.

    Parameters
    ----------
    member
        Says which way is better.
    value, zero, one
        Of the prediction, of the mean effect and of the replicate.
    """
    return (value - zero) / (one - zero) + 0.0 if _BETTER[member] * (one - zero) > 0 else math.nan


def _pooled(
    found: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]], predictor: str, member: str
) -> dict[str, Any]:
    """Return a predictor's member pooled over contexts; the scale is that of pooled values."""
    own = found[predictor, member]
    ends = [found[name, member] for name in (who.MEAN_EFFECT, who.REPLICATE)]
    shared = [c for c in own if all(math.isfinite(rows[c]["total"]) for rows in (own, *ends))]
    values = [_ratio([rows[c] for c in shared]) for rows in (own, *ends)]
    return {
        "member": member,
        "value": _ratio([row for row in own.values() if math.isfinite(row["total"])]),
        "scaled": scaled(member, *values),
        "competition": _mean([row["competition"] for row in own.values()]),
        "n_contexts": sum(math.isfinite(row["total"]) for row in own.values()),
    }


def _ratio(rows: Sequence[Mapping[str, Any]]) -> float:
    weight = sum(row["weight"] for row in rows)
    return sum(row["total"] for row in rows) / weight if weight > 0 else math.nan


def _mean(values: Iterable[float]) -> float:
    """Return the mean of the values that are not NaN; NaN where there is none."""
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _scores(scorer: Scorer, panel: CountPanel, predictor: Predictor) -> Scores | str:
    """Return the scores of a predictor, or why it has none."""
    try:
        predicted = panel.predicted(predictor)
    except ConditionError as error:
        return str(error)
    return scorer.score(predicted)


def _rows(panel: CountPanel, seed: int, found: Mapping[str, Scores | str], generic: Scores) -> list[dict[str, Any]]:
    zero, one = found[who.MEAN_EFFECT], found[who.REPLICATE]
    n_true = int((panel.measured.obs[LABEL].astype(str) != CONTROL).sum())
    rows = []
    for name, scores in found.items():
        for member in MEMBERS:
            own, low, high = (NOTHING if isinstance(s, str) else s[member.name] for s in (scores, zero, one))
            score = scaled(member.name, own.value, low.value, high.value)
            note = ""
            if isinstance(scores, str):
                note = scores
            elif len(panel.conditions) < member.least:
                note = f"needs {member.least} perturbations in a context, found {len(panel.conditions)}"
            elif math.isnan(own.value):
                note = _NO_VALUE
            elif math.isnan(score):
                note = _NO_SCALE if math.isfinite(high.value) else "the scorer has no replicate: " + _NO_VALUE
            rows.append(
                {
                    "predictor": name,
                    "context": panel.context,
                    "member": member.name,
                    "value": own.value,
                    "scaled": score,
                    "competition": competition_score(member.name, own.value, generic[member.name].value, high.value),
                    "total": own.total,
                    "weight": own.weight,
                    "n_perturbations": own.n,
                    "n_pred": 0 if isinstance(scores, str) else n_true,
                    "n_true": n_true,
                    "seed": seed,
                    "note": note,
                }
            )
    return rows


def _target_genes(given: bool | Mapping[str, str], panels: Sequence[CountPanel]) -> dict[str, str] | None:
    if given is False:
        return None
    genes = set(panels[0].measured.var_names)
    found = {}
    for condition in {condition for panel in panels for condition in panel.conditions}:
        if len(condition.names) != 1:
            continue
        name = condition.names[0]
        gene = name if given is True else given.get(name)
        if gene in genes:
            found[label_of(condition)] = str(gene)
    if not found:
        raise ConfigError(
            "No held-out treatment has its target gene among the genes of the space: pass target_genes=False for "
            "treatments without one, or the gene of each treatment."
        )
    return found


def _shown(items: Sequence[Any], progress: bool) -> Iterable[Any]:
    if not progress:
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, "vcc2026", console=Console(stderr=True), transient=True)

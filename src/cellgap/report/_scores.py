"""The scores of a report, looked up once: who the baselines are, which metric leads, how conditions rank."""

import math
from dataclasses import dataclass, replace

import pandas as pd

from cellgap.report._data import ReportData
from cellgap.report._lookup import (
    Comparison,
    Key,
    Pair,
    Score,
    directed,
    has_scale,
    read_cells,
    read_comparisons,
    read_notes,
    read_summary,
)
from cellgap.report._words import metric_text

LEADING = 9  # metrics in the figures and in the table of conditions


@dataclass(frozen=True, eq=False)
class Scores:
    """The tables of a report as look-ups.

    ``keys`` are the (metric, space) pairs of the summary: the headline, the leading ones, the rest; ``unscaled`` are
    those on which the repeat of the experiment is no better than the mean effect, so that there is no scale;
    ``predictors`` are sorted by the headline score, best first, ``kinds`` says what they are; ``cells`` holds value and
    scaled score by (predictor, condition, metric, space), seeds averaged; ``ranked`` are the scored conditions of the
    model, worst first; ``notes`` are the remarks by condition.
    """

    model: str
    one: str
    keys: tuple[Key, ...]
    unscaled: tuple[Key, ...]
    predictors: tuple[str, ...]
    kinds: dict[str, str]
    summary: dict[tuple[str, Key], Score]
    comparisons: dict[tuple[str, Key], Comparison]
    cells: dict[tuple[str, str, Key], Pair]
    ranked: tuple[str, ...]
    conditions: tuple[str, ...]
    notes: dict[str, str]
    substituted: bool

    @property
    def headline(self) -> Key | None:
        """The metric and space that lead, or None where the model has no scaled score."""
        return self.keys[0] if self.keys and math.isfinite(self.scaled(self.model, self.keys[0])) else None

    def scaled(self, predictor: str, key: Key) -> float:
        """Return the mean scaled score, NaN where there is none."""
        score = self.summary.get((predictor, key))
        return score.scaled if score else math.nan

    def answers(self, predictor: str, key: Key) -> bool:
        """Return whether a predictor has a scaled score on as many conditions as the model, so that means compare."""
        score, own = self.summary.get((predictor, key)), self.summary.get((self.model, key))
        return score is not None and math.isfinite(score.scaled) and (own is None or score.n >= own.n)

    def best_baseline(self, key: Key) -> str | None:
        """Return the baseline with the highest mean scaled score, or None where none has one.

        A baseline that answers some of the model's conditions only is taken where no other has a score.
        """
        baselines = (name for name in self.predictors if self.kinds[name] == "baseline")
        scored = [name for name in baselines if math.isfinite(self.scaled(name, key))]
        scored = [name for name in scored if self.answers(name, key)] or scored
        return max(scored, key=lambda name: self.scaled(name, key)) if scored else None


def scores(data: ReportData) -> Scores:
    """Return the look-ups of `data`."""
    cells, undirected = directed(read_cells(data.table), data.scale_zero, data.scale_one)
    summary = read_summary(data.summary)
    keys = list(dict.fromkeys(key for _, key in summary))
    unscaled = tuple(key for key in keys if not has_scale(summary, cells, key, data.scale_zero, data.scale_one))
    for place, score in summary.items():
        if place[1] in unscaled:
            summary[place] = replace(score, scaled=math.nan, scaled_low=math.nan, scaled_high=math.nan)
    wanted = [k for k in keys if k[0] == data.headline and data.headline_space in ("", k[1])]
    usable = [k for k in keys if (data.model, k) in summary and math.isfinite(summary[data.model, k].scaled)]
    first = next((k for k in [*wanted, *usable] if k in usable), None)

    def order(key: Key) -> tuple[bool, bool, int]:
        leads = data.leading.index(key[0]) if key[0] in data.leading else len(data.leading)
        return key != first, first is not None and key[1] != first[1], leads

    def rank(name: str) -> float:
        score = summary.get((name, first)) if first else None
        return -score.scaled if score and math.isfinite(score.scaled) else math.inf

    predictors = sorted(dict.fromkeys(name for name, _ in summary), key=rank)
    keys.sort(key=order)
    # Why a baseline has no answer is no remark on the model's condition.
    notes = read_notes(data.table.loc[data.table["predictor"] == data.model] if len(data.table) else data.table)
    for condition, key in undirected:
        if key == first:
            note = f"no scale for {metric_text(key[0]).label}: here a repeat is no better than the {data.scale_zero}"
            notes[condition] = f"{notes[condition]}; {note}" if condition in notes else note
    own = {c: scaled for (p, c, k), (_, scaled) in cells.items() if (p, k) == (data.model, first)}
    return Scores(
        model=data.model,
        one=data.scale_one,
        keys=tuple(keys),
        unscaled=unscaled,
        predictors=tuple(predictors),
        kinds=_kinds(data, predictors),
        summary=summary,
        comparisons=read_comparisons(data.comparisons, data.model, keys),
        cells=cells,
        ranked=_worst_first(own),
        conditions=tuple(dict.fromkeys(map(str, data.table["condition"]))) if len(data.table) else (),
        notes=notes,
        substituted=first is not None and bool(data.headline) and first not in wanted,
    )


def shown_conditions(
    table: pd.DataFrame,
    model: str,
    headline: str = "r2_delta",
    *,
    space: str = "",
    scale_zero: str = "mean effect",
    scale_one: str = "replicate",
    max_figures: int = 12,
) -> tuple[str, ...]:
    """Return the conditions that a report draws: the worst, the median and the best, then others from all three ends.

    Parameters
    ----------
    table
        The tidy table of `ReportData.table`.
    model, headline, space
        The predictor, metric and space to rank by (empty space: the first in the table that has the metric).
    scale_zero, scale_one
        The ends of the scale; conditions on which the second is no better than the first have no rank.
    max_figures
        How many conditions at most.
    """
    cells, _ = directed(read_cells(table), scale_zero, scale_one)
    wanted = next((k for p, _, k in cells if p == model and k[0] == headline and space in ("", k[1])), None)
    own = {c: scaled for (p, c, k), (_, scaled) in cells.items() if (p, k) == (model, wanted)}
    return spread(_worst_first(own), max_figures)


def spread(ranked: tuple[str, ...], limit: int) -> tuple[str, ...]:
    """Return at most `limit` of `ranked`: the first, the middle and the last, then the rest chosen, in rank order."""
    n = len(ranked)
    middle = (n - 1) // 2
    around = [i for step in range(n) for i in (middle - step, middle + step) if 0 <= i < n]
    turns = [i for trio in zip(range(n), around, reversed(range(n)), strict=False) for i in trio]
    chosen = list(dict.fromkeys(turns))[:limit]
    return tuple(ranked[i] for i in chosen[:3] + sorted(chosen[3:]))


def _kinds(data: ReportData, predictors: list[str]) -> dict[str, str]:
    kinds = dict.fromkeys(predictors, "baseline")
    if "kind" in data.summary:
        kinds |= {str(p): str(k) for p, k in zip(data.summary["predictor"], data.summary["kind"], strict=True)}
    return kinds | {data.model: "model", data.scale_one: "anchor"}


def _worst_first(scaled: dict[str, float]) -> tuple[str, ...]:
    """Return the conditions with a finite score, the lowest first; equal scores by name."""
    return tuple(sorted((c for c, s in scaled.items() if math.isfinite(s)), key=lambda c: (scaled[c], c)))

"""The scores of a report, looked up once: who the baselines are, which metric leads, how conditions rank."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from cellgap.report._data import ReportData

Key = tuple[str, str]  # metric, space


@dataclass(frozen=True)
class Score:
    """One row of the summary."""

    mean: float
    low: float
    high: float
    scaled: float
    scaled_low: float
    scaled_high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """The model against one baseline, paired over conditions; positive means that the model is better."""

    baseline: str
    difference: float
    low: float
    high: float
    share: float
    n: int

    @property
    def verdict(self) -> str:
        """``"better"``, ``"worse"`` or ``"unclear"``: whether the interval leaves 0 out, and on which side."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "unclear"


@dataclass(frozen=True, eq=False)
class Scores:
    """The tables of a report as look-ups.

    ``keys`` are the (metric, space) pairs of the summary, the headline first; ``predictors`` are sorted by the headline
    score, best first; ``cells`` holds value and scaled score by (predictor, condition, metric, space), seeds averaged;
    ``ranked`` are the scored conditions of the model, worst first; ``notes`` are the remarks by condition.
    """

    model: str
    one: str
    keys: tuple[Key, ...]
    predictors: tuple[str, ...]
    summary: dict[tuple[str, Key], Score]
    comparisons: dict[tuple[str, Key], Comparison]
    cells: dict[tuple[str, str, Key], tuple[float, float]]
    ranked: tuple[str, ...]
    conditions: tuple[str, ...]
    notes: dict[str, str]
    substituted: bool

    @property
    def headline(self) -> Key | None:
        """The metric and space that lead, or None where the model has no scaled score."""
        return self.keys[0] if self.keys and math.isfinite(self.scaled(self.model, self.keys[0])) else None

    @property
    def baselines(self) -> tuple[str, ...]:
        """Every predictor but the model and the repeat of the experiment."""
        return tuple(name for name in self.predictors if name not in (self.model, self.one))

    def scaled(self, predictor: str, key: Key) -> float:
        """Return the mean scaled score, NaN where there is none."""
        score = self.summary.get((predictor, key))
        return score.scaled if score else math.nan

    def best_baseline(self, key: Key) -> str | None:
        """Return the baseline with the highest mean scaled score, or None where none has one."""
        scored = [name for name in self.baselines if math.isfinite(self.scaled(name, key))]
        return max(scored, key=lambda name: self.scaled(name, key)) if scored else None


def scores(data: ReportData) -> Scores:
    """Return the look-ups of `data`."""
    summary = _summary(data.summary)
    keys = list(dict.fromkeys(key for _, key in summary))
    wanted = [k for k in keys if k[0] == data.headline and data.headline_space in ("", k[1])]
    usable = [k for k in keys if (data.model, k) in summary and math.isfinite(summary[data.model, k].scaled)]
    first = next((k for k in [*wanted, *usable] if k in usable), None)
    if first is not None:
        keys.remove(first)
        keys.insert(0, first)

    def rank(name: str) -> float:
        score = summary.get((name, first)) if first else None
        return -score.scaled if score and math.isfinite(score.scaled) else math.inf

    predictors = sorted(dict.fromkeys(name for name, _ in summary), key=rank)
    cells = _cells(data.table)
    conditions = tuple(dict.fromkeys(map(str, data.table["condition"]))) if len(data.table) else ()
    ranked: tuple[str, ...] = ()
    if first is not None:
        ranked = _worst_first({c: scaled for (p, c, k), (_, scaled) in cells.items() if (p, k) == (data.model, first)})
    return Scores(
        model=data.model,
        one=data.scale_one,
        keys=tuple(keys),
        predictors=tuple(predictors),
        summary=summary,
        comparisons=_comparisons(data, keys),
        cells=cells,
        ranked=ranked,
        conditions=conditions,
        notes=_notes(data.table),
        substituted=first is not None and bool(data.headline) and first not in wanted,
    )


def shown_conditions(
    table: pd.DataFrame, model: str, headline: str = "r2_delta", *, space: str = "", max_figures: int = 12
) -> tuple[str, ...]:
    """Return the conditions that a report draws: the worst, the median and the best, then others from all three ends.

    Parameters
    ----------
    table
        The tidy table of `ReportData.table`.
    model, headline, space
        The predictor, metric and space to rank by (empty space: the first in the table that has the metric).
    max_figures
        How many conditions at most.
    """
    if not len(table):
        return ()
    keys = _cells(table)
    wanted = next((k for p, _, k in keys if p == model and k[0] == headline and space in ("", k[1])), None)
    found = {c: scaled for (p, c, k), (_, scaled) in keys.items() if p == model and k == wanted}
    return spread(_worst_first(found), max_figures)


def spread(ranked: tuple[str, ...], limit: int) -> tuple[str, ...]:
    """Return at most `limit` of `ranked`: the first, the middle and the last, then the rest chosen, in rank order."""
    n = len(ranked)
    middle = (n - 1) // 2
    around = [i for step in range(n) for i in (middle - step, middle + step) if 0 <= i < n]
    turns = [i for trio in zip(range(n), around, reversed(range(n)), strict=False) for i in trio]
    chosen = list(dict.fromkeys(turns))[:limit]
    return tuple(ranked[i] for i in chosen[:3] + sorted(chosen[3:]))


def _summary(frame: pd.DataFrame) -> dict[tuple[str, Key], Score]:
    if not len(frame):
        return {}
    columns = ["mean", "low", "high", "scaled", "scaled_low", "scaled_high", "n_conditions"]
    numbers = frame[columns].astype(float).to_numpy()
    names = zip(frame["predictor"], frame["metric"], frame["space"], strict=True)
    return {
        (str(predictor), (str(metric), str(space))): Score(*map(float, row[:6]), n=_whole(row[6]))
        for (predictor, metric, space), row in zip(names, numbers, strict=True)
    }


def _comparisons(data: ReportData, keys: list[Key]) -> dict[tuple[str, Key], Comparison]:
    found: dict[tuple[str, Key], Comparison] = {}
    for row in data.comparisons.to_dict("records"):
        pair = (str(row["a"]), str(row["b"]))
        if data.model not in pair:
            continue
        turned = pair[1] == data.model
        sign = -1.0 if turned else 1.0
        ends = sorted((sign * float(row["low"]), sign * float(row["high"])))
        share = float(row["share"])
        item = Comparison(
            baseline=pair[0] if turned else pair[1],
            difference=sign * float(row["difference"]),
            low=ends[0],
            high=ends[1],
            share=1 - share if turned else share,
            n=_whole(row["n_conditions"]),
        )
        for key in keys:
            if key[0] == str(row["metric"]) and row.get("space", key[1]) == key[1]:
                found[item.baseline, key] = item
    return found


def _worst_first(scaled: dict[str, float]) -> tuple[str, ...]:
    """Return the conditions with a finite score, the lowest first; equal scores by name."""
    return tuple(sorted((c for c, s in scaled.items() if math.isfinite(s)), key=lambda c: (scaled[c], c)))


def _cells(table: pd.DataFrame) -> dict[tuple[str, str, Key], tuple[float, float]]:
    if not len(table):
        return {}
    rows: dict[tuple[str, str, Key], list[tuple[float, float]]] = {}
    columns = (table[name] for name in ("predictor", "condition", "metric", "space", "value", "scaled"))
    for predictor, condition, metric, space, value, scaled in zip(*columns, strict=True):
        place = (str(predictor), str(condition), (str(metric), str(space)))
        rows.setdefault(place, []).append((float(value), float(scaled)))
    return {place: (_mean(v for v, _ in pairs), _mean(s for _, s in pairs)) for place, pairs in rows.items()}


def _mean(values: Iterable[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return math.fsum(known) / len(known) if known else math.nan


def _notes(table: pd.DataFrame) -> dict[str, str]:
    if not len(table) or "note" not in table:
        return {}
    notes: dict[str, dict[str, None]] = {}
    for condition, note in zip(table["condition"], table["note"], strict=True):
        if isinstance(note, str) and note:
            notes.setdefault(str(condition), {})[note] = None
    return {condition: "; ".join(found) for condition, found in notes.items()}


def _whole(x: float) -> int:
    return int(x) if math.isfinite(float(x)) else 0

"""The frames of a report as look-ups, and whether a scale has a direction."""

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from cellgap.report._words import metric_text

Key = tuple[str, str]  # metric, space
Pair = tuple[float, float]  # value, scaled


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
    """The model against one baseline, paired over conditions; positive means that the model is better.

    `verdict` is ``"better"``, ``"worse"``, ``"unclear"`` (the interval holds 0) or ``"unknown"`` (no interval).
    """

    baseline: str
    difference: float
    low: float
    high: float
    share: float
    n: int
    verdict: str


def read_summary(frame: pd.DataFrame) -> dict[tuple[str, Key], Score]:
    """Return the rows of a summary by (predictor, (metric, space))."""
    if not len(frame):
        return {}
    columns = ["mean", "low", "high", "scaled", "scaled_low", "scaled_high", "n_conditions"]
    numbers = frame[columns].astype(float).to_numpy()
    names = zip(frame["predictor"], frame["metric"], frame["space"], strict=True)
    return {
        (str(predictor), (str(metric), str(space))): Score(*map(float, row[:6]), n=_whole(row[6]))
        for (predictor, metric, space), row in zip(names, numbers, strict=True)
    }


def read_comparisons(frame: pd.DataFrame, model: str, keys: Iterable[Key]) -> dict[tuple[str, Key], Comparison]:
    """Return the comparisons of `model` by (other predictor, (metric, space)), turned so that positive is better."""
    found: dict[tuple[str, Key], Comparison] = {}
    for row in frame.to_dict("records"):
        pair = (str(row["a"]), str(row["b"]))
        if model not in pair:
            continue
        turned = pair[1] == model
        sign = -1.0 if turned else 1.0
        low, high = sorted((sign * float(row["low"]), sign * float(row["high"])))
        gain = sorted((sign * float(row.get("gain_low", math.nan)), sign * float(row.get("gain_high", math.nan))))
        share = float(row["share"])
        item = Comparison(
            baseline=pair[0] if turned else pair[1],
            difference=sign * float(row["difference"]),
            low=low,
            high=high,
            share=1 - share if turned else share,
            n=_whole(row["n_conditions"]),
            verdict=_side(low, high) if math.isfinite(low) and math.isfinite(high) else _side(*gain),
        )
        for key in keys:
            if key[0] == str(row["metric"]) and row.get("space", key[1]) == key[1]:
                found[item.baseline, key] = item
    return found


def _side(low: float, high: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "unknown"
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def _merit(metric: str, value: float) -> float:
    """Return `value` turned so that higher is better; NaN for a metric whose direction is not known."""
    better = metric_text(metric).better
    if better == "one":
        return -abs(math.log(value)) if value > 0 else value if math.isnan(value) else -math.inf
    return value if better == "higher" else -value if better == "lower" else math.nan


def directed(
    cells: dict[tuple[str, str, Key], Pair], zero: str, one: str
) -> tuple[dict[tuple[str, str, Key], Pair], tuple[tuple[str, Key], ...]]:
    """Return `cells` without scaled scores where `one` is no better than `zero`, and those (condition, key) places."""
    found: dict[tuple[str, Key], None] = {}
    for predictor, condition, key in cells:
        if predictor == one and (zero, condition, key) in cells:
            ends = (_merit(key[0], cells[name, condition, key][0]) for name in (zero, one))
            if operator.ge(*ends):
                found[condition, key] = None
    kept = {place: (value, math.nan if place[1:] in found else scaled) for place, (value, scaled) in cells.items()}
    return kept, tuple(found)


def has_scale(
    summary: dict[tuple[str, Key], Score], cells: dict[tuple[str, str, Key], Pair], key: Key, zero: str, one: str
) -> bool:
    """Return whether, on average over conditions, `one` is better than `zero`; true where that is not known."""
    paired = [c for p, c, k in cells if (p, k) == (one, key) and (zero, c, key) in cells]
    if paired:
        ends = (_mean(_merit(key[0], cells[name, c, key][0]) for c in paired) for name in (zero, one))
    elif (zero, key) in summary and (one, key) in summary:
        ends = (_merit(key[0], summary[name, key].mean) for name in (zero, one))
    else:
        return True
    return not operator.ge(*ends)


def read_cells(table: pd.DataFrame) -> dict[tuple[str, str, Key], Pair]:
    """Return value and scaled score by (predictor, condition, (metric, space)), averaged over seeds."""
    if not len(table):
        return {}
    rows: dict[tuple[str, str, Key], list[Pair]] = {}
    columns = (table[name] for name in ("predictor", "condition", "metric", "space", "value", "scaled"))
    for predictor, condition, metric, space, value, scaled in zip(*columns, strict=True):
        place = (str(predictor), str(condition), (str(metric), str(space)))
        rows.setdefault(place, []).append((float(value), float(scaled)))
    return {place: (_mean(v for v, _ in pairs), _mean(s for _, s in pairs)) for place, pairs in rows.items()}


def _mean(values: Iterable[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return math.fsum(known) / len(known) if known else math.nan


def read_notes(table: pd.DataFrame) -> dict[str, str]:
    """Return the remarks by condition, each once."""
    if not len(table) or "note" not in table:
        return {}
    notes: dict[str, dict[str, None]] = {}
    for condition, note in zip(table["condition"], table["note"], strict=True):
        if isinstance(note, str) and note:
            notes.setdefault(str(condition), {})[note] = None
    return {condition: "; ".join(found) for condition, found in notes.items()}


def _whole(x: float) -> int:
    return int(x) if math.isfinite(float(x)) else 0

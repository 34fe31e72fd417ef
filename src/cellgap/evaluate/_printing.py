"""How an evaluation prints: predictors as rows, a handful of metrics as columns, the best in bold."""

from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cellgap.evaluate._catalog import METRICS
from cellgap.evaluate._predictors import CONTROL, DECODED, MEAN_EFFECT, REPLICATE
from cellgap.evaluate._scale import merit

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cellgap.evaluate._evaluation import Evaluation

SHOWN = ("l2_uvp", "r2_delta", "discrimination", "energy", "divergence2", "variance_ratio")
"""Metrics of the printed table, where they were computed."""

_TOP = (REPLICATE, DECODED)
_BOTTOM = (MEAN_EFFECT, "identity", CONTROL)


def rendered(evaluation: "Evaluation") -> "RenderableType":
    """Return the printable table of an evaluation, with what was left out below it."""
    space = evaluation.spaces[0]
    summary = evaluation.summary()
    summary = summary[summary["space"] == space]
    pairs = zip(summary["metric"].tolist(), summary["mean"].tolist(), strict=True)
    known = list(dict.fromkeys(metric for metric, mean in pairs if np.isfinite(mean)))
    metrics = [metric for metric in SHOWN if metric in known] or known[:5]
    columns = {name: summary[name].tolist() for name in ("predictor", "metric", "mean", "scaled", "n_conditions")}
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    cells = {(row["predictor"], row["metric"]): row for row in rows}
    answered = set(evaluation.table["predictor"][evaluation.table["n_pred"] > 0])
    present = [name for name in evaluation.predictors if name in answered]
    top = [name for name in _TOP if name in present]
    bottom = [name for name in _BOTTOM if name in present and evaluation.kinds[name] != "model"]
    middle = [name for name in present if name not in (*top, *bottom)]
    n = len(set(evaluation.table["condition"]))
    table = Table(
        title=f"{evaluation.settings['split']}: mean over {n} held-out conditions, in {space} "
        "(in brackets: 0 = mean effect, 1 = replicate)",
        title_justify="left",
    )
    table.add_column("predictor", no_wrap=True)
    for metric in metrics:
        table.add_column(f"{metric} {_ARROWS[METRICS[metric].better]}", justify="right", no_wrap=True)
    rivals = [name for name in (*middle, *bottom) if evaluation.kinds[name] != "anchor"]
    best = {metric: _best(rivals, metric, cells) for metric in metrics}
    for name in (*top, *middle, *bottom):
        entries = [_entry(cells.get((name, metric)), best[metric] == name, n) for metric in metrics]
        style = "dim" if evaluation.kinds[name] == "anchor" else ""
        table.add_row(Text(name), *entries, style=style, end_section=name in (top[-1:] + middle[-1:]))
    return Group(table, *_remarks(evaluation))


_ARROWS = {"higher": "↑", "lower": "↓", "one": "→1"}


def _best(names: list[str], metric: str, cells: dict) -> str | None:
    """Return who is best among those that answered most conditions: means over fewer of them do not compare."""
    answered = {name: cells[name, metric]["n_conditions"] for name in names if (name, metric) in cells}
    names = [name for name in answered if answered[name] == max(answered.values())]
    known = {name: float(merit(cells[name, metric]["mean"], metric)) for name in names if (name, metric) in cells}
    known = {name: value for name, value in known.items() if np.isfinite(value)}
    return max(known, key=known.__getitem__) if known else None


def _entry(row: dict[str, Any] | None, best: bool, n_conditions: int) -> Text:
    if row is None or not np.isfinite(row["mean"]):
        return Text("-", style="dim")
    scaled = f" ({row['scaled']:.2f})" if np.isfinite(row["scaled"]) else ""
    partial = "*" if row["n_conditions"] < n_conditions else ""
    return Text(f"{row['mean']:.3g}{scaled}{partial}", style="bold" if best else "")


def _remarks(evaluation: "Evaluation") -> list[Text]:
    """Return a line for every predictor that did not answer everything, and for conditions that were not scored."""
    table = evaluation.table
    n = table["condition"].nunique()
    lines = []
    for name, rows in table.query("n_pred == 0").groupby("predictor", sort=False):
        reason = rows["note"].iloc[0].rstrip(".")
        lines.append(f"* {name}: no answer for {len(set(rows['condition']))} of {n} conditions ({reason})")
    for reason, rows in table.query("n_pred > 0 and note != '' and predictor != @CONTROL").groupby("note", sort=False):
        which = ", ".join(dict.fromkeys(rows["metric"]))
        lines.append(f"not computed in {len(set(rows['condition']))} of {n} conditions: {which} ({reason})")
    if evaluation.settings.get("saw_held_out"):
        names = ", ".join(evaluation.settings["saw_held_out"])
        lines.append(f"not zero-shot: {names} (held-out conditions are described by their own cells; so are baselines)")
    for condition, reason in evaluation.unscored.items():
        lines.append(f"not scored: {condition} ({reason})")
    return [Text(line, style="yellow") for line in lines]

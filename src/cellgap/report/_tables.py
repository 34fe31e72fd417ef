"""The numbers of the page as rows of text, ready for the template."""

import math
from dataclasses import dataclass

import pandas as pd

from cellgap.report._lookup import Key, Score
from cellgap.report._scores import LEADING, Scores
from cellgap.report._words import count, fixed, interval, metric_text, number


@dataclass(frozen=True)
class Cell:
    """A score in a table: the value, its interval, the scaled score with its interval; empty texts where unknown."""

    value: str
    span: str = ""
    scaled: str = ""
    scaled_span: str = ""
    below: bool = False  # worse than the 0 of the scale
    best: bool = False  # the best of its column


@dataclass(frozen=True)
class Row:
    """A row: its name and kind (``own``, ``repeat``, ``model``, ``baseline``, ``anchor``), cells and a last text."""

    name: str
    kind: str
    cells: tuple[Cell, ...]
    last: str = ""
    anchor: str = ""


@dataclass(frozen=True)
class ScoreTable:
    """A table of scores in one space; `heads` are (label, name, direction) of its columns."""

    space: str
    heads: tuple[tuple[str, str, str], ...]
    rows: tuple[Row, ...]

    @property
    def noted(self) -> bool:
        """Whether any row ends with a text."""
        return any(row.last for row in self.rows)


def summary_tables(scores: Scores) -> tuple[ScoreTable, ...]:
    """Return one table per space: predictors in rows, best headline score on top, metrics in columns."""
    spaces = dict.fromkeys(space for _, space in scores.keys)
    return tuple(_summary(scores, space, [k for k in scores.keys if k[1] == space]) for space in spaces)


def _summary(scores: Scores, space: str, keys: list[Key]) -> ScoreTable:
    ordinary = [name for name in scores.predictors if scores.kinds[name] != "anchor"]
    best = {
        key: max((scores.scaled(n, key) for n in ordinary if scores.answers(n, key)), default=math.nan) for key in keys
    }
    rows = []
    for name in scores.predictors:
        own = [scores.summary.get((name, key)) for key in keys]
        sizes = sorted({score.n for score in own if score})
        rows.append(
            Row(
                name,
                "own" if name == scores.model else "repeat" if name == scores.one else scores.kinds[name],
                tuple(
                    _cell(score, best=name in ordinary and score is not None and score.scaled == best[key])
                    for score, key in zip(own, keys, strict=True)
                ),
                " to ".join(str(n) for n in dict.fromkeys((sizes[0], sizes[-1]))) if sizes else "",
            )
        )
    return ScoreTable(space, _heads(keys), tuple(row for row in rows if row.last))


def condition_table(scores: Scores, anchors: dict[str, str]) -> ScoreTable | None:
    """Return the model's scores: all conditions in rows, worst first and unscored ones last; None where there are none.

    `anchors` are the places on the page of the conditions that are drawn.
    """
    known = dict.fromkeys(key for p, _, key in scores.cells if p == scores.model)
    if not known:
        return None
    keys = sorted(known, key=lambda k: scores.keys.index(k) if k in scores.keys else len(scores.keys))[:LEADING]
    unranked = [c for c in scores.conditions if c not in set(scores.ranked)]
    rows = []
    for condition in (*scores.ranked, *unranked):
        found = [scores.cells.get((scores.model, condition, key), (math.nan, math.nan)) for key in keys]
        cells = tuple(
            Cell(number(value), scaled="" if math.isnan(scaled) else fixed(scaled), below=scaled < 0)
            for value, scaled in found
        )
        rows.append(Row(condition, "", cells, scores.notes.get(condition, ""), anchors.get(condition, "")))
    return ScoreTable("", _heads(keys), tuple(rows))


def glossary(scores: Scores) -> tuple[tuple[str, str, str], ...]:
    """Return (label, name, meaning) of every metric on the page that has a known meaning."""
    names = dict.fromkeys([m for m, _ in scores.keys] + [m for _, _, (m, _) in scores.cells])
    return tuple((metric_text(m).label, m, metric_text(m).meaning) for m in names if metric_text(m).meaning)


def role_totals(study: pd.DataFrame) -> tuple[str, ...]:
    """Return one sentence per role: its conditions and cells."""
    if not len(study):
        return ()
    groups = study.assign(role=study["role"].astype(str)).groupby("role", sort=False)
    return tuple(
        f"{role}: {count(group['condition'].nunique(), 'condition')}, {count(group['cells'].sum(), 'cell')}"
        for role, group in groups
    )


def plain_rows(frame: pd.DataFrame, columns: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Return the rows of `frame` as text, whole numbers with thousands separators."""
    return tuple(tuple(_plain(row[c]) for c in columns) for row in frame.to_dict("records"))


def _plain(value) -> str:
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    try:
        whole = float(value)
    except (TypeError, ValueError):
        return str(value)
    return f"{int(whole):,}" if whole.is_integer() else number(whole)


def _heads(keys: list[Key]) -> tuple[tuple[str, str, str], ...]:
    several = len({space for _, space in keys}) > 1
    return tuple((metric_text(m).label, f"{m} in {s}" if several else m, metric_text(m).better) for m, s in keys)


def _cell(score: Score | None, *, best: bool) -> Cell:
    if score is None:
        return Cell("")
    # An interval without width is left out: the ends of the scale are 0 and 1 in every condition.
    ends = interval(score.scaled_low, score.scaled_high)
    span = f"{number(score.low)} to {number(score.high)}"
    return Cell(
        number(score.mean),
        span=span if number(score.low) != number(score.high) else "",
        scaled=fixed(score.scaled) if math.isfinite(score.scaled) else "",
        scaled_span=ends if fixed(score.scaled_low) != fixed(score.scaled_high) else "",
        below=score.scaled < 0,
        best=best,
    )

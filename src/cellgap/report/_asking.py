"""The page of a benchmark run: scores beside what chance gives, the gaps, and the worst questions side by side."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellgap import __version__
from cellgap.ask.bench._predictions import ELSEWHERE
from cellgap.ask.bench._records import Record
from cellgap.ask.bench._result import BenchResult
from cellgap.errors import DataError
from cellgap.gap import Gap
from cellgap.report._answer_view import usage_words
from cellgap.report._answers_page import answers_style, file_for_page
from cellgap.report._asking_figures import questions_picture, systems_picture
from cellgap.report._draw import drawing
from cellgap.report._template import environment
from cellgap.report._verdict import Verdict
from cellgap.report._words import count, fixed, flatten, number

_WORDS = {
    "combined_strict": "Combined",
    "condition_strict": "Condition",
    "answer_strict": "Answer (word F1)",
    "citation_strict": "Citations (F1)",
    "answer_blend_strict": "Answer (blend)",
    "condition_f1_discriminative": "Conditions told apart (F1)",
    "short_answers_strict": "Short answers",
    "judged_condition_strict": "Condition (judged)",
    "judged_answer_strict": "Answer (judged)",
    "support": "Support",
    "outputs": "Answers per question",
    "outputs_surplus": "Answers too many",
    "outputs_off": "Answers off by",
    "planted_cited": "Cites planted orders",
}
_HEADLINE = ("combined_strict", "answer_strict")
_FIRST = (
    "combined_strict", "condition_strict", "answer_strict", "citation_strict", "judged_condition_strict",
    "judged_answer_strict", "condition_f1_discriminative", "short_answers_strict",
)  # fmt: skip
_DRAWN = ("combined_strict", "condition_strict", "answer_strict", "citation_strict", "judged_answer_strict")
_WORST = 5
_LISTED = 200


def write_bench_report(
    results: BenchResult | Sequence[BenchResult],
    path: str | Path,
    *,
    records: Sequence[Record] = (),
    gaps: Sequence[Gap] = (),
    settings: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    title: str = "",
) -> Path:
    """Return the path of the page written from benchmark results: one HTML file that needs nothing else.

    Parameters
    ----------
    results
        One, or several with the one that the page is about first.
    path
        Where to write; missing folders are made, an existing file is replaced.
    records
        What was asked, so that the worst questions are shown with their gold readings; empty: by identifier only.
    gaps
        Such as the ambiguity gap and the remaining gap.
    settings
        Of the run, besides those that the results hold.
    notes
        Sentences to know when reading the page.
    title
        At the head of the page; empty: the system and the records.

    Raises
    ------
    DataError
        There is no result.
    StorageError
        `path` is a folder.
    """
    every = [results] if isinstance(results, BenchResult) else list(results)
    if not every:
        raise DataError("A page of the benchmark needs at least one result; there is none.")
    target = file_for_page(path)
    own = every[0]
    tables = [{str(row["metric"]): row for row in result.table().to_dict("records")} for result in every]
    names = [_label(result, every) for result in every]
    metric = _headline(own)
    columns = [m for m in _FIRST if any(m in table for table in tables)]
    templates = environment()
    with drawing():
        systems = [
            systems_picture([_drawn(n, t[m]) for n, t in zip(names, tables, strict=True) if m in t], _word(m), m)
            for m in _DRAWN
            if any(m in t for t in tables)
        ]
        floor = own.floor[metric].to_numpy(float) if metric in own.floor else np.zeros(0)
        spread = questions_picture(own.scores[metric].to_numpy(float), floor, _word(metric), own.system)
    page = templates.get_template("asking.html").render(
        title=title or f"{own.system} on {own.dataset}",
        subtitle=f"{count(own.n_records, 'question')}, protocol “{own.protocol}”, judge {own.judge}",
        version=__version__,
        css=answers_style(templates),
        verdict=bench_verdict(own),
        notes=[*notes, *_notes(every)],
        columns=[_word(m) for m in columns],
        headline=[_scored(r, t, columns, r is own) for r, t in zip(every, tables, strict=True)],
        floors=_floors(every, tables, columns),
        counts=[_counts(r) for r in every],
        pictures=[picture for picture in (*systems, spread) if picture],
        everything=[(name, [_full(row) for row in t.values()]) for name, t in zip(names, tables, strict=True)],
        controls=[(name, c) for name, r in zip(names, every, strict=True) for c in r.controls],
        judged=[(name, dict(r.judged)) for name, r in zip(names, every, strict=True) if r.judged],
        gaps=gaps,
        worst=_worst(own, metric, {record.id: record for record in records}),
        metric=_word(metric),
        questions=_questions(own, metric),
        n_questions=len(own.results),
        settings=[row for r in every for row in _settings(r, len(every) > 1)] + flatten(settings or {}),
        number=number,
        three=lambda value: "none valid" if value is None else fixed(value, 3),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8", newline="\n")
    return target


def bench_verdict(result: BenchResult) -> Verdict:
    """Return where a system stands beside what two random passages, or a foreign reference, would score."""
    metric = _headline(result)
    row = result.table().set_index("metric").loc[metric]
    value, low, high, floor = (float(row[name]) for name in ("value", "low", "high", "floor"))
    told = (
        f"Of {count(result.n_records, 'question')}, {result.attempted:,} were asked: {result.answered:,} answered, "
        f"{result.abstained:,} abstained, {result.failed:,} failed. What is not answered scores 0; none is left out."
    )
    ends = f" (95 % interval {fixed(low, 3)} to {fixed(high, 3)})" if math.isfinite(low) else ""
    scored = f"{_word(metric)} {fixed(value, 3)}{ends}, by {row['judge']} under the protocol “{result.protocol}”."
    if not math.isfinite(floor):
        return Verdict("unknown", "There is no floor to read this beside.", (scored, told))
    beside = f"{str(row['floor_of']).capitalize()} score {fixed(floor, 3)}."
    if math.isfinite(float(row["corrected"])):
        beside += f" Where those are 0 and a perfect answer is 1, this is {fixed(row['corrected'], 3)}."
    sentences = (scored, beside, told)
    if low > floor:
        return Verdict("better", "It answers better than chance.", sentences)
    if high < floor:
        return Verdict("worse", "Random passages would answer better.", sentences)
    return Verdict("unclear", "It cannot be told from random passages.", sentences)


def _headline(result: BenchResult) -> str:
    return next((m for m in _HEADLINE if m in result.scores), str(result.scores.columns[0]))


def _word(metric: str) -> str:
    return _WORDS.get(metric, metric.replace("_", " "))


def _label(result: BenchResult, every: Sequence[BenchResult]) -> str:
    """Return the name of a result, with what tells it from others of the same system."""
    twins = [other for other in every if other.system == result.system]
    if len(twins) == 1:
        return result.system
    apart = _apart(result, twins)
    return f"{result.system} ({apart})" if len(twins) < len(every) else apart


def _apart(result: BenchResult, twins: Sequence[BenchResult]) -> str:
    parts = [result.protocol]
    if len({twin.k_max for twin in twins}) > 1:
        parts.append("any k" if result.k_max is None else f"k ≤ {result.k_max}")
    if len({twin.judge for twin in twins}) > 1:
        parts.append(result.judge)
    return ", ".join(parts)


def _drawn(label: str, row: Mapping[str, Any]) -> tuple[str, float, float, float, float]:
    return label, float(row["value"]), float(row["low"]), float(row["high"]), float(row["floor"])


def _scored(result: BenchResult, table: Mapping[str, Any], columns: Sequence[str], own: bool) -> dict[str, Any]:
    cells = []
    for metric in columns:
        row = table.get(metric)
        if row is None:
            cells.append(None)
            continue
        low, high = float(row["low"]), float(row["high"])
        cells.append({
            "value": fixed(row["value"], 3),
            "span": f"{fixed(low, 3)} to {fixed(high, 3)}" if math.isfinite(low) and math.isfinite(high) else "",
            "corrected": fixed(row["corrected"], 3) if math.isfinite(float(row["corrected"])) else "undefined",
        })  # fmt: skip
    return {"system": result.system, "protocol": result.protocol, "judge": result.judge, "own": own, "cells": cells}


def _floors(
    every: Sequence[BenchResult], tables: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """Return what chance scores: one row where systems share it."""
    rows = []
    for result, table in zip(every, tables, strict=True):
        floors = [float(table[m]["floor"]) if m in table else math.nan for m in columns]
        cells = [fixed(floor, 3) if math.isfinite(floor) else "" for floor in floors]
        row = {"protocol": result.protocol, "judge": result.judge, "cells": cells}
        if any(cells) and row not in rows:
            rows.append(row)
    return rows


def _full(row: Mapping[Any, Any]) -> dict[str, str]:
    found = {name: number(row[name]) for name in ("value", "low", "high", "floor", "corrected")}
    return {name: "" if text == "n/a" else text for name, text in found.items()} | {
        "metric": _word(str(row["metric"])), "name": str(row["metric"]), "judge": str(row["judge"]),
        "floor_of": str(row["floor_of"]), "n": f"{int(row['n']):,}",
    }  # fmt: skip


def _counts(result: BenchResult) -> dict[str, Any]:
    failures = ", ".join(f"{name} \N{MULTIPLICATION SIGN} {n}" for name, n in result.failures.items())
    return {
        "system": result.system, "protocol": result.protocol, "records": f"{result.n_records:,}",
        "attempted": f"{result.attempted:,}", "answered": f"{result.answered:,}",
        "abstained": f"{result.abstained:,}", "failed": f"{result.failed:,}", "failures": failures,
        "usage": "; ".join(f"{name.lower()} {text}" for name, text in usage_words(result.usage)),
    }  # fmt: skip


def _notes(every: Sequence[BenchResult]) -> list[str]:
    notes = []
    if len({(r.protocol, r.judge, r.digest) for r in every}) > 1:
        notes.append(
            "Scores of different protocols, judges or records are not comparable, though they stand in one table."
        )
    for result in every:
        name = _label(result, every)
        if result.stopped:
            notes.append(f"{name} ended before the last question: {result.stopped}")
        lesser = ", ".join(f"{code} ({count(n, 'question')})" for code, n in result.degraded.items())
        if lesser:
            notes.append(f"{name} was run in a lesser way than asked: {lesser}.")
    return notes


def _worst(result: BenchResult, metric: str, records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """Return the questions with the lowest scores, their gold readings beside what was answered."""
    by_id = {found.id: found for found in result.results}
    scores = result.scores[metric].to_numpy(float)
    order = np.argsort(np.where(np.isfinite(scores), scores, np.inf), kind="stable")[:_WORST]
    shown = []
    for place in order:
        identifier = str(result.scores.index[place])
        found, record = by_id.get(identifier), records.get(identifier)
        if found is None or not math.isfinite(scores[place]):
            continue
        golds = record.golds if record else ()
        pairs = dict((gold, output) for output, gold in result.pairs.get(identifier, ()))
        rows = []
        for i, gold in enumerate(golds):
            output = found.predictions[pairs[i]] if i in pairs else None
            rows.append((_told(gold.condition, gold.answer, gold.fragments), _said(output)))
        used = set(pairs.values()) if golds else set()
        rows += [(None, _said(p)) for k, p in enumerate(found.predictions) if k not in used]
        shown.append({
            "id": identifier, "question": record.question if record else "", "score": fixed(scores[place], 3),
            "status": found.status, "notice": found.notice.text if found.notice else "", "rows": rows,
            "golds": bool(golds),
        })  # fmt: skip
    return shown


def _said(prediction: Any) -> dict[str, str] | None:
    return None if prediction is None else _told(prediction.condition, prediction.answer, prediction.fragments)


def _told(condition: str, answer: str, fragments: Sequence[int]) -> dict[str, str]:
    cited = ", ".join(str(n) for n in fragments if n < ELSEWHERE)
    elsewhere = sum(n >= ELSEWHERE for n in fragments)
    more = f"{', ' if cited else ''}{elsewhere} elsewhere" if elsewhere else ""
    return {
        "condition": condition or "(no condition)",
        "answer": answer or "(empty)",
        "cited": f"{cited}{more}" or "none",
    }


def _questions(result: BenchResult, metric: str) -> dict[str, Any]:
    """Return scores by question, the lowest first."""
    status = {found.id: found.status for found in result.results}
    columns = [m for m in _FIRST if m in result.scores]
    ordered = result.scores.sort_values(metric, kind="stable", na_position="last").head(_LISTED)
    rows = [
        (str(name), status.get(str(name), ""), [fixed(row[m], 3) if math.isfinite(row[m]) else "" for m in columns])
        for name, row in ordered.iterrows()
    ]
    return {"columns": [_word(m) for m in columns], "rows": rows}


def _settings(result: BenchResult, several: bool) -> list[tuple[str, str]]:
    told = {
        "protocol": result.protocol, "k_max": "as many as found" if result.k_max is None else result.k_max,
        "dataset": result.dataset, "digest": result.digest, "judge": dict(result.judge_versions) or result.judge,
        "system": dict(result.versions) or result.system,
    }  # fmt: skip
    return flatten(told, f"{result.system}, {result.protocol}: " if several else "")

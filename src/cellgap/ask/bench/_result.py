"""What a run of the benchmark found: tables with intervals and floors, comparisons, and gaps."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cellgap.ask._answer import Notice, Usage
from cellgap.ask.bench._bootstrap import intervals
from cellgap.ask.bench._det1 import RecordScores
from cellgap.ask.bench._judge import NullControl
from cellgap.ask.bench._judging import JudgeScores
from cellgap.ask.bench._predictions import Prediction
from cellgap.ask.bench._published_run import PublishedRun
from cellgap.errors import ConfigError
from cellgap.gap import Gap

REMEDY = "State cell line, dose, time."

_COUNTS = ("outputs", "outputs_surplus", "outputs_off", "support", "planted_cited")
_NO_CONDITION = ("condition", "combined")
_ABSENT = {
    "rag": _NO_CONDITION,
    "given": _NO_CONDITION,
    "closed": (*_NO_CONDITION, "citation", "support", "planted"),
}
_COLUMNS = ["metric", "judge", "value", "low", "high", "floor", "corrected", "floor_of", "n"]
_PAIRED_COLUMNS = ["metric", "judge", "a", "b", "difference", "low", "high", "n"]


@dataclass(frozen=True)
class RecordResult:
    """What a system said of one record.

    Parameters
    ----------
    id
        Of the record.
    status
        ``"answered"``, ``"abstained"`` or ``"failed"``; the last two count as no output.
    predictions
        What is scored.
    notice
        Why there is no answer: the reason of an abstention, or type and message of a failure.
    degraded
        What was done in a lesser way than asked.
    """

    id: str
    status: str
    predictions: tuple[Prediction, ...] = ()
    notice: Notice | None = None
    degraded: tuple[Notice, ...] = ()


@dataclass(frozen=True, eq=False)
class BenchResult:
    """The result of one system on one set of records, under one protocol and one judge.

    Numbers of different protocols, judges or records are not comparable; ``compare`` refuses what it can tell.

    Parameters
    ----------
    system, versions
        What answered.
    protocol, k_max
        What it was shown, and how many answers it could give (None: as many as it finds).
    judge, judge_versions
        What scored; ``judge`` is the name that goes with each number.
    dataset, digest
        Name of the revision, and a digest of the records.
    n_records
        Records that were to be answered.
    results
        By record, those that were attempted; none is left out of a mean.
    scores, floor
        By record (index) and metric: of the system, and of two random passages as answers (seed 0).
    controls
        Null controls of a judge that reads.
    judged
        Counts of a judge that reads: ``calls``, ``control_calls``, ``valid``, and failures by type.
    pairs
        (output, gold) by record, zero-based: what was held against what.
    usage
        What the answers cost; what an earlier, interrupted run paid is included.
    stopped
        Why the run ended before the last record; empty where it did not.
    judge_scores
        By record: what a judge that reads gave all outputs against all golds (``pairing="judge"``); else empty.
    rescored
        The run as the benchmark's paper scores it, where that was asked for (``compat``).
    """

    system: str
    versions: Mapping[str, str]
    protocol: str
    k_max: int | None
    judge: str
    judge_versions: Mapping[str, str]
    dataset: str
    digest: str
    n_records: int
    results: tuple[RecordResult, ...]
    scores: pd.DataFrame
    floor: pd.DataFrame
    controls: tuple[NullControl, ...] = ()
    judged: Mapping[str, int] = field(default_factory=dict)
    pairs: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    stopped: str = ""
    judge_scores: Mapping[str, JudgeScores] = field(default_factory=dict)
    rescored: PublishedRun | None = None

    @property
    def attempted(self) -> int:
        """Records that the system was asked."""
        return len(self.results)

    @property
    def answered(self) -> int:
        """Records with at least one output."""
        return sum(r.status == "answered" for r in self.results)

    @property
    def abstained(self) -> int:
        """Records for which the system gave no output, and no error."""
        return sum(r.status == "abstained" for r in self.results)

    @property
    def failed(self) -> int:
        """Records for which the system ended in an error."""
        return sum(r.status == "failed" for r in self.results)

    @property
    def failures(self) -> Mapping[str, int]:
        """Failed records by type of error."""
        return dict(Counter(r.notice.code for r in self.results if r.status == "failed" and r.notice))

    @property
    def degraded(self) -> Mapping[str, int]:
        """Records that were answered in a lesser way than asked, by reason."""
        return dict(Counter(code for r in self.results for code in {notice.code for notice in r.degraded}))

    def value(self, metric: str) -> float:
        """Return the mean of a metric over the questions."""
        _known(metric, self.scores)
        return _mean(self.scores, metric)

    def table(self) -> pd.DataFrame:
        """Return one row a metric.

        Returns
        -------
        frame
            ``metric, judge, value, low, high`` (95 %, bootstrap over questions), ``floor`` and what it is
            (``floor_of``: two random passages as answers, or what a judge that reads gives for the gold of another
            question), ``corrected`` = (value - floor) / (1 - floor), for such a judge (value - shuffled) /
            (self - shuffled) or NaN where that is undefined, and ``n``, the questions that have the metric.
        """
        low_high = intervals(self.scores.to_numpy(float))
        by_judge = {f"judged_{control.metric}": control for control in self.controls}
        rows = []
        for (low, high), metric in zip(low_high, map(str, self.scores.columns), strict=True):
            n = int(self.scores[metric].notna().sum())
            if n == 0 and not metric.startswith("judged_"):
                continue  # the records do not define it
            value, floor, corrected, floor_of = self.value(metric), math.nan, math.nan, ""
            if metric.startswith("judged_"):
                stem, _, kind = metric.rpartition("_")
                control = by_judge[stem]
                floor_of = "shuffled reference"
                coverage = 1.0 if kind == "matched" else self._coverage()
                floor = math.nan if control.shuffled is None else coverage * control.shuffled
                found = control.corrected(value, coverage)
                corrected = math.nan if found is None else found
            elif metric in self.floor:
                floor_of = "two random passages"
                floor = _mean(self.floor, metric)
                if metric not in _COUNTS and floor < 1:
                    corrected = (value - floor) / (1 - floor)
            rows.append((metric, self._judge_of(metric), value, low, high, floor, corrected, floor_of, n))
        return pd.DataFrame(rows, columns=pd.Index(_COLUMNS))

    def published(self) -> pd.DataFrame:
        """Return the scores as the benchmark's paper computes them; see ``PublishedRun.table``.

        Raises
        ------
        ConfigError
            The run was not asked for them.
        """
        if self.rescored is None:
            raise ConfigError('This run has no published scores: ask for them with run(..., compat="v1" or "v2").')
        return self.rescored.table()

    def _coverage(self) -> float:
        """Return the mean share of pairs among outputs and golds, whichever are more."""
        outputs = self.scores["outputs"].to_numpy(float)
        golds = outputs - self.scores["outputs_surplus"].to_numpy(float)
        return float(np.mean(np.minimum(outputs, golds) / np.maximum(outputs, golds)))

    def _judge_of(self, metric: str) -> str:
        return self.judge if metric.startswith("judged_") else self.judge_versions.get("beside", self.judge)

    def compare(self, other: "BenchResult", metrics: Sequence[str] | None = None) -> pd.DataFrame:
        """Return this result minus another one, question by question; see ``compare``."""
        return compare(self, other, metrics)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON holds: what a report needs, without the texts of the records."""
        table = self.table().astype(object)
        plain = {
            name: getattr(self, name)
            for name in ("system", "protocol", "k_max", "judge", "dataset", "digest", "n_records", "stopped")
        }
        return plain | {
            "versions": dict(self.versions),
            "judge_versions": dict(self.judge_versions),
            "attempted": self.attempted,
            "answered": self.answered,
            "abstained": self.abstained,
            "failed": self.failed,
            "failures": dict(self.failures),
            "degraded": dict(self.degraded),
            "judged": dict(self.judged),
            "controls": [vars(control) for control in self.controls],
            "published": None if self.rescored is None else self.rescored.to_dict(),
            "table": table.where(table.notna(), None).to_dict("records"),
            "scores": {
                str(key): {str(metric): None if math.isnan(v) else v for metric, v in row.items()}
                for key, row in self.scores.to_dict("index").items()
            },
        }

    def __str__(self) -> str:
        limit = "as many answers as found" if self.k_max is None else f"at most {self.k_max} answers"
        lines = [
            f"{self.system} under {self.protocol!r}, {limit}, judged by {self.judge}, on {self.dataset}",
            f"attempted {self.attempted} of {self.n_records}, answered {self.answered}, abstained {self.abstained}, "
            f"failed {self.failed}" + "".join(f", {name} x {n}" for name, n in self.failures.items()),
        ]
        lines += [f"stopped: {self.stopped}"] if self.stopped else []
        lines += [f"in a lesser way: {name} x {n}" for name, n in self.degraded.items()]
        if self.judged:
            lines.append("judgements: " + ", ".join(f"{name} {n}" for name, n in self.judged.items()))
        for c in self.controls:
            three = zip(("empty", "shuffled", "self"), (c.empty, c.shuffled, c.self_reference), strict=True)
            means = ", ".join(f"{name} {'none valid' if v is None else f'{v:.3f}'}" for name, v in three)
            lines.append(f"null control of {c.metric}: {means} ({c.n_empty}, {c.n_shuffled}, {c.n_self} judgements)")
        lines.append(_printed(self.table()))
        return "\n".join(lines if self.rescored is None else (*lines, str(self.rescored)))


def compare(a: BenchResult, b: BenchResult, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Return a minus b, paired by question.

    Parameters
    ----------
    metrics
        None takes those that both have.

    Returns
    -------
    frame
        ``metric, judge, a, b, difference, low, high`` (95 %, paired bootstrap over questions), ``n``.

    Raises
    ------
    ConfigError
        Other records, another judge, or an unknown metric.
    """
    if a.digest != b.digest or set(a.scores.index) != set(b.scores.index):
        raise ConfigError(
            f"Only results on the same questions can be compared: {a.attempted} of {a.dataset}, {b.attempted} of "
            f"{b.dataset}."
        )
    if (a.judge, dict(a.judge_versions)) != (b.judge, dict(b.judge_versions)):
        raise ConfigError(f"Scores of different judges are not comparable: {a.judge_versions}, {b.judge_versions}.")
    if metrics is None:
        metrics = [m for m in map(str, a.scores.columns) if m in b.scores and not math.isnan(_mean(a.scores, m))]
    for metric in metrics:
        _known(metric, a.scores)
        _known(metric, b.scores)
    other = b.scores.loc[a.scores.index]
    differences = a.scores[list(metrics)].to_numpy(float) - other[list(metrics)].to_numpy(float)
    rows = []
    for k, (low, high) in enumerate(intervals(differences)):
        kept = np.isfinite(differences[:, k])
        means = [
            float(np.mean(f[metrics[k]].to_numpy(float)[kept])) if kept.any() else math.nan for f in (a.scores, other)
        ]
        name = a._judge_of(metrics[k])
        rows.append((metrics[k], name, *means, means[0] - means[1], low, high, int(kept.sum())))
    return pd.DataFrame(rows, columns=pd.Index(_PAIRED_COLUMNS))


def ambiguity_gap(conditions: BenchResult, undivided: BenchResult, *, metric: str = "answer_strict") -> Gap:
    """Return what stating conditions is worth: the score with conditions minus that of one undivided answer.

    Parameters
    ----------
    conditions
        Of the protocol ``conditions`` (or ``open``).
    undivided
        The same system under ``rag`` with ``k_max=1``.
    metric
        Of both.

    Raises
    ------
    ConfigError
        Other protocols, another system, other records or another judge.
    """
    if conditions.protocol not in ("conditions", "open") or (undivided.protocol, undivided.k_max) != ("rag", 1):
        raise ConfigError(
            "The ambiguity gap is 'conditions' minus 'rag' with k_max=1, found "
            f"{conditions.protocol!r} minus {undivided.protocol!r} with k_max={undivided.k_max}."
        )
    meaning = "A large value: the question has several answers, and which one holds depends on what it left out."
    return _gap("ambiguity gap", conditions, undivided, metric, ("with conditions", "undivided"), meaning)


def remaining_gap(given: BenchResult, conditions: BenchResult, *, metric: str = "answer_strict") -> Gap:
    """Return what is still lost because the conditions had to be found: ``given`` minus ``conditions``.

    Raises
    ------
    ConfigError
        Other protocols, another system, other records or another judge.
    """
    if given.protocol != "given" or conditions.protocol not in ("conditions", "open"):
        raise ConfigError(
            f"The remaining gap is 'given' minus 'conditions', found {given.protocol!r} minus {conditions.protocol!r}."
        )
    meaning = "A large value: answers would be better if the question said which conditions it means."
    return _gap("remaining gap", given, conditions, metric, ("conditions given", "conditions found"), meaning)


def _gap(name: str, more: BenchResult, less: BenchResult, metric: str, words: tuple[str, str], meaning: str) -> Gap:
    if more.system != less.system:
        raise ConfigError(f"The {name} is about one system, found {more.system!r} and {less.system!r}.")
    row = compare(more, less, [metric]).iloc[0]
    scale = (
        f"95 % {row['low']:.3f} to {row['high']:.3f}; {metric} of {row['judge']}: {row['a']:.3f} {words[0]}, "
        f"{row['b']:.3f} {words[1]}; 0 = nothing is lost, {row['n']} questions"
    )
    return Gap(name, float(row["difference"]), scale, meaning, REMEDY)


def frame_of(scores: Sequence[RecordScores], protocol: str) -> pd.DataFrame:
    """Return the scores by record, with the metrics that a protocol has."""
    frame = pd.DataFrame([s.values for s in scores], index=pd.Index([s.record for s in scores], name="record"))
    absent = _ABSENT.get(protocol, ())
    return frame.drop(columns=[c for c in frame.columns if absent and str(c).startswith(absent)])


def _mean(scores: pd.DataFrame, metric: str) -> float:
    values = scores[metric].to_numpy(float)
    return float(np.mean(values[np.isfinite(values)])) if np.isfinite(values).any() else math.nan


def _known(metric: str, scores: pd.DataFrame) -> None:
    if metric not in scores:
        raise ConfigError(f"metric is one of {', '.join(map(str, scores.columns))}, found {metric!r}.")


def _printed(table: pd.DataFrame) -> str:
    shown = table.drop(columns=["floor_of"]).copy()
    judged = shown["metric"].str.startswith("judged_")
    for column in ("value", "low", "high", "floor", "corrected"):
        shown[column] = ["" if math.isnan(v) else f"{v:.3f}" for v in shown[column]]
    shown.loc[judged & (shown["corrected"] == ""), "corrected"] = "undefined"
    return shown.to_string(index=False)


def save_text(result: BenchResult) -> str:
    """Return the result as the text of a JSON file."""
    return json.dumps(result.to_dict(), ensure_ascii=False, indent=1, allow_nan=False) + "\n"

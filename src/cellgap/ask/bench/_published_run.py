"""The scores of the benchmark's paper for a whole run, from what a judge gave every output against every gold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cellgap.ask.bench._judging import Item, JudgeScores
from cellgap.ask.bench._published import COMPAT, PublishedScores, balanced, published_means, published_scores
from cellgap.errors import ConfigError

_THREE = ("condition", "answer", "citation")
_COLUMNS = (
    "scores", *_THREE, "combined", "compat", "protocol", "judge", "n_pairs", "n_questions", "failed_judgements",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class PublishedRun:
    """A run scored as the benchmark's paper does (CondAmbigQA, arXiv 2502.01523).

    The paper drops what it cannot score: questions without an output are in none of its means, and it has no rule for
    a judgement that failed. Such questions are left out here, and counted; our own scores keep them.

    Parameters
    ----------
    compat
        ``"v1"`` or ``"v2"``, the revision of the paper.
    protocol, judge
        Go with every number.
    questions
        By record that is scored: its pairs and their scores.
    balanced
        By record that is scored: condition, answer and citation as the tables of v2 show them. Empty for v1, and for
        protocols without conditions: the formula needs them.
    counts
        By record that is scored: outputs, and golds.
    failed
        By record that is left out: judgements that the rule needs and that failed.
    silent
        Records that are left out because they have no output.
    """

    compat: str
    protocol: str
    judge: str
    questions: Mapping[str, PublishedScores]
    balanced: Mapping[str, tuple[float, float, float]]
    counts: Mapping[str, tuple[int, int]]
    failed: Mapping[str, int]
    silent: tuple[str, ...]

    @property
    def n_pairs(self) -> int:
        """Scores behind the means: pairs, and outputs that count without a gold."""
        return sum(len(question.pairs) for question in self.questions.values())

    def table(self) -> pd.DataFrame:
        """Return one row of raw means, and one of balanced means where there are some.

        Returns
        -------
        frame
            ``scores`` (``"raw"``: v1 means over pairs, v2 over questions; ``"balanced"``), ``condition, answer,
            citation`` (NaN where the protocol has none), ``combined`` (mean of the three, balanced alone), ``compat,
            protocol, judge, n_pairs, n_questions, failed_judgements``.
        """
        absent = set() if self.protocol == "conditions" else {"condition"}
        absent |= {"citation"} if self.protocol == "closed" else set()
        means = published_means(list(self.questions.values()), compat=self.compat)
        raw = [math.nan if name in absent or not self.questions else v for name, v in zip(_THREE, means, strict=True)]
        rows: list[list[Any]] = [["raw", *raw, math.nan]]
        if self.balanced:
            three = np.mean(list(self.balanced.values()), axis=0)
            rows.append(["balanced", *map(float, three), float(three.mean())])
        tail = [self.compat, self.protocol, self.judge, self.n_pairs, len(self.questions), sum(self.failed.values())]
        return pd.DataFrame([row + tail for row in rows], columns=pd.Index(_COLUMNS))

    def note(self) -> str:
        """Return in words how many questions and pairs there are, and what is left out."""
        beyond = sum(j is None for question in self.questions.values() for _, j in question.pairs)
        unpaired = sum(n for n, _ in self.counts.values()) - self.n_pairs
        outputs, golds = np.mean(list(self.counts.values()), axis=0) if self.counts else (0.0, 0.0)
        fate = "judged against an empty reference" if self.compat == "v1" else "counted as zero"
        parts = [f"pairs {self.n_pairs}", f"questions {len(self.questions)}"]
        parts += [f"outputs a question {outputs:.2f} ({outputs - golds:+.2f} to the golds)"]
        parts += [f"outputs beyond the golds {fate} {beyond}"] if beyond else []
        parts += [f"outputs beyond the golds in no mean {unpaired}"] if unpaired else []
        parts += [
            f"left out: questions with failed judgements {len(self.failed)} ({sum(self.failed.values())} judgements)"
        ]
        return ", ".join(parts) + f", without an output {len(self.silent)}"

    def sentence(self) -> str:
        """Return the means and what they rest on in one sentence."""
        rows = []
        for row in self.table().to_dict("records"):
            shown = [f"{name} {row[name]:.3f}" for name in (*_THREE, "combined") if not math.isnan(row[name])]
            rows.append(f"{row['scores']} {', '.join(shown) or 'none'}")
        head = f"As {self.compat} of the benchmark's paper computes it, judged by {self.judge}"
        return f"{head}: {'; '.join(rows)} ({self.note()})."

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON holds."""
        table = self.table().astype(object)
        return {
            "compat": self.compat,
            "protocol": self.protocol,
            "judge": self.judge,
            "table": table.where(table.notna(), None).to_dict("records"),
            "failed": dict(self.failed),
            "silent": list(self.silent),
            "note": self.note(),
        }

    def __str__(self) -> str:
        shown = self.table()[["scores", *_THREE, "combined"]].copy()
        for column in (*_THREE, "combined"):
            shown[column] = ["-" if math.isnan(v) else f"{v:.3f}" for v in shown[column]]
        head = f"as {self.compat} of the paper computes it, under {self.protocol!r}, judged by {self.judge}:"
        return "\n".join((head, shown.to_string(index=False), self.note()))


def published_run(
    items: Sequence[Item], judged: Sequence[JudgeScores], *, compat: str, protocol: str, judge: str
) -> PublishedRun:
    """Return a run scored as the benchmark's paper does.

    Parameters
    ----------
    judged
        By item: every output against every gold; for v1 also outputs beyond the golds against an empty reference.
    """
    questions: dict[str, PublishedScores] = {}
    even: dict[str, tuple[float, float, float]] = {}
    counts: dict[str, tuple[int, int]] = {}
    failed: dict[str, int] = {}
    silent = []
    for (record, got), scores in zip(items, judged, strict=True):
        n, m = len(got), len(record.golds)
        if n == 0:
            silent.append(record.id)
            continue
        # v1 looks at the diagonal and at the surplus alone: a failure elsewhere costs it nothing.
        needed = np.eye(n, m, dtype=bool) if compat == "v1" else np.ones((n, m), bool)
        grids = [grid for grid in (scores.condition, scores.answer) if grid is not None]
        missing = sum(int(np.isnan(grid[needed]).sum()) for grid in grids)
        missing += sum(math.isnan(s) for s in (*scores.surplus_condition, *scores.surplus_answer))
        if missing:
            failed[record.id] = missing
            continue
        cited = [set(prediction.fragments) for prediction in got]
        question = published_scores(
            None if scores.condition is None else np.where(needed, scores.condition, 0.0),
            np.where(needed, scores.answer, 0.0),
            cited,
            [gold.fragments for gold in record.golds],
            compat=compat,
            protocol=protocol,
            surplus_condition=scores.surplus_condition,
            surplus_answer=scores.surplus_answer,
        )
        questions[record.id] = question
        counts[record.id] = (n, m)
        if compat == "v2" and protocol == "conditions":
            even[record.id] = balanced(*question.means, float(np.mean([len(c) for c in cited])), n, m)
    return PublishedRun(compat, protocol, judge, questions, even, counts, failed, tuple(silent))


def check_compat(compat: str | None, protocol: str, judge: Any, pairing: str) -> None:
    """Check that a run can be scored as the paper does.

    Raises
    ------
    ConfigError
        An unknown revision, a protocol that the paper has not, a judge that does not read, or another pairing.
    """
    if compat is None:
        return
    if compat not in COMPAT:
        raise ConfigError(f"compat is one of {', '.join(map(repr, COMPAT))} or None, found {compat!r}.")
    if protocol == "open":
        raise ConfigError(f"compat={compat!r} scores a protocol of the paper, which 'open' is not.")
    if isinstance(judge, str) or pairing != "judge":
        found = repr(judge) if isinstance(judge, str) else "such a judge"
        raise ConfigError(
            f"compat={compat!r} needs a judge that reads (an LLMJudge or a function) and pairing='judge', "
            f"found {found} and pairing={pairing!r}."
        )

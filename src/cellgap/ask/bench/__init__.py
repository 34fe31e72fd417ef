"""The benchmark of condition-aware answers: records, deterministic and judged scores, resumable runs."""

from cellgap.ask.bench._det1 import RecordScores, Scorer, scorer
from cellgap.ask.bench._judge import Judgement, LLMJudge, NullControl
from cellgap.ask.bench._judging import JudgeScores
from cellgap.ask.bench._pairing import greedy, optimal
from cellgap.ask.bench._predictions import Prediction, predictions_of
from cellgap.ask.bench._published import (
    PublishedScores,
    balanced,
    citation_score,
    expectation,
    published_means,
    published_scores,
)
from cellgap.ask.bench._published_run import PublishedRun
from cellgap.ask.bench._records import REVISIONS, Gold, Record, load, save
from cellgap.ask.bench._result import BenchResult, RecordResult, ambiguity_gap, compare, remaining_gap
from cellgap.ask.bench._run import run
from cellgap.ask.bench._stored import stored
from cellgap.ask.bench._systems import PROTOCOLS, SYSTEMS, System, floor_predictions, named_system
from cellgap.ask.bench._text_scores import content_f1, rouge_l, token_f1

__all__ = [
    "PROTOCOLS",
    "REVISIONS",
    "SYSTEMS",
    "BenchResult",
    "Gold",
    "JudgeScores",
    "Judgement",
    "LLMJudge",
    "NullControl",
    "Prediction",
    "PublishedRun",
    "PublishedScores",
    "Record",
    "RecordResult",
    "RecordScores",
    "Scorer",
    "System",
    "ambiguity_gap",
    "balanced",
    "citation_score",
    "compare",
    "content_f1",
    "expectation",
    "floor_predictions",
    "greedy",
    "load",
    "named_system",
    "optimal",
    "predictions_of",
    "published_means",
    "published_scores",
    "remaining_gap",
    "rouge_l",
    "run",
    "save",
    "scorer",
    "stored",
    "token_f1",
]

"""The benchmark of condition-aware answers: records, deterministic and judged scores, resumable runs."""

from cellgap.ask.bench._det1 import RecordScores, Scorer, scorer
from cellgap.ask.bench._predictions import Prediction, predictions_of
from cellgap.ask.bench._records import Gold, Record, load, save
from cellgap.ask.bench._text_scores import content_f1, rouge_l, token_f1

__all__ = [
    "Gold",
    "Prediction",
    "Record",
    "RecordScores",
    "Scorer",
    "content_f1",
    "load",
    "predictions_of",
    "rouge_l",
    "save",
    "scorer",
    "token_f1",
]

"""Reports: what a model was trained on, how it scores beside the baselines, what it predicts, in one HTML file.

Knows arrays, frames and `Gap` only; who fills a `ReportData` need not have used the rest of cellgap.
"""

from cellgap.report._annotation import AnnotationData, Difference, DistanceLines, write_annotation_report
from cellgap.report._answers_page import write_answers
from cellgap.report._ask_server import AskServer, serve
from cellgap.report._asking import write_bench_report
from cellgap.report._data import DoseCurve, PopulationView, ReportData
from cellgap.report._dynamics import Course, DynamicsData, KnockOuts, write_dynamics_report
from cellgap.report._embedding import EmbeddingData, write_embedding_report
from cellgap.report._generation import GenerationData, OtherModality, write_generation_report
from cellgap.report._page import write_report
from cellgap.report._release import ReleaseData, ReleasedStatistic, write_release_report
from cellgap.report._scores import shown_conditions
from cellgap.report._stream import StreamData, write_stream_report

__all__ = [
    "AnnotationData",
    "AskServer",
    "Course",
    "Difference",
    "DistanceLines",
    "DoseCurve",
    "DynamicsData",
    "EmbeddingData",
    "GenerationData",
    "KnockOuts",
    "OtherModality",
    "PopulationView",
    "ReleaseData",
    "ReleasedStatistic",
    "ReportData",
    "StreamData",
    "serve",
    "shown_conditions",
    "write_annotation_report",
    "write_answers",
    "write_bench_report",
    "write_dynamics_report",
    "write_embedding_report",
    "write_generation_report",
    "write_release_report",
    "write_report",
    "write_stream_report",
]

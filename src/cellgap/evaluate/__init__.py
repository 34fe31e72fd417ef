"""Judging predicted populations: metrics, baselines, and a scale from the mean effect to a repeat of the experiment.

The package can be called: ``cellgap.evaluate(fitted, split)`` is ``cellgap.evaluate.evaluate(fitted, split)``. The
metrics are functions on arrays in ``cellgap.evaluate.metrics``.
"""

import sys
from types import ModuleType
from typing import Any

from cellgap.evaluate import metrics
from cellgap.evaluate._annotation import annotation
from cellgap.evaluate._annotation_baselines import FittedBaseline, KNNBaseline, LogisticBaseline, MLPBaseline
from cellgap.evaluate._annotation_result import AnnotationEvaluation
from cellgap.evaluate._bootstrap import PairedDifference, paired_bootstrap
from cellgap.evaluate._classification import (
    CalibrationCurve,
    CoverageCurve,
    absent_rate,
    accuracy,
    brier_score,
    calibration_curve,
    confusion,
    coverage_at,
    coverage_curve,
    expected_calibration_error,
    log_loss,
    macro_f1,
    unseen_auroc,
)
from cellgap.evaluate._cluster import local_workers
from cellgap.evaluate._count_panels import CountPanel, count_panels, export_counts
from cellgap.evaluate._effect_rows import EFFECT_COLUMNS, effect_table, read_gene_sets
from cellgap.evaluate._embedding import embedding_scores
from cellgap.evaluate._evaluate import evaluate
from cellgap.evaluate._evaluation import Comparison, Evaluation
from cellgap.evaluate._forecast_baselines import HeldStart, HeldVelocity, KernelSmooth, TrainingMean, standard_forecasts
from cellgap.evaluate._forecasts import forecast_errors, forecast_scores, knock_out_scores
from cellgap.evaluate._generated import GENERATED_METRICS, generated_scores
from cellgap.evaluate._linear_law import LinearLaw
from cellgap.evaluate._multimodal import ACCESSIBILITY_METRICS, PAIRED_METRICS, accessibility_scores, paired_scores
from cellgap.evaluate._populations import Population, Populations
from cellgap.evaluate._predictors import Predictor, standard_baselines
from cellgap.evaluate._published import PUBLISHED_METRICS, published_metrics, published_protocol
from cellgap.evaluate._recovery import jaccard_of_networks, network_scores, recovery_null
from cellgap.evaluate._scale import merit, scale
from cellgap.evaluate._suite import SuiteResult, vcc2026

__all__ = [
    "ACCESSIBILITY_METRICS",
    "EFFECT_COLUMNS",
    "GENERATED_METRICS",
    "PAIRED_METRICS",
    "PUBLISHED_METRICS",
    "AnnotationEvaluation",
    "CalibrationCurve",
    "Comparison",
    "CountPanel",
    "CoverageCurve",
    "Evaluation",
    "FittedBaseline",
    "HeldStart",
    "HeldVelocity",
    "KNNBaseline",
    "KernelSmooth",
    "LinearLaw",
    "LogisticBaseline",
    "MLPBaseline",
    "PairedDifference",
    "Population",
    "Populations",
    "Predictor",
    "SuiteResult",
    "TrainingMean",
    "absent_rate",
    "accessibility_scores",
    "accuracy",
    "annotation",
    "brier_score",
    "calibration_curve",
    "confusion",
    "count_panels",
    "coverage_at",
    "coverage_curve",
    "effect_table",
    "embedding_scores",
    "evaluate",
    "expected_calibration_error",
    "export_counts",
    "forecast_errors",
    "forecast_scores",
    "generated_scores",
    "jaccard_of_networks",
    "knock_out_scores",
    "local_workers",
    "log_loss",
    "macro_f1",
    "merit",
    "metrics",
    "network_scores",
    "paired_bootstrap",
    "paired_scores",
    "published_metrics",
    "published_protocol",
    "read_gene_sets",
    "recovery_null",
    "scale",
    "standard_baselines",
    "standard_forecasts",
    "unseen_auroc",
    "vcc2026",
]


class _Callable(ModuleType):
    """A package that can be called; see docs/decisions/0002-evaluate-is-a-callable-package.md."""

    def __call__(self, *args: Any, **kwargs: Any) -> Evaluation:
        """Return ``evaluate(*args, **kwargs)``."""
        return evaluate(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable

"""Classifiers of cells that hold across donors, under label noise and attack, and know when they do not know."""

from cellgap.annotate import drm, robust
from cellgap.annotate._annotator import Annotator
from cellgap.annotate._choice import Mixture
from cellgap.annotate._choose_tau import CompSumObjective, TauChoice, choose_tau
from cellgap.annotate._comp_sum import CompSum, comp_sum, comp_sum_traced, phi
from cellgap.annotate._conditional_minimum import conditional_minimum, minimizing_distribution
from cellgap.annotate._consistency import (
    ExcessErrorBound,
    excess_error_bound,
    explicit_bound,
    inverse_transform,
    transform,
)
from cellgap.annotate._fitted_annotator import UNASSIGNED, FittedAnnotator, WeightDistance
from cellgap.annotate._labelled import Batch, Labelled
from cellgap.annotate._minimizability import (
    MinimizabilityGap,
    estimated_minimizability_gap,
    linear_scores,
    minimizability_gap,
)
from cellgap.annotate._train_classifier import AbstractObjective, ClassifierState, train_classifier
from cellgap.annotate._under_attack import GeneScores, accuracy_under_attack
from cellgap.annotate._unseen import Prototypes, Thresholds
from cellgap.annotate.drm import Guarded
from cellgap.annotate.robust import TRADES, PGDTraining, SmoothAdversarial

__all__ = [
    "TRADES",
    "UNASSIGNED",
    "AbstractObjective",
    "Annotator",
    "Batch",
    "ClassifierState",
    "CompSum",
    "CompSumObjective",
    "ExcessErrorBound",
    "FittedAnnotator",
    "GeneScores",
    "Guarded",
    "Labelled",
    "MinimizabilityGap",
    "Mixture",
    "PGDTraining",
    "Prototypes",
    "SmoothAdversarial",
    "TauChoice",
    "Thresholds",
    "WeightDistance",
    "accuracy_under_attack",
    "choose_tau",
    "comp_sum",
    "comp_sum_traced",
    "conditional_minimum",
    "drm",
    "estimated_minimizability_gap",
    "excess_error_bound",
    "explicit_bound",
    "inverse_transform",
    "linear_scores",
    "minimizability_gap",
    "minimizing_distribution",
    "phi",
    "robust",
    "train_classifier",
    "transform",
]

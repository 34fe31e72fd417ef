"""Maps from control cells to treated cells: baselines in closed form, Monge maps, conditional Monge maps."""

from cellgap.transport._affine import AffinePath, Start, condition_features, shrunk_covariance
from cellgap.transport._calibration import Calibration, Uncertainty
from cellgap.transport._cellot import CellOT, FittedCellOT
from cellgap.transport._codes import Codes, Moments
from cellgap.transport._conditional_monge import ConditionalMonge, FittedConditionalMonge
from cellgap.transport._condot import CondOT, FittedCondOT
from cellgap.transport._dual import DualOptimization
from cellgap.transport._ensemble import Ensemble, FittedEnsemble
from cellgap.transport._entropic import EntropicMap, FittedEntropicMap
from cellgap.transport._familiarity import Nearness, Vocabulary
from cellgap.transport._flow import FittedFlow, FlowMatching
from cellgap.transport._gaussian import FittedGaussian, Gaussian
from cellgap.transport._identity import FittedIdentity, Identity
from cellgap.transport._map import AbstractMap, load
from cellgap.transport._mean_shift import FittedMeanShift, MeanShift
from cellgap.transport._monge import Monge
from cellgap.transport._per_condition import FittedPerCondition, PerCondition
from cellgap.transport._pooled import FittedPooled, Pooled
from cellgap.transport._quantile import FittedQuantileMap, QuantileMap
from cellgap.transport._start import ConditionalStart, StartMap
from cellgap.transport._train_map import Optimization

__all__ = [
    "AbstractMap",
    "AffinePath",
    "Calibration",
    "CellOT",
    "Codes",
    "CondOT",
    "ConditionalMonge",
    "ConditionalStart",
    "DualOptimization",
    "Ensemble",
    "EntropicMap",
    "FittedCellOT",
    "FittedCondOT",
    "FittedConditionalMonge",
    "FittedEnsemble",
    "FittedEntropicMap",
    "FittedFlow",
    "FittedGaussian",
    "FittedIdentity",
    "FittedMeanShift",
    "FittedPerCondition",
    "FittedPooled",
    "FittedQuantileMap",
    "FlowMatching",
    "Gaussian",
    "Identity",
    "MeanShift",
    "Moments",
    "Monge",
    "Nearness",
    "Optimization",
    "PerCondition",
    "Pooled",
    "QuantileMap",
    "Start",
    "StartMap",
    "Uncertainty",
    "Vocabulary",
    "condition_features",
    "load",
    "shrunk_covariance",
]

"""Maps from control cells to treated cells: baselines in closed form, Monge maps, conditional Monge maps."""

from cellgap.transport._affine import AffinePath, Start, condition_features, shrunk_covariance
from cellgap.transport._codes import Codes, Moments
from cellgap.transport._conditional_monge import ConditionalMonge, FittedConditionalMonge
from cellgap.transport._familiarity import Nearness, Vocabulary
from cellgap.transport._flow import FittedFlow, FlowMatching
from cellgap.transport._gaussian import FittedGaussian, Gaussian
from cellgap.transport._identity import FittedIdentity, Identity
from cellgap.transport._map import AbstractMap, load
from cellgap.transport._mean_shift import FittedMeanShift, MeanShift
from cellgap.transport._monge import Monge
from cellgap.transport._train_map import Optimization

__all__ = [
    "AbstractMap",
    "AffinePath",
    "Codes",
    "ConditionalMonge",
    "FittedConditionalMonge",
    "FittedFlow",
    "FittedGaussian",
    "FittedIdentity",
    "FittedMeanShift",
    "FlowMatching",
    "Gaussian",
    "Identity",
    "MeanShift",
    "Moments",
    "Monge",
    "Nearness",
    "Optimization",
    "Start",
    "Vocabulary",
    "condition_features",
    "load",
    "shrunk_covariance",
]

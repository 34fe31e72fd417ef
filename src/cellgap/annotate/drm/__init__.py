"""Domain-specific risk minimisation: a head for every domain, rules that weigh them, and the guard around both."""

from cellgap.annotate.drm._bound import AccuracyDrop, AdaptivityBound, accuracy_drop, adaptivity_bound
from cellgap.annotate.drm._calibration import TEMPERATURES, head_temperatures, temperature_losses
from cellgap.annotate.drm._fold import Fold, subset
from cellgap.annotate.drm._guarded import Guarded, choose, fit_guarded, heads_trainer
from cellgap.annotate.drm._guarded_result import Choice, GuardedResult, Placement
from cellgap.annotate.drm._network import DomainHeadsNet, HeadScores
from cellgap.annotate.drm._objective import DRMObjective
from cellgap.annotate.drm._online import Online, OnlineResult, adapt_online
from cellgap.annotate.drm._rules import Rule, rule_log_probability
from cellgap.annotate.drm._side_by_side import SideBySide, Trainer
from cellgap.annotate.drm._weights import (
    combined,
    discriminator_weights,
    entropy_weights,
    mean_weights,
    prototypes_of,
    similarity,
    similarity_weights,
)

__all__ = [
    "TEMPERATURES",
    "AccuracyDrop",
    "AdaptivityBound",
    "Choice",
    "DRMObjective",
    "DomainHeadsNet",
    "Fold",
    "Guarded",
    "GuardedResult",
    "HeadScores",
    "Online",
    "OnlineResult",
    "Placement",
    "Rule",
    "SideBySide",
    "Trainer",
    "accuracy_drop",
    "adapt_online",
    "adaptivity_bound",
    "choose",
    "combined",
    "discriminator_weights",
    "entropy_weights",
    "fit_guarded",
    "head_temperatures",
    "heads_trainer",
    "mean_weights",
    "prototypes_of",
    "rule_log_probability",
    "similarity",
    "similarity_weights",
    "subset",
    "temperature_losses",
]

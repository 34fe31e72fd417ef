"""Neural network modules on rows: Equinox trees of arrays."""

from cellgap.nn._autoencoder import Activation, AutoencoderNet, Norm, Tower, count_nll, recalibrate, trainable
from cellgap.nn._ghost_norm import GhostBatchNorm, GhostNorm, Ghosts, Stat, ema_weights, ghost_order
from cellgap.nn._hard_concrete import (
    LOG_ALPHA_RANGE,
    draw_gates,
    expected_gates,
    initial_log_alpha,
    open_probability,
)
from cellgap.nn._icnn import ICNN, ConvexActivation, Quadratic, potential_gradient
from cellgap.nn._joint_autoencoder import JointAutoencoderNet, bernoulli_nll, poisson_nll
from cellgap.nn._law import AbstractLawNet, GateUnit, PerTargetNet, SharedNet, clamped, drawn, elu, settled
from cellgap.nn._likelihood import nb_log_prob
from cellgap.nn._mlp import MLP, Linear
from cellgap.nn._modulation import FiLM, LowRankUpdate
from cellgap.nn._perturbation import Conditioning, PerturbationNet
from cellgap.nn._picnn import PICNN
from cellgap.nn._pooling import AttentionPooling, Pooling
from cellgap.nn._time import time_features
from cellgap.nn._velocity import Modulation, VelocityNet

__all__ = [
    "ICNN",
    "LOG_ALPHA_RANGE",
    "MLP",
    "PICNN",
    "AbstractLawNet",
    "Activation",
    "AttentionPooling",
    "AutoencoderNet",
    "Conditioning",
    "ConvexActivation",
    "FiLM",
    "GateUnit",
    "GhostBatchNorm",
    "GhostNorm",
    "Ghosts",
    "JointAutoencoderNet",
    "Linear",
    "LowRankUpdate",
    "Modulation",
    "Norm",
    "PerTargetNet",
    "PerturbationNet",
    "Pooling",
    "Quadratic",
    "SharedNet",
    "Stat",
    "Tower",
    "VelocityNet",
    "bernoulli_nll",
    "clamped",
    "count_nll",
    "draw_gates",
    "drawn",
    "elu",
    "ema_weights",
    "expected_gates",
    "ghost_order",
    "initial_log_alpha",
    "nb_log_prob",
    "open_probability",
    "poisson_nll",
    "potential_gradient",
    "recalibrate",
    "settled",
    "time_features",
    "trainable",
]

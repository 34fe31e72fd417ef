"""Neural network modules on rows: Equinox trees of arrays."""

from cellgap.nn._autoencoder import Activation, AutoencoderNet, Norm, Tower, count_nll, trainable
from cellgap.nn._icnn import ICNN, ConvexActivation, Quadratic, potential_gradient
from cellgap.nn._joint_autoencoder import JointAutoencoderNet, bernoulli_nll, poisson_nll
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
    "MLP",
    "PICNN",
    "Activation",
    "AttentionPooling",
    "AutoencoderNet",
    "Conditioning",
    "ConvexActivation",
    "FiLM",
    "JointAutoencoderNet",
    "Linear",
    "LowRankUpdate",
    "Modulation",
    "Norm",
    "PerturbationNet",
    "Pooling",
    "Quadratic",
    "Tower",
    "VelocityNet",
    "bernoulli_nll",
    "count_nll",
    "nb_log_prob",
    "poisson_nll",
    "potential_gradient",
    "time_features",
    "trainable",
]

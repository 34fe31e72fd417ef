"""Neural network modules on rows: Equinox trees of arrays."""

from cellgap.nn._mlp import MLP, Linear
from cellgap.nn._perturbation import Conditioning, PerturbationNet

__all__ = ["MLP", "Conditioning", "Linear", "PerturbationNet"]

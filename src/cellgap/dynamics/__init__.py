"""Laws of cells in time: sparse neural differential equations that forecast, name causes and survive interventions."""

from cellgap.dynamics._bins import Bins, bin_cells
from cellgap.dynamics._bootstrap import bootstrap_cells
from cellgap.dynamics._chaotic import lorenz96, rossler
from cellgap.dynamics._fitted_law import FittedLaw
from cellgap.dynamics._hill import hill_from, hill_network
from cellgap.dynamics._intervention import Intervention
from cellgap.dynamics._lambda_path import LambdaPath
from cellgap.dynamics._law import Law, Units
from cellgap.dynamics._linear_systems import second_order, sparse_linear
from cellgap.dynamics._neural_law import NeuralLaw
from cellgap.dynamics._penalties import (
    CNODE,
    L0,
    L1,
    AbstractPenalty,
    GroupLasso,
    LassoNet,
    NoPenalty,
    PathReg,
)
from cellgap.dynamics._prior import prior_weights
from cellgap.dynamics._reading import read_trajectories
from cellgap.dynamics._recovered import Network
from cellgap.dynamics._solve import Solution, Solver, solve
from cellgap.dynamics._sparsity import sparsity
from cellgap.dynamics._systems import System
from cellgap.dynamics._train_law import LawTraining
from cellgap.dynamics._trajectories import Trajectories, trajectories_of

__all__ = [
    "CNODE",
    "L0",
    "L1",
    "AbstractPenalty",
    "Bins",
    "FittedLaw",
    "GroupLasso",
    "Intervention",
    "LambdaPath",
    "LassoNet",
    "Law",
    "LawTraining",
    "Network",
    "NeuralLaw",
    "NoPenalty",
    "PathReg",
    "Solution",
    "Solver",
    "System",
    "Trajectories",
    "Units",
    "bin_cells",
    "bootstrap_cells",
    "hill_from",
    "hill_network",
    "lorenz96",
    "prior_weights",
    "read_trajectories",
    "rossler",
    "second_order",
    "solve",
    "sparse_linear",
    "sparsity",
    "trajectories_of",
]

"""What was measured: treatments, conditions, designs, studies, and how a study is split."""

import importlib
from typing import TYPE_CHECKING, Any

from cellgap.study import split
from cellgap.study._check import Findings, check
from cellgap.study._condition import Condition
from cellgap.study._design import Design
from cellgap.study._modalities import is_mudata, joined, modality_columns, parted, write_cells
from cellgap.study._reader import CellBlock, ShuffledReader
from cellgap.study._split import Role, Split
from cellgap.study._study import Study
from cellgap.study._treatment import Treatment

if TYPE_CHECKING:
    from cellgap.study import datasets
    from cellgap.study._simulate import simulate
    from cellgap.study._simulate_latent import simulate_latent

__all__ = [
    "CellBlock",
    "Condition",
    "Design",
    "Findings",
    "Role",
    "ShuffledReader",
    "Split",
    "Study",
    "Treatment",
    "check",
    "datasets",
    "is_mudata",
    "joined",
    "modality_columns",
    "parted",
    "simulate",
    "simulate_latent",
    "split",
    "write_cells",
]


def __getattr__(name: str) -> Any:
    # The simulator and the registry of data sets are loaded when they are asked for.
    if name == "simulate":
        return importlib.import_module("cellgap.study._simulate").simulate
    if name == "simulate_latent":
        return importlib.import_module("cellgap.study._simulate_latent").simulate_latent
    if name == "datasets":
        return importlib.import_module("cellgap.study.datasets")
    raise AttributeError(f"module 'cellgap.study' has no attribute {name!r}")

"""One training loop for every model: compiled, resumable, observable."""

from cellgap.train._checkpoint import read_checkpoint, write_checkpoint
from cellgap.train._fit import FitResult, Logs, Loop, Step, fit
from cellgap.train._sampler import draw_without_replacement

__all__ = [
    "FitResult",
    "Logs",
    "Loop",
    "Step",
    "draw_without_replacement",
    "fit",
    "read_checkpoint",
    "write_checkpoint",
]

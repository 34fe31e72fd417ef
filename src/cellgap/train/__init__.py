"""One training loop for every model: compiled, resumable, observable."""

from cellgap.train._batches import Batches, Streamed
from cellgap.train._checkpoint import read_checkpoint, write_checkpoint
from cellgap.train._devices import initialize, mesh_of, over_devices
from cellgap.train._fingerprint import run_fingerprint
from cellgap.train._fit import BatchStep, FitResult, Logs, Loop, Step, fit
from cellgap.train._interrupt import deferred_interrupt
from cellgap.train._progress import progress_bar
from cellgap.train._sampler import draw_without_replacement

__all__ = [
    "BatchStep",
    "Batches",
    "FitResult",
    "Logs",
    "Loop",
    "Step",
    "Streamed",
    "deferred_interrupt",
    "draw_without_replacement",
    "fit",
    "initialize",
    "mesh_of",
    "over_devices",
    "progress_bar",
    "read_checkpoint",
    "run_fingerprint",
    "write_checkpoint",
]

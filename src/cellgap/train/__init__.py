"""One training loop for every model: compiled, resumable, observable."""

from cellgap.train._batches import Batches, Streamed
from cellgap.train._checkpoint import read_checkpoint, write_checkpoint
from cellgap.train._devices import initialize, mesh_of, over_devices
from cellgap.train._fingerprint import run_fingerprint
from cellgap.train._fit import BatchStep, FitResult, Logs, Loop, Step, fit
from cellgap.train._interrupt import deferred_interrupt
from cellgap.train._large_batch import BatchRule, LargeBatch, ScaledRun, gradient_weights
from cellgap.train._progress import progress_bar
from cellgap.train._sampler import draw_without_replacement
from cellgap.train._weight_distance import (
    DistanceLog,
    RecordedDistance,
    WeightDistanceFit,
    record_distance,
    weight_distance_fit,
)

__all__ = [
    "BatchRule",
    "BatchStep",
    "Batches",
    "DistanceLog",
    "FitResult",
    "LargeBatch",
    "Logs",
    "Loop",
    "RecordedDistance",
    "ScaledRun",
    "Step",
    "Streamed",
    "WeightDistanceFit",
    "deferred_interrupt",
    "draw_without_replacement",
    "fit",
    "gradient_weights",
    "initialize",
    "mesh_of",
    "over_devices",
    "progress_bar",
    "read_checkpoint",
    "record_distance",
    "run_fingerprint",
    "weight_distance_fit",
    "write_checkpoint",
]

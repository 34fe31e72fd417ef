"""The metrics as pure functions on arrays: `p` predicted cells, `q` measured treated cells, `c` matched controls."""

from cellgap.evaluate._catalog import DEFAULT_METRICS, METRICS, Metric
from cellgap.evaluate._distances import (
    GAMMAS,
    capture,
    energy,
    energy_squared,
    mean_cost,
    median_distance,
    mmd,
    mmd_u,
)
from cellgap.evaluate._effects import discrimination, sign_accuracy, top_overlap
from cellgap.evaluate._moments import (
    drug_signature,
    l2_uvp,
    pearson_delta,
    r2_delta,
    r2_mean,
    r2_var,
    total_variance_ratio,
    variance_ratio,
)
from cellgap.evaluate._sinkhorn import RELATIVE_EPSILON, divergence2, entropic_cost, sinkhorn, w2

__all__ = [
    "DEFAULT_METRICS",
    "GAMMAS",
    "METRICS",
    "RELATIVE_EPSILON",
    "Metric",
    "capture",
    "discrimination",
    "divergence2",
    "drug_signature",
    "energy",
    "energy_squared",
    "entropic_cost",
    "l2_uvp",
    "mean_cost",
    "median_distance",
    "mmd",
    "mmd_u",
    "pearson_delta",
    "r2_delta",
    "r2_mean",
    "r2_var",
    "sign_accuracy",
    "sinkhorn",
    "top_overlap",
    "total_variance_ratio",
    "variance_ratio",
    "w2",
]

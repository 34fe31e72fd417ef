"""Optimal transport as pure functions on arrays: costs, Sinkhorn, divergences, Monge gaps, Gaussian maps."""

from cellgap.ot._assignment import assignment, assignment_cost
from cellgap.ot._cost import Cost, ElasticNet, cost_matrix, paired_cost, squared_distances
from cellgap.ot._divergence import mean_cost, sinkhorn_divergence, two_batch_divergence
from cellgap.ot._double import double_paired_cost
from cellgap.ot._energy import energy_distance
from cellgap.ot._entropic_map import debiased_entropic_map, entropic_map, entropic_potential
from cellgap.ot._gaussian import bures_distance2, bures_map, gaussian_entropic_cost, symmetric_root
from cellgap.ot._monge_gap import MongeGap, exact_monge_gap, monge_gap
from cellgap.ot._pairing import Pairs, draw_columns, draw_pairs
from cellgap.ot._sinkhorn import SinkhornResult, entropic_cost, entropic_self_cost, sinkhorn, transport_plan
from cellgap.ot._streamed import StreamedDivergence, streamed_cost, streamed_divergence, streamed_self_cost

__all__ = [
    "Cost",
    "ElasticNet",
    "MongeGap",
    "Pairs",
    "SinkhornResult",
    "StreamedDivergence",
    "assignment",
    "assignment_cost",
    "bures_distance2",
    "bures_map",
    "cost_matrix",
    "debiased_entropic_map",
    "double_paired_cost",
    "draw_columns",
    "draw_pairs",
    "energy_distance",
    "entropic_cost",
    "entropic_map",
    "entropic_potential",
    "entropic_self_cost",
    "exact_monge_gap",
    "gaussian_entropic_cost",
    "mean_cost",
    "monge_gap",
    "paired_cost",
    "sinkhorn",
    "sinkhorn_divergence",
    "squared_distances",
    "streamed_cost",
    "streamed_divergence",
    "streamed_self_cost",
    "symmetric_root",
    "transport_plan",
    "two_batch_divergence",
]

"""Contrastive representations of cells, with a diagnosis of what their pairs can and cannot identify."""

from cellgap.embed import sphere
from cellgap.embed._contrastive import ContrastiveEmbedding
from cellgap.embed._diagnose import diagnose
from cellgap.embed._embedded import Embedded
from cellgap.embed._encoders import AbstractEncoder, LinearEncoder, MLPEncoder, ResidualEncoder, SphereEncoder
from cellgap.embed._fitted_embedding import FittedEmbedding
from cellgap.embed._identifiability import (
    Agreement,
    LinearFit,
    agreement,
    angle_preservation_error,
    effective_rank,
    knn_overlap,
    linear_r2,
    mean_correlation_coefficient,
    procrustes_error,
)
from cellgap.embed._loss import info_nce, mixed_info_nce, normalized, two_view_info_nce
from cellgap.embed._probes import Probe, RidgeProbe, knn_probe, linear_probe, ridge_probe
from cellgap.embed._sampling import Direction, Factor, SamplingDiagnosis, Sentence, Trained
from cellgap.embed._spectrum import Spectrum, moved_variance
from cellgap.embed.pairs import AbstractPairs, Mixture, Neighbour, Restart, SameCondition, Thin

__all__ = [
    "AbstractEncoder",
    "AbstractPairs",
    "Agreement",
    "ContrastiveEmbedding",
    "Direction",
    "Embedded",
    "Factor",
    "FittedEmbedding",
    "LinearEncoder",
    "LinearFit",
    "MLPEncoder",
    "Mixture",
    "Neighbour",
    "Probe",
    "ResidualEncoder",
    "Restart",
    "RidgeProbe",
    "SameCondition",
    "SamplingDiagnosis",
    "Sentence",
    "Spectrum",
    "SphereEncoder",
    "Thin",
    "Trained",
    "agreement",
    "angle_preservation_error",
    "diagnose",
    "effective_rank",
    "info_nce",
    "knn_overlap",
    "knn_probe",
    "linear_probe",
    "linear_r2",
    "mean_correlation_coefficient",
    "mixed_info_nce",
    "moved_variance",
    "normalized",
    "procrustes_error",
    "ridge_probe",
    "sphere",
    "two_view_info_nce",
]

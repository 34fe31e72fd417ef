"""The theory on the sphere: pair samplers with known laws, closed forms, and maps whose loss is known exactly."""

from cellgap.embed.sphere._asymptotic import AsymptoticLoss, asymptotic_loss, loss_floor, matched_value
from cellgap.embed.sphere._axial import (
    AxialMap,
    Stretch,
    axial_loss,
    best_stretch,
    spiral_map,
    stretch_angle_error,
    stretch_map,
    stretch_r2,
    stretch_table,
)
from cellgap.embed.sphere._bessel import concentration, log_partition, mean_cosine
from cellgap.embed.sphere._draws import uniform
from cellgap.embed.sphere._experiment import SphereExperiment, SphereResult
from cellgap.embed.sphere._generators import (
    AbstractGenerator,
    IdentityGenerator,
    LinearGenerator,
    MLPGenerator,
    PatchesGenerator,
    SpiralGenerator,
)
from cellgap.embed.sphere._maps import (
    SphereMap,
    collapsed,
    fibre_isometry,
    folded,
    frozen_only,
    orthogonal,
    spiralled,
    stretched,
)
from cellgap.embed.sphere._samplers import (
    AbstractPairSampler,
    AbstractZonalSampler,
    CapUniform,
    Concentration,
    Frozen,
    TruncatedVMF,
    VonMisesFisher,
)
from cellgap.embed.sphere._zonal import prefers_isometries, zonal_eigenvalues

__all__ = [
    "AbstractGenerator",
    "AbstractPairSampler",
    "AbstractZonalSampler",
    "AsymptoticLoss",
    "AxialMap",
    "CapUniform",
    "Concentration",
    "Frozen",
    "IdentityGenerator",
    "LinearGenerator",
    "MLPGenerator",
    "PatchesGenerator",
    "SphereExperiment",
    "SphereMap",
    "SphereResult",
    "SpiralGenerator",
    "Stretch",
    "TruncatedVMF",
    "VonMisesFisher",
    "asymptotic_loss",
    "axial_loss",
    "best_stretch",
    "collapsed",
    "concentration",
    "fibre_isometry",
    "folded",
    "frozen_only",
    "log_partition",
    "loss_floor",
    "matched_value",
    "mean_cosine",
    "orthogonal",
    "prefers_isometries",
    "spiral_map",
    "spiralled",
    "stretch_angle_error",
    "stretch_map",
    "stretch_r2",
    "stretch_table",
    "stretched",
    "uniform",
    "zonal_eigenvalues",
]

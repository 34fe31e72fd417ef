"""Cells as counts with any attributes: latent flow matching, guidance, error reduction, translation, augmentation."""

from cellgap.generate._asked import as_table
from cellgap.generate._attributes import Attributes
from cellgap.generate._augment import augment
from cellgap.generate._calibrate import Calibration, calibrate, calibrate_guidance
from cellgap.generate._cfgen import CFGen
from cellgap.generate._corrector import Corrector
from cellgap.generate._field import AbstractField, Told
from cellgap.generate._fitted import TRANSLATION, FittedCFGen, Latent
from cellgap.generate._gaps import gap_readings
from cellgap.generate._guidance import Guidance, Guided, guide
from cellgap.generate._library import LibraryModel
from cellgap.generate._mixture import CompositeMixture, GaussianMixture, reference_mixture
from cellgap.generate._network import LatentField
from cellgap.generate._sampler import Path, Sampler, evaluations, flow
from cellgap.generate._train_field import FlowTraining

__all__ = [
    "TRANSLATION",
    "AbstractField",
    "Attributes",
    "CFGen",
    "Calibration",
    "CompositeMixture",
    "Corrector",
    "FittedCFGen",
    "FlowTraining",
    "GaussianMixture",
    "Guidance",
    "Guided",
    "Latent",
    "LatentField",
    "LibraryModel",
    "Path",
    "Sampler",
    "Told",
    "as_table",
    "augment",
    "calibrate",
    "calibrate_guidance",
    "evaluations",
    "flow",
    "gap_readings",
    "guide",
    "reference_mixture",
]

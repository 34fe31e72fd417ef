"""Coordinates in which models work: genes, their principal components, codes of autoencoders of counts."""

from cellgap.space._autoencoder import Autoencoder
from cellgap.space._autoencoder_space import AutoencoderSpace
from cellgap.space._count_noise import CountNoise, theta_within
from cellgap.space._genes import Genes, GeneSpace
from cellgap.space._interface import AbstractFittedSpace, AbstractSpace
from cellgap.space._joint import JointAutoencoder, Modality
from cellgap.space._joint_space import JointSpace
from cellgap.space._matched_counts import matched_counts
from cellgap.space._noise_by import noises_by
from cellgap.space._pca import PCA, PCASpace
from cellgap.space._reading import counts_of
from cellgap.space._reconstruction import reconstruction_of
from cellgap.space._saved import Saved
from cellgap.space._selection import normalized_dispersion

__all__ = [
    "PCA",
    "AbstractFittedSpace",
    "AbstractSpace",
    "Autoencoder",
    "AutoencoderSpace",
    "CountNoise",
    "GeneSpace",
    "Genes",
    "JointAutoencoder",
    "JointSpace",
    "Modality",
    "PCASpace",
    "Saved",
    "counts_of",
    "matched_counts",
    "noises_by",
    "normalized_dispersion",
    "reconstruction_of",
    "theta_within",
]

"""Coordinates in which models work: genes, their principal components, codes of an autoencoder of counts."""

from cellgap.space._autoencoder import Autoencoder
from cellgap.space._autoencoder_space import AutoencoderSpace
from cellgap.space._count_noise import CountNoise, theta_within
from cellgap.space._genes import Genes, GeneSpace
from cellgap.space._interface import AbstractFittedSpace, AbstractSpace
from cellgap.space._matched_counts import matched_counts
from cellgap.space._pca import PCA, PCASpace
from cellgap.space._reading import counts_of
from cellgap.space._reconstruction import reconstruction_of
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
    "PCASpace",
    "counts_of",
    "matched_counts",
    "normalized_dispersion",
    "reconstruction_of",
    "theta_within",
]

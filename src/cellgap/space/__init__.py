"""Coordinates in which models work: genes, and their principal components."""

from cellgap.space._genes import Genes, GeneSpace
from cellgap.space._interface import AbstractFittedSpace, AbstractSpace
from cellgap.space._pca import PCA, PCASpace
from cellgap.space._reconstruction import reconstruction_of
from cellgap.space._selection import normalized_dispersion

__all__ = [
    "PCA",
    "AbstractFittedSpace",
    "AbstractSpace",
    "GeneSpace",
    "Genes",
    "PCASpace",
    "normalized_dispersion",
    "reconstruction_of",
]

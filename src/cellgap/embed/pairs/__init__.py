"""Samplers of pairs of cells: what they keep, what they move, and mixtures of them."""

from cellgap.embed.pairs._interface import AbstractFittedPairs, AbstractPairs, PairCells, Pairs, Support
from cellgap.embed.pairs._mixture import Mixture
from cellgap.embed.pairs._neighbour import Neighbour
from cellgap.embed.pairs._restart import Restart
from cellgap.embed.pairs._same_condition import SameCondition
from cellgap.embed.pairs._thin import Thin

__all__ = [
    "AbstractFittedPairs",
    "AbstractPairs",
    "Mixture",
    "Neighbour",
    "PairCells",
    "Pairs",
    "Restart",
    "SameCondition",
    "Support",
    "Thin",
]

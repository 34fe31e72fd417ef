"""Conditions as numbers: by name, dose, descriptor and context, joined with ``|``."""

from cellgap.encode._block import AbstractBlock, EncodedCondition, EncodedConditions
from cellgap.encode._context import Context
from cellgap.encode._context_table import ContextTable
from cellgap.encode._descriptors_2d import Descriptors2D
from cellgap.encode._dose import Dose
from cellgap.encode._effect import Effect
from cellgap.encode._fingerprint import Fingerprint
from cellgap.encode._fitted import FittedEncoder
from cellgap.encode._interface import AbstractEncoder
from cellgap.encode._joint import Joint
from cellgap.encode._one_hot import OneHot
from cellgap.encode._table import Table

__all__ = [
    "AbstractBlock",
    "AbstractEncoder",
    "Context",
    "ContextTable",
    "Descriptors2D",
    "Dose",
    "Effect",
    "EncodedCondition",
    "EncodedConditions",
    "Fingerprint",
    "FittedEncoder",
    "Joint",
    "OneHot",
    "Table",
]

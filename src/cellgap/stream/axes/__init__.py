"""Principal axes of more cells than fit in memory, in one pass. Nothing here is private."""

from cellgap.stream.axes._atlas import Atlas, AtlasCells
from cellgap.stream.axes._backed import fit_backed
from cellgap.stream.axes._blocks import Plan
from cellgap.stream.axes._cautions import StreamWarning
from cellgap.stream.axes._instances import Instance, known_axis
from cellgap.stream.axes._one_pass import OnePassPCA, space_of
from cellgap.stream.axes._order import LabelCheck, OrderCheck
from cellgap.stream.axes._partial import Partial
from cellgap.stream.axes._spectrum import StreamReport
from cellgap.stream.axes._stream_state import StreamState
from cellgap.stream.axes._streaming_pca import StreamingPCA

__all__ = [
    "Atlas",
    "AtlasCells",
    "Instance",
    "LabelCheck",
    "OnePassPCA",
    "OrderCheck",
    "Partial",
    "Plan",
    "StreamReport",
    "StreamState",
    "StreamWarning",
    "StreamingPCA",
    "fit_backed",
    "known_axis",
    "space_of",
]

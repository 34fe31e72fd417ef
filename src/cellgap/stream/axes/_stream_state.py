"""What a stream has to remember between chunks, sessions and machines."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from cellgap.storage import storable
from cellgap.stream.axes._rows import Rows


@storable
@dataclass(frozen=True, eq=False)
class StreamState:
    """All that a stream has to remember: `StreamingPCA.to_state`.

    Parameters
    ----------
    settings
        As plain values.
    engine, order, labels
        Summary of the rows so far, and the checks of their order; None before the first batch.
    pending
        Rows that wait for their batch; None before the first chunk.
    rows
        Rows that the stream will have, where that is known.
    refined
        Result of a second pass.
    warned
        What was warned of already.
    design_effect
        See `StreamingPCA`.
    """

    settings: dict[str, Any]
    engine: Any
    order: Any
    labels: Any
    pending: Rows | None
    rows: int | None
    refined: Any
    warned: tuple[str, ...]
    design_effect: float


@storable
@dataclass(frozen=True, eq=False)
class Refined:
    """Axes after a second pass: see `StreamingPCA.refine`."""

    components: Float[np.ndarray, "axes genes"]
    energy: Float[np.ndarray, " axes"]
    further: float
    modelled: float

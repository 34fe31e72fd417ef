"""What someone who trusts axes of a stream should know, in sentences."""

import numpy as np

from cellgap.errors import DataError
from cellgap.stream.axes._blocks import Blocks
from cellgap.stream.axes._engine import AbstractEngine, Found
from cellgap.stream.axes._order import OrderCheck
from cellgap.stream.axes._stream_settings import StreamSettings

AS_GIVEN = "blocks need rows in random order, but order is as_given: axes of sorted rows can be far off"
_ANY_ORDER = "shuffle them, or use solver='gram' or 'fd', which take any order"


class StreamWarning(UserWarning):
    """What someone who trusts axes of a stream should know."""


def refuse_sorted(engine: AbstractEngine, order: OrderCheck, settings: StreamSettings) -> None:
    """Refuse rows that look sorted, where the settings say so.

    Raises
    ------
    DataError
        The check of the order fails, the engine needs random order, and ``on_order`` is "raise".
    """
    alarm = _alarm(engine, order, settings)
    if alarm is not None and settings.on_order == "raise":
        raise DataError(f"{alarm}: {_ANY_ORDER}.")


def cautions(engine: AbstractEngine, found: Found, order: OrderCheck, settings: StreamSettings) -> list[str]:
    """Return the sentences, without a full stop.

    Parameters
    ----------
    engine, found
        The summary and its axes.
    order
        The check of the order of rows.
    settings
        Of the stream.
    """
    told = []
    alarm = _alarm(engine, order, settings)
    if alarm is not None and settings.on_order == "warn":
        told.append(f"{alarm}: {_ANY_ORDER}")
    if isinstance(engine, Blocks) and engine.passed and settings.heavy_rows:
        told.append(
            f"{engine.passed} heavy rows found no room among the {settings.heavy_rows} that are kept, so the guarantee "
            "for heavy rows is void: raise heavy_rows"
        )
    mean = engine.moments.mean
    if not settings.center and engine.moments.n * float(mean @ mean) > 0.5 * engine.energy():
        told.append("the mean has more than half of the energy, so the first axis is the mean: use center=True")
    energy = np.append(found.energy, found.further)
    if engine.solver != "gram" and energy[0] < 1.1 * energy[1]:
        told.append(
            f"the first two eigenvalues are alike (ratio {energy[0] / energy[1]:.3g}): only their plane is known"
        )
    return told


def _alarm(engine: AbstractEngine, order: OrderCheck, settings: StreamSettings) -> str | None:
    exact = isinstance(engine, Blocks) and engine.first is not None
    needs_it = engine.solver in ("blocks", "incremental") and not exact
    return order.alarm() if needs_it and settings.order == "check" else None

"""The gap between what was fitted and what its theory wants."""

from dataclasses import dataclass

from cellgap.storage import storable


@storable
@dataclass(frozen=True)
class Gap:
    """One measured gap of a fitted model.

    Parameters
    ----------
    name
        Short name, such as ``"Monge gap"``.
    value
        The measured gap, in the unit that `scale` explains; 0 is what the theory wants.
    scale
        What to compare `value` with, in words (``"0 = optimal map; mean transport cost 7.31"``).
    meaning
        What a large value says about the model.
    remedy
        What to try when it is large.
    """

    name: str
    value: float
    scale: str
    meaning: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.value:.4g} ({self.scale})"

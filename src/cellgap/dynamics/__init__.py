"""Laws of cells in time: sparse neural differential equations that forecast, name causes and survive interventions."""

from cellgap.dynamics._trajectories import Trajectories, trajectories_of

__all__ = ["Trajectories", "trajectories_of"]

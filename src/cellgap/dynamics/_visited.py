"""Where a law was learnt: a sample of the states of its training trajectories."""

import equinox as eqx
import numpy as np
from jaxtyping import Float

from cellgap.dynamics._law import Units
from cellgap.dynamics._prepare import Constants
from cellgap.dynamics._trajectories import Trajectories
from cellgap.storage import storable


@storable
class Visited(eqx.Module):
    """States of the training trajectories, in standardized units: where derivatives are taken.

    Parameters
    ----------
    states, inputs
        A sample of them, with what the law is told.
    starts, start_times, start_inputs, start_about
        The first states of each trajectory that a forecast sees, when (the last one 0, in standardized time), what the
        law is told of it, its name.
    times
        Typical times of a trajectory since its start, in the units of the data.
    rank
        Directions that hold a thousandth or more of the variance of the most variable one.
    number
        Of steps from one state to the next, in all trajectories.
    """

    states: Float[np.ndarray, "n s"]
    inputs: Float[np.ndarray, "n c"]
    starts: Float[np.ndarray, "m k d"]
    start_times: Float[np.ndarray, "m k"]
    start_inputs: Float[np.ndarray, "m c"]
    start_about: tuple[str, ...]
    times: Float[np.ndarray, " t"]
    rank: int
    number: int

    @classmethod
    def of(
        cls,
        trajectories: Trajectories,
        units: Units,
        constants: Constants,
        some: np.ndarray,
        *,
        order: int,
        history: int,
    ) -> "Visited":
        """Return a sample of the states of trajectories."""
        z = units.inward(trajectories.values)
        clock = trajectories.times / units.clock
        first, before = z[:, :history], clock[:, :history] - clock[:, [history - 1]]
        if order == 2:
            speed = np.gradient(z, axis=1) / np.maximum(np.gradient(clock, axis=1), 1e-9)[..., None]
            z = np.concatenate([z, speed.astype(np.float32)], 2)
        told = constants.numbers(trajectories.about, trajectories.inputs)
        seen = trajectories.seen
        who = np.nonzero(seen)[0]
        own = z[seen]
        values = np.linalg.svd(own[some] - own[some].mean(0), compute_uv=False) ** 2
        longest = int(np.argmax(trajectories.lengths))
        times = trajectories.times[longest, : trajectories.lengths[longest]]
        return cls(
            own[some], told[who[some]], first, before, told, trajectories.names, times - times[0],
            int((values >= 1e-3 * values[0]).sum()), int((trajectories.lengths - 1).sum()),
        )  # fmt: skip

"""Trajectories drawn again from the cells behind them: other cells, another clock, another start."""

from dataclasses import replace

import numpy as np

from cellgap.dynamics._trajectories import Trajectories, trajectories_of
from cellgap.errors import DataError


def bootstrap_cells(
    trajectories: Trajectories,
    n: int,
    *,
    n_bins: int = 10,
    start_cells: int = 5,
    start_share: float = 0.05,
    warp: float = 0.5,
    seed: int = 0,
) -> Trajectories:
    """Return `n` trajectories for each given one, every one from a bootstrap of its cells.

    A law that is learnt from one start and one clock stands on the noise of a few cells and on a pseudotime that is not
    comparable between donors. Learnt from many of both it has to do without them.

    Parameters
    ----------
    trajectories
        With their single cells; see `bin_cells`.
    n
        Copies of each.
    n_bins
        Bins of equal numbers of cells, after the start.
    start_cells
        Cells whose mean is the first state.
    start_share
        Share of the earliest cells (at least `start_cells`) that these are drawn from.
    warp
        Standard deviation of the logarithm of the power to which time, from 0 to 1, is raised: 0 keeps the clock.
    seed
        Of all draws.

    Raises
    ------
    DataError
        There are no single cells, or fewer than bins.
    """
    if trajectories.cells is None:
        raise DataError("these trajectories have no single cells to draw from.")
    rng = np.random.default_rng(seed)
    values, clocks, rows, names = [], [], [], []
    for i, (times, cells) in enumerate(trajectories.cells):
        if len(times) < n_bins + start_cells:
            raise DataError(f"{trajectories.names[i]} has {len(times)} cells: too few for {n_bins} bins and a start.")
        first, width = times[0], max(float(np.ptp(times)), 1e-12)
        early = max(start_cells, round(start_share * len(times)))
        for copy in range(n):
            clock = first + width * ((times - first) / width) ** np.exp(rng.normal(0.0, warp))
            drawn = np.sort(rng.integers(0, len(times), len(times)))
            parts = np.array_split(drawn, n_bins)
            start = cells[rng.integers(0, early, start_cells)].mean(0)
            values.append(np.stack([start, *(cells[p].mean(0) for p in parts)]))
            clocks.append(np.r_[first, [max(float(clock[p].mean()), first) for p in parts]])
            rows.append(i)
            names.append(f"{trajectories.names[i]}#{copy}")
    about = trajectories.about.iloc[rows].set_axis(names)
    made = trajectories_of(values, clocks, variables=trajectories.variables, about=about)
    return replace(made, inputs=trajectories.inputs[rows], input_names=trajectories.input_names)

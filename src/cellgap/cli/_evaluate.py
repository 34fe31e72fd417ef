"""``cellgap evaluate``: a run's scores on what it never saw, beside the baselines and a repeat of the experiment."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cellgap.cli._run_folder import Run
from cellgap.cli._say import show


def evaluate(
    run: Path,
    /,
    *,
    n_cells: int = 1000,
    n_draws: int = 5,
    data: Path | None = None,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Score a run on its held-out conditions, beside the baselines and a repeat of the experiment.

    Parameters
    ----------
    run
        Folder of a finished run; table.csv, summary.csv and comparisons.csv are written there.
    n_cells
        Most cells of each population in a draw.
    n_draws
        Draws of cells.
    data
        Where the run's data are now, if they were moved.
    quiet
        Show no progress.
    """
    from cellgap.cli._scores import score

    opened = Run.open(run, data)
    found = score(opened, n_cells=n_cells, n_draws=n_draws, progress=not quiet)
    show(found)
    show(f"scores: {run}/table.csv, summary.csv, comparisons.csv", f"next:   cellgap report {run}")
    return 0

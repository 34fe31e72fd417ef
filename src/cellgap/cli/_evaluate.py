"""``cellgap evaluate``: a run's scores on what it never saw, beside the baselines and a repeat of the experiment."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from cellgap.cli._run_folder import Run
from cellgap.cli._say import show


def evaluate(
    run: Path,
    /,
    *,
    n_cells: int = 1000,
    n_draws: int = 5,
    suite: Literal["vcc2026"] | None = None,
    target_genes: Annotated[bool, Parameter(negative="")] = False,
    workers: int | None = None,
    data: Path | None = None,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Score a run on its held-out conditions, beside the baselines and a repeat of the experiment.

    Parameters
    ----------
    run
        Folder of a finished run; table.csv, summary.csv and comparisons.csv are written there (suite.csv by a suite).
    n_cells
        Most cells of each population in a draw.
    n_draws
        Draws of cells; of a suite, the halvings that its replicate is averaged over.
    suite
        Score the field's benchmark suite on raw counts instead; needs the extra "eval".
    target_genes
        Of a suite: treatments are named after the genes that they hit, which are left out of their scores.
    workers
        Processes of this machine that the conditions are spread over; needs the extra "scale".
    data
        Where the run's data are now, if they were moved.
    quiet
        Show no progress.
    """
    if suite is not None and workers is not None:
        from cellgap.errors import ConfigError

        raise ConfigError("--workers spreads our own scores, and a suite does all conditions at once: leave one out.")
    opened = Run.open(run, data)
    if suite is not None:
        from cellgap.cli._scores import score_suite

        found = score_suite(opened, n_cells=n_cells, n_draws=n_draws, target_genes=target_genes, progress=not quiet)
        show(found, f"scores: {run}/suite.csv")
        return 0
    if target_genes:
        from cellgap.errors import ConfigError

        raise ConfigError("--target-genes belongs to --suite vcc2026: add it, or leave --target-genes out.")
    from cellgap.cli._scores import score

    scores = score(opened, n_cells=n_cells, n_draws=n_draws, progress=not quiet, workers=workers)
    show(scores)
    show(f"scores: {run}/table.csv, summary.csv, comparisons.csv", f"next:   cellgap report {run}")
    return 0

"""``cellgap report``: the page of a run."""

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cellgap.cli._run_folder import Run
from cellgap.cli._say import show


def report(
    run: Path,
    /,
    *,
    out: Path | None = None,
    data: Path | None = None,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Write the page of a run: one HTML file with scores, figures, gaps and settings.

    Parameters
    ----------
    run
        Folder of a finished run; it is evaluated first where that was not done.
    out
        The file to write; by default report.html in the run's folder.
    data
        Where the run's data are now, if they were moved.
    quiet
        Show no progress.
    """
    path = write_page(Run.open(run, data), out or run / "report.html", progress=not quiet)
    show(f"report: {path}")
    return 0


def write_page(run: Run, path: Path, *, title: str = "", progress: bool = True) -> Path:
    """Return the path of the page of a run after writing it."""
    from cellgap.cli._report_data import report_data
    from cellgap.cli._scores import scores_of, suite_of
    from cellgap.report import write_report

    scores = scores_of(run, progress=progress)
    data = report_data(run, scores, title=title, command=f"cellgap report {run.folder.name}")
    return write_report(dataclasses.replace(data, suite=suite_of(run)), path)

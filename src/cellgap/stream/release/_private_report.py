"""A table of releases that takes nothing else."""

from typing import Any

import pandas as pd

from cellgap.errors import NotPrivate
from cellgap.stream.release._release import NOT_PRIVATE, Release
from cellgap.stream.release._statistic import RunningStatistic

_COLUMNS = ["statistic", "t", "feature", "value", "sd", "bound", "mean", "mean_low", "mean_high"]
_COLUMNS += ["low", "high", "rank", "rho", "unit", "note"]


def private_report(*releases: Any) -> pd.DataFrame:
    """Return the values of releases as one table, with the guarantee beside each.

    Parameters
    ----------
    *releases
        `Release` objects, or `RunningStatistic` objects, which stand for all they have released.

    Returns
    -------
    pd.DataFrame
        Columns statistic, t, those of `Release.frame` that occur, rho, unit, and note.

    Raises
    ------
    NotPrivate
        Something else is given: no ledger accounts for it.
    """
    tables = []
    for given in releases:
        if not isinstance(given, Release | RunningStatistic):
            raise NotPrivate(
                f"a private report takes releases of running statistics, found {type(given).__name__}: no budget "
                "accounts for it."
            )
        for release in given.releases if isinstance(given, RunningStatistic) else (given,):
            table = release.frame()
            table.insert(0, "statistic", release.name)
            table.insert(1, "t", release.t)
            table["rho"] = float(release.rho)
            table["unit"] = release.unit
            table["note"] = "" if release.safe else NOT_PRIVATE
            tables.append(table)
    if not tables:
        return pd.DataFrame(columns=pd.Index(_COLUMNS))
    found = pd.concat(tables, ignore_index=True)
    return found.reindex(columns=[column for column in _COLUMNS if column in found])

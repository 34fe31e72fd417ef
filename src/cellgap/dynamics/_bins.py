"""From cells with a time to trajectories: groups of cells, sorted, in bins of equal size."""

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from cellgap.dynamics._trajectories import Trajectories, trajectories_of
from cellgap.errors import DataError, DesignError
from cellgap.settings import settings
from cellgap.space import AbstractFittedSpace, AbstractSpace, Genes
from cellgap.storage import storable
from cellgap.study import Role, Split

Clock = Literal["as given", "rescaled", "quantiles"]


@storable
@settings
class Bins:
    """How cells become trajectories.

    Parameters
    ----------
    by
        Columns of ``obs`` whose combinations are trajectories (donor, lineage); empty: all contexts of the design.
    n_bins
        Bins of equal numbers of cells along each trajectory; the state of a bin is the mean of its cells.
    clock
        ``"as given"``; ``"rescaled"`` to 0 to 1 within each trajectory, for pseudotime, which is not comparable
        between donors; ``"quantiles"``: the share of the cells that are earlier.
    least
        Cells that a bin has at least: small groups get fewer bins.
    space
        Coordinates of the states; None: genes, ``log(1 + counts)`` of normalized counts, or as they are measured where
        the design names no counts.
    """

    by: tuple[str, ...] = ()
    n_bins: Annotated[int, Field(ge=2)] = 10
    clock: Clock = "as given"
    least: Annotated[int, Field(ge=1)] = 3
    space: AbstractSpace | None = None


def bin_cells(
    split: Split,
    how: Bins | None = None,
    *,
    space: AbstractFittedSpace | None = None,
    rows: np.ndarray | None = None,
) -> tuple[Trajectories, AbstractFittedSpace]:
    """Return the trajectories of a study's cells, and the space that they are in.

    Parameters
    ----------
    split
        A split of the study, whose design names the time; ``cellgap.split.everything(study, valid=0.0)``
        takes all cells.
    how
        See `Bins`.
    space
        A space fitted before (for further donors); None: one is fitted on the training cells.
    rows
        Cells to take; None: the training cells of the split.

    Raises
    ------
    DesignError
        The design names no time, or a column is missing.
    DataError
        Times are not finite numbers, or a trajectory has too few cells.
    """
    how = how or Bins()
    study = split.study
    if study.design.time is None:
        raise DesignError('a law needs times: name their column in the design, Design(time="pseudotime").')
    by = list(how.by or study.design.context_names)
    missing = [column for column in by if column not in study.obs]
    if missing:
        raise DesignError(f"obs has no column {missing[0]!r}: there are {', '.join(map(str, study.obs.columns[:8]))}.")
    rows = split.cells(Role.TRAIN) if rows is None else np.asarray(rows)
    obs = study.obs.iloc[rows]
    times = np.asarray(pd.to_numeric(obs[study.design.time], errors="coerce"), float)
    if not np.isfinite(times).all():
        raise DataError(f"{int((~np.isfinite(times)).sum())} cells have no finite {study.design.time}: remove them.")
    if space is None:
        chosen = how.space or Genes(transform="lognorm" if study.is_counts else "none")
        space = chosen.fit(split)
    codes = np.asarray(space.encode(study.adata, rows), np.float64)
    variables = space.genes if space.dim == len(space.genes) else [f"code{i}" for i in range(space.dim)]
    texts = np.asarray(obs[by].astype(str)) if by else np.full((len(rows), 1), "all")
    labels = [tuple(map(str, row)) for row in texts]
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, name in enumerate(labels):
        groups.setdefault(name, []).append(i)
    values, clocks, about, cells = [], [], [], []
    for name in sorted(groups):
        members = np.array(groups[name])
        order = members[np.argsort(times[members], kind="stable")]
        n_bins = min(how.n_bins, len(order) // how.least)
        if n_bins < 2:
            raise DataError(f"{'/'.join(name)} has {len(order)} cells: too few for two bins of {how.least}.")
        clock = _clock(times[order], how.clock)
        parts = np.array_split(np.arange(len(order)), n_bins)
        values.append(np.stack([codes[order[p]].mean(0) for p in parts]))
        clocks.append(np.array([clock[p].mean() for p in parts]))
        about.append(name)
        cells.append((clock, codes[order]))
    called = pd.Index(["/".join(name) for name in about])
    frame = pd.DataFrame(about, columns=pd.Index(by or ["all"]), index=called)
    made = trajectories_of(values, clocks, variables=list(map(str, variables)), about=frame)
    return replace(made, cells=tuple(cells)), space


def _clock(times: np.ndarray, kind: Clock) -> np.ndarray:
    if kind == "quantiles":
        return (np.arange(len(times)) + 0.5) / len(times)
    if kind == "rescaled":
        return (times - times[0]) / max(times[-1] - times[0], 1e-12)
    return times

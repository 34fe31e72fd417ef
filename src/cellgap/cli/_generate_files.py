"""Cells that the commands of a generator read and write."""

from pathlib import Path
from typing import TYPE_CHECKING

from cellgap.cli._say import show
from cellgap.errors import ConfigError

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from cellgap.generate import FittedCFGen


def target(fitted: "FittedCFGen", out: Path | None, name: str) -> Path:
    """Return the file to write cells to.

    Raises
    ------
    ConfigError
        It is not of the kind that holds the cells of this generator.
    """
    kind = ".h5ad" if fitted.space.modalities is None else ".h5mu"
    out = Path(name + kind) if out is None else out
    if out.suffix != kind:
        raise ConfigError(f"--out must name an {kind} file, found {str(out)!r}.")
    return out


def read_cells(path: Path) -> "AnnData":
    """Return the cells of a file; several modalities side by side."""
    from cellgap.study._read import open_study_file

    return open_study_file(path)


def held_out(folder: Path) -> "AnnData":
    """Return the cells that the split of a run holds out.

    Raises
    ------
    ConfigError
        It holds none out.
    """
    from cellgap.cli._run_folder import Run
    from cellgap.study import Role

    run = Run.open(folder)
    rows = run.split.cells(Role.TEST, Role.SOURCE, Role.REFERENCE)
    if not len(rows):
        raise ConfigError("the split of this run holds no cells out: give held-out cells in a file.")
    return run.study.adata[rows].to_memory()


def written(cells: "AnnData | MuData", out: Path) -> int:
    """Return 0 after writing cells and saying so."""
    from cellgap.study import write_cells

    write_cells(cells, out)
    show(f"{cells.n_obs:,} cells: {out}")
    return 0

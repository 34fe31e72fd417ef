"""``cellgap embed``: look at pairs before training, fit an embedding of cells, embed other cells, write its page."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from cellgap.cli._say import note, show, warn
from cellgap.errors import CellgapError, ConfigError, StorageError

if TYPE_CHECKING:
    from cellgap.cli._run_file import RunFile
    from cellgap.embed import FittedEmbedding

app = App(name="embed", help="Contrastive representations of cells, with a diagnosis of what pairs keep and lose.")

KIND = "ContrastiveEmbedding"

EXAMPLE = """\
# A run file of cellgap: `cellgap embed diagnose run.toml`, then `cellgap embed fit run.toml`.
# Paths are relative to this file.

[data]
path = "screen.h5ad"            # cells by genes: .h5ad file or .zarr folder

[design]
treatment = "drug"              # column of obs
control = "vehicle"             # its value that means "no treatment"
donor = "donor"
counts = "X"                    # where the raw counts are: "X", or the name of a layer; leave out for other data

[split]                         # what training must not see
kind = "in_distribution"        # or unseen_treatment, leave_one_domain_out, everything, ...
test = 0.2
min_cells = 10                  # of a held-out condition

[model]
kind = "ContrastiveEmbedding"
keep = ["treatment"]            # what the embedding should hold: a column of obs, "treatment" or "depth"
nuisance = ["donor"]            # what it should lose; the diagnosis says whether the pairs do so
dim = 32
n_runs = 4                      # networks from other starts: do they agree?

[[model.pairs]]                 # a cell and another one of the same treatment, of another donor:
kind = "SameCondition"          #   keeps the treatment, loses donor and cell state
across = "donor"

[[model.pairs]]                 # a cell and itself with fewer molecules (needs counts):
kind = "Thin"                   #   keeps the state of the cell, loses depth
weight = 0.5

[model.loop]
n_steps = 2000

[run]
folder = "embedding"
seed = 0
"""

Changes = Annotated[tuple[str, ...], Parameter(name="--set", negative="")]
Flag = Annotated[bool, Parameter(negative="")]


@app.command
def diagnose(
    run_file: Path | None = None,
    /,
    *,
    changes: Changes = (),
    report: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    quiet: Flag = False,
    example: Flag = False,
) -> int:
    """Print what the pairs of a run file move and what they freeze; nothing is trained, and no run is begun.

    Parameters
    ----------
    run_file
        TOML file with the sections data, design, split, model and run.
    changes
        Replace values of the file: --set model.n_pairs=5000.
    report
        Write the page of the diagnosis there, one HTML file.
    as_json
        Print JSON instead of sentences and tables.
    quiet
        Say nothing of the progress.
    example
        Print a run file to start from, and do nothing else.
    """
    if example:
        print(EXAMPLE, end="")
        return 0
    run = _run_of(run_file, changes, None, "diagnose")
    from cellgap.cli._embed_diagnosis import as_dict, diagnosed, told

    diagnosis, split = diagnosed(run, quiet=quiet)
    if as_json:
        print(json.dumps(as_dict(diagnosis), indent=1))
    else:
        show(*told(diagnosis))
    if report is not None:
        from cellgap.cli._embed_report import diagnosis_data
        from cellgap.report import write_embedding_report

        path = write_embedding_report(diagnosis_data(run, split, diagnosis), report)
        if not as_json:
            show(f"report: {path}")
        elif not quiet:
            note(f"report: {path}")
    return 0


@app.command
def fit(
    run_file: Path | None = None,
    /,
    *,
    folder: Path | None = None,
    changes: Changes = (),
    quiet: Flag = False,
    example: Flag = False,
) -> int:
    """Fit an embedding as a run file says; the same command continues a run that was stopped.

    Parameters
    ----------
    run_file
        TOML file with the sections data, design, split, model and run.
    folder
        Where to keep the run; replaces the folder of the file.
    changes
        Replace values of the file: --set model.loop.n_steps=500.
    quiet
        Say nothing but errors.
    example
        Print a run file to start from, and do nothing else.
    """
    if example:
        print(EXAMPLE, end="")
        return 0
    run = _run_of(run_file, changes, folder, "fit")
    fitted = _fitted(run, quiet)
    if fitted is None:
        if not quiet:
            note(f"interrupted; the work is kept in {run.folder}: run the same command again to continue.")
        return 130
    if not quiet:
        show(str(fitted.sampling), *map(str, fitted.gaps()))
        show(f"model: {run.folder}", f"next:  cellgap embed report {run.folder}")
    return 0


@app.command
def encode(
    run: Path,
    data: Path,
    /,
    *,
    out: Path = Path("embedded.h5ad"),
    output: Literal["sphere", "hidden"] = "sphere",
    quiet: Flag = False,
) -> int:
    """Write cells with their embedding in obsm["X_cellgap"].

    Parameters
    ----------
    run
        Folder of a fitted embedding.
    data
        The cells, .h5ad file or .zarr folder, with the same values in the same layer as those of the run.
    out
        The file to write: .h5ad for the cells with their embedding, .csv for the embedding alone.
    output
        "sphere": unit vectors, what the loss and the diagnosis speak of. "hidden": what the last layer sees.
    quiet
        Show no progress.
    """
    from cellgap.cli._embed_files import checked_out, encoded, written

    checked_out(out)
    fitted = opened(run)
    cells, codes = encoded(fitted, data, output, keep=out.suffix == ".h5ad", progress=not quiet)
    written(cells, codes, fitted, output, out)
    show(f"{codes.shape[0]:,} cells in {codes.shape[1]} dimensions: {out}")
    return 0


@app.command
def report(
    run: Path,
    /,
    *,
    out: Path | None = None,
    colour: Annotated[tuple[str, ...], Parameter(name=("--colour", "--color"), negative="")] = (),
    data: Path | None = None,
    seed: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    n_cells: Annotated[int, Parameter(validator=Number(gte=50))] = 2000,
    quiet: Flag = False,
) -> int:
    """Write the page of an embedding: what it keeps and moves, how training went, the cells, and probes.

    Parameters
    ----------
    run
        Folder of a fitted embedding.
    out
        The file to write; by default report.html in the run's folder.
    colour
        Columns that color the cells, such as --colour cell_type --colour donor; by default treatment, context,
        and what is to be kept or lost.
    data
        Where the run's data are now, if they were moved.
    seed
        Of the cells that are drawn and probed.
    n_cells
        How many of them, at most.
    quiet
        Show no progress.
    """
    from cellgap.cli._embed_report import report_data
    from cellgap.cli._run_folder import Run
    from cellgap.report import write_embedding_report

    fitted = opened(run)
    if not quiet:
        note("embedding and probing cells")
    page, skipped = report_data(Run.open(run, data), fitted, colour, seed, n_cells)
    for text in skipped:
        warn(text)
    path = write_embedding_report(page, out or run / "report.html")
    if len(page.probes):
        show(page.probes.round(3).to_string(index=False))
    show(f"report: {path}")
    return 0


def opened(run: Path) -> "FittedEmbedding":
    """Return the embedding in a folder.

    Raises
    ------
    StorageError
        The folder holds no model, or another one.
    """
    from cellgap.embed import FittedEmbedding
    from cellgap.storage import load

    fitted = load(run)
    if not isinstance(fitted, FittedEmbedding):
        raise StorageError(f"{run} holds a saved {type(fitted).__name__}, not an embedding: see `cellgap embed fit`.")
    return fitted


def _run_of(run_file: Path | None, changes: tuple[str, ...], folder: Path | None, command: str) -> "RunFile":
    from cellgap.cli._run_file import read_run_file

    if run_file is None:
        raise ConfigError(f"{command} needs a run file; `cellgap embed {command} --example` prints one.")
    run = read_run_file(run_file, changes, folder)
    if run.model["kind"] != KIND:
        raise ConfigError(f"[model] kind {run.model['kind']!r} is no embedding: take {KIND!r}, or `cellgap fit`.")
    return run


def _fitted(run: "RunFile", quiet: bool) -> Any:
    """Return the embedding; a run that is refused before its first step leaves no folder behind."""
    from cellgap.cli._fit import fit_run
    from cellgap.cli._run_folder import SETTINGS, SPLIT

    before = {path.name for path in run.folder.iterdir()} if run.folder.is_dir() else None
    try:
        return fit_run(run, quiet=quiet)
    except CellgapError:
        there = {path.name for path in run.folder.iterdir()} if run.folder.is_dir() else set()
        if there <= {SETTINGS, SPLIT, *(before or ())}:
            for name in {SETTINGS, SPLIT} & (there - (before or set())):
                (run.folder / name).unlink()
            if before is None and run.folder.is_dir():
                run.folder.rmdir()
        raise

"""``cellgap stream``: principal axes in one pass, and statistics released under donor privacy."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from cellgap.cli._say import note, show

app = App(name="stream", help="One pass over large atlases: principal axes; statistics released under donor privacy.")

Flag = Annotated[bool, Parameter(negative="")]
Count = Annotated[int, Parameter(validator=Number(gte=1))]


@app.command
def pca(
    atlas: Path,
    /,
    *,
    k: Count = 50,
    out: Path = Path("axes.npz"),
    layer: str | None = None,
    genes: Path | None = None,
    transform: Literal["lognorm", "log1p", "arcsinh", "none"] = "lognorm",
    target_sum: str = "10000",
    solver: Literal["auto", "gram", "blocks", "fd", "incremental"] = "auto",
    scale: Flag = False,
    uncentered: Flag = False,
    in_file_order: Flag = False,
    on_order: Literal["warn", "raise", "ignore"] = "warn",
    labels: str | None = None,
    memory: str = "1GiB",
    refine: Flag = False,
    workers: Count | None = None,
    seed: int = 0,
    report: Path | None = None,
    quiet: Flag = False,
) -> int:
    """Find the principal axes of all cells of a file in one pass, in memory that does not grow with the cells.

    Not private: axes, means and heavy rows tell of single cells. The same command continues a pass that was stopped.

    Parameters
    ----------
    atlas
        Cells, .h5ad or .zarr; the matrix stays on disk.
    k
        Axes.
    out
        The file to write, .npz, with a .json beside it: a space, which `kind = "Saved"` names in a run file.
    layer
        Where the values are: X, or the name of a layer.
    genes
        A file with the genes to keep, one a line; by default all.
    transform
        lognorm takes raw counts; none takes values as they are.
    target_sum
        Counts of a cell after normalization: a number.
    solver
        gram is exact, blocks is for all genes, fd takes any order; by default chosen from the numbers of genes and
        cells.
    scale
        Divide every gene by its standard deviation.
    uncentered
        Do not subtract the mean of every gene.
    in_file_order
        Read the cells as they are stored instead of in shuffled chunks; only gram and fd can be trusted then.
    on_order
        What to do where the order of cells looks sorted.
    labels
        Column of obs, such as the plate or donor, whose spread over the pass is checked.
    memory
        What the Gram matrix may take.
    refine
        Read the file a second time: one exact power step.
    workers
        Processes of this machine that share the work (blocks only); needs the extra "scale".
    seed
        Of the order in which cells are read.
    report
        The page to write, .html.
    quiet
        Show no progress, and print nothing but errors.
    """
    from cellgap.cli._stream_pca import Asked, find_axes

    asked = Asked(
        atlas, k, out, layer, genes, transform, target_sum, solver, scale, not uncentered, not in_file_order, on_order,
        labels, memory, refine, workers, seed, report, quiet,
    )  # fmt: skip
    try:
        lines = find_axes(asked)
    except KeyboardInterrupt:
        if not quiet:
            note(f"interrupted; the work is kept in {asked.checkpoint}: run the same command again to continue.")
        return 130
    if not quiet:
        show(*lines)
    return 0


@app.command
def encode(axes: Path, atlas: Path, /, *, out: Path = Path("codes.npy"), quiet: Flag = False) -> int:
    """Write the coordinates of all cells of a file along axes, (cells, k) float32, a chunk at a time.

    Parameters
    ----------
    axes
        What `cellgap stream pca` wrote, .npz.
    atlas
        Cells, .h5ad or .zarr, of the same genes; the matrix stays on disk.
    out
        The file to write, .npy.
    quiet
        Show no progress.
    """
    from cellgap.cli._stream_pca import encode_cells

    n, k = encode_cells(axes, atlas, out, progress=not quiet)
    show(f"{n:,} cells along {k} axes: {out}")
    return 0

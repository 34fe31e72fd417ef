"""``cellgap stream``: principal axes in one pass, and statistics released under donor privacy."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from cellgap.cli._say import note, show
from cellgap.errors import ConfigError

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
        Show no progress, and print nothing but errors.
    """
    from cellgap.cli._stream_pca import encode_cells

    n, k = encode_cells(axes, atlas, out, progress=not quiet)
    if not quiet:
        show(f"{n:,} cells along {k} axes: {out}")
    return 0


@app.command
def release(
    policy: Path | None = None,
    /,
    *plates: Path,
    quiet: Flag = False,
    example: Flag = False,
) -> int:
    """Release statistics under donor privacy after each plate: tables, JSON and a page in the policy's public folder.

    The same command with more plates goes on; plates that were released are left alone, and one that was interrupted is
    finished with the same noise. The journal's folder is as sensitive as the cells.

    Parameters
    ----------
    policy
        TOML file: what is released, what it costs, what one donor may contribute.
    plates
        Cells of a plate each, .h5ad or .zarr, in the order in which they came; known by their file names.
    quiet
        Print nothing but errors.
    example
        Print a policy to start from, and do nothing else.
    """
    from cellgap.cli._stream_page import write_page
    from cellgap.cli._stream_policy import EXAMPLE, HINT, read_policy
    from cellgap.cli._stream_release import Desk

    if example:
        print(EXAMPLE, end="")
        return 0
    if policy is None or not plates:
        raise ConfigError(f"release needs a policy and plates: `cellgap stream release policy.toml plates/*`; {HINT}")
    checked = read_policy(policy)
    try:
        with Desk(checked) as desk:
            new = desk.release(plates, (lambda text: None) if quiet else note)
            desk.write()
            write_page(desk)
            if not quiet:
                for name, table in desk.tables().items():
                    last = table[table["step"] == table["step"].max()] if len(table) else table
                    show(f"{name}:", last.head(8).to_string(index=False, float_format="%.4g"))
                    if len(last) > 8:
                        show(f"  ... {len(last) - 8:,} more in {checked.folder / name}.csv")
                show("", desk.budget.explain(), "", f"released now: {', '.join(new) or 'nothing new'}")
                show(
                    f"public:  {checked.folder} (report.html)",
                    f"secret:  {checked.journal} (as sensitive as the cells)",
                )
    except KeyboardInterrupt:
        if not quiet:
            note("interrupted; nothing is lost and nothing is spent twice: run the same command again to continue.")
        return 130
    return 0


@app.command
def budget(policy: Path, /) -> int:
    """Print what a policy costs, what it guarantees and how far it is, after reserving it.

    Parameters
    ----------
    policy
        The policy.
    """
    from cellgap.cli._stream_policy import read_policy
    from cellgap.cli._stream_release import Desk

    with Desk(read_policy(policy)) as desk:
        show(desk.budget.explain())
    return 0


@app.command
def verify(journal: Path, /) -> int:
    """Check from the journal alone that nothing was drawn twice, no step was lost, and the budget was kept.

    Parameters
    ----------
    journal
        Its folder.
    """
    from cellgap.stream import verify as verified

    show(str(verified(journal)))
    return 0


@app.command
def audit(policy: Path, /, *, runs: Annotated[int, Parameter(validator=Number(gte=1000))] = 20_000) -> int:
    """Attack the mechanisms of a policy with made-up streams, and print what the attacks prove about epsilon.

    No data and no journal are touched. Passing is no proof of privacy; a failure (exit code 1) is evidence of an error.

    Parameters
    ----------
    policy
        The policy.
    runs
        With the donor, and as many without.
    """
    from cellgap.cli._stream_policy import read_policy
    from cellgap.cli._stream_release import audited

    passed = True
    for found in audited(read_policy(policy), runs):
        show(str(found))
        passed = passed and found.passed
    return 0 if passed else 1

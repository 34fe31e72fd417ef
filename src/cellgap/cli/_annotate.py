"""``cellgap annotate``: fit a classifier of cells, label other cells, judge it on donors left out, write its page."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from cellgap.cli._say import note, show, warn
from cellgap.errors import StorageError

if TYPE_CHECKING:
    from cellgap.annotate import FittedAnnotator

app = App(name="annotate", help="Label cells of donors that were never seen, and say which to leave without a label.")

EXAMPLE = """\
# A run file of cellgap: `cellgap annotate fit run.toml`, then `cellgap annotate evaluate run.toml`.
# Without one: `cellgap annotate fit atlas.h5ad --label cell_type --domains donor --counts X`.
# Paths are relative to this file.

[data]
path = "atlas.h5ad"             # cells by genes: .h5ad file or .zarr folder

[design]
context = ["donor"]             # for a screen, also treatment and control, as in `cellgap fit --example`
counts = "X"                    # where the raw counts are: "X", or the name of a layer; leave out for other data

[split]                         # what training must not see; `evaluate` leaves out every donor in turn by itself
kind = "everything"

[annotate]
label = "cell_type"             # column of obs with the classes; cells without one are not trained on

[model]
kind = "Annotator"
domains = ["donor"]             # what new cells will differ in: donor, batch, laboratory
# norm = { kind = "GhostBatchNorm", size = 64 }
# genes = { n_top = 1000 }

[model.loss]                    # comp-sum loss; tau above 1 where labels may be wrong
tau = 1.0

[model.loop]
n_steps = 800
chunk = 100                     # logs, checkpoints and Ctrl-C come between chunks of steps

[run]
folder = "annotator"
seed = 0
"""

Changes = Annotated[tuple[str, ...], Parameter(name="--set", negative="")]
Flag = Annotated[bool, Parameter(negative="")]
Folder = Annotated[Path | None, Parameter(name=("--folder", "--out"))]
Many = Annotated[tuple[str, ...], Parameter(negative="")]


@app.command
def fit(
    given: Path | None = None,
    /,
    *,
    label: str | None = None,
    domains: Many = (),
    counts: str | None = None,
    folder: Folder = None,
    changes: Changes = (),
    quiet: Flag = False,
    example: Flag = False,
) -> int:
    """Fit an annotator on labelled cells; the same command continues a fit that was stopped.

    Parameters
    ----------
    given
        The cells (.h5ad file or .zarr folder), or a run file (.toml).
    label
        Column of obs with the classes.
    domains
        Column, or columns, of obs in which new cells will differ: --domains donor.
    counts
        Where the raw counts are: X, or the name of a layer.
    folder
        Where to keep the run.
    changes
        Replace settings: --set model.loop.n_steps=2000 --set run.seed=1.
    quiet
        Say nothing but errors.
    example
        Print a run file to start from, and do nothing else.
    """
    if example:
        print(EXAMPLE, end="")
        return 0
    from cellgap.cli._annotate_run import fitted_of, run_of

    run = run_of(given, changes, folder, label=label, domains=domains, counts=counts, command="fit")
    fitted = fitted_of(run, quiet=quiet)
    if fitted is None:
        if not quiet:
            note(f"interrupted; the work is kept in {run.folder}: run the same command again to continue.")
        return 130
    if not quiet:
        show(str(fitted), *map(str, fitted.gaps()))
        show(f"model: {run.folder}", f"next:  cellgap annotate predict {run.folder} cells.h5ad --out annotated.h5ad")
    return 0


@app.command
def predict(run: Path, data: Path, /, *, out: Path = Path("annotated.h5ad"), quiet: Flag = False) -> int:
    """Write cells with their labels, probabilities and reasons in obs["cellgap_..."].

    Parameters
    ----------
    run
        Folder of a fitted annotator.
    data
        The cells, .h5ad file or .zarr folder, with the same values in the same layer as those of the run.
    out
        The file to write: .h5ad for the cells with their labels, .csv for the labels alone.
    quiet
        Show no progress.
    """
    from cellgap.cli._annotate_files import annotated, told, written
    from cellgap.cli._embed_files import checked_out

    checked_out(out)
    fitted = opened(run)
    cells, table = annotated(fitted, data, keep=out.suffix == ".h5ad", progress=not quiet)
    written(cells, table, fitted, out)
    show(*told(table))
    show(f"{len(table):,} cells: {out}")
    return 0


@app.command
def evaluate(
    given: Path | None = None,
    /,
    *,
    label: str | None = None,
    domains: str | None = None,
    counts: str | None = None,
    target: Many = (),
    seeds: Annotated[int, Parameter(validator=Number(gte=1))] = 1,
    baseline: Many = ("logistic", "knn", "mlp"),
    radius: Annotated[tuple[float, ...], Parameter(negative="")] = (),
    molecules: Annotated[tuple[int, ...], Parameter(negative="")] = (),
    folder: Folder = None,
    report: Path | None = None,
    changes: Changes = (),
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    quiet: Flag = False,
) -> int:
    """Judge an annotator beside baselines on domains left out in turn; the same command continues what was stopped.

    Parameters
    ----------
    given
        The cells (.h5ad file or .zarr folder), a run file (.toml), or the folder of a run.
    label
        Column of obs with the classes.
    domains
        Column of obs whose values are left out in turn; by default that of the run.
    counts
        Where the raw counts are: X, or the name of a layer.
    target
        Values to leave out, such as --target d1 --target d2; by default all.
    seeds
        Fits for each target.
    baseline
        Any of logistic, knn and mlp.
    radius
        Attack log expression of every gene by at most so much: --radius 0.1.
    molecules
        Attack by so many molecules more or fewer: --molecules 3.
    folder
        Folder of the run; results are kept in its folder evaluation, target by target.
    report
        Write the page there, one HTML file.
    changes
        Replace settings: --set model.loop.n_steps=400.
    as_json
        Print the scores as JSON.
    quiet
        Show no progress.
    """
    from cellgap.cli._annotate_run import evaluated, run_of

    run = run_of(given, changes, folder, label=label, domains=(), counts=counts, command="evaluate")
    try:
        found = evaluated(
            run, domains, targets=target, n_seeds=seeds, baselines=baseline, radii=radius, counts=molecules,
            quiet=quiet,
        )  # fmt: skip
    except KeyboardInterrupt:
        note(f"interrupted; what is done is kept in {run.folder}: run the same command again to continue.")
        return 130
    if as_json:
        scores = {"summary": found.summary(), "targets": found.table}
        plain = {name: json.loads(table.to_json(orient="records") or "[]") for name, table in scores.items()}
        print(json.dumps(plain, indent=1))
    else:
        show(found)
    if report is not None:
        from cellgap.cli._annotate_report import report_data
        from cellgap.report import write_annotation_report

        path = write_annotation_report(report_data(run.folder, run.to_dict(), evaluation=found), report)
        show(f"report: {path}") if not as_json else note(f"report: {path}")
    return 0


@app.command
def report(run: Path, /, *, out: Path | None = None, quiet: Flag = False) -> int:
    """Write the page of an annotator: how it was chosen, what it reached on donors left out, what it cannot tell.

    Parameters
    ----------
    run
        Folder of a fitted annotator, of an evaluation, or both.
    out
        The file to write; by default report.html in the run's folder.
    quiet
        Show no progress.
    """
    from cellgap.cli._annotate_report import report_data
    from cellgap.cli._annotate_run import EVALUATION
    from cellgap.cli._run_file import read_toml
    from cellgap.cli._run_folder import MODEL, SETTINGS
    from cellgap.report import write_annotation_report

    there = (run / EVALUATION).is_dir()
    if not there and not (run / MODEL).exists():
        raise StorageError(
            f"{str(run)!r} holds neither an annotator nor its evaluation: give the folder that `cellgap annotate fit` "
            "or `cellgap annotate evaluate` wrote."
        )
    if not there and not quiet:
        warn(f"this annotator has not been judged on domains left out: `cellgap annotate evaluate {run}` does it")
    settings = read_toml(run / SETTINGS) if (run / SETTINGS).exists() else {}
    path = write_annotation_report(report_data(run, settings), out or run / "report.html")
    show(f"report: {path}")
    return 0


def opened(run: Path) -> "FittedAnnotator":
    """Return the annotator in a folder.

    Raises
    ------
    StorageError
        The folder holds no model, or another one.
    """
    from cellgap.annotate import FittedAnnotator
    from cellgap.storage import load

    fitted = load(run)
    if not isinstance(fitted, FittedAnnotator):
        raise StorageError(
            f"{run} holds a saved {type(fitted).__name__}, not an annotator: see `cellgap annotate fit`."
        )
    return fitted

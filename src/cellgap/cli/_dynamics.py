"""``cellgap dynamics``: learn a law of cells in time, forecast, name its edges, knock out, try strengths, report."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from cellgap.cli._dynamics_run import EXAMPLE, HINT
from cellgap.cli._say import note, show, warn
from cellgap.errors import ConfigError

app = App(name="dynamics", help="Learn a law of cells in time: forecast, network, knock-outs.")

Texts = Annotated[tuple[str, ...], Parameter(negative="")]
Changes = Annotated[tuple[str, ...], Parameter(name="--set", negative="")]
Flag = Annotated[bool, Parameter(negative="")]
Count = Annotated[int, Parameter(validator=Number(gte=1))]


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
    """Fit a law as a run file says; the same command continues a run that was stopped.

    Parameters
    ----------
    run_file
        TOML file with the sections data, design (of cells) or trajectories (of a table), split, model and run.
    folder
        Where to keep the run; replaces the folder of the file.
    changes
        Replace values of the file: --set model.penalty.strength=0.01.
    quiet
        Say nothing but errors.
    example
        Print a run file to start from, and do nothing else.
    """
    from cellgap.cli._dynamics_fit import fit_law
    from cellgap.cli._dynamics_run import read_dynamics_file

    if example:
        print(EXAMPLE, end="")
        return 0
    if run_file is None:
        raise ConfigError(f"fit needs a run file: `cellgap dynamics fit run.toml`; {HINT}")
    run = read_dynamics_file(run_file, changes, folder)
    found = fit_law(run, quiet=quiet)
    if found is None:
        return _interrupted(run.folder, quiet)
    if not quiet:
        fitted, parts = found
        for text in fitted.cautions():
            warn(text)
        for gap in fitted.gaps(parts.test):
            show(str(gap))
        show(
            f"law:  {run.folder} ({fitted.network()!r})",
            f"next: cellgap dynamics report {run.folder}",
            f"      cellgap dynamics network {run.folder}",
            f"      cellgap dynamics knockout {run.folder} --genes all",
        )
    return 0


@app.command
def forecast(
    run: Path,
    data: Path | None = None,
    /,
    *,
    times: str | None = None,
    hold: Texts = (),
    dose: Texts = (),
    cut: Texts = (),
    out: Path | None = None,
) -> int:
    """Write where trajectories, or cells, are at later times, also where variables are held.

    Parameters
    ----------
    run
        Folder of a fitted law.
    data
        What to start from: a table, of whose trajectories the first states are taken, or cells (.h5ad), of which each
        is moved; by default the trajectories that the run holds out, or those of training.
    times
        Since the start, separated by commas: --times 0,0.5,1; by default those of a training trajectory.
    hold
        Hold a variable at a value: --hold GATA1=0 knocks it out, a high value overexpresses it.
    dose
        Multiply the production of a variable: --dose GATA1=0.5.
    cut
        Remove an edge: --cut GATA1:KLF1, or all from a regulator: --cut "GATA1:*".
    out
        The file to write: a table (.csv, .tsv), or .h5ad for cells.
    """
    from cellgap.cli._dynamics_files import open_law
    from cellgap.cli._dynamics_forecast import intervention_of, numbers_of, write_forecast

    opened, fitted = open_law(run)
    acting = intervention_of(fitted, hold, dose, cut)
    asked = None if times is None else numbers_of(times, "--times")
    path, told = write_forecast(opened, fitted, data, asked, acting, out)
    show(f"{told}: {path}")
    return 0


@app.command
def network(
    run: Path,
    /,
    *,
    score: Literal["jacobian", "paths", "groups"] = "jacobian",
    n: Count = 50,
    kept: Flag = False,
    truth: Path | None = None,
    out: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Print which variable drives which: the strongest edges, with sign, stability over seeds, and p value.

    Parameters
    ----------
    run
        Folder of a fitted law.
    score
        jacobian: mean absolute derivative; paths: products of weights; groups: norms of first weights.
    n
        Edges to print.
    kept
        Only edges that the law keeps.
    truth
        Known edges, a table with the columns regulator and target, or regulators by targets: prints how well they are
        found.
    out
        A table to write, .csv, of all edges.
    as_json
        Print JSON instead of a table.
    """
    from cellgap.cli._dynamics_files import open_law
    from cellgap.cli._dynamics_network import plain, read_truth, recovery, shown_edges, suffix_of

    separator = "," if out is None else suffix_of(out)
    edges_known = None if truth is None else read_truth(truth)
    _, fitted = open_law(run)
    found = fitted.network(score)
    scores = {} if edges_known is None else recovery(found, edges_known)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        found.edges(kept=kept).to_csv(out, index=False, sep=separator)
    edges = found.edges(n, kept=kept)
    if as_json:
        about = {"score": score, "kept": int(found.kept.to_numpy().sum()), "k": found.k, "stability": found.stability}
        print(json.dumps(plain({**about, "edges": edges.to_dict("records"), "recovery": scores}), indent=1))
        return 0
    show(shown_edges(edges) if len(edges) else "no edge is kept.")
    show(f"{found!r}; frequency: share of the members that have an edge among their {found.k} best")
    for name, value in scores.items():
        show(f"{name}: {value:.4g}")
    if out is not None:
        show(f"edges: {out}")
    return 0


@app.command
def knockout(
    run: Path,
    /,
    *,
    genes: str,
    value: float = 0.0,
    times: str | None = None,
    n: Count = 20,
    out: Path = Path("knockouts.h5ad"),
) -> int:
    """Write how courses change where a variable is held, for many variables one after the other.

    Parameters
    ----------
    run
        Folder of a fitted law.
    genes
        "all", or names separated by commas.
    value
        At which each is held: 0 knocks it out.
    times
        Since the start, separated by commas; by default those of a training trajectory.
    n
        Rows to print of the table of effects.
    out
        The file to write, .h5ad: a row a knocked variable and time, the change as X.
    """
    from cellgap.cli._dynamics_files import open_law
    from cellgap.cli._dynamics_forecast import listed, numbers_of

    if out.suffix != ".h5ad":
        raise ConfigError(f"--out must name an .h5ad file, found {str(out)!r}.")
    asked = None if times is None else numbers_of(times, "--times")
    names: Any = genes if genes == "all" else listed(genes, "--genes")
    _, fitted = open_law(run)
    screen = fitted.knock_out(names, times=asked, value=value)
    out.parent.mkdir(parents=True, exist_ok=True)
    screen.write_h5ad(out)
    table = screen.uns["knocked"]
    show(table.head(n).round(4).to_string())
    if len(table) > n:
        show(f"{len(table) - n:,} more: uns['knocked'] of the file")
    show(f"{len(table):,} knock-outs at {screen.n_obs // len(table):,} times: {out}")
    return 0


@app.command
def path(
    run_file: Path,
    /,
    *,
    strengths: str = "1e-4,3e-4,1e-3,3e-3,1e-2,3e-2,1e-1",
    regulators: str | None = None,
    folder: Path | None = None,
    changes: Changes = (),
    quiet: Flag = False,
) -> int:
    """Fit laws of several strengths of the penalty side by side: error against sparsity, in path.csv of the run.

    Parameters
    ----------
    run_file
        As for fit; the same command continues a path that was stopped.
    strengths
        Lambdas, separated by commas.
    regulators
        Variables that are known to regulate, separated by commas: adds the share of spurious inputs that are closed.
    folder
        Where to keep the run; replaces the folder of the file.
    changes
        Replace values of the file: --set model.members=3.
    quiet
        Say nothing but errors.
    """
    from cellgap.cli._dynamics_fit import fit_strengths
    from cellgap.cli._dynamics_forecast import listed, numbers_of
    from cellgap.cli._dynamics_run import read_dynamics_file

    asked = numbers_of(strengths, "--strengths")
    known = None if regulators is None else listed(regulators, "--regulators")
    run = read_dynamics_file(run_file, changes, folder)
    table = fit_strengths(run, asked, known, quiet=quiet)
    if table is None:
        return _interrupted(run.folder, quiet)
    column = "valid" if bool(table["valid"].notna().any()) else "train"
    best = float(table.loc[table[column].idxmin(), "strength"])
    show(table.to_string(index=False, float_format=lambda x: f"{x:.4g}"))
    show(
        f"lowest error of {'validation' if column == 'valid' else 'training'} trajectories: strength {best:g}",
        f"path: {run.folder / 'path.csv'}",
        f"next: cellgap dynamics fit {run_file} --set model.penalty.strength={best:g}",
    )
    return 0


@app.command
def report(
    run: Path,
    /,
    *,
    genes: str | None = None,
    data: Path | None = None,
    out: Path | None = None,
) -> int:
    """Write the page of a law: forecasts beside the data and the baselines, network, knock-outs, gaps.

    Parameters
    ----------
    run
        Folder of a fitted law.
    genes
        Variables to knock out, "all", or names separated by commas; by default the 40 strongest regulators.
    data
        Where the run's data are now, if they were moved.
    out
        The file to write; by default report.html in the run's folder.
    """
    from cellgap.cli._dynamics_files import open_law
    from cellgap.cli._dynamics_forecast import listed
    from cellgap.cli._dynamics_report import report_data
    from cellgap.report import write_dynamics_report

    names: Any = genes if genes in (None, "all") else listed(str(genes), "--genes")
    opened, fitted = open_law(run)
    page = report_data(opened, fitted, names, data)
    written = write_dynamics_report(page, out or run / "report.html")
    show(page.scores.round(4).to_string(index=False), f"report: {written}")
    return 0


def _interrupted(folder: Path, quiet: bool) -> int:
    if not quiet:
        note(f"interrupted; the work is kept in {folder}: run the same command again to continue.")
    return 130

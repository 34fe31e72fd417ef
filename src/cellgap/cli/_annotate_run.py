"""Runs of annotators: from cells or a run file to a fit, and to an evaluation on domains left out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellgap.cli._run_file import RunFile, checked, read_toml, set_value
from cellgap.cli._say import note, warn
from cellgap.errors import CellgapError, ConfigError

if TYPE_CHECKING:
    from cellgap.annotate import FittedAnnotator
    from cellgap.evaluate import AnnotationEvaluation
    from cellgap.study import Study

EVALUATION = "evaluation"
"""Folder of the evaluation inside the folder of a run."""

_FOLDER = "annotator"


def run_of(
    given: Path | None,
    changes: Sequence[str],
    folder: Path | None,
    *,
    label: str | None,
    domains: Sequence[str],
    counts: str | None,
    command: str,
) -> RunFile:
    """Return the run that a file of cells, a run file or the folder of a run describes.

    Parameters
    ----------
    given
        The path.
    changes
        Values that replace settings.
    folder
        Replaces the folder of the run.
    label, domains, counts
        What the options of the command line say; each replaces the value of a run file.
    command
        Which command asks.

    Raises
    ------
    ConfigError, DesignError, SplitError
        There is no such file, or a setting is missing or wrong.
    """
    from cellgap.cli._run_folder import SETTINGS

    if given is None:
        raise ConfigError(
            f"{command} needs cells or a run file: `cellgap annotate {command} cells.h5ad --label cell_type "
            "--domains donor --counts X`; `cellgap annotate fit --example` prints a run file."
        )
    if given.is_dir() and (given / SETTINGS).exists():
        values, base, folder = read_toml(given / SETTINGS), given, folder or given
        values["run"] = {"seed": values.get("run", {}).get("seed", 0)}
    elif given.suffix == ".toml":
        values, base = read_toml(given), given.resolve().parent
    else:
        if not given.exists():
            raise ConfigError(f"There is no file {str(given)!r}: give cells (.h5ad, .zarr) or a run file (.toml).")
        values, base = _of_cells(given), Path.cwd()
    told = given if given.suffix == ".toml" else None
    try:
        for section, key, value in (
            ("annotate", "label", label),
            ("design", "counts", counts),
            ("model", "domains", list(domains) or None),
        ):
            if value is not None:
                values.setdefault(section, {})[key] = value
        for change in changes:
            set_value(values, change)
        if told is None and "label" not in values.get("annotate", {}):
            raise ConfigError("Say which column of obs holds the classes: --label cell_type.")
        return checked(values, base, folder, annotates=True)
    except CellgapError as error:
        if told is None:
            raise
        raise type(error)(f"{told}: {error}") from None


def _of_cells(data: Path) -> dict[str, Any]:
    """Return the sections of a run on all cells of a file, without a word about what was done to them."""
    return {
        "data": {"path": str(data.resolve())},
        "design": {"combine": "+"},
        "split": {"kind": "everything"},
        "model": {"kind": "Annotator"},
        "run": {"folder": _FOLDER},
    }


def study_of(run: RunFile, *, quiet: bool) -> "Study":
    """Return the study of a run, after saying what it is."""
    from cellgap.study import Design, Study

    study = Study.read(run.data, Design.from_dict(run.design), backed=run.backed)
    if not quiet:
        note(f"{study!r}")
        if not study.is_counts and any("raw counts" in text for text in study.findings.warnings):
            warn("X holds whole numbers: if these are raw counts, say so with --counts X, and depth is taken out")
    return study


def fitted_of(run: RunFile, *, quiet: bool) -> "FittedAnnotator | None":
    """Return the annotator of a run, fitted or loaded where it was already; None where Ctrl-C stopped it.

    A run that is refused before its first step leaves no folder behind.

    Raises
    ------
    CellgapError
        Anything the user got wrong.
    """
    import jax.random as jr

    from cellgap.cli._annotate import opened
    from cellgap.cli._run_folder import MODEL, claim, split_of
    from cellgap.settings import from_dict
    from cellgap.storage import save

    with _nothing_left(run.folder):
        claim(run)
        try:
            study = study_of(run, quiet=quiet)
            split = split_of(run, study)
            if (run.folder / MODEL).exists():
                if not quiet:
                    note(f"{run.folder} holds this run, finished.")
                return opened(run.folder)
            fitted: FittedAnnotator = from_dict(run.model).fit(
                split, run.annotate["label"], key=jr.key(run.seed), folder=run.folder, progress=not quiet
            )
        except KeyboardInterrupt:
            return None
        if fitted.stopped == "interrupted":
            return None
        save(fitted, run.folder, header={"run": run.to_dict()})
        return fitted


@contextmanager
def _nothing_left(folder: Path) -> Iterator[None]:
    """Take away what a refused run put into its folder, and the folder where it is new."""
    from cellgap.cli._run_folder import SETTINGS, SPLIT

    before = {path.name for path in folder.iterdir()} if folder.is_dir() else None
    try:
        yield
    except CellgapError:
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if there <= {SETTINGS, SPLIT, *(before or ())}:
            for name in {SETTINGS, SPLIT} & (there - (before or set())):
                (folder / name).unlink()
            if before is None and folder.is_dir():
                folder.rmdir()
        raise


def evaluated(
    run: RunFile,
    domains: str | None,
    *,
    targets: Sequence[str],
    n_seeds: int,
    baselines: Sequence[str],
    radii: Sequence[float],
    counts: Sequence[int],
    quiet: bool,
) -> "AnnotationEvaluation":
    """Return the evaluation of a run's annotator on domains left out; what is done is in its folder.

    Raises
    ------
    CellgapError
        Anything the user got wrong.
    """
    import jax.random as jr

    from cellgap.evaluate import annotation
    from cellgap.settings import from_dict

    known = list(run.model.get("domains", ()))
    if domains is None and len(known) != 1:
        several = f" ({', '.join(known)} are the domains of the model)" if known else ""
        raise ConfigError(f"Say which column of obs is left out in turn{several}: --domains donor.")
    study = study_of(run, quiet=quiet)
    return annotation(
        {"annotator": from_dict(run.model)},
        study,
        run.annotate["label"],
        domains=domains or known[0],
        targets=targets or None,
        n_seeds=n_seeds,
        baselines=baselines,
        radii=radii,
        counts=counts,
        folder=run.folder / EVALUATION,
        key=jr.key(run.seed),
        progress=not quiet,
    )

"""``cellgap fit``: from a run file to a fitted model in a folder; killed and started again is as never killed."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from cellgap.cli._run_file import EXAMPLE, RunFile, read_run_file
from cellgap.cli._say import note, show
from cellgap.errors import ConfigError

if TYPE_CHECKING:
    from cellgap.study import Split
    from cellgap.transport import AbstractMap


def fit(
    run_file: Path | None = None,
    /,
    *,
    folder: Path | None = None,
    changes: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    quiet: Annotated[bool, Parameter(negative="")] = False,
    example: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Fit a model as a run file says; the same command continues a run that was stopped.

    Parameters
    ----------
    run_file
        TOML file with the sections data, design, split, model and run.
    folder
        Where to keep the run; replaces the folder of the file.
    changes
        Replace values of the file: --set model.optimization.loop.n_steps=500 --set run.seed=1.
    quiet
        Say nothing but errors.
    example
        Print a run file to start from, and do nothing else.
    """
    if example:
        print(EXAMPLE, end="")
        return 0
    if run_file is None:
        raise ConfigError("fit needs a run file: `cellgap fit run.toml`; `cellgap fit --example` prints one.")
    run = read_run_file(run_file, changes, folder)
    if run.model["kind"] == "ContrastiveEmbedding":
        raise ConfigError("[model] kind 'ContrastiveEmbedding' is no map of cells: see `cellgap embed fit`.")
    fitted = fit_run(run, quiet=quiet)
    if fitted is None:
        if not quiet:
            note(f"interrupted; the work is kept in {run.folder}: run the same command again to continue.")
        return 130
    if not quiet:
        for gap in fitted.gaps():
            show(str(gap))
        show(f"model: {run.folder}", f"next:  cellgap evaluate {run.folder}")
    return 0


def fit_run(run: RunFile, *, quiet: bool = False) -> "AbstractMap | None":
    """Return the model of a run, fitted or loaded where it was already; None where Ctrl-C stopped it.

    Raises
    ------
    CellgapError
        Anything the user got wrong.
    """
    from cellgap.cli._run_folder import MODEL, claim, split_of
    from cellgap.storage import load, save
    from cellgap.study import Design, Study

    claim(run)
    try:
        study = Study.read(run.data, Design.from_dict(run.design), backed=run.backed)
        split = split_of(run, study)
        if (run.folder / MODEL).exists():
            if not quiet:
                note(f"{run.folder} holds this run, finished.")
            return load(run.folder)
        if not quiet:
            note(f"{study!r}")
            note(f"{split.kind}: {_divided(split)}")
        fitted = _fitted(run, split, quiet)
    except KeyboardInterrupt:
        return None
    if getattr(fitted, "stopped", "") == "interrupted":
        return None
    save(fitted, run.folder, header={"run": run.to_dict()})
    return fitted


def _divided(split: "Split") -> str:
    """Return what is trained on and what is held out, in words."""
    from cellgap.study import Role

    if split.study.conditions:
        return f"{len(split.train_conditions)} conditions to train on, {len(split.test_conditions)} held out"
    held = len(split.cells(Role.SOURCE, Role.REFERENCE))
    return f"{len(split.cells(Role.TRAIN)):,} cells to train on, {held:,} held out"


def _fitted(run: RunFile, split: Any, quiet: bool) -> Any:
    import jax.random as jr

    from cellgap.settings import from_dict

    estimator, key = from_dict(run.model), jr.key(run.seed)
    # Only what is trained step by step has something to keep on the way.
    if "folder" in inspect.signature(estimator.fit).parameters:
        return estimator.fit(split, key=key, folder=run.folder, progress=not quiet)
    return estimator.fit(split, key=key)

"""``cellgap predict``: the cells that controls are predicted to become under conditions, as one AnnData file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cellgap.cli._run_folder import Run
from cellgap.cli._say import show, warn
from cellgap.errors import ConditionError, ConfigError

if TYPE_CHECKING:
    from anndata import AnnData

    from cellgap.study import Condition


def predict(
    run: Path,
    /,
    *,
    condition: Annotated[tuple[str, ...], Parameter(negative="")],
    controls: Path | None = None,
    out: Path = Path("predicted.h5ad"),
    data: Path | None = None,
    counts: Annotated[bool, Parameter(negative="")] = False,
    seed: int = 0,
) -> int:
    """Write the cells that controls are predicted to become under one condition or several.

    Parameters
    ----------
    run
        Folder of a finished run.
    condition
        Such as "trametinib@1000nM | A549"; may be given several times.
    controls
        Control cells to predict from (.h5ad); by default controls of the run's data that were not trained on.
    out
        The file to write, .h5ad.
    data
        Where the run's data are now, if they were moved.
    counts
        Write raw counts, each cell with the total of its control cell, instead of expression.
    seed
        Of the draw of counts.
    """
    if out.suffix != ".h5ad":
        raise ConfigError(f"--out must name an .h5ad file, found {str(out)!r}.")
    opened = Run.open(run, data)
    cells = predict_run(opened, condition, controls, output="counts" if counts else "expression", seed=seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    cells.write_h5ad(out)
    table = cells.uns["cellgap"]["conditions"]
    for row in table.itertuples():
        near = f"nearest training condition {row.nearest} (distance {row.distance:.2f})"
        show(f"{row.condition}: {row.n_cells:,} cells, {near}")
        if "error" in table:
            bound = f"off by {row.error:.3g} at most in {row.coverage:.0%} of unseen conditions"
            show(f"  mean effect {row.effect:.3g}, {bound if row.coverage > 0 else 'with no bound of its error'}")
        if row.extrapolates:
            warn(f"{row.condition} extrapolates: {row.extrapolates}.")
    show(f"cells: {out}")
    return 0


def predict_run(
    run: Run,
    conditions: tuple[str, ...],
    controls: Path | None = None,
    *,
    output: str = "expression",
    seed: int = 0,
) -> "AnnData":
    """Return predicted cells of conditions, one below the other.

    ``obs["condition"]`` names the condition of a cell, ``obs["control"]`` the control cell it was moved from;
    ``uns["cellgap"]["conditions"]`` says for each condition how far it is from the training conditions.

    Raises
    ------
    ConditionError
        The model has no answer for a condition, or there are no controls of its context.
    """
    import anndata
    import numpy as np
    import pandas as pd

    from cellgap.transport import FittedEnsemble

    fitted = run.fitted
    known = [fitted.vocabulary.resolve(text) for text in conditions]
    for one in known:
        fitted.encoder.encode(one)
    given = None if controls is None else _read(controls)
    parts, rows = [], []
    for one in known:
        cells = _controls(run, one) if given is None else given
        part = fitted.predict(cells, one, output=output, seed=seed)
        info = part.uns["cellgap"]
        rows.append(
            {
                "condition": str(one),
                "n_cells": part.n_obs,
                "nearest": info["nearest_training_condition"],
                "distance": info["distance_to_training"],
                "extrapolates": "; ".join(info["extrapolates"]),
            }
        )
        if isinstance(fitted, FittedEnsemble) and not one.is_control:
            found = fitted.uncertainty(one, np.asarray(part.obsm["X_cellgap_source"]))
            rows[-1] |= {name: getattr(found, name) for name in ("effect", "spread", "error", "coverage")}
        part.obs["control"] = part.obs_names.astype(str)
        if len(known) > 1:
            part.obs_names = part.obs_names.astype(str) + f"-{len(parts)}"
        parts.append(part)
    cells = anndata.concat(parts) if len(parts) > 1 else parts[0]
    told = parts[0].uns["cellgap"]
    about = {name: told[name] for name in ("model", "versions", "counts") if name in told}
    cells.uns["cellgap"] = about | {
        "conditions": pd.DataFrame(rows, index=pd.Index([str(i) for i in range(len(rows))]))
    }
    return cells


def _read(path: Path) -> "AnnData":
    from cellgap.study._read import open_study_file

    return open_study_file(path)


def _controls(run: Run, condition: "Condition") -> "AnnData":
    """Return the controls of a condition's context that were not trained on."""
    from cellgap.study import Role

    study, split = run.study, run.split
    control = condition.control
    if control not in study.populations:
        there = ", ".join(str(c) for c in study.controls)
        raise ConditionError(
            f"The run's data have no controls for {str(condition)!r} (there are {there}): give cells with --controls."
        )
    for role in (Role.SOURCE, Role.VALID):
        rows = split.rows(control, role)
        if len(rows):
            return study.adata[rows].to_memory()
    raise ConditionError(f"Every control of {str(condition)!r} was trained on: give other cells with --controls.")

"""What the commands of a law read: the trajectories of a run, divided, and the law in its folder."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cellgap.cli._dynamics_run import DynamicsRun, Labels
from cellgap.errors import DataError, StorageError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from cellgap.dynamics import FittedLaw, Trajectories
    from cellgap.dynamics._reading import Courses
    from cellgap.space import AbstractFittedSpace
    from cellgap.study import Split, Study


@dataclass(frozen=True, eq=False)
class Parts:
    """The trajectories of a run.

    Parameters
    ----------
    train, valid, test
        To learn from, to choose the best step with, held out; None: there are none.
    space
        In which the states of cells are; None for a table.
    study, rows
        The cells, and which of them are held out (all, where none are); None for a table.
    """

    train: "Trajectories"
    valid: "Trajectories | None"
    test: "Trajectories | None"
    space: "AbstractFittedSpace | None" = None
    study: "Study | None" = None
    rows: "np.ndarray | None" = None

    @property
    def shown(self) -> "Trajectories":
        """The trajectories that are held out; those of training where none are."""
        return self.train if self.test is None else self.test


def read_parts(run: DynamicsRun, law: Any, fitted: "FittedLaw | None" = None) -> Parts:
    """Return the trajectories of a run, in the space of a fitted law where there is one.

    Parameters
    ----------
    run
        The run file.
    law
        The estimator that it describes.
    fitted
        The law that was fitted; None: a space is fitted on the cells that are not held out.

    Raises
    ------
    DataError, DesignError
        The data cannot be read, or no trajectory has the labels of the split.
    """
    parts = _of_table(run) if run.columns is not None else _of_cells(run, law, fitted)
    told = [label for label in law.inputs if label in parts.train.about]
    for name, held in (("test", parts.test), ("valid", parts.valid)):
        if held is None:
            continue
        for label in told:
            known, found = (set(part.about[label].astype(str)) for part in (parts.train, held))
            if found - known:
                raise DataError(
                    f"[split] {name}: the law is told {label!r}, and no training trajectory has "
                    f"{label} = {min(found - known)!r}: leave {label!r} out of [model] inputs."
                )
    return parts


def read_courses_of(run: DynamicsRun, path: Path, law: "FittedLaw") -> "Courses":
    """Return the courses in another table, whose columns are called as in that of the run."""
    from cellgap.dynamics._reading import read_courses

    columns = dict(run.columns or {})
    return read_courses(
        path,
        trajectory=columns.get("trajectory", "trajectory"),
        time=columns.get("time", "time"),
        labels=law.constants.labels,
        inputs=law.constants.names,
        variables=law.variables,
    )


def open_law(folder: Path) -> "tuple[DynamicsRun, FittedLaw]":
    """Return the run in a folder, and its law.

    Raises
    ------
    StorageError
        It is no run of a law, or it is not finished.
    """
    from cellgap.cli._run_file import read_toml
    from cellgap.cli._run_folder import MODEL, SETTINGS
    from cellgap.dynamics import FittedLaw
    from cellgap.storage import load

    if not (folder / SETTINGS).exists():
        there = "it has no run.toml" if folder.exists() else "there is no such folder"
        raise StorageError(
            f"{str(folder)!r} is not the folder of a law ({there}): give the one `cellgap dynamics fit` wrote."
        )
    if not (folder / MODEL).exists():
        raise StorageError(
            f"The law in {str(folder)!r} is not finished: continue it with the same `cellgap dynamics fit` command."
        )
    fitted = load(folder)
    if not isinstance(fitted, FittedLaw):
        raise StorageError(f"{folder} holds a saved {type(fitted).__name__}, not a law: `cellgap dynamics fit`.")
    settings = read_toml(folder / SETTINGS)
    try:
        data, split, run = (settings[name] for name in ("data", "split", "run"))
        found = DynamicsRun(
            data=Path(data["path"]),
            backed=data["backed"],
            design=settings.get("design"),
            columns=settings.get("trajectories"),
            test=split.get("test", {}),
            valid=split.get("valid", {}),
            model=settings["model"],
            folder=folder,
            seed=run["seed"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{folder / SETTINGS} is damaged ({error!r}): fit again in another folder.") from None
    return found, fitted


def parts_of(run: DynamicsRun, fitted: "FittedLaw", data: Path | None = None) -> Parts:
    """Return the trajectories of a fitted run; `data` says where they are now, if they were moved."""
    from cellgap.settings import from_dict

    run = run if data is None else dataclasses.replace(run, data=data)
    if not run.data.exists():
        raise StorageError(f"The data of this run, {str(run.data)!r}, are not there: say where with --data.")
    return read_parts(run, from_dict(run.model), fitted)


def _of_table(run: DynamicsRun) -> Parts:
    from cellgap.dynamics import read_trajectories

    whole = read_trajectories(run.data, **(run.columns or {}))
    test, valid, rest = _masks(whole.about, run)
    held = [whole.take(mask) if mask.any() else None for mask in (valid, test)]
    return Parts(whole.take(rest), held[0], held[1])


def _of_cells(run: DynamicsRun, law: Any, fitted: "FittedLaw | None") -> Parts:
    import numpy as np

    from cellgap.dynamics import bin_cells
    from cellgap.study import Design, Study

    study = Study.read(run.data, Design.from_dict(run.design or {}), backed=run.backed)
    test, valid, rest = _masks(study.obs, run)
    split = _without(study, test | valid, run.seed)
    space = None if fitted is None else fitted.space
    train, space = bin_cells(split, law.cells, space=space, rows=np.flatnonzero(rest))
    held = [
        bin_cells(split, law.cells, space=space, rows=np.flatnonzero(mask))[0] if mask.any() else None
        for mask in (valid, test)
    ]
    return Parts(train, held[0], held[1], space, study, np.flatnonzero(test if test.any() else np.ones_like(test)))


def _without(study: "Study", held: "np.ndarray", seed: int) -> "Split":
    """Return a split that trains on all cells but those that are held out."""
    import numpy as np

    from cellgap.study import Role, split

    whole = split.everything(study, seed=seed)
    roles = np.where(held, int(Role.UNUSED), whole.roles).astype(whole.roles.dtype)
    kept = [c for c in study.conditions if (roles[study.populations[c]] == int(Role.TRAIN)).any()]
    return dataclasses.replace(whole, roles=roles, train_conditions=tuple(kept))


def _masks(about: "pd.DataFrame", run: DynamicsRun) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
    """Return what is held out to test, held out to choose the best step, and left to train on."""
    test, valid = (_mask(about, labels, name) for name, labels in (("test", run.test), ("valid", run.valid)))
    if (test & valid).any():
        raise DataError("[split] test and valid have trajectories in common: their labels overlap.")
    rest = ~(test | valid)
    if not rest.any():
        raise DataError("[split] holds everything out: no trajectory is left to train on.")
    return test, valid, rest


def _mask(about: "pd.DataFrame", labels: Labels, where: str) -> "np.ndarray":
    import numpy as np

    if not labels:
        return np.zeros(len(about), bool)
    kept = np.ones(len(about), bool)
    for name, values in cast("Mapping[str, Sequence[str]]", labels).items():
        if name not in about:
            raise DataError(f"[split] {where}: there is no label {name!r}, but {', '.join(map(str, about.columns))}.")
        found = about[name].astype(str)
        odd = [value for value in values if value not in set(found)]
        if odd:
            known = ", ".join(sorted(set(found))[:8])
            raise DataError(f"[split] {where}: no trajectory has {name} = {odd[0]!r}: there are {known}.")
        kept &= found.isin(list(values)).to_numpy()
    if not kept.any():
        told = ", ".join(f"{name} = {'/'.join(values)}" for name, values in labels.items())
        raise DataError(f"[split] {where}: no trajectory has all of {told}.")
    return kept

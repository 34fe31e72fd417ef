"""Run files of ``cellgap dynamics``: which trajectories, which of them the law must not see, which law."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellgap.cli._run_file import read_toml, refuse_unknown, set_value, text_of
from cellgap.errors import CellgapError, ConfigError, DesignError

SECTIONS = {
    "data": ("path", "backed"),
    "design": None,
    "trajectories": ("trajectory", "time", "labels", "inputs", "variables"),
    "split": ("test", "valid"),
    "model": None,
    "run": ("folder", "seed"),
}
"""Sections of a run file and the keys of those that have fixed ones."""

CELLS = (".h5ad", ".zarr", ".h5mu")
HINT = "`cellgap dynamics fit --example` prints a run file."

EXAMPLE = """\
# A run file of cellgap: `cellgap dynamics fit run.toml`. Paths are relative to this file.

[data]
path = "cells.h5ad"             # cells with a time: .h5ad, .zarr; or a table of trajectories: .csv, .tsv (also .gz)

[design]                        # of cells: which columns of obs mean what
time = "pseudotime"
context = ["lineage"]           # every lineage of every donor is a trajectory
donor = "donor"
counts = "X"                    # where the raw counts are: "X", or the name of a layer; leave out for other data

# [trajectories]                # of a table, in place of [design]: a row a state, a column a variable
# trajectory = "mouse"          # (or a row a value: columns variable and value)
# time = "day"
# labels = ["donor"]            # what is known of a trajectory
# inputs = ["dose"]             # numbers that enter the law as constants

[split]                         # what the law must not see, by labels; several labels have to hold together
test = { donor = ["d2"] }
# valid = { donor = ["d3"] }    # chooses the best step; else a share of the training trajectories does

[model]
kind = "NeuralLaw"
inputs = ["lineage"]            # labels that the law is told
members = 5                     # laws from different seeds: forecasts are their mean, edges have a stability
null = 1                        # laws of shuffled courses: edges have p values

[model.penalty]                 # what makes the law sparse:
kind = "GroupLasso"             # or PathReg, CNODE, L0, L1, LassoNet, NoPenalty
strength = 0.003                # `cellgap dynamics path run.toml` tries several

[model.cells]                   # how cells become trajectories
n_bins = 10
clock = "rescaled"              # "as given", "rescaled" to 0 to 1 within each trajectory, "quantiles"
# space = { kind = "PCA", dim = 20 }   # genes if left out

[model.training]
loop = { n_steps = 1500 }

[run]
folder = "law"                  # the law, its settings and checkpoints are kept here
seed = 0
"""

Labels = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class DynamicsRun:
    """A run file with every path absolute and every setting checked.

    Parameters
    ----------
    data
        Path of the cells, or of the table of trajectories.
    backed
        Whether the matrix of cells stays on disk.
    design
        Fields of the design of cells; None for a table.
    columns
        Which columns of a table mean what; None for cells.
    test, valid
        Labels of the trajectories that are held out; empty: none.
    model
        Settings of the estimator as plain values, defaults filled in.
    folder
        Where the run is kept.
    seed
        Of the fit.
    """

    data: Path
    backed: bool
    design: Mapping[str, Any] | None
    columns: Mapping[str, Any] | None
    test: Labels
    valid: Labels
    model: Mapping[str, Any]
    folder: Path
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return what is written into the run's folder; all that decides the numbers."""
        what = {"design": dict(self.design)} if self.design is not None else {"trajectories": dict(self.columns or {})}
        held = {name: dict(labels) for name, labels in (("test", self.test), ("valid", self.valid)) if labels}
        return {
            "data": {"path": str(self.data), "backed": self.backed},
            **what,
            "split": held,
            "model": dict(self.model),
            "run": {"seed": self.seed},
        }


def read_dynamics_file(path: Path, changes: Sequence[str] = (), folder: Path | None = None) -> DynamicsRun:
    """Return the checked contents of a run file.

    Parameters
    ----------
    path
        The TOML file.
    changes
        Values that replace those of the file: ``model.penalty.strength=0.01``.
    folder
        Replaces the folder of the file; relative to the working directory.

    Raises
    ------
    ConfigError, DesignError
        The file is missing or not TOML, or a key or value is wrong.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"There is no file {str(path)!r}: {HINT}")
    values = read_toml(path)
    for change in changes:
        set_value(values, change)
    try:
        return checked(values, path.resolve().parent, folder)
    except CellgapError as error:
        raise type(error)(f"{path}: {error}") from None


def checked(values: Mapping[str, Any], base: Path, folder: Path | None) -> DynamicsRun:
    """Return the run that the sections of a file describe.

    Parameters
    ----------
    values
        Contents of the file.
    base
        Folder that relative paths start from.
    folder
        Replaces the folder of the file.

    Raises
    ------
    ConfigError, DesignError
        A key or value is wrong.
    """
    from cellgap.cli._settings import law_of
    from cellgap.dynamics._reading import TABLES
    from cellgap.settings import to_dict

    refuse_unknown(values, tuple(SECTIONS), "the run file has no section")
    for name, keys in SECTIONS.items():
        section = values.get(name, {})
        if not isinstance(section, Mapping):
            raise ConfigError(f"[{name}] must be a table, found {section!r}.")
        if keys is not None:
            refuse_unknown(section, keys, f"[{name}] has no key")
    if "path" not in values.get("data", {}):
        raise ConfigError(f"[data] needs 'path': {HINT}")
    run, given = values.get("run", {}), values["data"]
    seed, backed = run.get("seed", 0), given.get("backed", False)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f"[run] seed must be a whole number of 0 or more, found {seed!r}.")
    if not isinstance(backed, bool):
        raise ConfigError(f"[data] backed must be true or false, found {backed!r}.")
    law = law_of(values.get("model", {}), base)
    data = base / text_of(given["path"], "[data] path")
    cells, table = data.suffix in CELLS, data.name.lower().endswith(TABLES)
    if not (cells or table):
        raise ConfigError(f"[data] path is cells ({', '.join(CELLS)}) or a table ({', '.join(TABLES)}), found {data}.")
    wrong, right = ("trajectories", "design") if cells else ("design", "trajectories")
    if wrong in values:
        raise ConfigError(f"[{wrong}] does not belong to {data.name}: give [{right}].")
    design = _design(values, base) if cells else None
    columns = None if cells else _columns(values.get("trajectories", {}))
    held = {name: _labels(values.get("split", {}), name) for name in ("test", "valid")}
    known = columns["labels"] if columns is not None else None
    if known is None:
        known = list(law.cells.by) or _context(design or {})
        asked = [("[model] inputs", law.inputs)]
        where = "[model.cells] by" if law.cells.by else "[design] context or donor"
    else:
        asked = [("[model] inputs", law.inputs), *((f"[split] {name}", labels) for name, labels in held.items())]
        where = "[trajectories] labels"
    for what, names in asked:
        odd = next((name for name in names if name not in known), None)
        if odd is not None:
            raise ConfigError(f"{what}: {odd!r} is no label of a trajectory: name it in {where}.")
    if not data.exists():
        raise ConfigError(f"[data] path: there is no file {str(data)!r}.")
    kept = base / text_of(run.get("folder", "law"), "[run] folder") if folder is None else folder
    return DynamicsRun(
        data.resolve(), backed, design, columns, held["test"], held["valid"], to_dict(law), kept.resolve(), seed
    )


def _design(values: Mapping[str, Any], base: Path) -> dict[str, Any]:
    from cellgap.study import Design

    section = values.get("design", {})
    if not section:
        raise ConfigError("[design] is missing: say which columns of obs mean what, the time first of all.")
    if "path" in section:
        if len(section) > 1:
            other = next(key for key in section if key != "path")
            raise ConfigError(f"[design] has both a path and {other!r}: give one or the other.")
        design = Design.read(base / text_of(section["path"], "[design] path"))
    else:
        design = Design.from_dict(section)
    if design.time is None:
        raise DesignError('[design] names no time, and a law needs one: time = "pseudotime".')
    return design.to_dict()


def _context(design: Mapping[str, Any]) -> list[str]:
    from cellgap.study import Design

    return list(Design.from_dict(design).context_names)


def _columns(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return which columns of a table mean what, all named."""
    columns: dict[str, Any] = {
        name: text_of(section.get(name, name), f"[trajectories] {name}") for name in ("trajectory", "time")
    }
    for name in ("labels", "inputs", "variables"):
        if name == "variables" and name not in section:
            continue
        value = section.get(name, [])
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            raise ConfigError(f"[trajectories] {name} must be a list of names of columns, found {value!r}.")
        columns[name] = value
    return columns


def _labels(section: Mapping[str, Any], name: str) -> dict[str, list[str]]:
    """Return the labels of held-out trajectories, every value as text."""
    given = section.get(name, {})
    if not isinstance(given, Mapping):
        raise ConfigError(f"[split] {name} must be a table of labels, such as {{ donor = ['d2'] }}; found {given!r}.")
    labels = {}
    for label, values in given.items():
        listed = values if isinstance(values, list) else [values]
        if not listed or not all(isinstance(v, str | int | float) for v in listed):
            raise ConfigError(f"[split] {name}: {label} must be a value or a list of values, found {values!r}.")
        labels[label] = [str(v) for v in listed]
    return labels

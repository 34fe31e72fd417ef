"""Run files: which data, what is held out, which model; read, completed, checked, and written as they were used."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cellgap.errors import CellgapError, ConfigError

SECTIONS = {
    "data": ("path", "backed"),
    "design": None,
    "split": None,
    "model": None,
    "annotate": ("label",),
    "compare": ("models",),
    "run": ("folder", "seed"),
}
"""Sections of a run file and the keys of those that have fixed ones."""

EXAMPLE = """\
# A run file of cellgap: `cellgap fit run.toml`. Paths are relative to this file.

[data]
path = "screen.h5ad"            # cells by genes: .h5ad file or .zarr folder
# backed = true                 # leave the matrix on disk

[design]                        # or: path = "design.toml"
treatment = "drug"              # column of obs; a list of columns for combinations in several columns
control = "vehicle"             # its value that means "no treatment"
dose = "dose_nM"                # the unit is read from the end of the name, or: dose_unit = "nM"
context = ["cell_line"]         # what the cells were before treatment
counts = "X"                    # where the raw counts are: "X", or the name of a layer; leave out for other data

[split]                         # what the model must not see
kind = "unseen_treatment"       # or in_distribution, unseen_dose, unseen_combination, unseen_conditions,
names = ["trametinib"]          #    unseen_context, leave_one_domain_out

[model]
kind = "ConditionalMonge"
encoder = [                     # a condition as numbers; several encoders are joined
  { kind = "Table", source = "drugs.csv" },   # numeric descriptors, one row a treatment
  { kind = "Dose" },
  { kind = "Context", columns = ["cell_line"] },
]

[model.space]                   # the coordinates in which cells are moved
kind = "PCA"
dim = 50
genes = { n_top = 1000 }

[model.optimization]
learning_rate = 1e-3
loop = { n_steps = 2000 }

# [compare]                     # for `cellgap compare`: space and encoder of [model] are those of all
# models = ["ConditionalMonge", "FlowMatching", "Gaussian"]

[run]
folder = "run"                  # the model, its split and settings, and checkpoints are kept here
seed = 0
"""


@dataclass(frozen=True)
class RunFile:
    """A run file with every path absolute and every setting checked.

    Parameters
    ----------
    data
        Path of the cells.
    backed
        Whether the matrix stays on disk.
    design
        Fields of the design.
    split
        ``kind`` and its parameters.
    model
        Settings of the estimator as plain values, defaults filled in.
    folder
        Where the run is kept.
    seed
        Of the split (unless it names its own) and of the fit.
    annotate
        ``label`` of an annotator; empty for other models.
    """

    data: Path
    backed: bool
    design: Mapping[str, Any]
    split: Mapping[str, Any]
    model: Mapping[str, Any]
    folder: Path
    seed: int
    annotate: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return what is written into the run's folder; all that decides the numbers."""
        return {
            "data": {"path": str(self.data), "backed": self.backed},
            "design": dict(self.design),
            "split": dict(self.split),
            "model": dict(self.model),
            **({"annotate": dict(self.annotate)} if self.annotate else {}),
            "run": {"seed": self.seed},
        }


def read_run_file(path: Path, changes: Sequence[str] = (), folder: Path | None = None) -> RunFile:
    """Return the checked contents of a run file.

    Parameters
    ----------
    path
        The TOML file.
    changes
        Values that replace those of the file: ``model.optimization.loop.n_steps=500``.
    folder
        Replaces the folder of the file; relative to the working directory.

    Raises
    ------
    ConfigError, DesignError, SplitError
        The file is missing or not TOML, or a key or value is wrong.
    """
    path = Path(path)
    values = read_toml(path)
    for change in changes:
        set_value(values, change)
    where = str(path)
    try:
        return checked(values, path.resolve().parent, folder)
    except CellgapError as error:
        raise type(error)(f"{where}: {error}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Return the contents of a TOML file.

    Raises
    ------
    ConfigError
        It cannot be read, or is not TOML; the message names line and column.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    except FileNotFoundError:
        raise ConfigError(f"There is no file {str(path)!r}: `cellgap fit --example` prints a run file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read {str(path)!r}: {error}.") from None


def set_value(values: dict[str, Any], change: str) -> None:
    """Put ``a.b.c=value`` into nested tables; the value is TOML, or else text as it stands."""
    name, equals, text = change.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set expects section.key=value, such as run.seed=1; found {change!r}.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {change}: {key!r} is not a table.")
    values[keys[-1]] = value


def checked(values: Mapping[str, Any], base: Path, folder: Path | None, *, annotates: bool = False) -> RunFile:
    """Return the run that the sections of a file describe.

    Parameters
    ----------
    values
        Contents of the file.
    base
        Folder that relative paths start from.
    folder
        Replaces the folder of the file.
    annotates
        Whether an annotator of cells is wanted; other models are wanted otherwise.

    Raises
    ------
    ConfigError, DesignError, SplitError
        A key or value is wrong.
    """
    refuse_unknown(values, tuple(SECTIONS), "the run file has no section")
    for name, keys in SECTIONS.items():
        section = values.get(name, {})
        if not isinstance(section, Mapping):
            raise ConfigError(f"[{name}] must be a table, found {section!r}.")
        if keys is not None:
            refuse_unknown(section, keys, f"[{name}] has no key")
    for name, key in (("data", "path"), ("split", "kind"), ("model", "kind")):
        if key not in values.get(name, {}):
            raise ConfigError(f"[{name}] needs {key!r}: `cellgap fit --example` prints a run file.")
    if not values.get("design"):
        raise ConfigError("[design] is missing: say which columns mean what, or give path = 'design.toml'.")
    run = values.get("run", {})
    seed = run.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f"[run] seed must be a whole number of 0 or more, found {seed!r}.")
    backed = values["data"].get("backed", False)
    if not isinstance(backed, bool):
        raise ConfigError(f"[data] backed must be true or false, found {backed!r}.")
    annotate = _annotate(values, annotates)
    model = _model(values["model"], base)
    design = _design(values["design"], base)
    split = {"seed": seed, **_split(values["split"])}
    data = base / text_of(values["data"]["path"], "[data] path")
    if not data.exists():
        raise ConfigError(f"[data] path: there is no file {str(data)!r}.")
    kept = base / text_of(run.get("folder", "run"), "[run] folder") if folder is None else folder
    return RunFile(data.resolve(), backed, design, split, model, kept.resolve(), seed, annotate)


def text_of(value: Any, where: str) -> str:
    """Return a value that must be a text; `where` says which one in an error."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where} must be a text, found {value!r}.")
    return value


def _annotate(values: Mapping[str, Any], annotates: bool) -> dict[str, str]:
    """Return the section of annotators; refuse it, and them, where another model is wanted, and the other way round."""
    kind, section = values["model"]["kind"], values.get("annotate", {})
    if not annotates:
        if kind == "Annotator" or section:
            raise ConfigError(
                "[model] kind 'Annotator' and [annotate] belong to classifiers of cells: see `cellgap annotate fit`."
            )
        return {}
    if kind != "Annotator":
        raise ConfigError(f"[model] kind {kind!r} is no annotator: take 'Annotator', or `cellgap fit`.")
    if "label" not in section:
        raise ConfigError("[annotate] needs 'label', the column of obs with the classes: label = \"cell_type\".")
    return {"label": text_of(section["label"], "[annotate] label")}


def _design(section: Mapping[str, Any], base: Path) -> dict[str, Any]:
    from cellgap.study import Design

    if "path" in section:
        if len(section) > 1:
            other = next(key for key in section if key != "path")
            raise ConfigError(f"[design] has both a path and {other!r}: give one or the other.")
        return Design.read(base / text_of(section["path"], "[design] path")).to_dict()
    return Design.from_dict(section).to_dict()


def _split(section: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse a wrong kind or argument now: the data take a while to read."""
    import inspect

    from cellgap.study import split

    kinds = tuple(name for name in split.__all__ if name != "by_name")
    kind = section["kind"]
    if kind not in kinds:
        raise ConfigError(f"Unknown kind of split {kind!r}: {close_to(str(kind), kinds)}")
    parameters = list(inspect.signature(getattr(split, kind)).parameters.values())[1:]
    refuse_unknown(section, ("kind", *(p.name for p in parameters)), f"the split {kind!r} has no parameter")
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in section:
            raise ConfigError(f"the split {kind!r} needs {parameter.name!r}: say what to hold out.")
    return dict(section)


def _model(section: Mapping[str, Any], base: Path) -> dict[str, Any]:
    from cellgap.cli._settings import estimator_of
    from cellgap.settings import to_dict

    return to_dict(estimator_of(section, base))


def refuse_unknown(found: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    """Raise ConfigError where a key is not among the known ones, naming the closest one."""
    for key in found:
        if key not in known:
            raise ConfigError(f"{what} {key!r}: {close_to(key, known)}")


def close_to(key: str, known: Sequence[str]) -> str:
    """Return a hint: the known word that is closest to a key, or all of them."""
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}."

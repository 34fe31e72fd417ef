"""Run files of comparisons: one model of ``cellgap fit`` for each that is to be compared, with a folder of its own."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cellgap.cli._run_file import RunFile, checked, close_to, read_toml, refuse_unknown, set_value, text_of
from cellgap.errors import CellgapError, ConfigError

SHARED = ("space", "encoder")
"""Settings of ``[model]`` that all models have in common."""

IN_EVERY_TABLE = ("MeanShift", "Identity")
"""Kinds that every evaluation shows as baselines."""

ENSEMBLE = "Ensemble"
"""The kind that holds a model of another kind."""

_NAME = re.compile(r"[\w][\w .+-]*")


@dataclass(frozen=True)
class ComparisonFile:
    """Runs under one split, space and encoder.

    Parameters
    ----------
    folder
        Where the comparison is kept.
    runs
        The run of every model, by its name in the table; its folder is ``models/<name>``.
    """

    folder: Path
    runs: Mapping[str, RunFile]

    @property
    def shared(self) -> RunFile:
        """What all models have in common: the folder of the comparison holds its settings and split."""
        first = next(iter(self.runs.values()))
        return replace(first, model={key: innermost(first.model)[key] for key in SHARED}, folder=self.folder)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as they were used."""
        models = {name: _without_shared(run.model) for name, run in self.runs.items()}
        return self.shared.to_dict() | {"compare": {"models": models}}


def innermost(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of a model, or of the model that an ensemble fits several times."""
    return model["model"] if model["kind"] == ENSEMBLE else model


def _without_shared(model: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in model.items() if key not in SHARED}
    return own | ({"model": _without_shared(own["model"])} if model["kind"] == ENSEMBLE else {})


def read_comparison(path: Path, changes: Sequence[str] = (), folder: Path | None = None) -> ComparisonFile:
    """Return the checked contents of a run file with a section ``[compare]``.

    ``compare.models`` lists names of kinds, or tables with a kind, a name and settings; without it every kind is taken
    that is not a baseline. Settings of ``[model]`` other than space and encoder are those of the models of its kind.

    Parameters
    ----------
    path, changes, folder
        As in `read_run_file`.

    Raises
    ------
    ConfigError, DesignError, SplitError
        The file is missing or not TOML, or a key or value is wrong.
    """
    path = Path(path)
    values = read_toml(path)
    for change in changes:
        set_value(values, change)
    try:
        return _comparison(values, path.resolve().parent, folder)
    except CellgapError as error:
        raise type(error)(f"{path}: {error}") from None


def _comparison(values: Mapping[str, Any], base: Path, folder: Path | None) -> ComparisonFile:
    from cellgap.cli._settings import ESTIMATORS

    section, shared = values.get("compare", {}), values.get("model", {})
    for name, table in (("compare", section), ("model", shared)):
        if not isinstance(table, Mapping):
            raise ConfigError(f"[{name}] must be a table, found {table!r}.")
    refuse_unknown(section, ("models",), "[compare] has no key")
    own = [key for key in shared if key not in (*SHARED, "kind")]
    if own and "kind" not in shared:
        raise ConfigError(
            f"[model] has {own[0]!r} but no kind: say which kind it is for, or put it into a table of compare.models."
        )
    default = [kind for kind in ESTIMATORS if kind not in (*IN_EVERY_TABLE, ENSEMBLE)]
    listed = section.get("models", default)
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"[compare] models must be a list of kinds or tables, found {listed!r}.")
    runs: dict[str, RunFile] = {}
    rest = {key: value for key, value in values.items() if key != "compare"}
    for item in listed:
        table = {"kind": item} if isinstance(item, str) else item
        if not isinstance(table, Mapping):
            raise ConfigError(f"[compare] models lists names of kinds or tables, found {item!r}.")
        name = text_of(table.get("name", table.get("kind")), "[compare] models: name")
        model = _model(table, shared, ESTIMATORS)
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"[compare] models: the name {name!r} cannot be that of a folder: use letters and digits."
            )
        if name in runs:
            raise ConfigError(f"[compare] models has {name!r} twice: give one of them another name.")
        try:
            runs[name] = checked(rest | {"model": model}, base, folder)
        except CellgapError as error:
            told = str(error)
            raise type(error)(told.replace("[model]", f"[compare] models: {name}", 1)) from None
    kept = next(iter(runs.values())).folder
    return ComparisonFile(kept, {name: replace(run, folder=kept / "models" / name) for name, run in runs.items()})


def _model(table: Mapping[str, Any], shared: Mapping[str, Any], kinds: Sequence[str]) -> dict[str, Any]:
    """Return the section ``[model]`` of one model."""
    kind = table.get("kind")
    if kind not in kinds:
        raise ConfigError(f"[compare] models has the unknown kind {kind!r}: {close_to(str(kind), kinds)}")
    for key in SHARED:
        if key in table:
            raise ConfigError(f"[compare] models: {key!r} is the same for all models and belongs into [model].")
    if kind == ENSEMBLE:
        inner = table.get("model")
        if not isinstance(inner, Mapping) or inner.get("kind") == ENSEMBLE:
            raise ConfigError(f"[compare] models: an {ENSEMBLE} needs the table of a model, found {inner!r}.")
        own = {key: value for key, value in table.items() if key != "name"}
        return own | {"model": _model(inner, shared, kinds)}
    same = shared.get("kind") == kind
    common = {key: value for key, value in shared.items() if key in SHARED or (same and key != "kind")}
    return common | {key: value for key, value in table.items() if key != "name"}

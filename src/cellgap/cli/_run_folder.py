"""A run's folder: settings, split and model, written while fitting and read by every later command."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import tomli_w

from cellgap.cli._run_file import RunFile, read_toml
from cellgap.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from cellgap.study import Split, Study
    from cellgap.transport import AbstractMap

SETTINGS, SPLIT, MODEL, CHECKPOINT = "run.toml", "split.json", "model.json", "checkpoint.eqx"
FIRST = f"first/{CHECKPOINT}"
"""Checkpoint of the first of two fits."""


class Claim(Protocol):
    """What a folder is claimed for: a run file that was read, of any kind."""

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return all that decides the numbers."""
        ...


def claim(run: Claim) -> None:
    """Make the folder of a run and write its settings there, unless it holds the same ones already.

    Settings of a run that never began to train (something was wrong with it) are replaced.

    Raises
    ------
    ConfigError
        The folder holds another run, or is a file.
    """
    folder, settings = run.folder, run.to_dict()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"The run folder {str(folder)!r} is a file: choose another with --folder.")
    path = folder / SETTINGS
    if path.exists():
        differing = difference(read_toml(path), settings)
        if not differing:
            return
        if any((folder / name).exists() for name in (MODEL, CHECKPOINT, FIRST)):
            raise ConfigError(
                f"{folder} holds another run, with {differing}: choose another with --folder, or delete that one."
            )
        (folder / SPLIT).unlink(missing_ok=True)
    elif (folder / MODEL).exists():
        raise ConfigError(f"{folder} holds a model that was not fitted by a run file: choose another with --folder.")
    folder.mkdir(parents=True, exist_ok=True)
    _write(path, tomli_w.dumps(settings))


def split_of(run: RunFile, study: "Study") -> "Split":
    """Return the split of a run: the one in its folder, or a new one, which is put there.

    Raises
    ------
    SplitError
        It cannot be made, or the one in the folder belongs to other data.
    """
    from cellgap.study import Split, split

    path = run.folder / SPLIT
    if path.exists():
        return Split.load(path, study)
    params = {name: value for name, value in run.split.items() if name != "kind"}
    made = split.by_name(run.split["kind"], study, **params)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    made.save(part)
    os.replace(part, path)
    return made


@dataclass(frozen=True)
class Run:
    """A fitted run, read from its folder; study and model are read when they are asked for.

    Parameters
    ----------
    folder
        The folder.
    settings
        The run file as it was used.
    data
        Where the cells are.
    """

    folder: Path
    settings: dict[str, Any]
    data: Path

    @classmethod
    def open(cls, folder: Path, data: Path | None = None) -> "Run":
        """Return the run in a folder.

        Parameters
        ----------
        folder
            As given to ``cellgap fit``.
        data
            Where the cells are now, if they were moved.

        Raises
        ------
        StorageError
            It is no run, or the run is not finished.
        """
        if not (folder / SETTINGS).exists():
            there = "it has no run.toml" if folder.exists() else "there is no such folder"
            raise StorageError(
                f"{str(folder)!r} is not the folder of a run ({there}): give the one `cellgap fit` wrote."
            )
        if not (folder / MODEL).exists():
            raise StorageError(
                f"The run in {str(folder)!r} is not finished: continue it with the same `cellgap fit` command."
            )
        settings = read_toml(folder / SETTINGS)
        if settings.get("model", {}).get("kind") == "NeuralLaw":
            raise StorageError(f"{str(folder)!r} holds a law, not a map: see `cellgap dynamics --help`.")
        try:
            kept = Path(settings["data"]["path"])
            for section, key in (("data", "backed"), ("run", "seed")):
                _ = settings[section][key]
            _ = settings["design"]
        except (KeyError, TypeError) as error:
            raise StorageError(f"{folder / SETTINGS} is damaged ({error!r}): fit again in another folder.") from None
        return cls(folder, settings, kept if data is None else data)

    @cached_property
    def study(self) -> "Study":
        """The study that the run was fitted on."""
        from cellgap.study import Design, Study

        if not self.data.exists():
            raise StorageError(f"The data of this run, {str(self.data)!r}, are not there: say where with --data.")
        return Study.read(self.data, Design.from_dict(self.settings["design"]), backed=self.settings["data"]["backed"])

    @cached_property
    def split(self) -> "Split":
        """The split that the run was fitted on."""
        from cellgap.study import Split

        return Split.load(self.folder / SPLIT, self.study)

    @cached_property
    def fitted(self) -> "AbstractMap":
        """The fitted model."""
        from cellgap.transport import load

        return load(self.folder)

    @property
    def model_digest(self) -> str:
        """What tells this model from any other."""
        from cellgap.storage import read_document

        return str(read_document(self.folder)["arrays"])


def difference(old: Any, new: Any, where: str = "") -> str:
    """Return the first setting in which two run files differ, in words; empty where none does."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in (*new, *(k for k in old if k not in new)):
            name = f"{where}.{key}" if where else key
            if key not in old or key not in new:
                value = (old if key in old else new)[key]
                return f"{'' if key in old else 'no '}{name} = {value!r}"
            found = difference(old[key], new[key], name)
            if found:
                return found
        return ""
    old, new = (list(v) if isinstance(v, tuple) else v for v in (old, new))
    return "" if old == new else f"{where} = {old!r} instead of {new!r}"


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)

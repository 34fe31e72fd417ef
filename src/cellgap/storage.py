"""Fitted objects on disk: arrays in ``model.npz``, everything else in a readable ``model.json``.

A saved model is data, never code: loading builds only classes that were registered with `storable`, from modules of
this package (or modules that the user has imported already), and never unpickles.
"""

import dataclasses
import importlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cellgap.errors import StorageError

FORMAT = 1
_REGISTRY: dict[str, type] = {}
_T = TypeVar("_T", bound=type)


def storable(cls: _T) -> _T:
    """Return `cls` unchanged after registering it as a class that may be saved and loaded.

    Parameters
    ----------
    cls
        A dataclass or Equinox module whose fields are arrays, strings, numbers, booleans, None, tuples, lists,
        dictionaries with string keys, or other storable objects.
    """
    _REGISTRY[f"{cls.__module__}:{cls.__qualname__}"] = cls
    return cls


def save(
    obj: Any, folder: str | os.PathLike[str], *, name: str = "model", header: dict[str, Any] | None = None
) -> Path:
    """Return the folder after writing `obj` as ``<name>.npz`` and ``<name>.json`` into it.

    Parameters
    ----------
    obj
        An instance of a `storable` class.
    folder
        Created where it does not exist. Files are replaced atomically.
    name
        Stem of the two files.
    header
        Further JSON-able facts to keep beside the object (settings, history).

    Raises
    ------
    StorageError
        A field has a type that cannot be stored.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    tree = _dump(obj, "", arrays)
    document = {"format": FORMAT, "versions": versions(), "header": header or {}, "object": tree}
    replace(folder / f"{name}.npz", lambda handle: np.savez(handle, allow_pickle=False, **arrays))
    text = json.dumps(document, indent=1, allow_nan=True).encode()
    replace(folder / f"{name}.json", lambda handle: handle.write(text))
    return folder


def load(folder: str | os.PathLike[str], *, name: str = "model") -> Any:
    """Return the object that `save` wrote.

    Raises
    ------
    StorageError
        A file is missing or damaged, its format is newer than this version, or it names an unknown class.
    """
    folder = Path(folder)
    document = read_document(folder, name=name)
    try:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise StorageError(f"{folder} has no {name}.npz beside {name}.json: copy the whole folder.") from None
    except (ValueError, OSError, EOFError) as error:
        raise StorageError(f"{folder / name}.npz is damaged ({error}): save the model again.") from None
    return _build(document["object"], arrays)


def read_document(folder: str | os.PathLike[str], *, name: str = "model") -> dict[str, Any]:
    """Return the JSON part of a saved object: format, versions, header and structure."""
    path = Path(folder) / f"{name}.json"
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise StorageError(f"{folder} holds no saved {name}: expected the file {path}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} is not readable as JSON ({error}): save the model again.") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise StorageError(
            f"{path} has format {found!r}, this version of cellgap reads {FORMAT}: update cellgap."
        )
    return document


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"python": platform.python_version()}
    for package in ("cellgap", "jax", "jaxlib", "equinox", "optax", "numpy", "anndata"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def replace(path: Path, write: Any) -> None:
    """Write a file through a temporary neighbor, so that a killed process never leaves half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _dump(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (tuple, list)):
        return {"tuple": [_dump(item, f"{path}.{i}", arrays) for i, item in enumerate(value)]}
    if isinstance(value, dict):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise StorageError(
                f"{path or 'object'} is a dictionary with the key {wrong[0]!r}: only strings can be stored."
            )
        return {"dict": {key: _dump(item, f"{path}.{key}", arrays) for key, item in value.items()}}
    kind = f"{type(value).__module__}:{type(value).__qualname__}"
    if kind in _REGISTRY:
        fields = {
            f.name: _dump(getattr(value, f.name), f"{path}.{f.name}", arrays)
            for f in dataclasses.fields(value)
        }
        return {"class": kind, "fields": fields}
    if hasattr(value, "__array__") and hasattr(value, "dtype"):
        array = np.asarray(value)
        if array.dtype == object:
            array = array.astype(str)
        name = path.lstrip(".") or "array"
        arrays[name] = array
        return {"array": name, "on": "numpy" if isinstance(value, np.ndarray) else "jax"}
    raise StorageError(
        f"{path or 'object'} has the type {kind}, which cannot be stored: register it with @storable."
    )


def _build(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "tuple" in tree:
        return tuple(_build(item, arrays) for item in tree["tuple"])
    if "dict" in tree:
        return {key: _build(item, arrays) for key, item in tree["dict"].items()}
    if "array" in tree:
        if tree["array"] not in arrays:
            raise StorageError(
                f"the saved arrays lack {tree['array']!r}: the two files do not belong together."
            )
        array = arrays[tree["array"]]
        if tree["on"] == "jax":
            import jax.numpy as jnp

            return jnp.asarray(array)
        return array
    cls = _class(tree["class"])
    names = {f.name for f in dataclasses.fields(cls)}
    if names != set(tree["fields"]):
        odd = sorted(names ^ set(tree["fields"]))
        raise StorageError(
            f"the saved {cls.__qualname__} differs in the fields {', '.join(odd)}: it is of another version."
        )
    obj = object.__new__(cls)
    for key, item in tree["fields"].items():
        object.__setattr__(obj, key, _build(item, arrays))
    return obj


def _class(kind: str) -> type:
    module = kind.partition(":")[0]
    if kind not in _REGISTRY and module.split(".")[0] == "cellgap":
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise StorageError(
                f"the saved class {kind} does not exist in this version of cellgap ({error})."
            ) from None
    if kind not in _REGISTRY:
        raise StorageError(
            f"the saved class {kind} is unknown: import the module that defines it before loading."
        )
    return _REGISTRY[kind]

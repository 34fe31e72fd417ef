"""Fitted objects on disk: arrays in ``model.npz``, everything else in a readable ``model.json``.

A saved model is data, never code: loading builds only classes that were registered with `storable`, from modules of
this package (or modules that the user has imported already), and never unpickles. The JSON holds a digest of the
arrays, so that files of two different models are never read as one.
"""

import dataclasses
import hashlib
import importlib
import json
import os
import platform
import sys
import zipfile
import zlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

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
        Created where it does not exist. Both files are written beside the old ones before either is replaced.
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
    arrays: dict[str, np.ndarray] = {}
    tree = _dump(obj, "", arrays)
    document = {
        "format": FORMAT,
        "versions": versions(),
        "header": header or {},
        "arrays": _digest(arrays),
        "object": tree,
    }
    try:
        text = json.dumps(document, indent=1).encode()
    except (TypeError, ValueError) as error:
        raise StorageError(f"the header of {folder / name} cannot be written as JSON ({error}).") from None
    folder.mkdir(parents=True, exist_ok=True)
    _replace_all(
        {
            folder / f"{name}.npz": lambda handle: _write_arrays(handle, arrays),
            folder / f"{name}.json": lambda handle: handle.write(text),
        }
    )
    return folder


def load(folder: str | os.PathLike[str], *, name: str = "model") -> Any:
    """Return the object that `save` wrote.

    Raises
    ------
    StorageError
        A file is missing or damaged, the two files are of different models, the format is of another version, or a
        class is unknown.
    """
    folder = Path(folder)
    document = read_document(folder, name=name)
    try:
        with (folder / f"{name}.npz").open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise StorageError(f"{folder} has no {name}.npz beside {name}.json: copy the whole folder.") from None
    except (
        ValueError,
        TypeError,
        AttributeError,
        OSError,
        EOFError,
        KeyError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise StorageError(f"{folder / name}.npz is damaged ({error}): save the model again.") from None
    if _digest(arrays) != document.get("arrays"):
        raise StorageError(f"{name}.npz and {name}.json in {folder} are not of one model: copy or save both again.")
    try:
        return _build(document["object"], arrays)
    except (KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{folder / name}.json is damaged ({error!r}): save the model again.") from None


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
        raise StorageError(f"{path} has format {found!r}, this version of cellgap reads {FORMAT}: update cellgap.")
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


def replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file through a temporary neighbor, so that a killed process never leaves half a file."""
    _replace_all({path: write})


def _replace_all(writers: dict[Path, Callable[[BinaryIO], object]]) -> None:
    """Write all files beside the old ones, then rename them one right after the other."""
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in writers}
    try:
        for path, write in writers.items():
            with temporary[path].open("wb") as handle:
                write(handle)
                handle.flush()
                os.fsync(handle.fileno())
        for path, written in temporary.items():
            os.replace(written, path)
    finally:
        for written in temporary.values():
            written.unlink(missing_ok=True)


def _write_arrays(handle: BinaryIO, arrays: dict[str, np.ndarray]) -> None:
    """Write the layout of ``np.savez``, without pickles and with any array names.

    ``np.savez`` of NumPy 2.1 takes ``allow_pickle=False`` for an array of that name, and refuses one named ``file``.
    """
    with zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            # Without a date: one model, the same bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """Return a hash of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _dump(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        return value.item()
    if type(value) is tuple or type(value) is list:
        return {type(value).__name__: [_dump(item, f"{path}.{i}", arrays) for i, item in enumerate(value)]}
    if isinstance(value, dict):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise StorageError(
                f"{path or 'object'} is a dictionary with the key {wrong[0]!r}: only strings can be stored."
            )
        return {"dict": {key: _dump(item, f"{path}.{key}", arrays) for key, item in value.items()}}
    kind = f"{type(value).__module__}:{type(value).__qualname__}"
    if kind in _REGISTRY:
        fields = {f.name: _dump(getattr(value, f.name), f"{path}.{f.name}", arrays) for f in dataclasses.fields(value)}
        return {"class": kind, "fields": fields}
    if type(value) is np.ndarray or _is_jax(value):
        name = path.removeprefix(".")
        while name in arrays:
            # A dictionary may hold both the key "a.b" and the key "a" over a key "b".
            name += "'"
        arrays[name] = _plain(value, path)
        return {"array": name, "on": "numpy" if type(value) is np.ndarray else "jax"}
    raise StorageError(f"{path or 'object'} has the type {kind}, which cannot be stored: register it with @storable.")


def _is_jax(value: Any) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.Array)


def _plain(value: Any, path: str) -> np.ndarray:
    """Return a NumPy array of a type that a file can hold without pickling."""
    # Random keys and bfloat16 are types of JAX alone.
    array = np.asarray(value) if getattr(value.dtype, "kind", "V") != "V" else None
    if array is not None and array.dtype.kind == "O" and all(isinstance(item, str) for item in array.ravel()):
        array = array.astype(str)
    if array is None or array.dtype.kind not in "biufcSUMm":
        raise StorageError(
            f"{path or 'object'} is an array of {value.dtype}, which cannot be stored: convert it first."
        )
    return array


def _build(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "tuple" in tree:
        return tuple(_build(item, arrays) for item in tree["tuple"])
    if "list" in tree:
        return [_build(item, arrays) for item in tree["list"]]
    if "dict" in tree:
        return {key: _build(item, arrays) for key, item in tree["dict"].items()}
    if "array" in tree:
        array = arrays[tree["array"]]
        return _on_device(array, tree["array"]) if tree["on"] == "jax" else array
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


def _on_device(array: np.ndarray, name: str) -> Any:
    import jax.numpy as jnp

    placed = jnp.asarray(array)
    if placed.dtype != array.dtype:
        raise StorageError(
            f"the saved array {name} holds {array.dtype}, which JAX would cut to {placed.dtype}: "
            "set jax_enable_x64 before loading."
        )
    return placed


def _class(kind: str) -> type:
    module = kind.partition(":")[0]
    # Importing a module that is a program would run it.
    if kind not in _REGISTRY and module.split(".")[0] == "cellgap" and "__main__" not in module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise StorageError(f"the saved class {kind} does not exist in this version of cellgap ({error}).") from None
    if kind not in _REGISTRY:
        raise StorageError(f"the saved class {kind} is unknown: import the module that defines it before loading.")
    return _REGISTRY[kind]

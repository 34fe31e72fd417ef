"""Checkpoints of a training run: every array of the state and a readable header, replaced atomically."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx

from cellgap.errors import StorageError
from cellgap.storage import replace

_State = TypeVar("_State")
NAME = "checkpoint.eqx"


def write_checkpoint(folder: Path, state: Any, header: dict[str, Any]) -> None:
    """Write `state` and `header` as one file, through a neighbor and a rename.

    A kill leaves the old checkpoint or the new one, whole; a digest gives away a file that was damaged later.

    Parameters
    ----------
    folder
        The run's folder; created where it does not exist.
    state
        A tree of arrays.
    header
        JSON-able facts: step, history, fingerprint of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    eqx.tree_serialise_leaves(buffer, state)
    arrays = buffer.getvalue()
    first = json.dumps({"digest": _digest(header, arrays)} | header).encode() + b"\n"
    replace(folder / NAME, lambda handle: handle.write(first + arrays))


def read_checkpoint(folder: Path, like: _State) -> tuple[_State, dict[str, Any]] | None:
    """Return the state and header of a folder's checkpoint, or None where there is none.

    Parameters
    ----------
    folder
        The run's folder.
    like
        A state of the same structure and shapes.

    Raises
    ------
    StorageError
        The file is damaged or its arrays have other shapes than `like`.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        first, _, arrays = path.read_bytes().partition(b"\n")
        header = json.loads(first)
        if header.pop("digest") != _digest(header, arrays):
            raise ValueError("the digest does not match")
        state = eqx.tree_deserialise_leaves(io.BytesIO(arrays), like)
    except (ValueError, RuntimeError, EOFError, OSError, TypeError, KeyError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise StorageError(
            f"{path} cannot be resumed ({reason}): it is damaged or of another model; delete it or use another folder."
        ) from None
    return state, header


def _digest(header: dict[str, Any], arrays: bytes) -> str:
    return hashlib.sha256(json.dumps(header).encode() + b"\n" + arrays).hexdigest()

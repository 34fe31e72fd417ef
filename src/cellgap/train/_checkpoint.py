"""Checkpoints of a training run: every array of the state and a readable header, replaced atomically."""

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
    """Write `state` and `header` as one file, through a neighbor and a rename: a kill leaves the old or the new one whole.

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
    buffer.write(json.dumps(header).encode() + b"\n")
    eqx.tree_serialise_leaves(buffer, state)
    replace(folder / NAME, lambda handle: handle.write(buffer.getvalue()))


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
        with path.open("rb") as handle:
            header = json.loads(handle.readline())
            state = eqx.tree_deserialise_leaves(handle, like)
    except (ValueError, RuntimeError, EOFError, OSError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise StorageError(
            f"{path} cannot be resumed ({first}): it is damaged or of another model; delete it or use another folder."
        ) from None
    return state, header

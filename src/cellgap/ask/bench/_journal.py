"""A file of JSON lines that survives a kill: what was written stays, a torn last line goes."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cellgap.errors import StorageError


class Journal:
    """Lines by key, in a file that is only ever appended to.

    Parameters
    ----------
    path
        None keeps the lines in memory alone.
    key
        The field of a line that names it.

    Raises
    ------
    StorageError
        A whole line is damaged, or two lines have the same key.
    """

    def __init__(self, path: Path | None, key: str = "id") -> None:
        self.path = path
        self.key = key
        self.lines: dict[str, Mapping[str, Any]] = {}
        if path is not None and path.exists():
            self._read(path)

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line; it is on the disk when this returns."""
        # As it will be read: floats and lists are the same whether or not the run was interrupted.
        text = json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self.lines[str(line[self.key])] = json.loads(text)
        if self.path is None:
            return
        new = not self.path.exists()
        with self.path.open("ab") as file:
            file.write(text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            _sync_folder(self.path.parent)

    def forget(self, keys: set[str]) -> None:
        """Remove lines, at once or not at all."""
        self.lines = {key: line for key, line in self.lines.items() if key not in keys}
        if self.path is not None and keys:
            kept = (json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in self.lines.values())
            replace(self.path, "".join(kept))

    def _read(self, path: Path) -> None:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            # The process was killed while it wrote; what was asked for in that line is asked again.
            with path.open("r+b") as file:
                file.truncate(whole)
                file.flush()
                os.fsync(file.fileno())
        for number, text in enumerate(data[:whole].split(b"\n")[:-1], 1):
            try:
                line = json.loads(text)
                key = str(line[self.key])
            except (ValueError, KeyError, TypeError):
                raise StorageError(f"{path}, line {number}, is damaged: remove it, and the run goes on.") from None
            if key in self.lines:
                raise StorageError(f"{path}, line {number}, is the second one of {key!r}: did two runs write at once?")
            self.lines[key] = line


def replace(path: Path, text: str) -> None:
    """Write a file so that there is the old one or the new one, never half of it."""
    draft = path.with_name(f"{path.name}.part")
    with draft.open("wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # Windows cannot open a folder; there the name is safe without it.
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

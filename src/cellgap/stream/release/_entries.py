"""The lines of a journal: JSON, chained by their hashes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellgap.errors import PrivacyError
from cellgap.stream.release._anchor import Mark
from cellgap.stream.release._interface import Integers

BEGINNING = Mark(0, "0" * 64)
"""What the first line refers to."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A line.

    Parameters
    ----------
    mark
        Version number and hash.
    kind
        BUDGET, OPEN, ANCHORED, UNSAFE, RESERVE, INTENT, VALUE or DONE.
    body
        What it says; arrays of integers are NumPy arrays.
    """

    mark: Mark
    kind: str
    body: Mapping[str, Any]


def chain(before: Mark, kind: str, body: Mapping[str, Any]) -> tuple[Entry, bytes]:
    """Return the next entry and the bytes of its line, line end included."""
    plain = {key: _plain(value) for key, value in body.items()}
    fields = plain | {"version": before.version + 1, "previous": before.digest, "kind": kind}
    digest = _digest(fields)
    line = json.dumps(fields | {"hash": digest}, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    return Entry(Mark(before.version + 1, digest), kind, dict(body)), line


def parse(content: bytes) -> tuple[list[Entry], int]:
    """Return the entries of a journal, and how many bytes of `content` they take.

    The rest, if any, is the torn last line of a process that was killed while it appended: nobody acted on it.

    Raises
    ------
    PrivacyError
        A line is damaged, missing, or of another journal.
    """
    entries: list[Entry] = []
    mark, used = BEGINNING, 0
    while (end := content.find(b"\n", used)) >= 0:
        line = content[used:end]
        # After a loss of power, pages of the last line that never reached the disk read as zeros.
        if b"\0" in line and end + 1 == len(content):
            break
        entry = _entry(line, mark)
        entries.append(entry)
        mark, used = entry.mark, end + 1
    return entries, used


def _entry(line: bytes, before: Mark) -> Entry:
    expected = before.version + 1
    damaged = PrivacyError(
        f"line {expected} of the journal is damaged or missing: bring back the newest undamaged journal. Nothing "
        "can be released from this one."
    )
    try:
        fields = json.loads(line)
        digest = fields.pop("hash")
        kind = fields.pop("kind")
        version, previous = fields.pop("version"), fields.pop("previous")
        whole = fields | {"version": version, "previous": previous, "kind": kind}
        if (version, previous, digest) != (expected, before.digest, _digest(whole)):
            raise damaged
        body = {key: _array(value) if _is_array(value) else value for key, value in fields.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise damaged from None
    return Entry(Mark(expected, digest), kind, body)


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"shape": list(value.shape), "integers": [int(item) for item in value.ravel().tolist()]}
    return value


def _is_array(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"shape", "integers"}


def _array(value: Mapping[str, Any]) -> Integers:
    try:
        flat = np.array(value["integers"], np.int64)
    except OverflowError:
        # Published integers beyond 64 bits stay Python's; their type says no more than they do.
        flat = np.array(value["integers"], object)
    return flat.reshape(value["shape"])

"""Objects of a file that is a JSON array or JSON lines, plain or packed, each with where it stood."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from cellgap.errors import DataError


def unpacked(path: Path) -> tuple[bytes, bytes]:
    """Return a file as it is, and what it unpacks to.

    Raises
    ------
    DataError
        It cannot be read, or is packed and damaged.
    """
    try:
        packed = path.read_bytes()
        return packed, gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None


def objects(data: bytes, path: Path) -> list[tuple[str, Any]]:
    """Return what the file holds, each with the words that errors name its place by.

    Raises
    ------
    DataError
        It is not UTF-8, or not JSON; the message names the line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start}): expected a JSON array or JSON lines."
        ) from None
    if text.lstrip()[:1] == "[":
        return [(f"{path}, record {i}", item) for i, item in enumerate(_parsed(text, str(path)), 1)]
    # Not splitlines: text in JSON may hold the line separators of Unicode.
    lines = [(f"{path}, line {i}", line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [(where, _parsed(line, where)) for where, line in lines]


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}): expected a JSON array or JSON lines.") from None


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")

"""Rows of a table from a file, as text where the file is text, with the line of each."""

import gzip
import hashlib
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellgap.errors import DataError, MissingExtraError

_KINDS = ".csv, .tsv, .jsonl (each also with .gz) or .parquet"


@dataclass(frozen=True)
class Rows:
    """What a file holds.

    Parameters
    ----------
    frame
        The rows.
    lines
        Line (or row) of the file that each comes from, from one.
    counts
        ``"line"`` or ``"row"``.
    sha256
        Digest of the file.
    """

    frame: pd.DataFrame
    lines: np.ndarray
    counts: str
    sha256: str


def read_rows(path: Path) -> Rows:
    """Return the rows of a CSV, TSV, JSON lines or Parquet file.

    Raises
    ------
    DataError
        The file is missing, empty, of another kind, damaged, or not text in UTF-8.
    MissingExtraError
        A Parquet file, and pyarrow is not installed.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}: give the path of a table, {_KINDS}.")
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind not in ("csv", "tsv", "jsonl", "ndjson", "parquet"):
        raise DataError(f"{path} is no table that can be read: expected {_KINDS}.")
    raw = path.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    if kind == "parquet":
        return Rows(*_parquet(raw, path), "row", digest)
    try:
        content = gzip.decompress(raw) if path.name.lower().endswith(".gz") else raw
        text = content.decode("utf-8-sig")
    except (OSError, EOFError) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8: {error.reason} at byte {error.start}.") from None
    if not text.strip():
        raise DataError(f"{path} is empty: expected a table with a row an effect.")
    frame, lines = (
        _separated(text, "," if kind == "csv" else "\t", path) if kind in ("csv", "tsv") else _json(text, path)
    )
    return Rows(frame, lines, "line", digest)


def _separated(text: str, separator: str, path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    import csv

    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for row in reader:
            if not header:
                header = [name.strip() for name in row]
            elif row and row != [""]:
                if len(row) != len(header):
                    raise DataError(
                        f"{path}, line {reader.line_num}, has {len(row)} values, but its header has {len(header)}: "
                        "quote values that hold the separator."
                    )
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}, cannot be read: {error}.") from None
    frame = pd.DataFrame(dict(enumerate(zip(*rows, strict=True))) if rows else {}, dtype=object)
    frame = frame if rows else pd.DataFrame(columns=range(len(header)), dtype=object)
    frame.columns = pd.Index(header)
    return frame, np.array(lines, dtype=np.int64)


def _json(text: str, path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}, is not JSON: {error}.") from None
        if not isinstance(value, dict):
            raise DataError(f"{path}, line {number}, holds a {type(value).__name__}: expected an object of columns.")
        nested = next((k for k, v in value.items() if isinstance(v, list | dict)), None)
        if nested is not None:
            raise DataError(f"{path}, line {number}, column {nested!r}, holds a {type(value[nested]).__name__}.")
        rows.append({k: math.nan if v is None else v for k, v in value.items()})
        lines.append(number)
    return pd.DataFrame(rows, dtype=object), np.array(lines, dtype=np.int64)


def _parquet(raw: bytes, path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    try:
        frame = pd.read_parquet(io.BytesIO(raw), engine="pyarrow")
    except ImportError:
        raise MissingExtraError(f"{path} needs pyarrow: pip install pyarrow, or save it as CSV.") from None
    except Exception as error:
        raise DataError(f"{path} is not a Parquet file that can be read: {error}.") from None
    return frame, np.arange(1, len(frame) + 1)

"""Passages out of files: JSON, tables, plain text and Markdown, compressed or not."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cellgap.ask._passage import Passage
from cellgap.errors import DataError

_TEXT = ("text", "abstract", "body", "content", "contents")
_TITLE = ("title", "name", "heading")
_LISTS = ("ctxs", "passages", "documents")
# A paragraph of plain text that is longer is cut where a sentence ends: an encoder of sentences reads about so much.
_PARAGRAPH = 1_200
_HEADING = re.compile(r"\s{0,3}(#{1,6})\s+(.*?)\s*#*\s*$")
_FENCE = re.compile(r"\s{0,3}(```|~~~)")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def readable_files(path: Path) -> list[Path]:
    """Return the file itself, or the files of a folder that can be read, by name; hidden ones are left out.

    Raises
    ------
    DataError
        There is nothing at the path, its kind is unknown, or the folder has no file of a known kind.
    """
    if path.is_dir():
        inside = (f for f in path.rglob("*") if not any(p.startswith(".") for p in f.relative_to(path).parts))
        files = sorted(f for f in inside if f.is_file() and _kind(f) in _READERS)
        if not files:
            raise DataError(f"The folder {path} has no file that ends in {_accepted()}.")
        return files
    if not path.is_file():
        raise DataError(f"There is no file or folder {path} to read passages from.")
    if _kind(path) not in _READERS:
        raise DataError(f"Passages are read from files that end in {_accepted()}, found {path}.")
    return [path]


def passages_of_file(path: Path) -> Iterator[Passage]:
    """Yield the passages of one file."""
    return _READERS[_kind(path)](path, _decoded(path))


def passages_of_record(record: Any, where: str, source: str | None = None) -> Iterator[Passage]:
    """Yield the passage of a record, or those of its list of passages."""
    if not isinstance(record, Mapping):
        raise DataError(f"{where} is no record with a title and a text: found {_shown(record)}.")
    found = next((key for key in _LISTS if isinstance(record.get(key), list)), None)
    if found is None:
        yield passage_of(record, where, source)
        return
    for number, inner in enumerate(record[found], 1):
        at = f"{where}, {found}[{number}]"
        if not isinstance(inner, Mapping):
            raise DataError(f"{at} is no record with a title and a text: found {_shown(inner)}.")
        yield passage_of(inner, at, source)


def passage_of(record: Mapping[str, Any], where: str, source: str | None = None) -> Passage:
    """Return the passage of a record; `where` names it in errors, and is its source where no other is given.

    Raises
    ------
    DataError
        It has no text, or its title or text is something else than text.
    """
    names = {str(key).strip().lower(): key for key in record if key is not None}
    text_key = next((names[name] for name in _TEXT if _filled(record, names.get(name))), None)
    if text_key is None:
        raise DataError(
            f"{where} has no text: expected it under {', '.join(_TEXT[:-1])} or {_TEXT[-1]}, found the keys "
            f"{', '.join(map(str, record)) or '(none)'}."
        )
    title_key = next((names[name] for name in _TITLE if _filled(record, names.get(name))), None)
    text, title = record[text_key], record[title_key] if title_key is not None else ""
    for key, value in ((text_key, text), (title_key, title)):
        if not isinstance(value, str):
            raise DataError(f"{where} has under {key!r} no text but {_shown(value)}.")
    meta = {str(k): v for k, v in record.items() if k not in (text_key, title_key) and k is not None}
    # An empty title or a null beside the one that was taken says nothing.
    meta = {k: v for k, v in meta.items() if not (k.strip().lower() in _TEXT + _TITLE and v in (None, ""))}
    try:
        return Passage(title, text, meta, where if source is None else source)
    except DataError as error:
        if source is None or source == where:
            raise
        raise DataError(f"{where}: {error}") from None


def _filled(record: Mapping[str, Any], key: Any) -> bool:
    return (
        key is not None and record[key] is not None and not (isinstance(record[key], str) and not record[key].strip())
    )


def _json_lines(path: Path, text: str) -> Iterator[Passage]:
    # Not splitlines: JSON strings may hold the line separators of Unicode.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield from passages_of_record(_parsed(line, path, number), f"{path}:{number}")


def _json(path: Path, text: str) -> Iterator[Passage]:
    whole = _parsed(text, path, 1)
    if isinstance(whole, list):
        for number, record in enumerate(whole, 1):
            yield from passages_of_record(record, f"{path}[{number}]")
    else:
        yield from passages_of_record(whole, str(path))


def _parsed(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"{path}:{line + error.lineno - 1}"
        raise DataError(f"{at} is no JSON: {error.msg.lower()} at column {error.colno}.") from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path}:{line} is no JSON that can be read: {error}.") from None


def _table(path: Path, text: str) -> Iterator[Passage]:
    separator = "\t" if _kind(path) == ".tsv" else ","
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        columns = [str(name).strip().lower() for name in rows.fieldnames or ()]
        if not any(name in _TEXT for name in columns):
            raise DataError(
                f"{path}:1 names no column for the text: expected {', '.join(_TEXT[:-1])} or {_TEXT[-1]}, found "
                f"{', '.join(columns) or 'nothing'}."
            )
        for row in rows:
            where = f"{path}:{rows.line_num}"
            if None in row or None in row.values():
                cells = sum(v is not None for k, v in row.items() if k is not None) + len(row.get(None) or ())
                raise DataError(f"{where} has {cells} cells, but the first line names {len(columns)} columns.")
            yield passage_of(row, where)
    except csv.Error as error:
        raise DataError(f"{path}:{rows.line_num} cannot be read as a table: {error}.") from None


def _plain(path: Path, text: str) -> Iterator[Passage]:
    yield from _paragraphs(path, text, marks=False)


def _markdown(path: Path, text: str) -> Iterator[Passage]:
    yield from _paragraphs(path, text, marks=True)


def _paragraphs(path: Path, text: str, *, marks: bool) -> Iterator[Passage]:
    name, headings = _stem(path), {}
    block: list[str] = []
    first, fenced = 0, False

    def passages() -> Iterator[Passage]:
        title = ": ".join([name, *headings.values()])
        for part in _parts("\n".join(block).strip()):
            # Rules and ornaments say nothing.
            if any(c.isalnum() for c in part):
                yield passage_of({"title": title, "text": part}, f"{path}:{first}")

    for number, line in enumerate([*text.split("\n"), ""], 1):
        heading = _HEADING.match(line) if marks and not fenced else None
        if marks and _FENCE.match(line):
            fenced = not fenced
        if heading or (not line.strip() and not fenced):
            if block:
                yield from passages()
            block = []
            if heading:
                level = len(heading[1])
                headings = {deep: said for deep, said in headings.items() if deep < level} | {level: heading[2]}
            continue
        if not block:
            first = number
        block.append(line.rstrip("\r"))
    if block:
        yield from passages()


def _parts(text: str) -> Iterator[str]:
    part = ""
    for sentence in _SENTENCE_END.split(text):
        if part and len(part) + 1 + len(sentence) > _PARAGRAPH:
            yield part
            part = ""
        part = f"{part} {sentence}" if part else sentence
        while len(part) > _PARAGRAPH:
            # No end of a sentence in reach: the last space, or anywhere.
            cut = part.rfind(" ", 1, _PARAGRAPH)
            cut = cut if cut > 0 else _PARAGRAPH
            yield part[:cut]
            part = part[cut:].lstrip()
    if part:
        yield part


_READERS: dict[str, Callable[[Path, str], Iterator[Passage]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _table,
    ".tsv": _table,
    ".txt": _plain,
    ".md": _markdown,
}


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else (suffixes[-1] if suffixes else "")


def _stem(path: Path) -> str:
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    return Path(name).stem


def _accepted() -> str:
    kinds = list(_READERS)
    return f"{', '.join(kinds[:-1])} or {kinds[-1]} (also with .gz)"


def _decoded(path: Path) -> str:
    try:
        raw = path.read_bytes()
        if path.suffix.lower() == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line} is not UTF-8: byte {raw[error.start]:#04x}; save the file as UTF-8.") from None


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."

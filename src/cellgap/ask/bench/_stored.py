"""Outputs of others, stored in a file, as a system that can be scored."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cellgap.ask._answer import Notice
from cellgap.ask.bench._lines import objects, unpacked
from cellgap.ask.bench._predictions import ELSEWHERE, Prediction
from cellgap.ask.bench._records import Record, fragment_number
from cellgap.ask.bench._systems import PROTOCOLS, System
from cellgap.errors import ConfigError, DataError

_LISTS = ("answers", "properties")
_TEXTS = ("answer", "groundtruth")
_CITATIONS = ("citations", "condition_citations", "answer_citations")
_NO_REPLY = "no reply"


@dataclass(frozen=True)
class _Output:
    condition: str
    answer: str
    citations: tuple[Any, ...]


@dataclass(frozen=True)
class _Reply:
    where: str
    outputs: tuple[_Output, ...]


def stored(
    path: str | Path,
    *,
    protocol: str = "conditions",
    k_max: int | None = 3,
    records: Sequence[Record] | None = None,
    name: str = "",
) -> System:
    """Return a system that says what is stored in a file, such as the outputs of another program.

    Parameters
    ----------
    path
        A JSON array or JSON lines, plain or ``.gz``, of objects with ``id`` (of the record) and ``answers`` or
        ``properties``: a list of objects with ``condition`` (may be absent), ``answer`` or ``groundtruth``, and
        ``citations``: numbers, ``"Fragment 3"``, ``"3. Title"``, titles, or objects with ``title`` and ``text``. The
        number says which passage is meant, then the text, then the title; what names no passage of the record counts
        as a wrong citation. A record that is not in the file failed: no reply.
    protocol
        That the outputs were made under.
    k_max
        Most answers that are scored; further ones are left out. None takes all.
    records
        That the outputs may be of; None: those of the run.
    name
        Goes with every number; empty: ``stored:`` and the name of the file.

    Raises
    ------
    ConfigError
        An unknown protocol.
    DataError
        The file is missing, damaged or of another layout, or has an unknown id; the message names file and line.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol is one of {', '.join(map(repr, PROTOCOLS))}, found {protocol!r}.")
    path = Path(path)
    packed, data = unpacked(path)
    replies: dict[str, _Reply] = {}
    for where, raw in objects(data, path):
        identifier, reply = _reply(raw, where)
        if identifier in replies:
            raise DataError(f"{where} has the id {identifier!r}, which {replies[identifier].where} has already.")
        replies[identifier] = reply
    if not replies:
        raise DataError(f"{path} holds no answer: expected a JSON array or JSON lines.")

    def check(known: Sequence[Record]) -> None:
        ids = {record.id for record in known}
        unknown = [identifier for identifier in replies if identifier not in ids]
        if unknown:
            shown = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
            raise DataError(
                f"{replies[unknown[0]].where} answers a record that is not there: {len(unknown)} unknown ids ({shown})."
            )

    def answer(record: Record) -> Sequence[Prediction] | Notice:
        reply = replies.get(record.id)
        if reply is None:
            return Notice(_NO_REPLY, f"{path.name} has no reply to the record {record.id!r}.")
        return [Prediction(one.condition, one.answer, _cited(one.citations, record)) for one in reply.outputs]

    checked: Callable[[Sequence[Record]], None] | None = check
    if records is not None:
        check(records)
        checked = None
    versions = {"cellgap": version("cellgap"), "answers": hashlib.sha256(packed).hexdigest()[:16]}
    return System(name or f"stored:{path.name}", protocol, k_max, answer, versions, check=checked)


def _reply(raw: Any, where: str) -> tuple[str, _Reply]:
    if not isinstance(raw, Mapping) or not isinstance(raw.get("id"), str) or not raw["id"]:
        raise DataError(f"{where} is no stored reply: expected an object with a text 'id', found {raw!r:.80}.")
    where = f"{where} (id {raw['id']!r})"
    key = _one_of(raw, _LISTS, where)
    if not isinstance(raw[key], list):
        raise DataError(f"{where}, key {key!r}, is a {type(raw[key]).__name__}: expected a list.")
    outputs = tuple(_output(item, f"{where}, key '{key}[{i}]'") for i, item in enumerate(raw[key]))
    return raw["id"], _Reply(where, outputs)


def _output(raw: Any, where: str) -> _Output:
    if not isinstance(raw, Mapping):
        raise DataError(f"{where} is a {type(raw).__name__}: expected an object with condition, answer and citations.")
    text = raw[_one_of(raw, _TEXTS, where)]
    # As in the gold file: an answer that is a list of texts is one text.
    parts = text if isinstance(text, list) else [text]
    condition = raw.get("condition") or ""
    if not isinstance(condition, str) or not all(isinstance(part, str) for part in parts):
        raise DataError(f"{where} has a condition or an answer that is no text.")
    citations = []
    for key in _CITATIONS:
        found = raw.get(key) or []
        if not isinstance(found, list):
            raise DataError(f"{where}.{key} is a {type(found).__name__}: expected a list.")
        for i, item in enumerate(found):
            named = isinstance(item, Mapping) and any(isinstance(item.get(k), str) for k in ("title", "text"))
            if isinstance(item, bool) or not (named or isinstance(item, int | str)):
                raise DataError(
                    f"{where}.{key}[{i}] is no citation: expected a number, a text such as 'Fragment 3' or an object "
                    f"with title and text, found {item!r:.80}."
                )
            citations.append(item)
    return _Output(condition, " ".join(parts), tuple(citations))


def _one_of(raw: Mapping[str, Any], keys: tuple[str, ...], where: str) -> str:
    found = [key for key in keys if key in raw]
    if len(found) != 1:
        what = "both" if found else "neither"
        raise DataError(f"{where} has {what} of the keys {' and '.join(map(repr, keys))}: give one of them.")
    return found[0]


def _cited(citations: Sequence[Any], record: Record) -> tuple[int, ...]:
    return tuple(sorted({_passage(item, record) or ELSEWHERE + k for k, item in enumerate(citations)}))


def _passage(item: Any, record: Record) -> int | None:
    """Return the one-based passage that a citation means, or None where it is none of the record."""
    title, text = (item.get("title"), item.get("text")) if isinstance(item, Mapping) else (item, None)
    number = fragment_number(title)
    if number is not None and 1 <= number <= len(record.passages):
        return number
    for wanted, there in ((text, [p.text for p in record.passages]), (title, [p.title for p in record.passages])):
        same = [n for n, found in enumerate(there, 1) if isinstance(wanted, str) and _plain(found) == _plain(wanted)]
        # Several passages of a question share a title: that alone does not say which one is meant.
        if wanted and len(same) == 1:
            return same[0]
    return None


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()

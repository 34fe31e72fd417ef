"""Questions with their gold readings and passages, in the layout of CondAmbigQA (arXiv 2502.01523).

The public data are not part of this library: whoever accepted their terms loads them from a local file.
"""

import copy
import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cellgap.ask._passage import Passage
from cellgap.ask.bench._lines import objects, unpacked
from cellgap.errors import ConfigError, DataError

REVISIONS: Mapping[str, str] = {
    "3d7cc843d137cd1640f491ea1ca1fc53dbfea1b143e17fe81492f831cd2e06be": "CondAmbigQA v1 (mcaqa.json, October 2024)",
    "d6554f6465f32b7ee889f0fcada3a4a3296f0629cf15b47d64a0c7874791a63f": "CondAmbigQA v1 (August 2025, other layout)",
    "320a8c76d9bc0453cbddf2019134da1d0a0fe6e053f5f966382796e2ae360f69": "CondAmbigQA first draft",
    "770bcd6c560d5003c5e5fb5156d0aa4092d3efcb243bddcf73779c9c9a202a38": "mini ency (development)",
    "f3f8e1160283451cbbac7485b2070948d4a4e6f8b96ebc4229197014a70a5343": "mini perturb (development)",
}
"""Files whose content is known, by SHA-256 of the file or of what it unpacks to."""

SPLITS = ("dev", "test")
"""Part 0 and part 1 of the split rule."""

_FRAGMENT = re.compile(r"\s*\[\s*fragments?\b[^\]\n]*\]?", re.IGNORECASE)
_NUMBER = re.compile(r"\s*\[?(?:fragment\s*)?\[?(\d{1,6})\]?\s*(?:[.:)]|$)", re.IGNORECASE)
_CITATIONS = ("citations", "condition_citations", "answer_citations")
_RECORD_KEYS = ("id", "question", "properties", "ctxs")


@dataclass(frozen=True)
class Gold:
    """One reading of a question, as annotated.

    Parameters
    ----------
    condition, answer
        Without inline marks such as ``[Fragment 3]``; an answer that was a list is joined by spaces.
    fragments
        One-based positions of the cited passages, ascending; the union of what condition and answer cite.
    short_answers
        Strings that a right answer contains; empty where the record lists none.
    extra
        Whatever else the record says of this reading (``reason``, ``x_key``, ...).
    """

    condition: str
    answer: str
    fragments: tuple[int, ...]
    short_answers: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """An ambiguous question, its readings, and the passages retrieved for it.

    Parameters
    ----------
    id, question
        As in the file.
    golds
        At least one.
    passages
        In retrieval order; citations count them from 1.
    raw
        The record as it was in the file, unknown keys included; what ``save`` writes.
    dataset
        Name of the revision where the file is a known one, else its name and the start of its SHA-256.
    """

    id: str
    question: str
    golds: tuple[Gold, ...]
    passages: tuple[Passage, ...]
    raw: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = ""

    @classmethod
    def of(cls, raw: Any, source: str = "record", dataset: str = "") -> "Record":
        """Return the record of a plain mapping in the layout of the benchmark.

        Parameters
        ----------
        source
            What errors name: the file, and which record in it.

        Raises
        ------
        DataError
            A key is missing or of another type, or a citation points to no passage; the message names the key.
        """
        if not isinstance(raw, Mapping):
            raise DataError(
                f"{source} is a {type(raw).__name__}: a record is an object with {', '.join(_RECORD_KEYS)}."
            )
        for key in _RECORD_KEYS:
            if key not in raw:
                raise DataError(f"{source} has no key {key!r}: a record has {', '.join(_RECORD_KEYS)}.")
        identifier = _text(raw["id"], f"{source}, key 'id'")
        where = f"{source} (id {identifier!r})"
        question = _text(raw["question"], f"{where}, key 'question'")
        if not identifier or not question.strip():
            raise DataError(f"{where} has an empty id or question: both have to be filled.")
        passages = tuple(
            _passage(item, f"{where}, key 'ctxs[{i}]'")
            for i, item in enumerate(_list(raw["ctxs"], f"{where}, key 'ctxs'"))
        )
        properties = _list(raw["properties"], f"{where}, key 'properties'")
        if not properties:
            raise DataError(f"{where}, key 'properties', is empty: a record has at least one reading.")
        golds = tuple(
            _gold(item, len(passages), f"{where}, key 'properties[{i}]'") for i, item in enumerate(properties)
        )
        return cls(identifier, question, golds, passages, copy.deepcopy(dict(raw)), dataset)

    @property
    def stored(self) -> tuple[float | None, ...]:
        """Scores of the first retriever by passage; None where the file has none."""
        scores = (passage.meta.get("score") for passage in self.passages)
        return tuple(None if score is None else float(score) for score in scores)

    @property
    def injected(self) -> tuple[int, ...]:
        """One-based positions of passages that were planted to give orders (``x_injection``)."""
        return tuple(int(i) + 1 for i in self.raw.get("x_injection") or ())

    @property
    def part(self) -> int:
        """0 = development, 1 = test."""
        return part(self.id)

    def to_dict(self) -> dict[str, Any]:
        """Return the record in the layout of the benchmark: as it was read, where it was read."""
        if self.raw:
            return copy.deepcopy(dict(self.raw))
        cited = [
            [{"title": f"{n}. {self.passages[n - 1].title}", "text": self.passages[n - 1].text} for n in gold.fragments]
            for gold in self.golds
        ]
        properties = []
        for gold, citations in zip(self.golds, cited, strict=True):
            plain = {"condition": gold.condition, "groundtruth": gold.answer, "citations": citations, **gold.extra}
            properties.append(plain | ({"x_short_answers": list(gold.short_answers)} if gold.short_answers else {}))
        ctxs = [{"title": p.title, "text": p.text, **p.meta} for p in self.passages]
        return {"id": self.id, "question": self.question, "properties": properties, "ctxs": ctxs}


def part(identifier: str) -> int:
    """Return the part of a record: ``int(sha256(id), 16) % 2``, 0 = development and 1 = test."""
    return int(hashlib.sha256(identifier.encode()).hexdigest(), 16) % 2


def load(path: str | Path, split: str | None = None) -> tuple[Record, ...]:
    """Return the records of a file in the layout of CondAmbigQA.

    The number in the title of a citation is what says which passage is meant; titles and texts are not keys.

    Parameters
    ----------
    path
        A JSON array or JSON lines, plain or ``.gz``.
    split
        ``"dev"``, ``"test"`` (see ``part``), or None for all.

    Raises
    ------
    ConfigError
        An unknown split.
    DataError
        The file is missing, damaged or of another layout; the message names the file, the record and the key.
    """
    if split is not None and split not in SPLITS:
        raise ConfigError(f"split is one of {', '.join(map(repr, SPLITS))} or None, found {split!r}.")
    path = Path(path)
    data, dataset = _named(path)
    records = []
    seen: dict[str, str] = {}
    for where, raw in objects(data, path):
        record = Record.of(raw, where, dataset)
        if record.id in seen:
            raise DataError(f"{where} has the id {record.id!r}, which {seen[record.id]} has already: ids are unique.")
        seen[record.id] = where
        records.append(record)
    if not records:
        raise DataError(f"{path} holds no record: expected a JSON array or JSON lines.")
    return tuple(r for r in records if split is None or r.part == SPLITS.index(split))


def save(records: Sequence[Record], path: str | Path) -> None:
    """Write records; ``load`` reads them back as they were.

    Parameters
    ----------
    path
        ``.json`` for an array, anything else for JSON lines; ``.gz`` packs, with the same bytes every time.
    """
    path = Path(path)
    plain = [record.to_dict() for record in records]
    if path.suffix == ".json" or path.suffixes[-2:] == [".json", ".gz"]:
        text = json.dumps(plain, ensure_ascii=False, indent=1) + "\n"
    else:
        text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in plain)
    data = text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _named(path: Path) -> tuple[bytes, str]:
    packed, data = unpacked(path)
    digests = [hashlib.sha256(part).hexdigest() for part in (packed, data)]
    known = [REVISIONS[digest] for digest in digests if digest in REVISIONS]
    return data, known[0] if known else f"{path.name} (sha256 {digests[0][:16]})"


def _gold(raw: Any, n_passages: int, where: str) -> Gold:
    if not isinstance(raw, Mapping):
        raise DataError(f"{where} is a {type(raw).__name__}: expected an object with condition and groundtruth.")
    texts = []
    for key in ("condition", "groundtruth"):
        if key not in raw:
            raise DataError(f"{where} has no key {key!r}: a reading has condition, groundtruth and citations.")
        value = raw[key]
        if key == "groundtruth" and isinstance(value, list):
            value = " ".join(_text(item, f"{where}.{key}[{i}]") for i, item in enumerate(value))
        texts.append(_FRAGMENT.sub("", _text(value, f"{where}.{key}")).strip())
    fragments: set[int] = set()
    for key in _CITATIONS:
        for i, item in enumerate(_list(raw.get(key) or [], f"{where}.{key}")):
            fragments.add(_fragment(item, n_passages, f"{where}.{key}[{i}]"))
    listed = _list(raw.get("x_short_answers") or [], f"{where}.x_short_answers")
    short = tuple(_text(item, f"{where}.x_short_answers[{i}]") for i, item in enumerate(listed))
    known = {"condition", "groundtruth", "x_short_answers", *_CITATIONS}
    extra = {key: copy.deepcopy(value) for key, value in raw.items() if key not in known}
    return Gold(texts[0], texts[1], tuple(sorted(fragments)), short, extra)


def _fragment(item: Any, n_passages: int, where: str) -> int:
    number = fragment_number(item.get("title") if isinstance(item, Mapping) else item)
    if number is None:
        raise DataError(f"{where} names no passage: expected a title such as '3. Title', found {item!r:.80}.")
    if not 1 <= number <= n_passages:
        raise DataError(f"{where} cites passage {number}: the record has the passages 1 to {n_passages}.")
    return number


def fragment_number(cited: object) -> int | None:
    """Return the passage that a citation means (``3``, ``"3"``, ``"[3]"``, ``"Fragment 3"``, ``"3. Title"``)."""
    if isinstance(cited, int) and not isinstance(cited, bool):
        return cited
    match = _NUMBER.match(cited) if isinstance(cited, str) else None
    return int(match[1]) if match else None


def _passage(raw: Any, where: str) -> Passage:
    if not isinstance(raw, Mapping) or "text" not in raw:
        raise DataError(f"{where} is no passage: expected an object with title and text, found {raw!r:.80}.")
    title, text = _text(raw.get("title") or "", f"{where}.title"), _text(raw["text"], f"{where}.text")
    score = raw.get("score")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise DataError(f"{where}.score is a {type(score).__name__}: expected a number, or no such key.")
    meta = {key: copy.deepcopy(value) for key, value in raw.items() if key not in ("title", "text")}
    return Passage(title, text, meta, source=where)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where} is a {type(value).__name__}: expected text.")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{where} is a {type(value).__name__}: expected a list.")
    return value

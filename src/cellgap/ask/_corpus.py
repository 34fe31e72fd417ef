"""The passages that questions are answered from, read from the files that people have."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cellgap.ask._passage import Passage
from cellgap.ask._passage_files import passage_of, passages_of_file, passages_of_record, readable_files
from cellgap.errors import DataError


@dataclass(frozen=True)
class Corpus:
    """Passages in a fixed order; one with the title and the text of an earlier one is left out and counted.

    Parameters
    ----------
    passages
        In order; positions in rankings count them from 0.
    duplicates
        How many were left out.
    """

    passages: tuple[Passage, ...]
    duplicates: int = 0

    def __post_init__(self) -> None:
        first: dict[str, Passage] = {}
        for passage in self.passages:
            first.setdefault(passage.sha256, passage)
        object.__setattr__(self, "duplicates", self.duplicates + len(self.passages) - len(first))
        object.__setattr__(self, "passages", tuple(first.values()))

    @classmethod
    def read(cls, *paths: str | Path) -> "Corpus":
        """Return the passages of files and of all such files in folders, in the order given (folders by name).

        Parameters
        ----------
        paths
            ``.jsonl`` and ``.json`` (records with ``title`` and ``text``, or a list of them under ``ctxs`` as in
            CondAmbigQA), ``.csv`` and ``.tsv`` with such columns, ``.txt`` and ``.md`` (one passage a paragraph, titled
            by file and heading), each also with ``.gz``. ``abstract``, ``body``, ``content`` and ``contents`` serve as
            text, ``name`` and ``heading`` as title, where the usual key is missing; other keys become ``meta``.

        Raises
        ------
        DataError
            A file is missing, unreadable, not UTF-8, of an unknown kind, or holds a record without text (file and line
            are named); or there is no passage at all.
        """
        files = [file for path in paths for file in readable_files(Path(path))]
        made = cls(tuple(passage for file in files for passage in passages_of_file(file)))
        if not made.passages:
            raise DataError(f"There is no passage in {', '.join(map(str, paths)) or 'no file at all'}.")
        return made

    @classmethod
    def of(cls, records: Iterable[Passage | Mapping[str, Any] | str]) -> "Corpus":
        """Return the passages of records in memory: passages, mappings with the keys of ``read``, or plain texts.

        Raises
        ------
        DataError
            A record has no text; its number is named.
        """
        passages: list[Passage] = []
        for number, record in enumerate(records, 1):
            if isinstance(record, Passage):
                passages.append(record)
            elif isinstance(record, str):
                passages.append(passage_of({"text": record}, f"record {number}"))
            else:
                passages += passages_of_record(record, f"record {number}", source="")
        return cls(tuple(passages))

    @cached_property
    def digest(self) -> str:
        """Digest of titles and texts in their order."""
        return hashlib.sha256("".join(passage.sha256 for passage in self.passages).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.passages)

    def __iter__(self) -> Iterator[Passage]:
        return iter(self.passages)

    def __getitem__(self, position: int) -> Passage:
        return self.passages[position]

    def __repr__(self) -> str:
        left_out = f", {self.duplicates:,} duplicates left out" if self.duplicates else ""
        return f"Corpus({len(self):,} passages{left_out})"

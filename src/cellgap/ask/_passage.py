"""A passage: a titled piece of text that can be cited. Its text is data and never an instruction."""

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cellgap.ask._orders import gives_orders
from cellgap.errors import DataError

MAX_CHARACTERS = 20_000
"""Longest text of a passage; what is longer has to be cut by whoever makes the corpus."""

_KEPT = "\n\t"


def clean(text: str) -> str:
    """Return text in Unicode's compatible form (NFKC), without control, zero-width and direction characters."""
    kept = (c for c in unicodedata.normalize("NFKC", text) if c in _KEPT or unicodedata.category(c) not in ("Cc", "Cf"))
    # Once more: what a character that was dropped held apart may combine, and a cleaned text has to stay as it is.
    return unicodedata.normalize("NFKC", "".join(kept)).strip()


@dataclass(frozen=True)
class Passage:
    """A piece of text with a title.

    Parameters
    ----------
    title, text
        Cleaned on construction (``clean``); `text` is not empty and at most 20,000 characters.
    meta
        Whatever else the record carried (``score``, ``doi``, ``cell_line``, ...).
    source
        File, and the line in it.

    Raises
    ------
    DataError
        The text is empty or too long.
    """

    title: str
    text: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", clean(self.title).replace("\n", " "))
        object.__setattr__(self, "text", clean(self.text))
        where = f" ({self.source})" if self.source else ""
        if not self.text:
            raise DataError(f"The passage {self.title!r}{where} has no text: leave it out, or give its text.")
        if len(self.text) > MAX_CHARACTERS:
            raise DataError(
                f"The passage {self.title!r}{where} has {len(self.text):,} characters: cut it into passages of at most "
                f"{MAX_CHARACTERS:,}, so that a citation points to something a person can read."
            )

    @cached_property
    def id(self) -> str:
        """Hash of title and text: the same passage has it in every corpus."""
        return self.sha256[:16]

    @cached_property
    def sha256(self) -> str:
        """Digest of title and text."""
        return hashlib.sha256(f"{self.title}\x1f{self.text}".encode()).hexdigest()

    @cached_property
    def suspicious(self) -> bool:
        """Whether the passage speaks to a model (``gives_orders``); such a passage is never cited by the default."""
        return gives_orders(f"{self.title}\n{self.text}")

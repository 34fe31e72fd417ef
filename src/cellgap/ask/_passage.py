"""A passage: a titled piece of text that can be cited. Its text is data and never an instruction."""

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cellgap.errors import DataError

MAX_CHARACTERS = 20_000
"""Longest text of a passage; what is longer has to be cut by whoever makes the corpus."""

_KEPT = "\n\t"
_ORDERS = re.compile(
    r"""
    \b(?:ignore|disregard|forget|override|bypass)\b[^.\n]{0,60}\b(?:passages?|instructions?|sources?|context|fragments?
        |documents?|prompts?|rules?|question|above|previous|everything|others?)\b
    | \b(?:new\s+|important\s+)?(?:instructions?|orders?|notice|message|note|command)\s+(?:to|for)\s+(?:the\s+|any\s+|every\s+|all\s+)?
        (?:\w+\s+(?:or|and)\s+)?(?:assistants?|models?|readers?|systems?|ai|llms?|agents?|chatbots?|language\s+models?)\b
    | \b(?:assistants?|ai|llms?|language\s+models?|chatbots?|models?|readers?|systems?|you)\b[^.\n]{0,30}
        \b(?:must|should|shall|have\s+to|are\s+to|is\s+to|please)\b[^.\n]{0,40}
        \b(?:answer|reply|respond|say|state|output|cite|write|report|claim|repeat)\b
    | \b(?:answer|reply|respond)\s+(?:only\s+)?(?:with|that)\b
    | \b(?:cite|quote|use|trust)\s+(?:only\s+|solely\s+)?(?:this|the\s+present)\s+(?:passage|note|fragment|document|text|source)\b
        (?:\s+(?:alone|only|exclusively|solely))?
    | \bcite\s+(?:only|no|nothing|none)\b | \b(?:list|give|show)\s+no\s+citations?\b
    | <\|?\s*(?:im_start|im_end|system|assistant|user|endoftext)\b | \[/?INST\] | ^\s*(?:system|assistant|user)\s*:
    | \bsystem\s+prompt\b
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)


def clean(text: str) -> str:
    """Return text in Unicode's compatible form (NFKC), without control, zero-width and direction characters."""
    kept = (c for c in unicodedata.normalize("NFKC", text) if c in _KEPT or unicodedata.category(c) not in ("Cc", "Cf"))
    return "".join(kept).strip()


def gives_orders(text: str) -> bool:
    """Return whether a text speaks to a model or a reader instead of telling something.

    A pattern is a flag: it can be wrong in both directions. What protects an answer is that no text of a passage is
    ever run, followed or sent as an instruction; the flag only takes retrieval weight from such a passage.
    """
    return _ORDERS.search(text) is not None


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

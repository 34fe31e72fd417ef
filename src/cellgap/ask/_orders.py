"""Whether a text gives orders to whoever answers from it, instead of telling something.

Words are looked up before a pattern is tried: texts are many, and most hold none of them.
"""
# ruff: noqa: RUF001, people type these quotes and dashes

import re
from collections.abc import Iterator

from cellgap.ask._order_patterns import (
    MUST,
    STRONG_ORDERS,
    STRONG_PHRASES,
    WEAK_ORDERS,
    WEAK_PHRASES,
    Order,
    Phrase,
)

_WORDS = re.compile(r"[a-z]+")
_BREAK = re.compile(r"[.!?]+['\"”’)\]]*\s+|[:;—–(\[\n]\s*|\s-+\s|\bplease,?\s", re.IGNORECASE)
_JOINT = re.compile(r",\s*|\b(?:and|then|or|but)\s+", re.IGNORECASE)
_AFTER_MUST = re.compile(rf"\b{MUST}\s+", re.IGNORECASE)
_SOFT = re.compile(
    r"[^\w<\[]*(?:(?:please|kindly|now|simply|just|only|always|instead|then|therefore|you\s+(?:must|should|shall|will|are\s+to|have\s+to)|in\s+your\s+\w+)"
    r",?\s+)*",
    re.IGNORECASE,
)
_FIRST = re.compile(r"[A-Za-z]+(?:['’]t)?")
_FIRST_WORDS = frozenset().union(*(order.words for order in STRONG_ORDERS + WEAK_ORDERS))


def gives_orders(text: str) -> bool:
    """Return whether a text speaks to a model or a reader instead of telling something.

    One order that nobody writes into a text that informs is enough, such as to cite this page alone; of signs that
    occur in other texts too, two different ones. A pattern is a flag: it can be wrong in both directions. What
    protects an answer is that no text of a passage is ever run, followed or sent as an instruction; the flag only
    takes retrieval weight from such a passage.
    """
    words = frozenset(_WORDS.findall(text.lower()))
    found = list(_imperatives(text)) if words & _FIRST_WORDS else []
    if any(_has_order(order, text, found) for order in STRONG_ORDERS):
        return True
    if any(_has_phrase(phrase, text, words) for phrase in STRONG_PHRASES):
        return True
    signs = 0
    for order in WEAK_ORDERS:
        signs += _has_order(order, text, found)
    for phrase in WEAK_PHRASES:
        if signs >= 2:
            break
        signs += _has_phrase(phrase, text, words)
    return signs >= 2


def _imperatives(text: str) -> Iterator[tuple[str, int, str]]:
    """Yield where an imperative may stand: the kind of the place, where its first word begins, and that word."""
    places = [("s", 0)]
    for found in _BREAK.finditer(text):
        at = found.end()
        if found[0][0] in ".!?":
            # A sentence begins with a capital, and not after an initial: "the only U.S. state that".
            capital = text[at : at + 3].lstrip("\"'“‘([*_-")[:1].isupper()
            if not capital or text[found.start() - 1 : found.start()].isupper():
                continue
        places.append(("s", at))
    places += [("n", found.end()) for found in _JOINT.finditer(text)]
    places += [("m", found.end()) for found in _AFTER_MUST.finditer(text)]
    for kind, at in places:
        soft = _SOFT.match(text, at)
        at = soft.end() if soft else at
        first = _FIRST.match(text, at)
        if first and first[0].lower() in _FIRST_WORDS:
            yield kind, at, first[0].lower()


def _has_order(order: Order, text: str, found: list[tuple[str, int, str]]) -> bool:
    return any(
        kind in order.places and first in order.words and order.pattern.match(text, at) for kind, at, first in found
    )


def _has_phrase(phrase: Phrase, text: str, words: frozenset[str]) -> bool:
    return all(words & some for some in phrase.needs) and phrase.pattern.search(text) is not None

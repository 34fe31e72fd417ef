"""Whether a text gives orders to whoever answers from it, instead of telling something.

Words are looked up before a pattern is tried: texts are many, and most hold none of them.
"""
# ruff: noqa: RUF001, people type these quotes and dashes

import re
from collections.abc import Iterator

from cellgap.ask._order_imperatives import STRONG_ORDERS, WEAK_ORDERS
from cellgap.ask._order_phrases import STRONG_PHRASES, WEAK_PHRASES
from cellgap.ask._order_words import MUST, Order, Phrase

_BREAK = re.compile(r"[.!?]+['\"”’)\]]*\s+|[:;—–(\[\n]\s*|\s-+\s|\bplease,?\s", re.IGNORECASE)
_JOINT = re.compile(r",\s*|\b(?:and|then|or|but)\s+", re.IGNORECASE)
_AFTER_MUST = re.compile(rf"\b{MUST}\s+", re.IGNORECASE)
_SOFT = re.compile(
    r"[^\w<\[]*(?:(?:please|kindly|now|simply|just|only|always|instead|then|therefore|you\s+(?:must|should|shall|will|are\s+to|have\s+to)|in\s+your\s+\w+)"
    r",?\s+)*",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[A-Za-z]+(?:['’]t\b)?")
_REACH = 80
_PHRASES = STRONG_PHRASES + WEAK_PHRASES
_STRONG = frozenset(STRONG_PHRASES)
_ALWAYS = frozenset(number for number, phrase in enumerate(_PHRASES) if not phrase.needs)
_BY_WORD: dict[str, list[int]] = {}
for _number, _phrase in enumerate(_PHRASES):
    for _word in _phrase.needs[0] if _phrase.needs else ():
        _BY_WORD.setdefault(_word, []).append(_number)
_FIRST_WORDS = frozenset().union(*(order.words for order in STRONG_ORDERS + WEAK_ORDERS))


def gives_orders(text: str) -> bool:
    """Return whether a text speaks to a model or a reader instead of telling something.

    One order that nobody writes into a text that informs is enough, such as to cite this page alone; of signs that
    occur in other texts too, two different ones. A pattern is a flag: it can be wrong in both directions. What
    protects an answer is that no text of a passage is ever run, followed or sent as an instruction; the flag only
    takes retrieval weight from such a passage.
    """
    tokens = [(match[0].lower(), match.start()) for match in _TOKEN.finditer(text)]
    words = frozenset(word for word, _ in tokens)
    found = [entry for word, at in tokens if word in _FIRST_WORDS for entry in _imperative(text, word, at)]
    phrases = [phrase for phrase in _phrases(words) if phrase.pattern.search(text)]
    if not phrases and not found:
        return False
    if any(phrase in _STRONG for phrase in phrases) or any(_has_order(order, text, found) for order in STRONG_ORDERS):
        return True
    return len(phrases) + sum(_has_order(order, text, found) for order in WEAK_ORDERS) >= 2


def _phrases(words: frozenset[str]) -> Iterator[Phrase]:
    """Yield the turns of phrase whose words are all there."""
    some = {number for word in words if word in _BY_WORD for number in _BY_WORD[word]}
    for number in sorted(some | _ALWAYS):
        if not any(words.isdisjoint(needed) for needed in _PHRASES[number].needs):
            yield _PHRASES[number]


def _imperative(text: str, word: str, at: int) -> Iterator[tuple[str, int, str]]:
    """Yield the kinds of places at which a word stands that can begin an order."""
    # Further back nothing belongs to it: no run of words that soften an order is so long.
    since = max(0, at - _REACH)
    places = [("s", 0)] if since == 0 else []
    for found in _BREAK.finditer(text, since, at):
        if found[0][0] in ".!?":
            # A sentence begins with a capital, and not after an initial: "the only U.S. state that".
            capital = text[found.end() : found.end() + 3].lstrip("\"'“‘([*_-")[:1].isupper()
            if not capital or text[found.start() - 1 : found.start()].isupper():
                continue
        places.append(("s", found.end()))
    places += [("n", found.end()) for found in _JOINT.finditer(text, since, at)]
    places += [("m", found.end()) for found in _AFTER_MUST.finditer(text, since, at)]
    for kind in dict.fromkeys(kind for kind, place in places if _leads_to(text, place, at)):
        yield kind, at, word


def _leads_to(text: str, place: int, at: int) -> bool:
    soft = _SOFT.match(text, place, at)
    return place == at or (soft is not None and soft.end() == at)


def _has_order(order: Order, text: str, found: list[tuple[str, int, str]]) -> bool:
    return any(
        kind in order.places and first in order.words and order.pattern.match(text, at) for kind, at, first in found
    )

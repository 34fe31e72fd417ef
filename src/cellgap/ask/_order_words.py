"""The words that orders are made of, and the two kinds of patterns they are told by."""
# ruff: noqa: E501, RUF001, patterns read better whole, and people type these quotes and dashes

import re
from typing import NamedTuple

MACHINE = (
    r"(?:assistants?|ais?|llms?|chat-?bots?|copilots?|gpts?|(?:large\s+)?language\s+models?|ai\s+(?:models?|systems?|"
    r"agents?|tools?)|(?:question[\s-]+)?answering\s+(?:models?|systems?|agents?|engines?))"
)
# These words mean other things too, so that they need company.
ANYONE = rf"(?:{MACHINE}|models?|readers?|systems?|agents?|bots?|summari[sz]ers?|annotators?|answerers?|users?)"
THIS = r"(?:this|the\s+present|the\s+current)"
PIECE = (
    r"(?:passage|page|note|fragment|document|text|source|record|entry|notice|article|paragraph|snippet|excerpt|section|"
    r"memo|message|statement|citation|reference|bulletin|remark|chunk)"
)
PIECES = rf"(?:{PIECE}s|entries|evidence|context|literature|materials?|results)"
SAY = r"(?:answer|reply|respond|say|state|claim|insist|pretend|affirm|output|repeat|proclaim)"
TELL = rf"(?:{SAY}|assert|declare|conclude|report|write|announce|confirm|maintain|tell|agree)"
CITE = r"(?:cite|quote|reference|credit|trust|name|list|give|mention|rely\s+(?:up)?on|refer\s+to|point\s+to)"
USE = rf"(?:{CITE}|use|show|provide|include|present|link(?:\s+to)?|consult|consider|believe|follow|offer|attribute\s+\w+\s+to)"
DROP = (
    r"(?:ignore|disregard|forget|override|bypass|discard|dismiss|skip|set\s+aside|overlook|neglect|leave\s+out|omit|"
    r"stop\s+reading|drop|leave\s+(?=[^.\n]{0,40}\baside\b)|pay\s+no\s+attention(?:\s+to)?)"
)
ORDERED = r"(?:required|instructed|ordered|told|requested|asked|directed|obliged|expected|advised)"
MUST = (
    r"(?:must|should|shall|(?:have|has|need|needs|ought)\s+to|"
    rf"(?:is|are)\s+(?:hereby\s+|now\s+)?(?:to|(?:{ORDERED}|mandatory|compulsory|obligatory)\s+to))"
)
ONLY = r"(?:only|alone|sole|solely|exclusively|exclusive|single|just)"
TO_WHOM = r"(?:the|any|every|all|each|your|whichever|whatever|our)"


def word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


SAY_WORDS = word_set("answer reply respond say state claim insist pretend affirm output repeat proclaim")
TELL_WORDS = SAY_WORDS | word_set("assert declare conclude report write announce confirm maintain tell agree")
CITE_WORDS = word_set("cite quote reference credit trust name list give mention rely refer point")
USE_WORDS = CITE_WORDS | word_set(
    "use show provide include present link consult consider believe follow offer attribute"
)
DROP_WORDS = word_set(
    "ignore disregard forget override bypass discard dismiss skip set overlook neglect leave omit stop pay drop"
)
NOT_WORDS = word_set("do don't don’t never refrain avoid under not")


class Order(NamedTuple):
    """An imperative: its first words, where it can stand (s: start, n: after and or a comma, m: after must), and it."""

    words: frozenset[str]
    places: str
    pattern: re.Pattern[str]


class Phrase(NamedTuple):
    """A turn of phrase, and the words of which it has one of each set."""

    needs: tuple[frozenset[str], ...]
    pattern: re.Pattern[str]


def order(words: frozenset[str], places: str, pattern: str) -> Order:
    return Order(words, places, re.compile(pattern, re.IGNORECASE))


def phrase(needs: tuple[str, ...], pattern: str) -> Phrase:
    return Phrase(tuple(word_set(words) for words in needs), re.compile(pattern, re.IGNORECASE | re.MULTILINE))

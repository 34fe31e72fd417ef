"""Names that a question can hold: treatments, readouts, contexts, and how they are found in it.

Names are compared in pieces: runs of letters and digits, lower case, Greek letters spelled out. A name is found where
its pieces stand, whole and in order, whatever signs or spaces are between them (``IL-6`` is ``il6``).
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


# Unicode's own names of the small letters; its LAMDA is everyone else's lambda.
_GREEK = {
    chr(c): unicodedata.name(chr(c)).rsplit(" ", 1)[1].lower().replace("lamda", "lambda") for c in range(0x3B1, 0x3CA)
}
_GREEK_NAMES = frozenset(_GREEK.values())
_PIECE = re.compile(r"[^\W_]+|(?<=[^\W_])[+](?![^\W_+])|\([+-]\)")
_SHORTEST_EDITED = 7
# What follows a hyphen without being part of a name.
_SUFFIXES = words_of(
    """
    treated induced dependent mediated derived exposed stimulated driven based specific associated regulated
    positive negative resistant sensitive only cell line treatment
    """
)
_ENDINGS = words_of("s e ed es ing ion ions ive ory or al ally ic tic sis tically ce t cy y ating ation") | {""}
# A name that is one of these is found only as it is written in the table, with its capitals.
_ORDINARY = words_of(
    """
    a an all am and any are as at be by can cat did do does for from had has have he her his how i if impact in is
    it its large max me met more most my no not of off on or our out rest see set so star than that the their them
    then these they this to tub up us was we were what when where which who why will with you your act aim end fat
    fit gas hit ice mice not pan par pen pet pig plan ran she sos span spin step stop ten tip tie trap type wars
    wave zip
    """
)


@dataclass(frozen=True)
class Piece:
    """A run of letters and digits of a text.

    Parameters
    ----------
    text
        Lower case, Greek letters spelled out.
    start, end
        Characters in the text.
    glue
        What stands between this piece and the one before.
    """

    text: str
    start: int
    end: int
    glue: str


@dataclass(frozen=True)
class Name:
    """A name of the tables.

    Parameters
    ----------
    kind
        ``"treatment"``, ``"readout"``, ``"dataset"`` or a context's name.
    value
        As it stands in the table.
    alias
        The word it was found by, where that is another name of it.
    """

    kind: str
    value: str
    alias: str = ""


@dataclass(frozen=True)
class Mention:
    """A name found in a question.

    Parameters
    ----------
    names
        What it can be: of several kinds, or several values that are written alike.
    start, end
        Characters of the question.
    said
        Those characters.
    edited
        Whether one letter differs.
    """

    names: tuple[Name, ...]
    start: int
    end: int
    said: str
    edited: bool = False


def pieces(text: str) -> tuple[Piece, ...]:
    """Return the pieces of a text."""
    found: list[Piece] = []
    for match in _PIECE.finditer(text):
        word = "".join(_GREEK.get(c, c) for c in unicodedata.normalize("NFKC", match[0]).casefold())
        word = {"cells": "cell", "+": "positive", "(+)": "positive", "(-)": "negative"}.get(word, word)
        glue = text[found[-1].end : match.start()] if found else ""
        found.append(Piece(word, match.start(), match.end(), glue))
    return tuple(found)


@dataclass(frozen=True)
class Lexicon:
    """Names by their pieces.

    Parameters
    ----------
    entries
        Pieces joined, to the names that have them.
    longest
        Most pieces of a name.
    """

    entries: dict[str, list[tuple[int, Name]]] = field(default_factory=dict)
    longest: int = 1

    @classmethod
    def of(cls, names: Iterable[Name]) -> "Lexicon":
        """Return the lexicon of names."""
        entries: dict[str, list[tuple[int, Name]]] = {}
        longest = 1
        for name in names:
            parts = pieces(name.alias or name.value)
            if parts:
                longest = max(longest, len(parts))
                entries.setdefault("".join(p.text for p in parts), []).append((len(parts), name))
        return cls(entries, longest)

    @cached_property
    def readouts(self) -> tuple[Name, ...]:
        """Names of readouts."""
        return tuple(n for hits in self.entries.values() for _, n in hits if n.kind == "readout")

    @cached_property
    def near(self) -> dict[str, list[str]]:
        """Keys by what is left of them without one of their characters, and by themselves."""
        found: dict[str, list[str]] = {}
        for key in self.entries:
            if _letters(key) >= _SHORTEST_EDITED - 1:
                for text in _without_one(key):
                    found.setdefault(text, []).append(key)
        return found


def find_mentions(question: str, lexicons: Sequence[Lexicon], known_words: frozenset[str]) -> tuple[Mention, ...]:
    """Return the names in a question, in its order, longest first where they overlap.

    Parameters
    ----------
    question
        As asked.
    lexicons
        Of every table.
    known_words
        Words of plain questions, which are never read as a name with one letter changed.
    """
    parts = pieces(question)
    longest = min(max((lexicon.longest for lexicon in lexicons), default=1) + 2, 14)
    taken = [False] * len(parts)
    found: list[Mention] = []
    spans = [(n, i) for n in range(min(longest, len(parts)), 0, -1) for i in range(len(parts) - n + 1)]
    for edited in (False, True):
        for n, i in spans:
            if any(taken[i : i + n]) or not _whole(question, parts, i, i + n):
                continue
            words = parts[i : i + n]
            if edited and n == 1 and words[0].text in known_words:
                continue
            names = _edited(words, lexicons) if edited else _exact(question, words, lexicons)
            if names:
                taken[i : i + n] = [True] * n
                start, end = words[0].start, words[-1].end
                found.append(Mention(tuple(names), start, end, question[start:end], edited))
    if not any(name.kind == "readout" for m in found for name in m.names):
        left = [p for p, used in zip(parts, taken, strict=True) if not used]
        found += _loose(question, left, lexicons, known_words)
    return tuple(sorted(found, key=lambda m: m.start))


def _loose(
    question: str, left: Sequence[Piece], lexicons: Sequence[Lexicon], known_words: frozenset[str]
) -> list[Mention]:
    """Return the one readout whose words stand apart (``synthesis of cholesterol``) or have another ending."""
    have = {p.text: p for p in reversed(left)}
    apart: dict[tuple[str, ...], list[Name]] = {}
    forms: dict[str, list[Name]] = {}
    words = [p for p in have.values() if p.text.isalpha() and len(p.text) >= 7 and p.text not in known_words]
    for lexicon in lexicons:
        for name in lexicon.readouts:
            parts = tuple(p.text for p in pieces(name.value))
            if len(parts) > 1 and all(part in have for part in parts) and not known_words.issuperset(parts):
                apart.setdefault(tuple(sorted(parts)), []).append(name)
            for word in words if len(parts) == 1 else ():
                if _one_stem(word.text, "".join(parts)):
                    forms.setdefault(word.text, []).append(name)
    most = max((len(parts) for parts in apart), default=0)
    longest = [parts for parts in apart if len(parts) == most]
    if len(longest) == 1:
        where = sorted((have[part] for part in longest[0]), key=lambda p: p.start)
        spans, names = (where[0].start, where[-1].end), apart[longest[0]]
    elif not apart and len(forms) == 1 and len({n.value.casefold() for n in next(iter(forms.values()))}) == 1:
        word, names = next(iter(forms.items()))
        spans = (have[word].start, have[word].end)
    else:
        return []
    return [Mention(tuple(dict.fromkeys(names)), *spans, question[spans[0] : spans[1]], edited=True)]


def _one_stem(a: str, b: str) -> bool:
    """Return whether two words differ in a common ending only: ``apoptosis`` and ``apoptotic``."""
    shared = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return shared >= 6 and a[shared:] in _ENDINGS and b[shared:] in _ENDINGS


def _exact(question: str, words: Sequence[Piece], lexicons: Sequence[Lexicon]) -> list[Name]:
    key = "".join(w.text for w in words)
    hits = [hit for lexicon in lexicons for hit in lexicon.entries.get(key, ()) if _joins(words, hit[0])]
    names = list(dict.fromkeys(name for _, name in hits))
    said = question[words[0].start : words[-1].end]
    names = [n for n in names if _plausible(question, words, n, said)]
    # Names that differ in signs or capitals only: the one that is written as in the question, if there is one.
    for fold in (str, str.casefold):
        same = [n for n in names if fold(n.alias or n.value) == fold(said)]
        if same:
            kinds = {n.kind for n in same}
            return same + [n for n in names if n.kind not in kinds]
    return names


def _plausible(question: str, words: Sequence[Piece], name: Name, said: str) -> bool:
    """Return whether a short or ordinary word is meant as the name it is written like."""
    value = name.alias or name.value
    if name.kind in ("treatment", "readout"):
        ordinary = len(value) < 3 or value.casefold() in _ORDINARY
        return not ordinary or (said == value and value != value.lower() and (len(value) > 1 or not value.isalpha()))
    if len(value) < 3 or value.isdigit() or value.casefold() in _ORDINARY:
        # ``donor 1``, ``batch=A``: the name of the column has to stand before.
        before = question[: words[0].start].casefold().rstrip(" =:-_#")
        return before.endswith((name.kind.replace("_", " "), name.kind.rpartition("_")[2]))
    return True


def _edited(words: Sequence[Piece], lexicons: Sequence[Lexicon]) -> list[Name]:
    key = "".join(w.text for w in words)
    if _letters(key) < _SHORTEST_EDITED:
        return []
    close = {
        other
        for lexicon in lexicons
        for text in _without_one(key)
        for other in lexicon.near.get(text, ())
        if _letters(other) >= _SHORTEST_EDITED - 1 and _digits(other) == _digits(key) and _one_edit(key, other)
    }
    if len(close) != 1:
        return []
    hits = [hit for lexicon in lexicons for hit in lexicon.entries.get(next(iter(close)), ()) if hit[0] == len(words)]
    hits = [hit for hit in hits if _letters(key) >= _SHORTEST_EDITED]
    return list(dict.fromkeys(name for _, name in hits))


def _joins(words: Sequence[Piece], n: int) -> bool:
    """Return whether pieces may be read as a name of `n` pieces: a space inside only before a digit or Greek letter."""
    spaced = [w for w in words[1:] if any(c.isspace() for c in w.glue)]
    return len(words) == n or all(w.text[0].isdigit() or w.text in _GREEK_NAMES for w in spaced)


def _whole(question: str, parts: Sequence[Piece], first: int, past: int) -> bool:
    """Return whether the pieces are no part of a longer word such as ``TNF`` in ``TNF-alpha``."""
    if first and parts[first].glue in ("-", "_", ".", "'", "\u2019"):
        return False
    if any(re.search(r"[?!;:]\s|[.]\s", w.glue) for w in parts[first + 1 : past]):
        return False
    if past < len(parts) and parts[past].glue in ("-", "_", "."):
        return parts[past].glue == "-" and parts[past].text in _SUFFIXES
    return not question[parts[past - 1].end :].startswith("+") or question[parts[past - 1].end + 1 :][:1].isalnum()


def _without_one(text: str) -> set[str]:
    return {text} | {text[:i] + text[i + 1 :] for i in range(len(text))}


def _one_edit(a: str, b: str) -> bool:
    if len(a) > len(b):
        a, b = b, a
    at = next((i for i, c in enumerate(a) if c != b[i]), len(a))
    return a[at:] == b[at + 1 :] if len(a) < len(b) else a != b and a[at + 1 :] == b[at + 1 :]


def _letters(text: str) -> int:
    return sum(c.isalpha() for c in text)


def _digits(text: str) -> str:
    return "".join(c for c in text if c.isdigit())

"""Where sentences begin and end: spans of a text, so that what is quoted can be found again."""

import re

_END = re.compile(r"[.!?\u2026]+[\"'\u201d\u2019\u00bb)\]]*(?=\s)|\n[ \t]*(?=\n|[-*•·]\s|\d{1,3}[.)]\s)")
_WORD_BEFORE = re.compile(r"[^\s(\[\"'\u201c\u2018]+$")
_NUMBER = re.compile(r"\s*[#(]?\d")
_FIRST_WORD = re.compile(r"\s*[\"'\u201c\u2018(\[]*(\w+)")

# An abbreviation seldom ends a sentence; one that stands for "number" or a month does so unless a number follows.
_ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        """
        dr mr mrs ms prof st sr jr vs cf al etc approx ca inc ltd co corp gen col lt sgt capt rev hon gov sen
        rep mt ft dept univ assn bros est ed eds vol resp incl excl sp spp ssp var wt alt ref refs eq eqs viz op
        ph.d
        """,
    )
)
_BEFORE_NUMBERS = frozenset(
    re.findall(
        r"\S+",
        """
        no nos fig figs p pp jan feb mar apr jun jul aug sep sept oct nov dec c ch sec art
        """,
    )
)
_STARTERS = frozenset(
    re.findall(
        r"\S+",
        """
        the a an this that these those it its he she they we in on at for from after before during when while as
        if there his her their our but and however both each no all some most other by with to
        """,
    )
)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return first and past-the-last character of every sentence of `text`.

    Spans are in order, do not overlap, are not empty, and what lies between them is white space. A full stop inside a
    number, after an abbreviation or after an initial is no end; a blank line and a list item are one.
    """
    spans, start = [], 0
    for match in _END.finditer(text):
        if match.end() > start and _ends(text, match):
            start = _keep(text, start, match.end(), spans)
    _keep(text, start, len(text), spans)
    return spans


def sentences(text: str) -> list[str]:
    """Return the sentences of `text`, each a substring of it."""
    return [text[start:end] for start, end in sentence_spans(text)]


def _keep(text: str, start: int, end: int, spans: list[tuple[int, int]]) -> int:
    piece = text[start:end]
    if piece.strip():
        spans.append((start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())))
    return end


def _ends(text: str, match: re.Match[str]) -> bool:
    mark = match.group()
    if mark.startswith("\n") or mark[0] in "!?" or mark.startswith(".."):
        return True
    found = _WORD_BEFORE.search(text[max(0, match.start() - 40) : match.start()])
    if found is None:
        return True
    word = found.group()
    if word.isdigit() and len(word) <= 3 and text[: match.start() - len(word)].rstrip(" \t")[-1:] in ("", "\n"):
        return False  # the number of a list item belongs to the item
    following = _FIRST_WORD.match(text, match.end())
    next_word = following.group(1) if following else ""
    if next_word.istitle() and next_word.lower() in _STARTERS:
        # "vitamin C. The ..." and "in the U.S. It ..." end; "Dr. The" does not occur.
        return word.lower() not in _ABBREVIATIONS or word.lower() in ("al", "etc", "inc", "ltd", "co", "corp", "jr")
    if word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper()):
        return False
    if word.lower() in _BEFORE_NUMBERS:
        return _NUMBER.match(text, match.end()) is None and not next_word[:1].islower()
    # "e.g.", "U.S.", "i.v.": single letters with stops between them.
    return re.fullmatch(r"(?:[A-Za-z]\.)+[A-Za-z]", word) is None

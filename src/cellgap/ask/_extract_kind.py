"""What a question is about and what kind of thing would answer it, as far as its words show.

Both are cautious: a question whose words show nothing has no phrase and no kind, and nothing is preferred for it.
"""

import re
from operator import itemgetter

from cellgap.ask._words import words

_QUOTED = re.compile(r"[\"\u201c\u201d\u2018]([^\"\u201c\u201d\u2018\u2019]{2,80})[\"\u201d\u2019]")
_EDGE = "?,.!;:\"'\u201c\u201d\u2018\u2019()[]"
_SMALL = frozenset(
    re.findall(
        r"\S+",
        """
        of the and de la le du von van der den del di da al y et in on for a an to
        """,
    )
)
_OPENERS = frozenset(
    re.findall(
        r"\S+",
        """
        who whom whose what when where which why how is are was were do does did has have had can could will
        would should in at on by for from to of the a an name tell give list after before under with during
        since
        """,
    )
)

_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("time", re.compile(
        r"\bwhen\b|\bsince when\b|\b(?:what|which)\s+(?:\w+\s+)?(?:year|date|day|month|decade|century)\b"
        r"|\bhow long ago\b"
        r"|\b(?:year|date) of\b|\b(?:release|publication|birth|death|founding|opening|foundation)[- ](?:year|date)\b")),
    ("size", re.compile(
        r"\bhow\s+(?:big|large|long|tall|high|deep|wide|broad|thick|heavy|fast|far|close|old|many|much|often|small|populous|"
        r"extensive|great)\b"
        r"|\bwhat(?:\s+is|\s+was|'s)?\s+(?:the\s+)?(?:\w+\s+)?(?:size|length|height|area|population|number|distance|depth|"
        r"width|weight|elevation|altitude|extent|age|capacity|amount|dimensions)\b"
        r"|\b(?:size|length|height|population|number|distance|depth|width|weight|elevation|altitude|extent|capacity|amount|"
        r"dimensions) of\b")),
    ("person", re.compile(
        r"\bwho(?:m|se)?\b|\b(?:what|which)\s+(?:\w+\s+)?(?:person|man|woman|author|writer|director|artist|composer|designer|"
        r"singer|actor|actress|player|athlete|inventor|founder|creator|scientist|president|king|queen|winner|champion|"
        r"competitor|victor)\b"
        r"|\b(?:author|writer|director|artist|composer|designer|singer|inventor|founder|creator|president|winner|"
        r"champion)s? of\b")),
    ("place", re.compile(
        r"\bwhere\b|\b(?:what|which)\s+(?:\w+\s+)?(?:town|city|country|place|state|village|region|province|location|"
        r"district|county|continent|street)\b|\b(?:setting|location|whereabouts) of\b")),
)  # fmt: skip
_YEAR = re.compile(r"\b(?:1\d{3}|20\d{2})\b(?!\s*(?:%|[a-z]*met|[a-z]*gram|cells|people|inhabitants))")
_DATE = re.compile(
    r"\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?\s+\d"
    r"|\d\s+(?:January|February|March|April|May|June|July|August|"
    r"September|October|November|December)\b|\b\d{1,2}th century\b"
)
_QUANTITY = re.compile(r"(?<![\w.])\d[\d,.]*(?:\s*%|\s*-?\s*(?:[a-z]{2,}|[kcmμn]?m[²³2]?|km|ft|kg|ha|mi)\b)")
_NAME = re.compile(r"(?:\b(?:[A-Z][\w'\u2019-]+|[A-Z]\.)\s+){1,3}[A-Z][\w'\u2019-]+")
_PLACE = re.compile(
    r"\b(?:in|at|to|near|of|from|around|outside|inside|into|through|over|on)\s+(?:the\s+)?(?:[a-z]+\s+){0,4}?[A-Z]\w+"
)


def names_in(question: str) -> tuple[str, ...]:
    """Return the phrases of a question that name something: quoted ones, and runs of capitalised words.

    A single capitalised word that opens the question counts unless it is one that questions open with. Small words
    (of, the) may stand inside a run.
    """
    found = [match[1].strip() for match in _QUOTED.finditer(question)]
    run: list[str] = []
    runs: list[list[str]] = []
    tokens = _QUOTED.sub(" , ", question).split()
    for place, token in enumerate(tokens):
        word = token.strip(_EDGE)
        capital = word[:1].isupper() or (word[:1].isdigit() and len(word) > 1)
        opens = place == 0 and word.lower() in _OPENERS
        if word and ((capital and not opens) or (run and word.lower() in _SMALL)):
            run.append(word)
        else:
            runs, run = [*runs, run], []
        if run and token[-1:] in ",;:?!":
            runs, run = [*runs, run], []
    for one in [*runs, run]:
        while one and one[-1].lower() in _SMALL:
            one.pop()
        if any(word[0].isupper() for word in one):
            found.append(" ".join(one))
    return tuple(dict.fromkeys(found))


def says(phrase: str, text: str) -> bool:
    """Return whether a text has the words of a phrase, one after the other."""
    wanted, there = words(phrase), words(text)
    return bool(wanted) and any(there[i : i + len(wanted)] == wanted for i in range(len(there) - len(wanted) + 1))


def kind_of(question: str) -> str:
    """Return what would answer a question: ``"time"``, ``"size"``, ``"person"``, ``"place"`` or, not known, ``""``.

    What is asked for first counts: "in which town does the author of ..." asks for a place.
    """
    plain = " ".join(question.lower().split())
    found = [(match.start(), kind) for kind, pattern in _KINDS if (match := pattern.search(plain)) is not None]
    return min(found, key=itemgetter(0))[1] if found else ""


def could_answer(kind: str, sentence: str, named: tuple[str, ...] = ()) -> bool:
    """Return whether a sentence holds something of a kind: a date, a quantity with its unit, a person's name, a place.

    Parameters
    ----------
    kind
        As ``kind_of`` returns; ``""`` is answered by every sentence.
    sentence
        Its capitals count.
    named
        What the question names already, which is no answer to it.
    """
    if kind == "time":
        return _YEAR.search(sentence) is not None or _DATE.search(sentence) is not None
    if kind == "size":
        return _QUANTITY.search(_YEAR_ALONE.sub(" ", sentence)) is not None
    if kind == "person":
        names = [match.group() for match in _NAME.finditer(sentence)]
        return any(not any(says(phrase, name) or says(name, phrase) for phrase in named) for name in names)
    if kind == "place":
        return _PLACE.search(sentence) is not None
    return True


_YEAR_ALONE = re.compile(r"\b(?:in|since|of|from|until|by|a|the)\s+(?:1\d{3}|20\d{2})\b")

"""What a question asks for, read with the words of the tables: no model, and no fixed form of sentence."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cellgap.ask._effect_table import EffectTable
from cellgap.ask._lexicon import Lexicon, Mention, Name, find_mentions, pieces, words_of
from cellgap.ask._passage import clean
from cellgap.ask._quantities import Range, read_doses, read_times
from cellgap.ask._question_words import (
    BESIDE,
    COMBINED,
    COMPARED,
    DOWN,
    EXCEPT,
    KNOWN,
    LISTED,
    MEASURED,
    PREDICTED,
    TARGET_AFTER,
    TARGET_BEFORE,
    TARGET_WEAK,
    THRESHOLD,
    UP,
)

INTENTS = ("presence", "open", "threshold", "comparison", "list")


@dataclass(frozen=True)
class Question:
    """A question, read.

    Parameters
    ----------
    text
        As asked.
    intent
        One of ``INTENTS``; None where the tables have no word for what is asked.
    treatments
        Sets of names, in the order of the question: two for a comparison; a set of two names is a combination.
    readouts
        As in the tables; empty for all.
    context
        Context name to the values that are bound.
    excluded
        Context name to values that are left out ("other than K562").
    unknown
        What the question binds that no table has, as written ("MDA-MB-231").
    times, doses
        Ranges that are bound.
    doses_of
        Position in `treatments` to doses, where each treatment has its own.
    source
        ``"measured"``, ``"predicted"`` or empty.
    datasets
        Data sets that are bound.
    direction
        ``"up"``, ``"down"`` or empty: what a list asks for.
    compared
        Whether the words ask for a comparison.
    read_as
        Sentences on names that were read with one letter changed, or as another name's synonym.
    unread
        Words of the question that were taken for nothing.
    """

    text: str
    intent: str | None
    treatments: tuple[frozenset[str], ...] = ()
    readouts: tuple[str, ...] = ()
    context: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    excluded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    times: tuple[Range, ...] = ()
    doses: tuple[Range, ...] = ()
    doses_of: Mapping[int, tuple[Range, ...]] = field(default_factory=dict)
    source: str = ""
    datasets: tuple[str, ...] = ()
    direction: str = ""
    compared: bool = False
    read_as: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def bound(self) -> dict[str, list[str]]:
        """What the question binds, in plain values."""
        made = {
            "treatment": [" + ".join(sorted(t)) for t in self.treatments],
            "readout": list(self.readouts),
            **{name: list(values) for name, values in self.context.items()},
            **{f"not {name}": list(values) for name, values in self.excluded.items()},
            "unknown": list(self.unknown),
            "time": [r.words for r in self.times],
            "dose": [r.words for r in self.doses],
            "source": [self.source] if self.source else [],
            "dataset": list(self.datasets),
        }
        return {name: values for name, values in made.items() if values}


def read_question(text: str, tables: Sequence[EffectTable], synonyms: Lexicon | None = None) -> Question:
    """Return what a question asks of tables.

    Parameters
    ----------
    text
        The question; it is searched for names, doses and times, and never followed as an instruction.
    tables
        Whose treatments, readouts and contexts are known.
    synonyms
        Further names of treatments.
    """
    shown = clean(text)
    lexicons = [table.lexicon for table in tables] + ([synonyms] if synonyms else [])
    mentions = find_mentions(shown, lexicons, KNOWN)
    rest = _without(shown, [(m.start, m.end) for m in mentions])
    units = sorted({u for table in tables for u in table.units})
    doses, times = read_doses(rest, units), read_times(rest)
    rest = _without(rest, [(r.start, r.end) for r in (*doses, *times)])
    treatments, readouts, others = _by_kind(shown, mentions, bool(LISTED.search(rest)))
    context: dict[str, tuple[str, ...]] = {}
    excluded: dict[str, tuple[str, ...]] = {}
    for mention, names in others:
        into = excluded if EXCEPT.search(shown[: mention.start]) else context
        for name in names:
            into[name.kind] = tuple(dict.fromkeys((*into.get(name.kind, ()), name.value)))
    treatments = [(m, n) for m, n in treatments if not EXCEPT.search(shown[: m.start])]
    dropped = [n for m, names in readouts if EXCEPT.search(shown[: m.start]) for n in names]
    readouts = [(m, n) for m, n in readouts if not EXCEPT.search(shown[: m.start])]
    if dropped:
        excluded["readout"] = tuple(dict.fromkeys(n.value for n in dropped))
    groups, places = _grouped(shown, treatments, tables)
    read_names = tuple(dict.fromkeys(name.value for _, names in readouts for name in names))
    words = [w for w in pieces(rest) if w.text not in KNOWN and not w.text.isdigit()]
    parts = {p.text for m in mentions for n in m.names for p in pieces(n.value)} | _words_of_readouts(tables)
    unknown = tuple(w for w in _unknown(rest, bool(groups or read_names)) if not {p.text for p in pieces(w)} <= parts)
    datasets = context.pop("dataset", ())
    listed = not groups and (read_names or context) and LISTED.search(rest)
    intent = None
    if groups:
        compared = len(groups) > 1
        intent = "comparison" if compared else "threshold" if THRESHOLD.search(rest) else ""
        intent = intent or ("presence" if read_names else "open")
    elif listed:
        intent = "list"
    direction = "up" if UP.search(rest) else "down" if DOWN.search(rest) else ""
    return Question(
        text,
        intent,
        groups,
        read_names,
        context,
        excluded,
        unknown,
        times,
        doses,
        _own_doses(doses, places),
        "measured" if MEASURED.search(rest) else "predicted" if PREDICTED.search(rest) else "",
        datasets,
        direction,
        COMPARED.search(rest) is not None,
        tuple(_read_as(m) for m in mentions if m.edited or m.names[0].alias),
        tuple(dict.fromkeys(shown[w.start : w.end] for w in words)),
    )


def _words_of_readouts(tables: Sequence[EffectTable]) -> set[str]:
    """Return the words of names that have several: ``in G1`` is no cell line where ``G1 arrest`` is a readout."""
    names = (name.value for table in tables for name in table.lexicon.readouts)
    return {p.text for name in names if not name.isalnum() for p in pieces(name)}


def _without(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Return a text with what was read blanked, so that nothing is read twice and places stay."""
    for start, end in spans:
        text = text[:start] + " " * (end - start) + text[end:]
    return text


def _read_as(mention: Mention) -> str:
    names = " or ".join(dict.fromkeys(n.value for n in mention.names))
    return f"{mention.said!r} is read as {names!r}."


_Found = list[tuple[Mention, tuple[Name, ...]]]


def _by_kind(text: str, mentions: Sequence[Mention], listed: bool) -> tuple[_Found, _Found, _Found]:
    """Return the mentions of treatments, of readouts, and of contexts and data sets.

    A name that is both a treatment and a readout (a gene that is knocked out, and measured) is what the words around it
    say; else a treatment if there is no other and no list of treatments is asked for, else a readout.
    """
    treatments: _Found = []
    readouts: _Found = []
    others: _Found = []
    either: list[Mention] = []
    for mention in mentions:
        kinds = {name.kind for name in mention.names}
        if {"treatment", "readout"} <= kinds:
            either.append(mention)
        elif kinds & {"treatment", "readout"}:
            kind = "treatment" if "treatment" in kinds else "readout"
            (treatments if kind == "treatment" else readouts).append((mention, _of(mention, kind)))
        else:
            others.append((mention, mention.names))
    open_places, weak = [], []
    for mention in either:
        if TARGET_BEFORE.search(text[: mention.start]) or TARGET_AFTER.match(text[mention.end :]):
            treatments.append((mention, _of(mention, "treatment")))
        else:
            open_places.append(mention)
    if not treatments:
        weak = [m for m in open_places if TARGET_WEAK.search(text[: m.start])]
        treatments += [(m, _of(m, "treatment")) for m in weak]
    for mention in [m for m in open_places if m not in weak]:
        if treatments or listed:
            readouts.append((mention, _of(mention, "readout")))
        else:
            treatments.append((mention, _of(mention, "treatment")))
    return sorted(treatments, key=_start), sorted(readouts, key=_start), others


def _start(found: tuple[Mention, tuple[Name, ...]]) -> int:
    return found[0].start


def _of(mention: Mention, kind: str) -> tuple[Name, ...]:
    return tuple(name for name in mention.names if name.kind == kind)


def _grouped(
    text: str, found: _Found, tables: Sequence[EffectTable]
) -> tuple[tuple[frozenset[str], ...], tuple[tuple[int, int], ...]]:
    """Return the sets of treatments that are asked for, and where each is named first.

    Two names are a combination where the words say so, or where the tables know them only together.
    """
    names: dict[str, Mention] = {}
    for mention, alike in found:
        for name in alike:
            names.setdefault(name.value, mention)
    if not names:
        return (), ()
    known = {members for table in tables for members in table.members.values()}
    everything = frozenset(names)
    spans = [(m.start, m.end) for m in names.values()]
    between = text[min(s for s, _ in spans) : max(e for _, e in spans)]
    if len(everything) > 1 and not COMPARED.search(text):
        beside = all(
            BESIDE.fullmatch(text[a[1] : b[0]]) for a, b in zip(sorted(spans), sorted(spans)[1:], strict=False)
        )
        alone = all(frozenset({name}) in known for name in everything)
        if COMBINED.search(_without(text, spans)) or "+" in between or (everything in known and not alone and beside):
            return (everything,), (min(spans),)
    return tuple(frozenset({name}) for name in names), tuple(spans)


def _own_doses(doses: Sequence[Range], places: Sequence[tuple[int, int]]) -> dict[int, tuple[Range, ...]]:
    """Return the doses of every treatment where there are several of both, each dose going to the nearest name."""
    if len(places) < 2 or len({(d.start, d.end) for d in doses}) < 2:
        return {}
    made: dict[int, tuple[Range, ...]] = {}
    for dose in doses:
        gaps = [max(start - dose.end, dose.start - end) for start, end in places]
        nearest = gaps.index(min(gaps))
        made[nearest] = (*made.get(nearest, ()), dose)
    return made


_IN = re.compile(
    r"\b(?:in|on|of|for|using|within|and|or)\s+((?:the\s+|human\s+|mouse\s+)*)([^\s,;?!()]+)"
    r"(\s+(?:cells?|cell\s+lines?|line|donors?))?"
)
_GENERIC = words_of(
    """
    these those any all which what whose the a an both some other different various most human mouse murine living
    treated untreated cancer tumour tumor normal healthy primary tested single your our each every same certain
    cell cells such more many several few control stem immune my its their this that
    """
)


def _unknown(rest: str, linked: bool) -> tuple[str, ...]:
    """Return words that stand where a cell line would, look like a name, and are in no table."""
    found = []
    for match in _IN.finditer(rest) if linked else ():
        word = match[2].strip(".'\"")
        plain_word = word.casefold()
        if not word or plain_word in KNOWN or plain_word in _GENERIC or not any(c.isalpha() for c in word):
            continue
        named = any(c.isdigit() for c in word) or any(c.isupper() for c in word)
        inside = re.match(r"(?:in|on|using|within)\b", match[0]) is not None
        if (named and inside) or (match[3] and (named or inside)):
            found.append(word)
    return tuple(dict.fromkeys(found))

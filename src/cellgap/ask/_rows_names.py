"""Statements of effects in passages, and the names in them: treatments, cell lines, readouts."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cellgap.ask import _rows_words as roles
from cellgap.ask._passage import Passage
from cellgap.ask._rows_words import Item
from cellgap.ask._sentences import sentence_spans


@dataclass
class Statement:
    """A sentence with at least one effect, and what its passage says around it."""

    passage: int
    start: int
    end: int
    text: str
    items: list[Item]
    title: list[Item]
    around: list[list[Item]]
    background: str
    alone: bool


def statements_of(passages: Sequence[Passage]) -> list[Statement]:
    found = []
    for place, passage in enumerate(passages):
        if passage.suspicious:
            continue
        spans = sentence_spans(passage.text)
        parts = [roles.items_of(passage.text[start:end]) for start, end in spans]
        with_effect = [any(item.kind == "effect" for item in items) for items in parts]
        title = roles.items_of(passage.title)
        title = [i for i in title if i.kind != "effect"]
        around = [items for items, has in zip(parts, with_effect, strict=True) if not has]
        background = " ".join(passage.text[a:b] for (a, b), has in zip(spans, with_effect, strict=True) if not has)
        found += [
            Statement(
                place, start, end, passage.text[start:end], items, title, around, background, sum(with_effect) == 1
            )
            for (start, end), items, has in zip(spans, parts, with_effect, strict=True)
            if has
        ]
    return found


def _texts(statement: Statement) -> list[list[Item]]:
    return [statement.items, statement.title, *statement.around]


def named_treatments(asked: Sequence[Item], statements: Sequence[Statement]) -> tuple[frozenset[str], set[str]]:
    """Return the words (lower case) that name treatments, and those of them that the question has."""
    surplus: dict[str, float] = {}
    for statement in statements:
        for items in (statement.items, *statement.around):
            for first, end in roles.runs(items):
                role = roles.treatment_role(items, first, end) - roles.readout_role(items, first, end)
                for k in range(first, end):
                    surplus[items[k].low] = surplus.get(items[k].low, 0.0) + role
    in_titles = {i.low for s in statements for i in s.title if i.bears}
    own: dict[str, float] = {}
    unknown = frozenset(i.low for i in asked if i.low not in surplus and i.low not in in_titles)
    for (first, end), role in roles.asked_roles(asked, roles.runs(asked, unknown)).items():
        for k in range(first, end):
            # What the question makes of a word counts as much as what the statements do, which are many.
            own[asked[k].low] = surplus.get(asked[k].low, 0.0) + 2.0 * len(statements) * role
    # Of several words in the question, those that stand about as the surest one does (a comparison has two).
    best_own = max(own.values(), default=0.0)
    if best_own == 0 and len(own) > 1 and list(own.values()).count(0.0) == 1:
        # No word tells, but all others stand as readouts do.
        own = {w: 1.0 for w, s in own.items() if s == 0}
    own = {w: s for w, s in own.items() if s > 0 and s >= best_own / 3}
    beside: Counter[str] = Counter()
    apart: Counter[str] = Counter()
    stands: Counter[tuple[str, str]] = Counter()
    others: list[Statement] = []
    for statement in statements:
        places = [(items, k) for items in _texts(statement) for k, item in enumerate(items) if item.low in own]
        stands.update(roles.neighbours(items, k) for items, k in places)
        spoken = {i.low for items in (statement.items, *statement.around) for i in items if i.bears}
        (beside if places else apart).update(spoken)
        others += [] if places else [statement]
    names = set(own)
    for statement in others:
        # Another treatment stands where the one asked for stands in other statements, and seldom beside it.
        scored: dict[str, float] = {}
        for items in _texts(statement):
            for k, item in enumerate(items):
                if item.bears and beside[item.low] < max(apart[item.low], 1):
                    alike = 3.0 * (stands[roles.neighbours(items, k)] > 0) + surplus.get(item.low, 0.0) / len(
                        statements
                    )
                    scored[item.low] = max(scored.get(item.low, -math.inf), alike)
        best = max(scored.values(), default=0.0)
        top = [w for w, s in scored.items() if s == best]
        if len(top) == 1 and (best > 0 or len(scored) == 1):
            names.add(top[0])
    return frozenset(names), set(own)


def mark_cell_lines(statements: Sequence[Statement], asked: Sequence[Item]) -> None:
    """Mark the cell lines of all sentences; a word of the question is one only if it stands as one there too."""
    there = roles.cell_lines([asked], frozenset())
    not_lines = frozenset(i.low for i in asked if i.bears) - there
    lines = roles.cell_lines((items for s in statements for items in _texts(s)), not_lines)
    for statement in statements:
        statement.items = roles.with_lines(statement.items, lines)
        statement.title = roles.with_lines(statement.title, lines)
        statement.around = [roles.with_lines(items, lines) for items in statement.around]


class Readouts:
    """The phrases that name readouts in the statements."""

    def __init__(self, asked: Sequence[Item], statements: Sequence[Statement], treatments: frozenset[str]):
        self._apart = treatments | _boilerplate(asked, statements, treatments)
        frequency: Counter[str] = Counter()
        score: dict[str, float] = {}
        for statement in statements:
            for phrase, role in self._phrases(statement.items):
                frequency[phrase] += 1
                score[phrase] = score.get(phrase, 0.0) + role
        named = [" ".join(asked[k].low for k in range(*run)) for run in roles.runs(asked, treatments)]
        known = {p for p in frequency if any(_inside(p, name) or _inside(name, p) for name in named)}
        n = len(statements)
        # "reach apoptosis" is apoptosis where nearly all other statements say so.
        self._short = {
            p: next((q for q in frequency if q != p and _inside(q, p) and frequency[q] >= 3 * frequency[p]), p)
            for p in frequency
        }
        self._rank = {p: score[p] / frequency[p] + 0.5 * (frequency[p] < n) + 4.0 * (p in known) for p in frequency}

    def _phrases(self, items: Sequence[Item]) -> list[tuple[str, float]]:
        return [
            (" ".join(items[k].low for k in range(first, end)), roles.readout_role(items, first, end))
            for first, end in roles.runs(items, self._apart)
        ]

    def _shortened(self, phrase: str) -> str:
        short = self._short.get(phrase.lower(), phrase.lower())
        at = f" {phrase.lower()} ".find(f" {short} ")
        return phrase[at : at + len(short)]

    def of(self, items: Sequence[Item], n: int) -> list[str] | None:
        """Return the readout of each of `n` effects of a sentence, or None where that is not clear."""
        spans = roles.runs(items, self._apart)
        named = [self._shortened(" ".join(items[k].text for k in range(*span))) for span in spans]
        ranked = [(self._rank.get(text.lower(), 0.0), text) for text in named]
        if not ranked:
            return None
        if n > 1:
            good = [text for rank, text in ranked if rank > 1]
            good = list(dict.fromkeys(good))
            return good if len(good) == n else good * n if len(good) == 1 else None
        best = max(rank for rank, _ in ranked)
        top = {text.lower() for rank, text in ranked if rank == best}
        if best <= 0 or len(top) > 1:
            return None
        return [next(text for rank, text in ranked if rank == best)]


def _boilerplate(asked: Sequence[Item], statements: Sequence[Statement], treatments: frozenset[str]) -> frozenset[str]:
    """Return the words that every statement has beside readouts that differ; with one readout none can be told."""
    spoken = [{i.low for i in s.items if i.bears} - treatments for s in statements]
    common = set.intersection(*spoken) - {i.low for i in asked}
    named = {i.low for i in asked if i.bears} - treatments
    if all(words & named for words in spoken) or any(words - common for words in spoken):
        return frozenset(common if all(words - common for words in spoken) else ())
    return frozenset()


def _inside(part: str, whole: str) -> bool:
    return f" {part} " in f" {whole} "

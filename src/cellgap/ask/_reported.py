"""What passages report of a condition that a table answers: quoted beside the rows, never mixed into their numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cellgap.ask._answer import Answer, Answers, Citation
from cellgap.ask._effect_table import EffectTable
from cellgap.ask._lexicon import find_mentions
from cellgap.ask._passage import Passage, gives_orders
from cellgap.ask._quantities import read_times
from cellgap.ask._question_words import KNOWN
from cellgap.ask._sentences import sentence_spans

MOST_QUOTED = 2
"""Passages that are quoted beside one answer."""


@dataclass(frozen=True)
class Mentioned:
    """What a text names in the words of the tables.

    Parameters
    ----------
    treatments, readouts
        Names.
    context
        Context name to the values named.
    hours
        Times named, in hours.
    """

    treatments: frozenset[str]
    readouts: frozenset[str]
    context: Mapping[str, frozenset[str]]
    hours: frozenset[float]


def mentioned(text: str, tables: Sequence[EffectTable]) -> Mentioned:
    """Return what a text names; a name has to stand there letter by letter."""
    found: dict[str, set[str]] = {}
    for mention in find_mentions(text, [table.lexicon for table in tables], KNOWN):
        if not mention.edited:
            for name in mention.names:
                found.setdefault(name.kind, set()).add(name.value)
    treatments, readouts = (frozenset(found.pop(kind, ())) for kind in ("treatment", "readout"))
    hours = frozenset(r.low for r in read_times(text) if r.low == r.high)
    return Mentioned(treatments, readouts, {k: frozenset(v) for k, v in found.items()}, hours)


def with_reported(
    answers: Answers, passages: Sequence[Passage], tables: Sequence[EffectTable]
) -> tuple[Answers, tuple[int, ...]]:
    """Return answers from tables with what passages report under the same condition, and the passages left over.

    A passage belongs to an answer where it names a treatment of the answer and its context (a passage that names no
    cell line says nothing of one), and no other time. Its best sentence is quoted; passages that give orders are not.

    Parameters
    ----------
    answers
        From ``answer_from_tables``.
    passages
        Best first.
    tables
        Whose words the passages are read with.

    Returns
    -------
    answers
        The same, with quotes at the end of their texts and citations of the passages.
    left
        Positions of passages that name a treatment asked about and belong to no answer.
    """
    asked = frozenset(name for a in answers if a.key for t in a.key.treatments for name in (t.name,))
    asked |= frozenset(name for treatments in _bound(answers) for name in treatments.split(" + "))
    read = [
        None if passage.suspicious else mentioned(f"{passage.title}\n{passage.text}", tables) for passage in passages
    ]
    about = [i for i, named in enumerate(read) if named is not None and named.treatments & asked]
    used: set[int] = set()
    made = []
    for answer in answers:
        own = frozenset(t.name for t in answer.key.treatments) if answer.key else asked
        quotes: list[tuple[str, Citation]] = []
        for i in about:
            named = read[i]
            if named is None or not named.treatments & own or not _fits(answer, named):
                continue
            used.add(i)
            context = answer.key.context if answer.key else ()
            quote = _quoted(passages[i], i, own, context, tables) if len(quotes) < MOST_QUOTED else None
            if quote is not None:
                quotes.append(quote)
        text = " ".join([answer.text, *(f"Reported in “{c.title}”: {said}" for said, c in quotes)])
        made.append(replace(answer, text=text, citations=(*answer.citations, *(c for _, c in quotes))))
    left = tuple(i for i in about if i not in used)
    return replace(answers, answers=tuple(made)), left


def _bound(answers: Answers) -> Sequence[str]:
    bound = answers.trace.get("bound", {})
    return bound.get("treatment", ()) if isinstance(bound, Mapping) else ()


def _fits(answer: Answer, named: Mentioned) -> bool:
    """Return whether a text names the condition of an answer."""
    own = answer.key.context if answer.key else ()
    if any(value not in named.context.get(name, ()) for name, value in own):
        return False
    time = answer.attributes.get("time", "")
    hours = {r.low for r in read_times(time)}
    return not (named.hours and hours and not hours & named.hours)


def _quoted(
    passage: Passage,
    position: int,
    own: frozenset[str],
    context: Sequence[tuple[str, str]],
    tables: Sequence[EffectTable],
) -> tuple[str, Citation] | None:
    """Return the sentence of a passage that says most about the treatments, and its citation."""
    best: tuple[int, int, int] | None = None
    for start, end in sentence_spans(passage.text):
        sentence = passage.text[start:end]
        if gives_orders(sentence):
            continue
        named = mentioned(sentence, tables)
        if any(name in named.context and value not in named.context[name] for name, value in context):
            continue
        in_context = any(name in named.context for name, _ in context)
        score = 4 * bool(named.treatments & own) + 2 * bool(named.readouts) + in_context
        if score and (best is None or score > best[0]):
            best = score, start, end
    if best is None:
        return None
    _, start, end = best
    said = passage.text[start:end]
    cited = Citation(
        source_id=passage.id,
        title=passage.title,
        quote=said,
        position=position + 1,
        span=(start, end),
        source=passage.source,
        sha256=passage.sha256,
    )
    return said, cited

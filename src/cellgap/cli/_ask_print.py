"""Answers in a terminal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cellgap.ask import Answer, Answers, Citation

SHOWN = 6
"""Pieces of evidence of an answer that are written out."""


def answers_of(answers: "Answers") -> Iterator[Any]:
    """Yield what a terminal shows of answers, line by line."""
    from rich.padding import Padding
    from rich.text import Text

    from cellgap.ask import clean

    yield Text(clean(answers.question), style="bold")
    for line in _read_as(answers):
        yield Text(line, style="dim")
    if not answers.answers:
        why = answers.abstained.text if answers.abstained else "no reason is known."
        yield Padding(Text(f"Not answered: {clean(why)}"), (1, 0, 0, 0))
    for number, answer in enumerate(answers, 1):
        yield Padding(Text(f"{number}. {clean(answer.condition)}", style="bold"), (1, 0, 0, 0))
        yield Padding(Text(clean(answer.text)), (0, 0, 0, 3))
        for flag in _flags(answer):
            yield Padding(Text(f"! {clean(flag)}", style="yellow"), (0, 0, 0, 3))
        cited = list(_cited(answer.citations))
        for line in cited[:SHOWN]:
            yield Padding(Text(line, style="dim"), (0, 0, 0, 3))
        if len(cited) > SHOWN:
            yield Padding(Text(f"and {len(cited) - SHOWN} more", style="dim"), (0, 0, 0, 3))
    usage = answers.usage
    if usage.requests or usage.cache_hits:
        cost = "unknown" if usage.cost is None else f"{usage.cost:.4g}"
        about = "about " if usage.estimated else ""
        tokens = f"{about}{usage.prompt_tokens + usage.completion_tokens:,} tokens"
        told = f"{usage.requests} requests, {usage.cache_hits} from the cache, {tokens}, cost {cost}"
        yield Padding(Text(told, style="dim"), (1, 0, 0, 0))


def _read_as(answers: "Answers") -> Iterator[str]:
    from cellgap.ask import clean

    read = answers.trace.get("read_as")
    if read:
        text = "; ".join(f"{k}: {v}" for k, v in read.items()) if isinstance(read, dict) else str(read)
        yield clean(f"read as {text}")
    omitted = answers.trace.get("omitted")
    if omitted:
        yield clean(f"left out: {', '.join(map(str, omitted[:5]))}{' and more' if len(omitted) > 5 else ''}")


def _flags(answer: "Answer") -> Iterator[str]:
    if answer.conflict:
        yield "the evidence under this condition disagrees"
    yield from answer.flags


def _cited(citations: "Sequence[Citation]") -> Iterator[str]:
    """Yield the evidence: rows of a table together, passages one by one."""
    from cellgap.ask import clean

    rows: dict[str, list[str]] = {}
    for citation in citations:
        for row in citation.rows:
            rows.setdefault(citation.source, []).append(row[:8])
    for source, ids in rows.items():
        some = ", ".join(ids[:SHOWN]) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
        yield clean(f"[{'rows' if len(ids) > 1 else 'row'} {some}] {source}")
    for citation in citations:
        if not citation.rows:
            where = f" ({citation.source})" if citation.source else ""
            quote = citation.quote if len(citation.quote) <= 160 else f"{citation.quote[:157]}..."
            yield clean(f"[{citation.title}]{where} {quote}")

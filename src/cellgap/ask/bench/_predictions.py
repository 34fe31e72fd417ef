"""What a system said of one record, reduced to what is scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cellgap.ask._answer import Answer, Answers
from cellgap.ask.bench._records import Record, fragment_number
from cellgap.errors import DataError

ELSEWHERE = 1_000_000
"""Passages that are not among those of the record are numbered from here: citing them is never right."""


@dataclass(frozen=True)
class Prediction:
    """One output of a system: a condition, an answer, and the one-based numbers of the passages it cites."""

    condition: str
    answer: str
    fragments: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"condition": self.condition, "answer": self.answer, "fragments": list(self.fragments)}


def predictions_of(said: Answers | Sequence[Any], record: Record) -> tuple[Prediction, ...]:
    """Return what a system said of a record as predictions.

    Parameters
    ----------
    said
        ``Answers``; or a sequence of ``Prediction``, ``Answer`` or mappings with ``condition``, ``answer`` and
        ``citations`` or ``fragments`` (numbers, or ``"Fragment 3"``, ``"3. Title"``), as stored by others.

    Raises
    ------
    DataError
        Something else; the message says what it was.
    """
    items = said.answers if isinstance(said, Answers) else said
    if isinstance(items, str) or not isinstance(items, Sequence):
        raise DataError(f"A system returns Answers or a sequence of predictions, found a {type(said).__name__}.")
    return tuple(_prediction(item, record) for item in items)


def _prediction(item: Any, record: Record) -> Prediction:
    if isinstance(item, Prediction):
        return item
    if isinstance(item, Answer):
        return Prediction(item.condition, item.text, _cited(item, record))
    if isinstance(item, Mapping) and isinstance(item.get("answer"), str):
        condition = item.get("condition") or ""
        cited = item.get("fragments", item.get("citations")) or []
        titles = (c.get("title") if isinstance(c, Mapping) else c for c in cited)
        numbers = {n for n in map(fragment_number, titles) if n is not None}
        return Prediction(str(condition), item["answer"], tuple(sorted(numbers)))
    raise DataError(f"A prediction is an Answer, a Prediction or a mapping with a text 'answer', found {item!r:.80}.")


def _cited(answer: Answer, record: Record) -> tuple[int, ...]:
    """Return the passages an answer cites, by content: its citations may count another list than the record's."""
    places = {passage.id: i for i, passage in reversed(list(enumerate(record.passages, 1)))}
    numbers = set()
    for k, citation in enumerate(answer.citations):
        n = citation.position
        same = 1 <= n <= len(record.passages) and record.passages[n - 1].id == citation.source_id
        numbers.add(n if same else places.get(citation.source_id, ELSEWHERE + k))
    return tuple(sorted(numbers))

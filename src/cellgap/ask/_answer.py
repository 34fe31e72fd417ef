"""What an answer is: a condition, what holds under it, and the evidence it was taken from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, overload

from cellgap.study import Condition

VERDICTS = ("raises", "lowers", "no_change", "mixed", "not_tested", "insufficient")
"""What the rows of an effect table say of a readout under a condition."""


@dataclass(frozen=True)
class Citation:
    """One piece of evidence, fixed by a digest of what it said when it was cited.

    Parameters
    ----------
    source_id
        Identifier of the passage or of the row; a hash of its content or key, so that it survives re-ordering.
    title
        Title of the passage, or the name of the table.
    quote
        The words, or the values of the row, that the answer rests on.
    position
        One-based place among the passages that were looked at; 0 for a row.
    span
        First and past-the-last character of `quote` in the passage; None where the whole is meant.
    rows
        Identifiers of rows of an effect table; empty for a passage.
    source
        File and version that it comes from.
    sha256
        Digest of the content cited.
    """

    source_id: str
    title: str
    quote: str
    position: int = 0
    span: tuple[int, int] | None = None
    rows: tuple[str, ...] = ()
    source: str = ""
    sha256: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return _plain(self)


@dataclass(frozen=True)
class Answer:
    """What holds under one condition.

    Parameters
    ----------
    condition
        The reading of the question, as a sentence.
    text
        The answer; complete under `condition`.
    citations
        Evidence for both; never empty, except for the verdict ``"not_tested"`` where nothing at all was found nearby.
    support
        Share of the content words of `text` that occur in the cited evidence, between 0 and 1; numbers have to occur.
    key
        The condition as treatments and context, where one can be resolved.
    attributes
        What else fixes the reading: ``time``, ``readout``, ``source``, ``dataset``.
    verdict
        One of ``VERDICTS`` by readout; empty for an answer from text.
    conflict
        Whether evidence under this condition disagrees.
    flags
        Cautions in words: extrapolation, unsupported numbers, few cells.
    gap
        Share of the evidence rows that disagree with the most frequent call, 0 = one call everywhere; None for text.
    """

    condition: str
    text: str
    citations: tuple[Citation, ...]
    support: float
    key: Condition | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    verdict: Mapping[str, str] = field(default_factory=dict)
    conflict: bool = False
    flags: tuple[str, ...] = ()
    gap: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; `key` as its keyed text."""
        return _plain(self)


@dataclass(frozen=True)
class Notice:
    """Why there is no answer, or what was done in a lesser way than asked.

    Parameters
    ----------
    code
        A word for programs, such as ``"no_evidence"``, ``"no_encoder"``, ``"budget"``.
    text
        A sentence for people.
    """

    code: str
    text: str


@dataclass(frozen=True)
class Usage:
    """What a question cost.

    Parameters
    ----------
    requests, retries, cache_hits
        Counts of calls to an endpoint (retries are among the requests) and of replies taken from the cache.
    prompt_tokens, completion_tokens
        As the server reported, or as estimated where it did not.
    estimated
        Whether any count of tokens is an estimate.
    cost
        In the currency of the price table; 0 where nothing was asked, None where a price is unknown.
    waited_s
        Seconds spent waiting between attempts.
    """

    requests: int = 0
    retries: int = 0
    cache_hits: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    cost: float | None = 0.0
    waited_s: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        cost = None if self.cost is None or other.cost is None else self.cost + other.cost
        return Usage(
            self.requests + other.requests,
            self.retries + other.retries,
            self.cache_hits + other.cache_hits,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.estimated or other.estimated,
            cost,
            self.waited_s + other.waited_s,
        )


@dataclass(frozen=True)
class Answers(Sequence[Answer]):
    """The answers to a question, one a condition: a sequence with what belongs to it.

    Parameters
    ----------
    question
        As asked.
    answers
        Strongest evidence first; empty where `abstained` says why.
    abstained
        Why there is no answer.
    degraded
        What was done in a lesser way than asked (no encoder, a reply that failed its checks, ...).
    usage
        What it cost.
    trace
        How it came about, in plain values: what the question was read as, what was retrieved, omitted, dropped.
    """

    question: str
    answers: tuple[Answer, ...]
    abstained: Notice | None = None
    degraded: tuple[Notice, ...] = ()
    usage: Usage = Usage()
    trace: Mapping[str, Any] = field(default_factory=dict)

    @overload
    def __getitem__(self, index: int) -> Answer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Answer]: ...
    def __getitem__(self, index: int | slice) -> Answer | Sequence[Answer]:
        return self.answers[index]

    def __len__(self) -> int:
        return len(self.answers)

    def __iter__(self) -> Iterator[Answer]:
        return iter(self.answers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON holds."""
        return _plain(self)

    def __str__(self) -> str:
        if not self.answers:
            return f"Not answered: {self.abstained.text if self.abstained else 'no reason is known.'}"
        lines = []
        for number, answer in enumerate(self.answers, 1):
            cited = ", ".join(c.title for c in answer.citations[:4]) + (", …" if len(answer.citations) > 4 else "")
            lines.append(f"{number}. {answer.condition}\n   {answer.text}\n   [{cited}]")
            lines += [f"   ! {flag}" for flag in answer.flags]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(a.condition)}</td><td>{escape(a.text)}</td>"
            f"<td>{escape('; '.join(c.title for c in a.citations))}</td><td>{a.support:.2f}</td></tr>"
            for a in self.answers
        )
        if not rows:
            rows = f'<tr><td colspan="4">{escape(str(self))}</td></tr>'
        head = "<tr><th>condition</th><th>answer</th><th>evidence</th><th>support</th></tr>"
        return f"<table><caption>{escape(self.question)}</caption>{head}{rows}</table>"


def _plain(value: Any) -> Any:
    if isinstance(value, Condition):
        return repr(value)
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value

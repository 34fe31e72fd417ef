"""Answers written by a model from the passages of a question, under one of four protocols."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cellgap.ask._answer import Answer, Answers, Notice
from cellgap.ask._checks import SAME, Encodes, check, cited_passages
from cellgap.ask._passage import Passage, clean
from cellgap.ask.endpoint._budget import BudgetSpent, Tally
from cellgap.ask.endpoint._client import ChatClient, Reply
from cellgap.ask.endpoint._prompts import MARK, PROMPT_VERSION, messages_of
from cellgap.ask.endpoint._reply import Unreadable
from cellgap.ask.endpoint._schema import answers_schema, problems, with_numbers
from cellgap.errors import ConfigError, EndpointError, OfflineMiss, ReplyError

PROTOCOLS = ("conditions", "rag", "closed", "given")
"""What the model is shown and asked for; scores of different ones are not comparable."""

_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)
_SMALL = 14.0


def generate(
    question: str,
    passages: Sequence[Passage],
    client: ChatClient,
    *,
    protocol: str = "conditions",
    k_max: int | None = 3,
    conditions: Sequence[str] | None = None,
    two_step: bool | None = None,
    encoder: Encodes | None = None,
    strict: bool = False,
) -> Answers:
    """Return the model's answers, after the checks that every answer passes (``check``).

    Passages that speak to a model (``Passage.suspicious``) are not sent; the trace lists them. A reply that cannot be
    used even after asking once more, and a refusal, lead to the extractive answers, which ``degraded`` says.

    Parameters
    ----------
    question
        As asked.
    passages
        Numbered from 1 in this order; those beyond ``context_characters`` are not sent.
    client
        See ``ChatEndpoint.client``.
    protocol
        ``"conditions"``: conditions and their answers; ``"rag"``: answers without conditions; ``"given"``: one answer
        for each of `conditions`; ``"closed"``: from what the model knows, without passages and hence without evidence.
    k_max
        Most answers; None leaves it to the model.
    conditions
        For ``"given"``.
    two_step
        First the conditions, then a call for each with its passages alone (``"conditions"`` only); None as the endpoint
        says.
    encoder
        Compares conditions, and ranks where the extractive answers stand in.
    strict
        Drop answers that their passages do not support, instead of flagging them.

    Returns
    -------
    Answers
        Where the budget ends early, what was answered until then and a notice ``"budget"``: in ``degraded`` where there
        are answers, else in ``abstained``.

    Raises
    ------
    ConfigError
        An unknown protocol, an empty question, or conditions that are missing or not asked for.
    EndpointError
        The server could not be used (``OfflineMiss`` offline).
    """
    _valid(question, protocol, k_max, conditions)
    sent, left_out = _chosen(passages, client) if protocol != "closed" else ({}, [])
    stepwise = protocol == "conditions" and _stepwise(client, two_step)
    trace: dict[str, Any] = {
        "answerer": "endpoint",
        "model": client.endpoint.model,
        "protocol": protocol,
        "prompt_version": PROMPT_VERSION,
        "two_step": stepwise,
        "sent": list(sent),
        "left_out": left_out,
    }
    if not sent and protocol != "closed":
        nothing = Notice(
            "no_evidence", "No passage is left that could be shown to a model." if passages else "No passage."
        )
        return Answers(question, (), abstained=nothing, trace=trace)
    work = _Work(question, passages, client, protocol, k_max, tuple(conditions or ()), sent, encoder)
    if any(item["reason"] == "context" for item in left_out):
        text = f"Passages beyond {client.endpoint.context_characters:,} characters together were not sent."
        work.degraded.append(Notice("context", text))
    try:
        drafts = _in_two_steps(work) if stepwise else _in_one_step(work)
    except BudgetSpent as error:
        spent = Notice("budget", str(error))
        return Answers(question, (), spent, tuple(work.degraded), work.tally.usage, trace)
    except ReplyError as error:
        return _extracted(work, error, trace, strict)
    trace |= {"structured": work.structured, "repaired": work.repaired}
    trace |= work.listed
    made = Answers(question, tuple(drafts), None, tuple(dict.fromkeys(work.degraded)), work.tally.usage, trace)
    if protocol == "closed":
        return _unchecked(made, k_max)
    merge_at = None if protocol == "given" else SAME
    checked = check(
        made, passages, encoder, k_max=None if protocol == "given" else k_max, strict=strict, merge_at=merge_at
    )
    budget = next((n for n in made.degraded if n.code == "budget"), None)
    return replace(checked, abstained=budget) if budget is not None and not checked.answers else checked


@dataclass
class _Work:
    """One question while it is worked on."""

    question: str
    passages: Sequence[Passage]
    client: ChatClient
    protocol: str
    k_max: int | None
    conditions: tuple[str, ...]
    sent: dict[int, Passage]
    encoder: Encodes | None
    tally: Tally = field(default_factory=Tally)
    degraded: list[Notice] = field(default_factory=list)
    structured: str = ""
    repaired: int = 0
    listed: dict[str, Any] = field(default_factory=dict)

    def ask(self, kind: str, sent: dict[int, Passage], conditions: Sequence[str]) -> Reply:
        ids = list(sent)
        schema = answers_schema(kind, ids, len(conditions))
        endpoint = self.client.endpoint
        messages = messages_of(
            kind,
            self.question,
            sent,
            schema,
            k_max=self.k_max or len(sent) or 10,
            conditions=conditions,
            spotlight=endpoint.spotlight,
            passage_characters=endpoint.passage_characters,
        )
        test = _reader(kind, len(conditions))
        stage = "conditions" if kind == "first" else "answer"
        return self.client.complete(messages, schema, stage=stage, check=test, version=PROMPT_VERSION, tally=self.tally)

    def note(self, reply: Reply) -> Reply:
        self.structured, self.repaired = reply.structured, self.repaired + reply.repaired
        self.degraded += reply.degraded
        return reply

    def answer(self, condition: str, text: str, numbers: Sequence[int], sent: dict[int, Passage]) -> Answer:
        return Answer(_plain(condition), _plain(text), cited_passages(numbers, sent), 0.0)


def _in_one_step(work: _Work) -> list[Answer]:
    reply = work.note(work.ask(work.protocol, work.sent, work.conditions))
    drafts = []
    for item in reply.value["answers"]:
        condition = item.get("condition", "")
        if isinstance(condition, int):
            condition = work.conditions[condition - 1]
        drafts.append(work.answer(condition, item["answer"], item.get("citations", ()), work.sent))
    return drafts


def _in_two_steps(work: _Work) -> list[Answer]:
    """Return one answer a condition; a condition whose call fails is answered by extraction, or left out and said."""
    first = work.note(work.ask("first", work.sent, ()))
    found = [
        (item["condition"], list(dict.fromkeys(n for n in item["citations"] if n in work.sent)))
        for item in first.value["conditions"]
    ]
    unknown = sum(n not in work.sent for item in first.value["conditions"] for n in item["citations"])
    wanted = [(condition, numbers) for condition, numbers in found if numbers and condition.strip()]
    beyond = len(wanted) if work.k_max is None else work.k_max
    kept = wanted[:beyond]

    def second(item: tuple[str, list[int]]) -> Reply | EndpointError:
        condition, numbers = item
        try:
            return work.ask("second", {n: work.sent[n] for n in sorted(set(numbers))}, (condition,))
        except OfflineMiss:
            raise
        except EndpointError as error:
            return error

    drafts: list[Answer] = []
    replies = work.client.map(second, kept)
    errors = [reply for reply in replies if isinstance(reply, EndpointError)]
    for (condition, numbers), reply in zip(kept, replies, strict=True):
        if isinstance(reply, Reply):
            work.note(reply)
            own = {n: work.sent[n] for n in numbers}
            drafts.append(work.answer(condition, reply.value["answer"], reply.value["citations"], own))
        elif isinstance(reply, BudgetSpent):
            work.degraded.append(Notice("budget", f"Not answered: {_plain(condition)} {reply}"))
        elif isinstance(reply, ReplyError):
            stand_in = _extract(work, [work.sent[n] for n in numbers], 1, [_plain(condition)])
            work.degraded.append(Notice("reply", f"Answered by extraction: {_plain(condition)} {reply}"))
            for answer in stand_in:
                cited = tuple(replace(c, position=numbers[c.position - 1]) for c in answer.citations if c.position)
                drafts.append(replace(answer, condition=_plain(condition), citations=cited))
        else:
            work.degraded.append(Notice("endpoint", f"Not answered: {_plain(condition)} {reply}"))
    hard = [error for error in errors if not isinstance(error, BudgetSpent | ReplyError)]
    if hard and not drafts:
        raise hard[0]
    # A condition that cites nothing that was sent goes through the checks, which say that it is dropped.
    drafts += [work.answer(condition, "", numbers, work.sent) for condition, numbers in found if not numbers]
    work.listed = {"omitted": [_plain(condition) for condition, _ in wanted[beyond:]], "unknown_citations": unknown}
    return drafts


def _extracted(work: _Work, error: ReplyError, trace: dict[str, Any], strict: bool) -> Answers:
    notice = Notice("reply", f"Answered by extraction instead of the model. {error}")
    usage, degraded = work.tally.usage, tuple(dict.fromkeys(work.degraded))
    if work.protocol == "closed":
        return Answers(work.question, (), Notice("reply", str(error)), degraded, usage, trace)
    given = list(work.conditions) if work.protocol == "given" else None
    made = _extract(work, work.passages, work.k_max, given)
    return replace(
        made,
        degraded=(*degraded, notice, *made.degraded),
        usage=usage,
        trace={**trace, "fallback": "extract", "extract": dict(made.trace)},
    )


def _extract(work: _Work, passages: Sequence[Passage], k_max: int | None, conditions: list[str] | None) -> Answers:
    from cellgap.ask._extract import extract

    encoder: Any = work.encoder
    return extract(work.question, passages, encoder, k_max=k_max, conditions=conditions)


def _unchecked(made: Answers, k_max: int | None) -> Answers:
    """Return answers without evidence, flagged as such."""
    flag = "from the model's memory: no evidence was shown or cited"
    usable = [replace(answer, flags=(flag,)) for answer in made if answer.text]
    kept = tuple(usable if k_max is None else usable[:k_max])
    abstained = None if kept else Notice("no_answer", "The model gave no answer.")
    omitted = [answer.text for answer in usable[len(kept) :]]
    return replace(made, answers=kept, abstained=abstained, trace={**made.trace, "omitted": omitted})


def _reader(kind: str, n_conditions: int) -> Callable[[Any], Any]:
    """Return what validates a reply: ids in their documented forms become numbers, everything else has to be exact."""
    schema = answers_schema(kind, None, n_conditions)

    def read(value: Any) -> Any:
        value = with_numbers(value)
        found = problems(value, schema)
        if found:
            raise Unreadable(*found)
        return value

    return read


def _chosen(passages: Sequence[Passage], client: ChatClient) -> tuple[dict[int, Passage], list[dict[str, Any]]]:
    """Return the passages to send by number, and which are not sent and why."""
    sent: dict[int, Passage] = {}
    left_out: list[dict[str, Any]] = []
    size = 0
    for number, passage in enumerate(passages, 1):
        if passage.suspicious:
            left_out.append({"position": number, "title": passage.title, "reason": "suspicious"})
            continue
        size += min(len(passage.text), client.endpoint.passage_characters) + len(passage.title)
        if sent and size > client.endpoint.context_characters:
            left_out.append({"position": number, "title": passage.title, "reason": "context"})
        else:
            sent[number] = passage
    return sent, left_out


def _stepwise(client: ChatClient, two_step: bool | None) -> bool:
    asked = client.endpoint.two_step if two_step is None else two_step
    if asked is not None:
        return asked
    sizes = [float(size) for size in _SIZE.findall(client.endpoint.model)]
    return bool(sizes) and max(sizes) <= _SMALL


def _valid(question: str, protocol: str, k_max: int | None, conditions: Sequence[str] | None) -> None:
    if protocol not in PROTOCOLS:
        raise ConfigError(f"generate(protocol=...) is one of {', '.join(PROTOCOLS)}, found {protocol!r}.")
    if not clean(question):
        raise ConfigError("generate(question=...) is empty: ask something.")
    if k_max is not None and k_max < 1:
        raise ConfigError(f"generate(k_max=...) is 1 or more, or None, found {k_max!r}.")
    if (protocol == "given") != bool(conditions):
        raise ConfigError(
            f"generate(conditions=...) belongs to the protocol 'given' and is needed there, found {protocol!r} "
            f"with {len(conditions or ())} conditions."
        )
    if any(not clean(condition) for condition in conditions or ()):
        raise ConfigError("generate(conditions=...) holds an empty condition.")


def _plain(text: str) -> str:
    return " ".join(clean(text.replace(MARK, " ")).split())

"""What a server sent, read as a chat completion: one JSON object, or events where it streams without being asked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cellgap.errors import EndpointError, ReplyError

_SHOWN = 200


class Broken(Exception):
    """The reply ends before its end: the connection was lost in the middle of a stream."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token of a reply with its log probability (natural), and those of the likeliest tokens at its place.

    Parameters
    ----------
    token, logprob
        As written.
    top
        Likeliest first, as the server reports.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Message:
    """A reply as the server gave it.

    Parameters
    ----------
    text
        Content; empty where there is none.
    finish
        Why it ends: ``"stop"``, ``"length"``, ...
    refusal
        What the model says instead of answering.
    prompt_tokens, completion_tokens
        None where the server reports none that can be read.
    logprobs
        Of the tokens of `text`.
    model
        That the server says it used.
    """

    text: str
    finish: str = ""
    refusal: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    model: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        logprobs = [[t.token, t.logprob, [list(pair) for pair in t.top]] for t in self.logprobs]
        return {**vars(self), "logprobs": logprobs}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Message":
        """Return what `to_dict` wrote."""
        tokens = (TokenLogprob(t, p, tuple((a, b) for a, b in top)) for t, p, top in values["logprobs"])
        return cls(**{**values, "logprobs": tuple(tokens)})


def read_body(body: bytes, content_type: str) -> Message:
    """Return the message in the body of a reply with status 200.

    Raises
    ------
    ReplyError
        Bytes that are not UTF-8, or a completion without a choice.
    EndpointError
        No chat completion at all: a page, an error in disguise.
    Broken
        A stream that ends early.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise ReplyError("The server's reply is not UTF-8.") from None
    if content_type.split(";")[0].strip().lower() == "text/event-stream" or text.startswith("data:"):
        return _joined(text)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise EndpointError(
            f"The server's reply is no JSON but {content_type or 'something'} that starts with {shown(text)}: "
            "does the address end with the version of the interface, such as /v1?"
        ) from None
    return _message(found)


def shown(text: str) -> str:
    """Return the start of a text of a server, fit for one line of a message."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _SHOWN]).split())
    return repr(text[:_SHOWN] + ("…" if len(text) > _SHOWN else ""))


def whole(text: str) -> str:
    """Return text with half characters (lone surrogates, which JSON can spell) replaced: no file can hold them."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _message(found: Any) -> Message:
    _refuse_error(found)
    choices = found.get("choices") if isinstance(found, dict) else None
    if not isinstance(choices, list):
        raise EndpointError(
            f"The server's reply is no chat completion: it has no list of choices, {shown(str(found))}."
        )
    if not choices or not isinstance(choices[0], dict):
        raise ReplyError("The server replied with an empty list of choices.")
    message = choices[0].get("message")
    message = message if isinstance(message, dict) else {}
    usage = found.get("usage")
    return Message(
        text=_content(message.get("content")),
        finish=_text(choices[0].get("finish_reason")),
        refusal=_text(message.get("refusal")),
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
        logprobs=_tokens(choices[0].get("logprobs")),
        model=_text(found.get("model")),
    )


def _joined(text: str) -> Message:
    """Return the message of server-sent events; what a server streams is put together as if it had not."""
    content, refusal, finish, model, done = "", "", "", "", False
    usage: Any = None
    tokens: list[TokenLogprob] = []
    for line in text.splitlines():
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            done = True
            break
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            raise Broken("an event of the stream is no JSON") from None
        _refuse_error(event)
        if not isinstance(event, dict):
            continue
        usage = event.get("usage") or usage
        model = _text(event.get("model")) or model
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        part = choice.get("delta") or choice.get("message")
        part = part if isinstance(part, dict) else {}
        content += _content(part.get("content"))
        refusal += _text(part.get("refusal"))
        finish = _text(choice.get("finish_reason")) or finish
        tokens += _tokens(choice.get("logprobs"))
    if not (done or finish):
        raise Broken("the stream ends in the middle")
    counts = (_count(usage, "prompt_tokens"), _count(usage, "completion_tokens"))
    return Message(whole(content), finish, refusal, *counts, tuple(tokens), model)


def _refuse_error(found: Any) -> None:
    if isinstance(found, dict) and found.get("error"):
        error = found["error"]
        said = error.get("message") if isinstance(error, dict) else error
        raise EndpointError(f"The server replied with an error: {shown(str(said))}.")


def _text(value: Any) -> str:
    return whole(value) if isinstance(value, str) else ""


def _content(value: Any) -> str:
    """Return content as text; some servers send a list of parts."""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, dict))
    return _text(value)


def _count(usage: Any, name: str) -> int | None:
    """Return a number of tokens; some servers write it as a string."""
    value = usage.get(name) if isinstance(usage, dict) else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15 else None


def _tokens(found: Any) -> tuple[TokenLogprob, ...]:
    """Return the log probabilities; what is not in their published form is left out."""
    listed = found.get("content") if isinstance(found, dict) else None
    tokens = []
    for item in listed if isinstance(listed, list) else ():
        pair = _pair(item)
        if pair is not None:
            top = item.get("top_logprobs")
            pairs = (_pair(other) for other in (top if isinstance(top, list) else ()))
            tokens.append(TokenLogprob(*pair, tuple(p for p in pairs if p is not None)))
    return tuple(tokens)


def _pair(item: Any) -> tuple[str, float] | None:
    if not isinstance(item, dict) or not isinstance(item.get("token"), str):
        return None
    value = item.get("logprob")
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        return None
    return whole(item["token"]), float(value)

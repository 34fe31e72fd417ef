"""A client of one model on one server: cached, counted, bounded, and never longer than its deadline."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cellgap.ask._answer import Notice, Usage
from cellgap.ask.endpoint._body import Message, TokenLogprob
from cellgap.ask.endpoint._budget import Budget, Meter, Tally
from cellgap.ask.endpoint._cache import ReplyCache, digest_of
from cellgap.ask.endpoint._chat_endpoint import ChatEndpoint
from cellgap.ask.endpoint._exchange import Call, Line
from cellgap.ask.endpoint._http import Wire
from cellgap.ask.endpoint._key import Key
from cellgap.ask.endpoint._prompts import repair_of
from cellgap.ask.endpoint._reply import Unreadable, read_value
from cellgap.ask.endpoint._schema import known, validated
from cellgap.ask.endpoint._structured import Abilities
from cellgap.errors import OfflineMiss, ReplyError

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Reply:
    """What a model replied.

    Parameters
    ----------
    text
        As written; of the repaired reply where there was one.
    value
        The parsed and validated object; None where no schema was asked for.
    usage
        What it cost, with all attempts.
    cache_hit
        Whether no request was sent.
    repaired
        Whether the first reply could not be used and the model was asked once more.
    finish
        Why the reply ends, ``"stop"`` or ``"length"``.
    structured
        How the server was held to the schema: ``"json_schema"``, ``"json_object"`` or ``"prompt"``.
    token_logprobs
        Of the tokens of `text`, where asked for and given.
    degraded
        What was done in a lesser way than asked.
    model
        That the server says it used.
    key
        Digest under which the cache holds the reply.
    """

    text: str
    value: Any
    usage: Usage
    cache_hit: bool
    repaired: bool = False
    finish: str = ""
    structured: str = ""
    token_logprobs: tuple[TokenLogprob, ...] = ()
    degraded: tuple[Notice, ...] = ()
    model: str = ""
    key: str = ""


class ChatClient:
    """Asks one model; made by ``ChatEndpoint.client``. Threads may share it.

    Parameters
    ----------
    endpoint, key, cache, offline, budget
        See ``ChatEndpoint.client``.
    """

    def __init__(
        self,
        endpoint: ChatEndpoint,
        *,
        key: str | None = None,
        cache: str | Path | ReplyCache | None = None,
        offline: bool = False,
        budget: Budget | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.offline = offline
        self.cache = cache if cache is None or isinstance(cache, ReplyCache) else ReplyCache(cache)
        self._closes_cache = not isinstance(cache, ReplyCache)
        self._meter = Meter(budget, endpoint.prices)
        self._key = _key_of(endpoint, key)
        self._server = digest_of([endpoint.url, endpoint.model])
        self._slots = threading.BoundedSemaphore(endpoint.concurrency)
        self._lock = threading.Lock()
        self._flights: dict[str, threading.Lock] = {}
        self._line: Line | None = None

    def __repr__(self) -> str:
        key = "with a key" if self._key else "without a key"
        return f"ChatClient({self.endpoint!r}, {key}, cache={self.cache!r}, offline={self.offline})"

    def __enter__(self) -> "ChatClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close connections and the cache that was opened for this client."""
        with self._lock:
            if self._line is not None:
                self._line.wire.close()
                self._line = None
        if self.cache is not None and self._closes_cache:
            self.cache.close()

    @property
    def usage(self) -> Usage:
        """All that the client has cost."""
        return self._meter.tally.usage

    @property
    def usage_by_stage(self) -> dict[str, Usage]:
        """The same by stage."""
        return self._meter.tally.by_stage

    def complete(
        self,
        messages: Sequence[Mapping[str, str]],
        schema: Mapping[str, Any] | None = None,
        *,
        stage: str = "answer",
        check: Callable[[Any], Any] | None = None,
        top_logprobs: int = 0,
        version: str = "",
        tally: Tally | None = None,
    ) -> Reply:
        """Return the model's reply to some messages.

        Parameters
        ----------
        messages
            ``{"role": ..., "content": ...}`` each; ``NONCE`` in them becomes a random code.
        schema
            JSON schema of the reply (types, properties, required, items, enum, bounds). The reply is parsed and
            validated here; one that fails is asked for once more, with the reasons.
        stage
            Name under which the usage is counted.
        check
            What validates instead of `schema`: takes the parsed value, returns the one to use, or raises
            ``ValueError``.
        top_logprobs
            Ask for log probabilities with this many alternatives a token.
        version
            Of the prompt; another one is another entry of the cache.
        tally
            Counts this call too, even if it fails.

        Raises
        ------
        ReplyError
            A refusal, or a reply that cannot be used even after asking once more.
        OfflineMiss
            Offline, and the reply is not in the cache.
        BudgetSpent
            The budget does not reach for a request.
        EndpointError
            No connection, no reply in time, a key or a model that the server does not take.
        """
        if schema is not None:
            known(schema)
        own = Tally()
        tallies = (own,) if tally is None else (own, tally)
        clock = _Remaining(self.endpoint.timeout_s)
        call = Call([dict(m) for m in messages], schema, top_logprobs, stage, version)
        found = self._found(call, clock, tallies)
        hit, repaired = found.hit, False
        value = None
        if schema is not None:
            test = _test_of(schema, check)
            try:
                value = self._value(found.message, test)
            except Unreadable as error:
                cut = found.message.finish == "length"
                again = repair_of(call.messages, found.message.text, error.errors, cut)
                found = self._found(replace(call, messages=again), clock, tallies)
                hit, repaired = hit and found.hit, True
                try:
                    value = self._value(found.message, test)
                except Unreadable as second:
                    raise ReplyError(
                        f"The model {self.endpoint.model!r} was asked twice and replied with nothing usable: {second}."
                    ) from None
        elif found.message.refusal:
            self._value(found.message, _as_is)
        message = found.message
        return Reply(
            message.text,
            value,
            own.usage,
            hit,
            repaired,
            message.finish,
            found.structured if schema is not None else "",
            message.logprobs,
            found.degraded,
            message.model,
            found.key,
        )

    def map(self, function: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
        """Return what a function makes of each item, in order; as many run at a time as requests may.

        The first error, in order, is raised once those that run have ended; items not begun by then are left out.
        """
        items = list(items)
        if len(items) < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(min(self.endpoint.concurrency, len(items))) as pool:
            futures = [pool.submit(function, item) for item in items]
            try:
                return [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                raise

    def _value(self, message: Message, test: Callable[[Any], Any]) -> Any:
        if message.refusal and not message.text:
            raise ReplyError(f"The model {self.endpoint.model!r} refuses to answer: {message.refusal[:200]!r}.")
        return read_value(message.text, test)

    def _found(self, call: Call, clock: "_Remaining", tallies: Sequence[Tally]) -> "_Found":
        endpoint = self.endpoint
        key = digest_of(
            {
                "kind": "openai-chat",
                "model": endpoint.model,
                "messages": call.messages,
                "schema": None if call.schema is None else json.dumps(call.schema),
                "sampling": [endpoint.temperature, endpoint.max_tokens, endpoint.seed, call.top_logprobs],
                "version": call.version,
            }
        )
        with self._flight(key) if self.cache is not None else nullcontext():
            kept = None if self.cache is None else self.cache.get(key)
            if kept is not None:
                used = Usage(cache_hits=1)
                for tally in (self._meter.tally, *tallies):
                    tally.add(call.stage, used)
                return _Found.of(kept, key, hit=True)
            if self.offline:
                where = "no cache was given" if self.cache is None else f"it is not in {self.cache.path}"
                raise OfflineMiss(
                    f"Offline, and the reply of {endpoint.model!r} to this is not kept: {where}. Ask once online."
                )
            with self._slots:
                started = time.monotonic()
                try:
                    message, abilities = self._open_line().ask(call, key, started + clock.left, tallies)
                finally:
                    clock.left -= time.monotonic() - started
            notices = abilities.notices(bool(call.top_logprobs))
            made = {
                "message": message.to_dict(),
                "structured": abilities.mode,
                "degraded": [[n.code, n.text] for n in notices],
            }
            # Kept before anybody uses it: a run that is killed now does not pay for it again.
            return _Found.of(made if self.cache is None else self.cache.put(key, made), key, hit=False)

    def _open_line(self) -> Line:
        with self._lock:
            if self._line is None:
                kept = None if self.cache is None else self.cache.learned(self._server)
                learn = None if self.cache is None else self.cache.learn
                self._line = Line(
                    self.endpoint,
                    self._key,
                    self._meter,
                    Wire(f"{self.endpoint.url}/chat/completions", self.endpoint.concurrency),
                    Abilities() if kept is None else Abilities.from_dict(kept),
                    None if learn is None else (lambda known_now: learn(self._server, known_now.to_dict())),
                )
            return self._line

    def _flight(self, key: str) -> threading.Lock:
        """Return the lock of a request: who asks the same at the same time waits and takes the reply kept."""
        with self._lock:
            if len(self._flights) > 1000:
                self._flights = {k: lock for k, lock in self._flights.items() if lock.locked()}
            return self._flights.setdefault(key, threading.Lock())


@dataclass
class _Remaining:
    """Seconds left of a call; waiting for a free slot does not count."""

    left: float


@dataclass(frozen=True)
class _Found:
    message: Message
    structured: str
    degraded: tuple[Notice, ...]
    key: str
    hit: bool

    @classmethod
    def of(cls, made: Mapping[str, Any], key: str, *, hit: bool) -> "_Found":
        notices = tuple(Notice(code, text) for code, text in made["degraded"])
        return cls(Message.from_dict(made["message"]), made["structured"], notices, key, hit)


def _test_of(schema: Mapping[str, Any], check: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    def test(value: Any) -> Any:
        try:
            return validated(value, schema) if check is None else check(value)
        except ValueError as error:
            raise Unreadable(str(error)) from None

    return test


def _as_is(value: Any) -> Any:
    return value


def _key_of(endpoint: ChatEndpoint, given: str | None) -> Key | None:
    if given is not None:
        return Key(given, "client(key=...)")
    found = os.environ.get(endpoint.key_env, "").strip() if endpoint.key_env else ""
    if not found:
        return None
    parts = urlsplit(endpoint.url)
    near = parts.hostname in ("localhost", "127.0.0.1", "::1")
    # A key lying around in the environment must not go over the network in the open.
    return Key(found, str(endpoint.key_env)) if parts.scheme == "https" or near else None

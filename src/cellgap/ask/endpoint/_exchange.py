"""One question to a server: attempts, waits and what the server was found to take, all within one deadline."""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cellgap.ask._answer import Usage
from cellgap.ask.endpoint._body import Broken, Message, read_body, shown
from cellgap.ask.endpoint._budget import Meter, Tally, estimated_tokens
from cellgap.ask.endpoint._chat_endpoint import ChatEndpoint
from cellgap.ask.endpoint._http import Lost, Received, Wire
from cellgap.ask.endpoint._key import Key
from cellgap.ask.endpoint._prompts import with_nonce
from cellgap.ask.endpoint._retry import AGAIN, Waits
from cellgap.ask.endpoint._structured import Abilities
from cellgap.errors import EndpointError, ReplyError


@dataclass(frozen=True)
class Call:
    """What is asked.

    Parameters
    ----------
    messages, schema, top_logprobs, stage, version
        See ``ChatClient.complete``.
    """

    messages: list[dict[str, str]]
    schema: Mapping[str, Any] | None
    top_logprobs: int
    stage: str
    version: str


class Line:
    """A server that is asked, and what is known of it. Threads may share one.

    Parameters
    ----------
    endpoint, key, meter, wire
        Settings, secret, counts and connections.
    abilities
        What is known of the model so far.
    learn
        Called with what is found out.
    """

    def __init__(
        self,
        endpoint: ChatEndpoint,
        key: Key | None,
        meter: Meter,
        wire: Wire,
        abilities: Abilities,
        learn: Callable[[Abilities], None] | None,
    ) -> None:
        self.wire = wire
        self._endpoint, self._key, self._meter = endpoint, key, meter
        self._abilities, self._learn = abilities, learn
        self._lock = threading.Lock()
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "cellgap",
            **(key.header() if key else {}),
        }

    def ask(self, call: Call, seed: str, deadline: float, tallies: Sequence[Tally]) -> tuple[Message, Abilities]:
        """Return the server's message, and what it was known to take when it was asked.

        Parameters
        ----------
        call
            What is asked.
        seed
            Of the waits.
        deadline
            In seconds of ``time.monotonic``, for everything.
        tallies
            Count each attempt.

        Raises
        ------
        EndpointError, ReplyError, BudgetSpent
            See ``ChatClient.complete``.
        """
        waits = Waits(seed, self._endpoint.backoff_s)
        repeats = silences = 0
        again = False
        while True:
            abilities = self._abilities
            sent = self._body(call, abilities)
            got = self._attempt(sent, call, deadline, tallies, Usage(requests=1, retries=int(again)))
            if isinstance(got, Message):
                return got, abilities
            if isinstance(got, Received) and got.status in (400, 422):
                said = self._said(got)
                better = abilities.after_refusal(sent, said)
                if better is None:
                    raise EndpointError(f"{self._who()} refused the request with {got.status}: {shown(said)}.")
                self._know(abilities, better)
                again = False
                continue
            reason = self._reason(got)
            silences += isinstance(got, Lost) and got.kind == "silence"
            repeats += 1
            if silences > 1 or repeats > self._endpoint.retries or (isinstance(got, Lost) and got.kind == "deadline"):
                raise EndpointError(f"{self._who()} {reason} ({self._times(repeats)}).")
            wait = waits.next(got.headers if isinstance(got, Received) else None)
            if time.monotonic() + wait >= deadline:
                raise EndpointError(
                    f"{self._who()} {reason}, and waiting {wait:.2g} s more would pass the deadline of "
                    f"{self._endpoint.timeout_s:g} s ({self._times(repeats)})."
                )
            time.sleep(wait)
            again = True
            self._add(call.stage, Usage(waited_s=wait), tallies)

    def _body(self, call: Call, abilities: Abilities) -> dict[str, Any]:
        endpoint = self._endpoint
        return abilities.body(
            endpoint.model,
            with_nonce(call.messages),
            call.schema,
            temperature=endpoint.temperature,
            max_tokens=endpoint.max_tokens,
            seed=endpoint.seed,
            top_logprobs=call.top_logprobs,
        )

    def _attempt(
        self, sent: Mapping[str, Any], call: Call, deadline: float, tallies: Sequence[Tally], counted: Usage
    ) -> Message | Received | Lost:
        """Send a request; what may be asked again is returned, what may not is raised."""
        endpoint = self._endpoint
        prompt = estimated_tokens(*(m["content"] for m in call.messages))
        reserved = self._meter.reserve(prompt, endpoint.max_tokens)
        used = counted
        try:
            body = json.dumps(sent).encode()
            got = self.wire.post(
                self._headers,
                body,
                deadline=deadline,
                connect_s=endpoint.connect_timeout_s,
                read_s=endpoint.read_timeout_s,
                limit=endpoint.reply_bytes,
            )
            if got.status != 200:
                if got.status not in AGAIN and got.status not in (400, 422):
                    raise EndpointError(self._refused(got))
                return got
            # It was answered, so it may be charged for, whether or not it can be read.
            used = replace(counted, prompt_tokens=prompt, estimated=True)
            message = self._read(got)
            completion = (
                estimated_tokens(message.text) if message.completion_tokens is None else message.completion_tokens
            )
            used = replace(
                counted,
                prompt_tokens=prompt if message.prompt_tokens is None else message.prompt_tokens,
                completion_tokens=completion,
                estimated=message.prompt_tokens is None or message.completion_tokens is None,
            )
            return message
        except Lost as lost:
            if lost.sent:
                used = replace(counted, prompt_tokens=prompt, estimated=True)
            return lost
        except Broken as broken:
            return Lost("connection", str(broken), sent=True)
        finally:
            used = self._meter.settle(reserved, used, call.stage)
            for tally in tallies:
                tally.add(call.stage, used)

    def _read(self, got: Received) -> Message:
        if got.cut:
            raise ReplyError(f"{self._who()} sent more than {self._endpoint.reply_bytes:,} bytes, which is no reply.")
        try:
            message = read_body(got.body, got.headers.get("content-type", ""))
        except EndpointError as error:
            raise type(error)(self._hidden(str(error))) from None
        return replace(message, text=self._hidden(message.text), refusal=self._hidden(message.refusal))

    def _know(self, before: Abilities, now: Abilities) -> None:
        with self._lock:
            if self._abilities == before:
                self._abilities = now
                if self._learn is not None:
                    self._learn(now)

    def _add(self, stage: str, usage: Usage, tallies: Sequence[Tally]) -> None:
        for tally in (self._meter.tally, *tallies):
            tally.add(stage, usage)

    def _who(self) -> str:
        return f"The server at {self._endpoint.url}"

    def _times(self, attempts: int) -> str:
        return "1 attempt" if attempts == 1 else f"{attempts} attempts"

    def _reason(self, got: Received | Lost) -> str:
        if isinstance(got, Received):
            return f"replied with {got.status}: {shown(self._said(got))}"
        return {
            "silence": f"sent nothing for {self._endpoint.read_timeout_s:g} s",
            "deadline": f"did not reply within the deadline of {self._endpoint.timeout_s:g} s",
        }.get(got.kind, f"could not be reached: {self._hidden(str(got))}")

    def _refused(self, got: Received) -> str:
        said = shown(self._said(got))
        if got.status in (401, 403):
            given = "the key that was sent is not taken" if self._key else "no key was sent"
            hint = (
                f"set {self._endpoint.key_env} or give client(key=...)"
                if self._endpoint.key_env
                else "give client(key=...)"
            )
            return f"{self._who()} refused with {got.status}, {given}: {hint}; it says {said}."
        if got.status == 404:
            return f"{self._who()} knows no model {self._endpoint.model!r} or no such address (404); it says {said}."
        return f"{self._who()} replied with {got.status}: {said}."

    def _said(self, got: Received) -> str:
        return self._hidden(got.body[:20_000].decode("utf-8", "replace"))

    def _hidden(self, text: str) -> str:
        return self._key.hidden(text) if self._key else text

"""A server on this machine that speaks the dialect of chat completions and misbehaves as a script says.

    with ScriptedServer([Step({"answers": []})]) as server:
        ChatEndpoint(url=server.url, model="scripted")

Every request takes the first step left whose matcher accepts it. A request without a step, and a script that is not
used up, fail the test when the server is left.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Headers = dict[str, str] | Callable[[], dict[str, str]]


@dataclass
class Recorded:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: Any
    at: float
    under_way: int
    served_at: float | None = None

    @property
    def system(self) -> str:
        """Text of the system's messages."""
        return "\n".join(m["content"] for m in self.body["messages"] if m["role"] == "system")

    @property
    def user(self) -> str:
        """Text of the user's messages."""
        return "\n".join(m["content"] for m in self.body["messages"] if m["role"] == "user")


@dataclass
class Step:
    """One reply.

    Parameters
    ----------
    content
        The model's words: text, or a value that is written as JSON; None is ``null``.
    status, headers, raw
        Of HTTP; `raw` replaces the whole body. `headers` may be a function, for what depends on the time.
    delay
        Seconds before anything is sent; the server stops waiting when it is left.
    drop_after
        Bytes of the body after which the connection is closed; -1 closes it before the status.
    drip
        (bytes, seconds): send the body in pieces with waits between them.
    drip_head
        Seconds between the bytes of the status line, which never ends.
    events
        Send the content as server-sent events in pieces of this many characters.
    usage, logprobs, finish, refusal, message, choices
        Parts of the completion; ``usage=None`` leaves it out.
    match
        Takes the body of a request and says whether this step is for it.
    times
        How many requests it is for.
    """

    content: Any = ""
    status: int = 200
    headers: Headers = field(default_factory=dict)
    raw: bytes | None = None
    delay: float = 0.0
    drop_after: int | None = None
    drip: tuple[int, float] | None = None
    drip_head: float | None = None
    events: int | None = None
    usage: Any = field(default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120})
    logprobs: Any = None
    finish: str = "stop"
    refusal: str | None = None
    choices: Any = None
    match: Callable[[Any], bool] | None = None
    times: int = 1

    def text(self) -> str | None:
        return self.content if self.content is None or isinstance(self.content, str) else json.dumps(self.content)

    def body(self) -> bytes:
        if self.raw is not None:
            return self.raw
        if self.events is not None:
            return self._stream()
        message = {"role": "assistant", "content": self.text()}
        if self.refusal is not None:
            message["refusal"] = self.refusal
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        if self.logprobs is not None:
            choice["logprobs"] = self.logprobs
        choices = [choice] if self.choices is None else self.choices
        completion = {"id": "c", "object": "chat.completion", "model": "scripted-1", "choices": choices}
        if self.usage is not None:
            completion["usage"] = self.usage
        return json.dumps(completion).encode()

    def _stream(self) -> bytes:
        text, size = self.text() or "", max(self.events or 1, 1)
        deltas = [{"content": text[i : i + size]} for i in range(0, len(text), size)]
        events = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": self.finish}]})
        if self.usage is not None:
            events.append({"choices": [], "usage": self.usage})
        return "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode() + b"data: [DONE]\n\n"


class ScriptedServer:
    """The server.

    Parameters
    ----------
    script
        Steps; each is used as often as it says.
    default
        Makes the step of a request for which the script has none.
    """

    def __init__(self, script: Sequence[Step] = (), default: Callable[[Any], Step] | None = None) -> None:
        self._left = [[step, step.times] for step in script]
        self._default = default
        self._lock = threading.Lock()
        self._under_way = 0
        self.stopped = threading.Event()
        self.requests: list[Recorded] = []
        self.unexpected: list[Recorded] = []
        self._http = _Http(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "ScriptedServer":
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.stopped.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        if kind is None:
            assert not self.unexpected, f"{len(self.unexpected)} requests that the script does not expect"
            assert not self.unused, f"{self.unused} replies of the script were not asked for"

    @property
    def unused(self) -> int:
        """How many replies of the script were not asked for."""
        return sum(times for _, times in self._left)

    @property
    def most_at_once(self) -> int:
        """Most requests that were under way at one time."""
        return max((r.under_way for r in self.requests), default=0)

    def take(self, request: Recorded) -> Step | None:
        with self._lock:
            self._under_way += 1
            request.under_way = self._under_way
            self.requests.append(request)
            for entry in self._left:
                step, times = entry
                if times and (step.match is None or step.match(request.body)):
                    entry[1] -= 1
                    return step
            if self._default is not None:
                return self._default(request.body)
            self.unexpected.append(request)
            return None

    def done(self) -> None:
        with self._lock:
            self._under_way -= 1


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle is what many scripts are about."""


def _handler(server: ScriptedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            models = {"object": "list", "data": [{"id": "scripted-1", "object": "model"}]}
            self._send(200, {}, json.dumps(models).encode() if self.path == "/v1/models" else b"{}")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/v1/embeddings":
                texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
                data = [{"index": i, "embedding": [float(len(text)), 1.0]} for i, text in enumerate(texts)]
                self._send(200, {}, json.dumps({"object": "list", "data": data}).encode())
                return
            names = {name.lower(): value for name, value in self.headers.items()}
            request = Recorded(self.path, names, body, time.monotonic(), 0)
            step = server.take(request)
            try:
                if step is None:
                    self._send(418, {}, b'{"error": {"message": "the script has no step for this"}}')
                else:
                    self._play(step)
                    request.served_at = time.monotonic()
            finally:
                server.done()

        def _play(self, step: Step) -> None:
            if step.delay and server.stopped.wait(step.delay):
                return
            if step.drop_after == -1:
                self._hang_up()
                return
            if step.drip_head is not None:
                self.wfile.write(b"HTTP/1.1 200 ")
                while not server.stopped.wait(step.drip_head):
                    self.wfile.write(b"x")
                return
            headers = dict(step.headers() if callable(step.headers) else step.headers)
            if step.events is not None:
                headers.setdefault("Content-Type", "text/event-stream")
            self._send(step.status, headers, step.body(), step.drop_after, step.drip)

        def _send(
            self,
            status: int,
            headers: dict[str, str],
            body: bytes,
            drop_after: int | None = None,
            drip: tuple[int, float] | None = None,
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if drip is not None:
                size, seconds = drip
                for start in range(0, len(body), size):
                    self.wfile.write(body[start : start + size])
                    if server.stopped.wait(seconds):
                        return
            else:
                self.wfile.write(body if drop_after is None else body[:drop_after])
            if drop_after is not None:
                self._hang_up()

        def _hang_up(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    return Handler


def only_loopback(monkeypatch: Any) -> None:
    """Make every connection to another machine raise, and every look-up of a name that is not this one."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != getattr(socket, "AF_UNIX", None) and address[0] not in ("127.0.0.1", "::1"):
            raise AssertionError(f"a test connects to {address}")
        connect(self, address)

    def guarded_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in ("127.0.0.1", "::1", "localhost", None):
            raise AssertionError(f"a test looks up {host}")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)

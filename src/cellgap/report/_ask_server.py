"""A page to ask at, served on this computer alone: no request leaves it, and no other page may ask through it."""

import json
import logging
import math
import socket
import socketserver
import sys
import threading
import webbrowser
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from cellgap import __version__
from cellgap.ask._answer import Answers
from cellgap.errors import CellgapError, ConfigError
from cellgap.report._answer_view import answers_view
from cellgap.report._ask_page import NOTHING, ServedPage, told_rule
from cellgap.report._ask_requests import Refused, hosts_of, question_in, refuse_foreign
from cellgap.report._source_view import FindEvidence

_SECONDS = 30.0  # in which a request has to arrive
_LOG = logging.getLogger(__name__)


class Askable(Protocol):
    """What answers questions: the page knows no more of it."""

    def ask(self, question: str) -> Answers:
        """Return the answers to a question."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return plain values for the head of the page.

        ``passages`` (int), ``tables`` (list of mappings with ``name`` and ``rows``), ``answerer`` (text), ``encoder``
        (its name, or whether there is one), ``rule`` (text: when a row of a table counts as an effect) and ``examples``
        (list of questions); each may be left out.
        """
        ...


def serve(
    asker: Askable,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    open_browser: bool = False,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve the page until Ctrl-C.

    Questions are answered one after the other. There is no password: who reaches the address may ask.

    Parameters
    ----------
    asker
        Answers the questions. Where it has a method ``evidence(identifier)`` that returns a passage, the values of a
        row, or None, quotes are marked where they stand and rows are shown as tables.
    host
        Name or address of this computer by which browsers reach it; the default is reached from this computer alone.
    port
        0: any that is free.
    open_browser
        Whether to open the page in the browser.
    announce
        Called with the address once it is served; None: it is printed on standard error.

    Raises
    ------
    ConfigError
        Host or port cannot be used.
    """
    server = AskServer(asker, host, port)
    try:
        if announce is None:
            print(f"Serving {server.url} (Ctrl-C ends)", file=sys.stderr, flush=True)
        else:
            announce(server.url)
        if open_browser:
            webbrowser.open(server.url)
        server.serve_forever(poll_interval=0.1)
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


class AskServer(ThreadingHTTPServer):
    """The server of the page; `serve` runs it.

    Parameters
    ----------
    asker, host, port
        As for `serve`.

    Raises
    ------
    ConfigError
        Host or port cannot be used.
    """

    daemon_threads = True  # a question that is being answered does not hold up Ctrl-C
    allow_reuse_address = True

    def __init__(self, asker: Askable, host: str = "127.0.0.1", port: int = 0) -> None:
        if host in ("", "0.0.0.0", "::", "*"):
            raise ConfigError(
                f"host has to be the name or address by which browsers reach this computer, so that requests meant for "
                f"another one are refused; {host!r} is every address. Leave it out for this computer alone."
            )
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 2**16:
            raise ConfigError(f"port has to be a whole number from 0 (any free one) to 65535, not {port!r}.")
        told = asker.describe()
        self.page = ServedPage.of(told)
        self._rule = told_rule(told)
        self._ask = asker.ask
        self._evidence: FindEvidence | None = getattr(asker, "evidence", None)
        self._one_at_a_time = threading.Lock()
        host = host.removeprefix("[").removesuffix("]")
        try:
            self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            super().__init__((host, port), _Handler)
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"The page cannot be served at {host!r}, port {port}: {error}.") from error
        self.hosts = hosts_of(host, self.server_port)
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    def server_bind(self) -> None:
        """Bind without asking a name server who this computer is."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def answer(self, question: str) -> dict[str, Any]:
        """Return the answers to `question` as plain values, and under ``page`` what a page shows of them."""
        with self._one_at_a_time:  # an asker need not be fit for several threads at once
            answers = self._ask(question)
            view = answers_view(answers, self._evidence, told_rule=self._rule)
        return plain_json(answers.to_dict() | {"page": view})

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong with a connection; one that the browser gave up is nothing to speak of."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            _LOG.exception("A request could not be served.")


def plain_json(value: Any) -> Any:
    """Return `value` as JSON holds it: a number that is not finite is null, and what is no plain value is text."""
    if isinstance(value, Mapping):
        return {str(name): plain_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_json(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


class _Handler(BaseHTTPRequestHandler):
    timeout = _SECONDS
    server_version, sys_version = "cellgap", ""

    @property
    def _home(self) -> AskServer:
        assert isinstance(self.server, AskServer)
        return self.server

    def do_GET(self) -> None:
        self._guarded(self._get)

    def do_HEAD(self) -> None:
        self._guarded(self._get)

    def do_POST(self) -> None:
        self._guarded(self._post)

    def _guarded(self, serve: Callable[[], None]) -> None:
        try:
            refuse_foreign(self.headers, self._home.hosts, posted=self.command == "POST")
            serve()
        except Refused as refused:
            self._error(refused.status, refused.kind, str(refused))
        except CellgapError as error:
            self._error(HTTPStatus.BAD_REQUEST, type(error).__name__, " ".join(str(error).split()))
        except (ConnectionError, TimeoutError):
            raise
        except Exception:
            _LOG.exception("A question could not be answered.")  # for whoever runs the server, not for the browser
            text = "Something went wrong while answering; the terminal of the server says what."
            self._error(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", text)

    def _get(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/":
            # Only the reader's own typing, bookmarks and this page itself ask at once.
            own = self.headers.get("Sec-Fetch-Site") in ("none", "same-origin")
            page = self._home.page
            self._reply(HTTPStatus.OK, "text/html; charset=utf-8", page.asks if own else page.waits)
        elif path == "/health":
            self._json(HTTPStatus.OK, {"status": "ok", "version": __version__})
        elif path == "/favicon.ico":
            self._reply(HTTPStatus.NO_CONTENT, "", b"")
        else:
            self._lost(path, "/ask", "POST")

    def _post(self) -> None:
        path = self.path.partition("?")[0]
        if path != "/ask":
            self._lost(path, path if path in ("/", "/health", "/favicon.ico") else "", "GET")
        question = question_in(self.headers, self.rfile)
        self._json(HTTPStatus.OK, self._home.answer(question))

    def _lost(self, path: str, known: str, method: str) -> None:
        if path == known:
            text = f"{path} is for {method} requests."
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowed", text)
        raise Refused(HTTPStatus.NOT_FOUND, "NotFound", "There is /, /ask and /health here, and nothing else.")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that is no proper HTTP, in the way of all errors here."""
        status = HTTPStatus(code)
        self._error(status, "BadRequest", f"The request could not be read: {status.phrase.lower()}.")

    def log_message(self, format: str, *args: Any) -> None:
        """Write no log: questions belong to who asks them."""

    def _error(self, status: HTTPStatus, kind: str, text: str) -> None:
        self._json(status, {"error": {"kind": kind, "text": text}})

    def _json(self, status: HTTPStatus, value: Any) -> None:
        self._reply(status, "application/json; charset=utf-8", json.dumps(value, allow_nan=False).encode())

    def _reply(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        policy = self._home.page.policy if kind.startswith("text/html") else NOTHING
        for name, value in {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
            "Connection": "close",
        }.items():
            self.send_header(name, value)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "POST" if self.command != "POST" else "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = True

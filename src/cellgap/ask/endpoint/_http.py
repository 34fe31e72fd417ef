"""One request over HTTP whose deadline covers all of it: connecting, sending, and every byte of the reply.

Timeouts of HTTP libraries begin anew with every byte, so a server that sends one now and then is waited for without
end. Here the sockets themselves know the deadline.
"""

import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from cellgap.errors import MissingExtraError

_PIECE = 16_384


class Lost(Exception):
    """No whole reply came; `kind` is ``"connection"``, ``"silence"`` (a read timeout) or ``"deadline"``."""

    def __init__(self, kind: str, text: str, sent: bool) -> None:
        super().__init__(text)
        self.kind = kind
        self.sent = sent


@dataclass(frozen=True)
class Received:
    """A reply of a server.

    Parameters
    ----------
    status
        Of HTTP.
    headers
        Names in lower case.
    body
        Its first bytes where it is `cut`.
    cut
        Whether it was longer than what is read.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    cut: bool


def _library() -> Any:
    try:
        import httpcore2
    except ImportError:
        raise MissingExtraError(
            'Asking a language model\'s server needs the package httpx2: pip install "cellgap[ask]".'
        ) from None
    return httpcore2


class _Clock(threading.local):
    """The deadline of the request that the thread is at."""

    deadline = float("inf")
    sent = False

    def left(self, most: float | None) -> float:
        left = self.deadline - time.monotonic()
        return left if most is None else min(left, most)


class _Stream:
    """A connection that reads and writes until the deadline of its thread."""

    def __init__(self, inner: Any, clock: _Clock, http: Any) -> None:
        self._inner, self._clock, self._http = inner, clock, http

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = self._clock.left(timeout)
        if left <= 0:
            raise self._http.ReadTimeout("the deadline has passed")
        return self._inner.read(max_bytes, timeout=left)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._clock.sent = True
        for start in range(0, len(buffer), _PIECE):
            left = self._clock.left(timeout)
            if left <= 0:
                raise self._http.WriteTimeout("the deadline has passed")
            self._inner.write(buffer[start : start + _PIECE], timeout=left)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> "_Stream":
        left = self._clock.left(timeout)
        if left <= 0:
            raise self._http.ConnectTimeout("the deadline has passed")
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout=left), self._clock, self._http)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend:
    """Opens connections until the deadline of the thread, however many addresses a name has."""

    def __init__(self, clock: _Clock, http: Any) -> None:
        self._inner, self._clock, self._http = http.SyncBackend(), clock, http

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _Stream:
        until = time.monotonic() + self._clock.left(timeout)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise self._http.ConnectError(f"there is no host {host}") from None
        last: Exception = self._http.ConnectTimeout("the deadline has passed")
        for address in dict.fromkeys(str(info[4][0]) for info in found):
            left = until - time.monotonic()
            if left <= 0:
                break
            try:
                inner = self._inner.connect_tcp(address, port, left, local_address, socket_options or [])
                return _Stream(inner, self._clock, self._http)
            except (self._http.ConnectError, self._http.ConnectTimeout) as error:
                last = error
        raise last

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Wire:
    """Connections to one server, kept open between requests; threads may share them.

    Proxies are taken from the environment (``HTTPS_PROXY``, ``NO_PROXY``), but for this machine; redirects are not
    followed, so that a key goes to no other server than the one named.

    Parameters
    ----------
    url
        Where requests go.
    concurrency
        Most connections.
    """

    def __init__(self, url: str, concurrency: int) -> None:
        self._http = _library()
        self._url = url
        self._clock = _Clock()
        backend: Any = _Backend(self._clock, self._http)
        parts = urlsplit(url)
        options: dict[str, Any] = {"max_connections": concurrency, "keepalive_expiry": 30.0, "network_backend": backend}
        proxy = getproxies().get(parts.scheme)
        here = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if proxy and not here and not proxy_bypass(parts.hostname or ""):
            self._pool = _through(self._http, proxy, options)
        else:
            self._pool = self._http.ConnectionPool(**options)

    def post(
        self, headers: dict[str, str], body: bytes, *, deadline: float, connect_s: float, read_s: float, limit: int
    ) -> Received:
        """Send a request and return the reply.

        Parameters
        ----------
        headers, body
            As sent.
        deadline
            In seconds of ``time.monotonic``.
        connect_s, read_s
            Longest wait for a connection and for the next byte.
        limit
            Most bytes of the reply that are read.

        Raises
        ------
        Lost
            There is no connection, or it ended early, or the time was up.
        """
        clock, http = self._clock, self._http
        clock.deadline, clock.sent = deadline, False
        waits = {"connect": connect_s, "read": read_s, "write": read_s, "pool": max(clock.left(None), 0.0)}
        try:
            with self._pool.stream(
                "POST", self._url, headers=headers, content=body, extensions={"timeout": waits}
            ) as reply:
                pieces, size = [], 0
                for piece in reply.iter_stream():
                    pieces.append(piece)
                    size += len(piece)
                    if size > limit:
                        break
                names = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in reply.headers}
                return Received(reply.status, names, b"".join(pieces)[:limit], size > limit)
        except http.TimeoutException as error:
            if clock.left(None) <= 0:
                raise Lost("deadline", "the time was up", clock.sent) from None
            kind = "silence" if isinstance(error, http.ReadTimeout) else "connection"
            text = "it sent nothing for too long" if kind == "silence" else "no connection in time"
            raise Lost(kind, text, clock.sent) from None
        except (http.NetworkError, http.ProtocolError, http.ProxyError, http.UnsupportedProtocol) as error:
            if clock.left(None) <= 0:
                raise Lost("deadline", "the time was up", clock.sent) from None
            raise Lost("connection", str(error) or type(error).__name__, clock.sent) from None
        finally:
            clock.deadline = float("inf")

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


def _through(http: Any, proxy: str, options: dict[str, Any]) -> Any:
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    where = f"{parts.scheme}://{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
    auth = (parts.username or "", parts.password or "") if parts.username is not None else None
    return http.HTTPProxy(proxy_url=where, proxy_auth=auth, **options)

"""Where a language model is served, and how to ask it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from cellgap.ask.endpoint._budget import Budget
from cellgap.ask.endpoint._cache import ReplyCache
from cellgap.errors import ConfigError
from cellgap.settings import settings

if TYPE_CHECKING:
    from cellgap.ask.endpoint._client import ChatClient

_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1)]


@settings
class ChatEndpoint:
    """A server that speaks ``POST {url}/chat/completions``, and a model on it.

    Settings only: they hold the name of the environment variable with the key, never the key, so that they can be
    printed, saved and mailed.

    Parameters
    ----------
    url
        Address up to ``/v1``, such as ``"http://localhost:11434/v1"``; without user, password and query.
    model
        As the server names it.
    key_env
        Environment variable with the key, read when a client is made; not set means that no key is sent. A key from
        the environment is sent over https or to this machine only; ``client(key=...)`` sends one anywhere.
    timeout_s
        Seconds for one question to the model: all attempts, waits and the repair of a reply together.
    connect_timeout_s, read_timeout_s
        Longest wait, in seconds, for a connection, and for the server to send anything at all. A server without
        streaming is silent while it writes: leave it the time it needs.
    retries
        Most attempts after the first, of what is worth repeating: lost connections, 408, 429, 500, 502, 503, 504. A
        silent server is asked again once.
    backoff_s
        Before the n-th repetition the wait is drawn between 0 and ``backoff_s * 2^(n-1)``, at most 8 s, from a seed
        that is the request; where the server says how long to wait (``Retry-After``), it is obeyed.
    concurrency
        Most requests of a client at one time.
    temperature, max_tokens, seed
        Sampling; `seed` None sends none.
    prices
        ``{"prompt": ..., "completion": ...}`` for a million tokens each, in any currency; None: unknown, and then so is
        the cost.
    spotlight
        Mark every space of a passage (Hines et al. 2024, arXiv 2403.14720), so that a model can tell data from orders.
    two_step
        Ask for the conditions first and then for one answer each; None: for models whose name states at most 14
        billion parameters (``"llama3.1:8b"``).
    passage_characters, context_characters
        Longest part of a passage, and of all passages together, that is sent.
    reply_bytes
        Longest reply that is read.

    Raises
    ------
    ConfigError
        An address that is none, or that holds a secret; a price that is missing or negative.
    """

    url: str
    model: Annotated[str, Field(min_length=1)]
    key_env: str | None = "OPENAI_API_KEY"
    timeout_s: _Seconds = 120.0
    connect_timeout_s: _Seconds = 10.0
    read_timeout_s: _Seconds = 60.0
    retries: Annotated[int, Field(ge=0)] = 4
    backoff_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    concurrency: _Count = 4
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    max_tokens: _Count = 1024
    seed: int | None = 0
    prices: Mapping[str, float] | None = None
    spotlight: bool = False
    two_step: bool | None = None
    passage_characters: _Count = 6_000
    context_characters: _Count = 60_000
    reply_bytes: _Count = 4 * 2**20

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        wanted = "expected http:// or https://, a host and a path, such as 'http://localhost:11434/v1'"
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise ConfigError(f"ChatEndpoint(url=...) is no address: {wanted}.") from None
        # The address itself is not quoted: it may hold a secret.
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ConfigError(
                "ChatEndpoint(url=...) holds a user, a password or a query, which would be printed and saved: "
                f"{wanted}; put the key into the environment variable that key_env names."
            )
        if parts.scheme not in ("http", "https") or not host or not url.isascii() or not url.isprintable():
            raise ConfigError(f"ChatEndpoint(url=...) is no address: {wanted}, found {url!r}.")
        if " " in url or parts.path.rstrip("/").endswith("/chat/completions"):
            raise ConfigError(
                f"ChatEndpoint(url=...) goes up to the version of the server only: {wanted}, found {url!r}."
            )
        return url.rstrip("/")

    @field_validator("prices")
    @classmethod
    def _both(cls, prices: Mapping[str, float] | None) -> Mapping[str, float] | None:
        if prices is None:
            return None
        if set(prices) != {"prompt", "completion"}:
            raise ConfigError(
                "ChatEndpoint(prices=...) needs both prompt and completion, each for a million tokens, "
                f"found {', '.join(map(repr, prices)) or 'nothing'}: leave prices out where one is unknown."
            )
        wrong = [f"{name}={price!r}" for name, price in prices.items() if not (math.isfinite(price) and price >= 0)]
        if wrong:
            raise ConfigError(f"ChatEndpoint(prices=...) needs prices of 0 or more, found {', '.join(wrong)}.")
        return dict(prices)

    def client(
        self,
        *,
        key: str | None = None,
        cache: str | Path | ReplyCache | None = None,
        offline: bool = False,
        budget: Budget | None = None,
    ) -> "ChatClient":
        """Return a client; use it in a ``with``, or close it.

        Parameters
        ----------
        key
            Sent as ``Authorization: Bearer``; None takes it from the environment (``key_env``).
        cache
            File of replies, made where it is missing: what is in it costs nothing and comes back the same.
        offline
            Use the cache only; what is not in it raises ``OfflineMiss``, and no socket is opened.
        budget
            Checked before each request.

        Raises
        ------
        ConfigError
            A budget of cost without prices, or a key with characters that no key has.
        """
        from cellgap.ask.endpoint._client import ChatClient

        return ChatClient(self, key=key, cache=cache, offline=offline, budget=budget)

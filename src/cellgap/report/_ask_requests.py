"""Which requests the page's server takes: those of its own page and of programs here, of bounded size, in JSON."""

import ipaddress
import json
from email.message import Message
from http import HTTPStatus
from io import BufferedIOBase
from typing import Any

LONGEST_BODY = 64 * 1024
"""Bytes of a request."""
_DRAINED = 16 * LONGEST_BODY


class Refused(Exception):
    """A request that is not served, with its status and one sentence."""

    def __init__(self, status: HTTPStatus, kind: str, text: str) -> None:
        super().__init__(text)
        self.status, self.kind = status, kind


def hosts_of(host: str, port: int) -> frozenset[str]:
    """Return what a Host header may say: a name that a foreign page made point to this computer is not among it."""
    names = {f"[{host}]" if ":" in host else host.lower()}
    if _is_loopback(host):
        names |= {"localhost", "127.0.0.1", "[::1]"}
    bare = names if port == 80 else set()
    return frozenset({f"{name}:{port}" for name in names} | bare)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def refuse_foreign(headers: Message, hosts: frozenset[str], *, posted: bool) -> None:
    """Refuse a request that was sent by, or through the name of, somebody else's page.

    A page whose name was re-bound to this computer is told by ``Host``; a page elsewhere that posts here by ``Origin``
    and ``Sec-Fetch-Site``. Programs send neither of the two.
    """
    named = headers.get_all("Host", [])
    if len(named) != 1 or named[0].strip().lower() not in hosts:
        text = "The Host header names another computer: open the address that the server printed."
        raise Refused(HTTPStatus.MISDIRECTED_REQUEST, "WrongHost", text)
    if not posted:
        return
    origins = headers.get_all("Origin", [])
    site = headers.get("Sec-Fetch-Site", "same-origin")
    own = f"http://{named[0].strip().lower()}"
    if any(origin.strip().lower() != own for origin in origins) or site not in ("same-origin", "none"):
        raise Refused(HTTPStatus.FORBIDDEN, "WrongOrigin", "Another page sent this question: only this page may ask.")


def question_in(headers: Message, body: BufferedIOBase | Any) -> str:
    """Return the question of a request.

    Raises
    ------
    Refused
        The request is too long, no JSON, or holds no question.
    """
    if headers.get_content_type() != "application/json" or headers.get("Content-Type") is None:
        text = "The question has to come as application/json."
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "WrongType", text)
    length = headers.get("Content-Length", "")
    if headers.get("Transfer-Encoding") is not None or not (length.isascii() and length.isdigit()):
        raise Refused(HTTPStatus.LENGTH_REQUIRED, "NoLength", "The request has to say its length (Content-Length).")
    if len(length) > 9 or int(length) > LONGEST_BODY:
        # Read some of it, or the sender never gets to read why.
        body.read(min(int(length[:9]), _DRAINED))
        text = f"A question may take {LONGEST_BODY // 1024} kB, and this request takes more."
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "TooLong", text)
    content = body.read(int(length))
    if len(content) < int(length):
        raise _bad("The request ended before the length that it said.")
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise _bad("The request is no JSON in UTF-8.") from error
    if not isinstance(value, dict) or set(value) != {"question"} or not isinstance(value["question"], str):
        raise _bad('The request has to be {"question": "..."} and nothing else.')
    question = value["question"].strip()
    if not question:
        raise _bad("The question is empty.")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise _bad("The question holds half a character (a lone surrogate).") from error
    return question


def _bad(text: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, "BadRequest", text)

"""The text of a reply as a value: parsed strictly, else its first JSON object, never mended.

Mending broken JSON with patterns changes what was said without anybody noticing; a reply that is not JSON is asked for
again instead, with the reasons.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from cellgap.ask.endpoint._body import whole

_DEEPEST = 32
_SHOWN_ERRORS = 5
_MOST_OBJECTS = 50
_THOUGHT = re.compile(r"<(/?)(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
# Strings are one piece each, so that brackets inside of them do not count; every pattern here takes linear time.
_PIECES = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[{}\[\]]', re.DOTALL)


class Unreadable(Exception):
    """A reply that is not what was asked for; `errors` says why, in words for the model."""

    def __init__(self, *errors: str) -> None:
        kept = errors[:_SHOWN_ERRORS]
        more = (f"and {len(errors) - len(kept)} more",) if len(errors) > len(kept) else ()
        super().__init__("; ".join(kept + more))
        self.errors = kept + more


def read_value(text: str, check: Callable[[Any], Any]) -> Any:
    """Return the value in a reply after `check`, which raises ``Unreadable`` for one that it cannot use.

    First the whole reply is parsed; if it is no JSON, what models think aloud is taken away and the first balanced JSON
    object of the rest is used (models put prose and fences around it). Duplicate keys, NaN and infinities, and nesting
    beyond 32 levels are no JSON here.

    Raises
    ------
    Unreadable
        There is no such object, or it fails its check.
    """
    try:
        value = strict(text)
    except Unreadable as error:
        value = _first_object(_without_thoughts(text), error)
    return check(value)


def strict(text: str) -> Any:
    """Return the JSON value that a text is.

    Raises
    ------
    Unreadable
        The text is no JSON, or JSON that two readers would read differently.
    """
    if _too_deep(text):
        raise Unreadable(f"JSON nested deeper than {_DEEPEST} levels")
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite, parse_int=_whole_number
        )
    except json.JSONDecodeError as error:
        raise Unreadable(f"not valid JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise Unreadable(f"JSON nested deeper than {_DEEPEST} levels") from None


def _first_object(text: str, otherwise: Unreadable) -> Any:
    start = text.find("{")
    for _ in range(_MOST_OBJECTS):
        if start < 0:
            break
        end = _end_of_object(text, start)
        if end is None:
            # What is inside of an object that never ends is not what was asked for.
            break
        try:
            return strict(text[start:end])
        except Unreadable as error:
            otherwise = error
        start = text.find("{", end)
    raise otherwise


def _end_of_object(text: str, start: int) -> int | None:
    depth = 0
    for piece in _PIECES.finditer(text, start):
        depth += (piece[0] in "{[") - (piece[0] in "}]")
        if depth == 0:
            return piece.end()
    return None


def _too_deep(text: str) -> bool:
    depth = 0
    for piece in _PIECES.finditer(text):
        depth += (piece[0] in "{[") - (piece[0] in "}]")
        if depth > _DEEPEST:
            return True
    return False


def _without_thoughts(text: str) -> str:
    """Return text without what stands between the tags of thoughts; the first tag may be part of the prompt."""
    kept, since, inside = "", 0, False
    for tag in _THOUGHT.finditer(text):
        if tag[1]:
            kept, inside = (kept if inside else ""), False
        else:
            kept, inside = (kept if inside else kept + text[since : tag.start()]), True
        since = tag.end()
    return kept if inside else kept + text[since:]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Unreadable(f"the key {key[:40]!r} occurs twice in one object")
        found[whole(key)] = _whole_texts(value)
    return found


def _whole_texts(value: Any) -> Any:
    if isinstance(value, str):
        return whole(value)
    return [_whole_texts(item) for item in value] if isinstance(value, list) else value


def _no_number(name: str) -> Any:
    raise Unreadable(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if abs(value) == float("inf"):
        raise Unreadable("a number is too large")
    return value


def _whole_number(text: str) -> int:
    if len(text) > 18:
        raise Unreadable("a number is too large")
    return int(text)

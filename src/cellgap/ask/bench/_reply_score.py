"""The score in a judge's reply: the expectation over token probabilities where they are there, else the number."""

import json
import math
from json.decoder import JSONDecoder
from typing import Any

from cellgap.ask.bench._published import expectation

_FIELD = "score"


def reply_score(reply: Any) -> tuple[float | None, bool]:
    """Return a score between 0 and 1, and whether token probabilities were used.

    Parameters
    ----------
    reply
        With ``value`` (the validated object), ``text`` and ``token_logprobs`` (each with ``token`` and ``top``).
    """
    value = reply.value
    number = value.get(_FIELD) if isinstance(value, dict) else None
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= 10:
        return None, False
    tokens = tuple(reply.token_logprobs)
    place = score_token([t.token for t in tokens], str(number))
    expected = None
    if place is not None:
        chances: dict[str, float] = {}
        for token, logprob in tokens[place].top[:20]:
            chances[token] = chances.get(token, 0.0) + math.exp(logprob)
        expected = expectation(chances)
    return (number / 10, False) if expected is None else (expected, True)


def score_token(tokens: list[str], number: str) -> int | None:
    """Return which token is the number in the field ``score``, None where no token alone is.

    A digit elsewhere in the reply, the reason's for instance, is not taken for it.
    """
    text = "".join(tokens)
    start = _start_of_score(text)
    if start is None:
        return None
    end = 0
    for place, token in enumerate(tokens):
        end += len(token)
        if end > start:
            # The number has to be the whole token: of a longer one, the likelihoods are of other texts.
            rest = text[end : end + 1]
            return place if token.strip() == number and not rest.isdecimal() else None
    return None


def _start_of_score(text: str) -> int | None:
    """Return where the value of the key ``score`` of the last outermost object that has it begins."""
    found = None
    place = text.find("{")
    while place >= 0:
        starts = _values(text, place)
        if starts is None:
            place = text.find("{", place + 1)
            continue
        members, end = starts
        found = members.get(_FIELD, found)
        place = text.find("{", end)
    return found


def _values(text: str, place: int) -> tuple[dict[str, int], int] | None:
    """Return where the value of each key of the object at `place` begins, and where the object ends."""
    decoder = JSONDecoder()
    members: dict[str, int] = {}
    at = _skip(text, place + 1)
    try:
        while text[at] != "}":
            key, at = decoder.raw_decode(text, at)
            at = _skip(text, at)
            if not isinstance(key, str) or text[at] != ":":
                return None
            members[key] = at = _skip(text, at + 1)
            _, at = decoder.raw_decode(text, at)
            at = _skip(text, at)
            if text[at] == ",":
                at = _skip(text, at + 1)
            elif text[at] != "}":
                return None
    except (IndexError, json.JSONDecodeError, RecursionError):
        return None
    return members, at + 1


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at

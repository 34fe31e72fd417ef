"""What is worth asking again, and after how long."""

import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

AGAIN = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""

_LONGEST_S = 8.0


class Waits:
    """The waits between the attempts of one request.

    Exponential with full jitter (a wait is drawn between 0 and twice the last bound), from a seed that is the request,
    so that a run waits the same when it is repeated.

    Parameters
    ----------
    seed
        Digest of the request.
    first_s
        Bound of the first wait.
    """

    def __init__(self, seed: str, first_s: float) -> None:
        self._draw = random.Random(seed)
        self._bound = first_s

    def next(self, headers: Mapping[str, str] | None = None) -> float:
        """Return how many seconds to wait; a server that says how long is obeyed."""
        drawn = self._draw.uniform(0.0, min(self._bound, _LONGEST_S))
        self._bound *= 2
        told = retry_after(headers or {})
        return drawn if told is None else told


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that ``Retry-After`` asks to wait, None where it says nothing that can be read.

    A date is compared with the ``Date`` of the same reply, so that two clocks need not agree.
    """
    said = headers.get("retry-after", "").strip()
    if not said:
        return None
    if said.isascii() and said.replace(".", "", 1).isdigit():
        return float(said)
    until = _seconds(said)
    if until is None:
        return None
    now = _seconds(headers.get("date", ""))
    return max(0.0, until - (time.time() if now is None else now))


def _seconds(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None

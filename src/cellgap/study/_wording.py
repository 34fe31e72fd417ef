"""Sentence parts for errors: lists of names, and the names close to a wrong one."""

import difflib
from collections.abc import Sequence

_SHOWN = 5


def listed(names: Sequence[object], shown: int = _SHOWN) -> str:
    """Return names in double quotes with commas, cut after ``shown``."""
    some = ", ".join(f'"{name}"' for name in names[:shown])
    return some + (f" and {len(names) - shown} more" if len(names) > shown else "")


def close_to(name: str, known: Sequence[str]) -> str:
    """Return a sentence part that names the known names close to ``name``, or all of them where none is close."""
    by_lower = {other.lower(): other for other in known}
    close = [by_lower[m] for m in difflib.get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.6)]
    if close:
        return f"did you mean {' or '.join(repr(m) for m in close)}?"
    return f"expected one of {listed(sorted(known))}." if known else "there is none."

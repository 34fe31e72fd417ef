"""The one line in which a benchmark states a result: `Bar`, printed as JSON, and read back by `run.py`.

A bar has a target and holds or does not; a line without a target is context (the same run under another reading,
the peer's own figure) and neither holds nor fails.
"""

import json
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

FIELDS = ("capability", "bar", "what", "value", "target", "holds")

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Bar:
    """One result: what was measured, its value, and the target it is held against (None: no target).

    ``target`` is a comparison with a number, such as ``">= 20"`` or ``"< 240"``, in the unit that ``what`` names.
    """

    bar: str
    what: str
    value: float | None
    target: str | None = None
    capability: str = "main"

    @property
    def holds(self) -> bool | None:
        """True or False for a line with a target; a value that is missing or not finite does not hold."""
        if self.target is None:
            return None
        match = re.fullmatch(r"(>=|<=|>|<) (-?[0-9.]+(?:e-?[0-9]+)?)", self.target)
        if match is None:
            raise ValueError(f"a target is a comparison and a number, such as '>= 20', not {self.target!r}")
        if self.value is None or not math.isfinite(self.value):
            return False
        return _COMPARE[match[1]](self.value, float(match[2]))

    def line(self) -> str:
        """Return the JSON line."""
        finite = self.value is not None and math.isfinite(self.value)
        value = float(f"{self.value:.6g}") if finite else None
        fields = (self.capability, self.bar, self.what, value, self.target, self.holds)
        return json.dumps(dict(zip(FIELDS, fields, strict=True)))

    def emit(self) -> "Bar":
        """Print the line on standard output and return the bar."""
        print(self.line(), flush=True)
        return self


def read_line(text: str) -> dict[str, object]:
    """Return the fields of one printed line; raise ValueError where it is not a bar."""
    fields = json.loads(text)
    if not isinstance(fields, dict) or tuple(fields) != FIELDS:
        raise ValueError(f"expected one JSON object with the fields {FIELDS}, found {text[:200]!r}")
    if fields["holds"] not in (True, False, None) or (fields["holds"] is None) != (fields["target"] is None):
        raise ValueError(f"a line holds (true, false) if and only if it has a target: {text[:200]!r}")
    return fields

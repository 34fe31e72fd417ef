"""The rule by which each kind of split holds conditions out, read from its saved parameters."""

from collections.abc import Mapping
from typing import Any

from cellgap.study._condition import Condition

KINDS = (
    "in_distribution",
    "unseen_dose",
    "unseen_treatment",
    "unseen_combination",
    "unseen_conditions",
    "unseen_context",
    "leave_one_domain_out",
    "everything",
)
# Kinds that hold out cells, so that a condition may have cells on both sides.
BY_CELL = ("in_distribution", "leave_one_domain_out")


def breaks_rule(kind: str, params: Mapping[str, Any], condition: Condition) -> str | None:
    """Return why a condition must not be trained on, or None where it may."""
    names = set(condition.names)
    if kind == "unseen_treatment":
        held = sorted(names & set(params["names"]))
        return f"the treatment {held[0]!r} is held out" if held else None
    if kind == "unseen_dose":
        for treatment in condition.treatments:
            if treatment.name in params["treatments"] and treatment.dose in params["doses"]:
                return f"{treatment} is held out"
    if kind == "unseen_combination":
        for combination in params["combinations"]:
            if set(combination) <= names:
                return f"the combination {' + '.join(combination)} is held out"
    if kind == "unseen_conditions" and repr(condition) in params["conditions"]:
        return "it is held out by name"
    if kind == "unseen_context":
        here = dict(condition.context)
        held = sorted(names & set(params["treatments"]))
        if held and all(here.get(name) in values for name, values in params["context"].items()):
            return f"{held[0]!r} is held out in this context"
    return None

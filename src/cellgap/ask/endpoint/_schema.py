"""JSON schemas of what is asked for, and a strict validator of the part of JSON Schema that they use."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cellgap.ask.endpoint._reply import Unreadable
from cellgap.errors import ConfigError

Schema = Mapping[str, Any]

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
_BOUNDS = ("minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum")
_PARTS = ("type", "properties", "required", "additionalProperties", "items", "enum", "description", "title")
_KNOWN = frozenset(_PARTS + _BOUNDS)
_ID = re.compile(r"\s*(?:fragment\s*)?(?:\[\s*(?:fragment\s*)?(\d{1,9})\s*\]|(\d{1,9}))\s*", re.IGNORECASE)


def known(schema: Schema, where: str = "schema") -> None:
    """Check that a schema uses only what `problems` understands.

    Raises
    ------
    ConfigError
        It uses a keyword or a type that it does not.
    """
    unknown = set(schema) - _KNOWN
    if unknown or schema.get("type") not in _TYPES:
        what = f"keyword {min(unknown)!r}" if unknown else f"type {schema.get('type')!r}"
        raise ConfigError(f"{where} has the {what}, which is not checked here: expected {', '.join(sorted(_KNOWN))}.")
    for name, part in schema.get("properties", {}).items():
        known(part, f"{where}.{name}")
    if "items" in schema:
        known(schema["items"], f"{where}[]")


def problems(value: Any, schema: Schema, where: str = "") -> list[str]:
    """Return what is wrong with a value, in words for a model; types are strict: ``"3"``, ``3.0`` and true are no 3."""
    expected, here = schema["type"], where or "the reply"
    if not isinstance(value, _TYPES[expected]) or (isinstance(value, bool) and expected != "boolean"):
        return [f"{here}: expected {expected}, found {_kind(value)}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{here}: expected one of {', '.join(map(repr, schema['enum']))}, found {str(value)[:60]!r}"]
    found: list[str] = []
    if isinstance(value, dict):
        parts = schema.get("properties", {})
        found += [f"{here}: {name!r} is missing" for name in schema.get("required", ()) if name not in value]
        for name, part in value.items():
            inside = f"{where}.{name}" if where else name
            if name in parts:
                found += problems(part, parts[name], inside)
            elif schema.get("additionalProperties", True) is False:
                found.append(f"{here}: {name[:40]!r} was not asked for")
    elif isinstance(value, list):
        found += _sizes(len(value), schema, "Items", here)
        for place, item in enumerate(value) if "items" in schema else ():
            found += problems(item, schema["items"], f"{where}[{place}]")
    elif isinstance(value, str):
        found += _sizes(len(value), schema, "Length", here)
    elif isinstance(value, int | float):
        found += _sizes(value, schema, "imum", here)
    return found


def validated(value: Any, schema: Schema) -> Any:
    """Return the value.

    Raises
    ------
    Unreadable
        It does not fit the schema.
    """
    found = problems(value, schema)
    if found:
        raise Unreadable(*found)
    return value


def _sizes(size: int | float, schema: Schema, what: str, where: str) -> list[str]:
    low, high = schema.get(f"min{what}"), schema.get(f"max{what}")
    found = [f"{where}: at least {low} expected, found {size}"] if low is not None and size < low else []
    return found + ([f"{where}: at most {high} expected, found {size}"] if high is not None and size > high else [])


def _kind(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    name = names.get(type(value), "null")
    return f"{name} {str(value)[:40]!r}" if isinstance(value, bool | int | float | str) else name


def _object(**parts: Schema) -> dict[str, Any]:
    return {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}


def _citations(ids: Sequence[int] | None) -> Schema:
    item: dict[str, Any] = {"type": "integer"}
    if ids is not None:
        item["enum"] = list(ids)
    return {"type": "array", "items": item}


_TEXT: Schema = {"type": "string"}


def answers_schema(protocol: str, ids: Sequence[int] | None, n_conditions: int = 0) -> dict[str, Any]:
    """Return the schema of a reply; evidence comes before what rests on it.

    Parameters
    ----------
    protocol
        ``"conditions"``, ``"rag"``, ``"given"``, ``"closed"``; ``"first"`` and ``"second"`` are the two steps of
        ``"conditions"``.
    ids
        Numbers of the fragments sent, the only ones that may be cited; None leaves them open, which is how replies are
        checked: an unknown number is taken out and counted, it does not spoil the answer.
    n_conditions
        Of ``"given"``: how many conditions were listed.
    """
    cited = _citations(ids)
    if protocol == "first":
        return _object(conditions={"type": "array", "items": _object(citations=cited, condition=_TEXT)})
    if protocol == "second":
        return _object(citations=cited, answer=_TEXT)
    number: Schema = {"type": "integer", "enum": list(range(1, n_conditions + 1))}
    item = {
        "conditions": _object(citations=cited, condition=_TEXT, answer=_TEXT),
        "rag": _object(citations=cited, answer=_TEXT),
        "given": _object(citations=cited, condition=number, answer=_TEXT),
        "closed": _object(answer=_TEXT),
    }[protocol]
    return _object(answers={"type": "array", "items": item})


def with_numbers(value: Any) -> Any:
    """Return a reply whose citations are numbers where they were ``"Fragment 3"``, ``"[3]"`` or ``"3"``."""
    if isinstance(value, dict):
        return {
            name: [_number(item) for item in part]
            if name == "citations" and isinstance(part, list)
            else with_numbers(part)
            for name, part in value.items()
        }
    return [with_numbers(item) for item in value] if isinstance(value, list) else value


def _number(item: Any) -> Any:
    match = _ID.fullmatch(item) if isinstance(item, str) else None
    return int(match[1] or match[2]) if match else item

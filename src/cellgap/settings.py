"""Hyper-parameters of estimators: checked at construction, frozen, and written and read as plain values.

A class decorated with `settings` is a frozen pydantic dataclass whose mistakes are a ``ConfigError``. `to_dict` and
`from_dict` turn it into values that TOML and JSON hold and back; ``kind`` names the class.
"""

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from cellgap.errors import CellgapError, ConfigError

_KINDS: dict[str, type] = {}
_NOTHING = "None"
_T = TypeVar("_T", bound=type)


@dataclass_transform(frozen_default=True)
def settings(cls: _T) -> _T:
    """Return `cls` as a frozen dataclass of checked fields that `to_dict` and `from_dict` know.

    Unknown names and values out of bounds raise ``ConfigError``; an error of cellgap raised by a validator passes
    through as it is.
    """
    made: Any = dataclass(frozen=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))(cls)
    init = made.__init__

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *args, **kwargs)
        except ValidationError as error:
            raise _in_one_sentence(made, error) from None

    made.__init__ = __init__
    return register(made)


def register(cls: _T) -> _T:
    """Return the frozen dataclass `cls` after making its name a ``kind`` of `from_dict`."""
    known = _KINDS.get(cls.__name__)
    if known is not None and known.__module__ != cls.__module__:
        raise ConfigError(f"The kind {cls.__name__!r} is taken by {known.__module__}: name the class otherwise.")
    _KINDS[cls.__name__] = cls
    return cls


def to_dict(value: Any) -> dict[str, Any]:
    """Return settings as plain values, ``kind`` names the class.

    Fields that are None are left out where that is their default, else they are ``{kind = "None"}``.

    Raises
    ------
    ConfigError
        A field holds something that a text file cannot, such as a table given in memory.
    """
    plain: dict[str, Any] = {"kind": type(value).__name__}
    for field in dataclasses.fields(value):
        found = getattr(value, field.name)
        if found is not None:
            plain[field.name] = _plain(found, f"{type(value).__name__}.{field.name}")
        elif field.default is not None:
            # Left out, it would come back as the default; text files have no word for nothing.
            plain[field.name] = {"kind": _NOTHING}
    return plain


def from_dict(values: Mapping[str, Any]) -> Any:
    """Return the settings that `to_dict` wrote; the module that defines their class has to be imported before.

    Raises
    ------
    ConfigError
        ``kind`` is missing or unknown, or a field is unknown or out of bounds.
    """
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        close = difflib.get_close_matches(str(kind), _KINDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(sorted(_KINDS))}."
        raise ConfigError(f"Settings need a known kind, found {kind!r}: {hint}")
    return _KINDS[kind](**{name: _rebuilt(value) for name, value in values.items() if name != "kind"})


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_plain(item, where) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, where) for key, item in value.items()}
    if type(value).__name__ in _KINDS:
        return to_dict(value)
    raise ConfigError(
        f"{where} holds a {type(value).__name__} given in memory, which a settings file cannot hold: "
        "save it to a file and give its path."
    )


def _rebuilt(value: Any) -> Any:
    if isinstance(value, Mapping):
        if dict(value) == {"kind": _NOTHING}:
            return None
        return from_dict(value) if "kind" in value else {key: _rebuilt(item) for key, item in value.items()}
    return tuple(_rebuilt(item) for item in value) if isinstance(value, list | tuple) else value


def _in_one_sentence(cls: Any, error: ValidationError) -> CellgapError:
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, CellgapError):
        return cause
    where = ".".join(str(part) for part in first["loc"]) or "?"
    if first["type"] == "unexpected_keyword_argument":
        names = [f.name for f in dataclasses.fields(cls)]
        close = difflib.get_close_matches(where, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(names) or 'none'}."
        return ConfigError(f"{cls.__name__} has no setting {where!r}: {hint}")
    message = first["msg"][:1].lower() + first["msg"][1:]
    return ConfigError(f"{cls.__name__}({where}=...) is wrong: {message}, found {first.get('input')!r}.")

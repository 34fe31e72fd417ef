"""How names are written inside the text of a condition, and read back."""

from cellgap.errors import ConditionError

SYMBOLS = "+|@=,"


def quote(name: str) -> str:
    r"""Return ``name``, in double quotes where it would not read back bare.

    That is where it is empty, holds one of ``+ | @ = , "``, or starts or ends with a space. Inside quotes,
    ``"`` and ``\`` are written ``\"`` and ``\\``.
    """
    if name and name == name.strip() and not any(c in SYMBOLS or c == '"' for c in name):
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def tokens(text: str) -> list[tuple[str, str]]:
    """Return the tokens of ``text`` as pairs: (symbol, symbol), ("bare", name) or ("quoted", name).

    Raises
    ------
    ConditionError
        A quote is not closed, or stands in the middle of a name.
    """
    found: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        character = text[at]
        if character.isspace():
            at += 1
        elif character in SYMBOLS:
            found.append((character, character))
            at += 1
        elif character == '"':
            name, at = _quoted(text, at)
            found.append(("quoted", name))
        else:
            end = at
            while end < len(text) and text[end] not in SYMBOLS:
                end += 1
            name = text[at:end].strip()
            if '"' in name:
                raise ConditionError(f"{text!r} has a double quote inside the name {name!r}: quote the whole name.")
            found.append(("bare", name))
            at = end
    return found


def _quoted(text: str, at: int) -> tuple[str, int]:
    """Return the name in quotes that starts at ``at``, and the position after it."""
    name: list[str] = []
    position = at + 1
    while position < len(text):
        character = text[position]
        if character == '"':
            return "".join(name), position + 1
        if character == "\\" and position + 1 < len(text):
            position += 1
            character = text[position]
        name.append(character)
        position += 1
    raise ConditionError(f"{text!r} has a double quote that is never closed: close it after the name.")

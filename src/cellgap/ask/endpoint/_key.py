"""The key of a server: sent, and otherwise nowhere to be seen."""

from cellgap.errors import ConfigError

_SHORTEST_SECRET = 8


class Key:
    """A key that prints as stars.

    Parameters
    ----------
    text
        The key.
    where
        Where it comes from, for messages.

    Raises
    ------
    ConfigError
        It holds characters that cannot be sent; the message does not hold it.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str, where: str) -> None:
        text = text.strip()
        if not text or not (text.isascii() and text.isprintable()) or " " in text:
            raise ConfigError(f"The key in {where} is no key: expected letters, digits and signs without spaces.")
        self._text = text

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> str:
        raise TypeError("a key is not written to files")

    def header(self) -> dict[str, str]:
        """Return the header that carries it."""
        return {"Authorization": f"Bearer {self._text}"}

    def hidden(self, text: str) -> str:
        """Return text without the key: servers like to repeat it. Placeholders such as ``EMPTY`` are no secret."""
        return text.replace(self._text, "***") if len(self._text) >= _SHORTEST_SECRET else text

"""Where a journal's newest version is remembered, outside of everything that a backup restores."""

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple, final

from cellgap.errors import ForkedState, PrivacyError, StaleState
from cellgap.stream.release._durable import write_durably
from cellgap.stream.release._lock import Lock


class Mark(NamedTuple):
    """A line of a journal."""

    version: int
    """Its number; the first is 1."""
    digest: str
    """Its hash, which depends on all lines before."""


class AbstractAnchor(ABC):
    """A place for one mark that is not restored together with the journal: another disk, a server."""

    @abstractmethod
    def read(self) -> Mark | None:
        """Return the mark, None where none was ever written."""

    @abstractmethod
    def write(self, mark: Mark) -> None:
        """Remember `mark`; returns when it is durable."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what was opened."""


@final
class FileAnchor(AbstractAnchor):
    """A mark in a file.

    Parameters
    ----------
    path
        The file, in a folder that exists; ``<path>.lock`` is locked beside it as long as the anchor is open, so that
        two copies of a journal with one anchor are not advanced at once.

    Raises
    ------
    ForkedState
        Another process has the anchor open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(path.with_name(f"{path.name}.lock"), "anchor")

    def read(self) -> Mark | None:
        """Return the mark, None where there is no file.

        Raises
        ------
        PrivacyError
            The file is damaged.
        """
        try:
            found = json.loads(self._path.read_bytes())
            return Mark(int(found["version"]), str(found["hash"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise PrivacyError(
                f"the anchor {self._path} is not readable: it holds no version and hash of a journal."
            ) from None

    def write(self, mark: Mark) -> None:
        """Replace the file."""
        write_durably(self._path, json.dumps({"version": mark.version, "hash": mark.digest}).encode() + b"\n")

    def close(self) -> None:
        """Unlock."""
        self._lock.release()


def check_anchor(mark: Mark | None, digests: list[str], anchored: bool) -> None:
    """Compare an anchor with the journal that claims to be its own.

    Parameters
    ----------
    mark
        What the anchor holds.
    digests
        Hashes of the journal's lines in order.
    anchored
        Whether the journal says that the anchor was written before.

    Raises
    ------
    StaleState
        The journal is shorter than the anchor says, or the anchor is gone.
    ForkedState
        The journal is another one, or a copy that was advanced by itself.
    """
    if mark is None:
        if anchored:
            raise StaleState(
                "the anchor of this journal is gone, and without it nobody can tell whether the journal was restored "
                "from a backup: bring the anchor back."
            )
        return
    if len(digests) < mark.version:
        raise StaleState(
            f"the journal ends at version {len(digests)} and its anchor says {mark.version}: it was restored from a "
            "backup or begun anew. Bring back the newest journal; a new budget needs an anchor of its own."
        )
    if digests[mark.version - 1] != mark.digest:
        raise ForkedState(
            f"version {mark.version} of the journal is not the one that its anchor remembers: two copies of a journal "
            "were both advanced, or the anchor belongs to another one."
        )

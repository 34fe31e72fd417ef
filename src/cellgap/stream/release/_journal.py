"""What was reserved, fixed and drawn, in a folder that survives being killed at any moment.

``journal.jsonl`` holds public values and keyed digests, one chained line each; an append returns when the line is on
the disk. ``secrets`` holds exact sums and donors' entries, ``key`` what their digests are keyed with, ``lock`` keeps
other processes out. An anchor outside of the folder gives away a journal that was restored from a backup or copied.
"""

import os
import secrets
import threading
import weakref
from pathlib import Path
from typing import Any

from cellgap.errors import ForkedState, PrivacyError, StaleState
from cellgap.stream.release._anchor import AbstractAnchor, FileAnchor, Mark, check_anchor
from cellgap.stream.release._audit import Audit, audit
from cellgap.stream.release._durable import (
    PRIVATE_FILE,
    PRIVATE_FOLDER,
    close_to_others,
    fsync_folder,
    make_private_folder,
    write_all,
)
from cellgap.stream.release._entries import BEGINNING, Entry, chain, parse
from cellgap.stream.release._lock import Lock
from cellgap.stream.release._secrets import Secrets

NAME = "journal.jsonl"


class Journal:
    """An open journal: read, checked, and locked for the life of the object.

    Parameters
    ----------
    folder
        Made (mode 0700) where it does not exist.
    anchor
        A file outside of `folder`, an object that keeps the mark elsewhere, or None.

    Raises
    ------
    ForkedState
        Another process holds the journal, or a copy of it was advanced.
    StaleState
        The journal is older than its anchor, or the anchor is gone.
    PrivacyError
        A line is damaged, the key is missing, or the anchor lies inside the folder or is not given.
    """

    def __init__(self, folder: str | os.PathLike[str], anchor: str | os.PathLike[str] | AbstractAnchor | None = None):
        self.folder = Path(folder)
        place = Path(anchor) if isinstance(anchor, str | os.PathLike) else anchor
        if isinstance(place, Path) and place.resolve().is_relative_to(self.folder.resolve()):
            raise PrivacyError(f"the anchor {place} lies in the folder of the journal and would be restored with it.")
        make_private_folder(self.folder)
        self.guard = threading.RLock()
        self._broken = self._closed = False
        self._lock = Lock(self.folder / "lock", "journal")
        self._anchor: AbstractAnchor | None = None
        self._finalizer = None
        try:
            self._anchor = FileAnchor(place) if isinstance(place, Path) else place
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        close_to_others(self.folder, PRIVATE_FOLDER)
        self._path = path = self.folder / NAME
        new = not path.exists()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
        self._finalizer = weakref.finalize(self, os.close, self._descriptor)
        if new:
            fsync_folder(self.folder)
        close_to_others(path, PRIVATE_FILE)
        content = path.read_bytes()
        self.entries, self._size = parse(content)
        self.audit: Audit = audit(self.entries)
        self._check_anchor()
        self.secrets = Secrets(self.folder, first=not self.entries)
        if self._size < len(content):
            os.ftruncate(self._descriptor, self._size)
            os.fsync(self._descriptor)

    def _check_anchor(self) -> None:
        self._marked = None if self._anchor is None else self._anchor.read()
        if self._anchor is not None:
            check_anchor(self._marked, [entry.mark.digest for entry in self.entries], self.audit.anchored)
        elif self.audit.anchored:
            raise StaleState("this journal has an anchor: give the same one again, else a backup could not be told.")

    @property
    def mark(self) -> Mark:
        """Version and hash of the last line."""
        return self.entries[-1].mark if self.entries else BEGINNING

    def begin(self, **budget: Any) -> None:
        """Write the first line where there is none, and that the journal was opened (with a random generation id).

        Parameters
        ----------
        **budget
            What the first line says, once for all.
        """
        if not self.entries:
            self.append("BUDGET", **budget, key=self.secrets.digest("key", b""))
        elif self.entries[0].body["key"] != self.secrets.digest("key", b""):
            raise PrivacyError(f"{self.folder / 'key'} is not the key of this journal: bring back the whole folder.")
        self.append("OPEN", generation=secrets.token_hex(16))
        self.fix()
        if self._anchor is not None and not self.audit.anchored:
            # From here on a missing anchor is an alarm; nothing can have been published before.
            self.append("ANCHORED")

    def append(self, kind: str, **body: Any) -> Entry:
        """Return the entry after its line is on the disk.

        Parameters
        ----------
        kind
            Of the line.
        **body
            JSON-able values and arrays of integers.

        Raises
        ------
        ForkedState
            Somebody else wrote to the journal, or this process was forked after it was opened.
        PrivacyError
            The line may not follow the ones before, or an earlier append failed.
        """
        with self.guard:
            self.check()
            entry, line = chain(self.mark, kind, body)
            self.audit.follow(kind, body)
            # Whatever interrupts the append, what is on the disk decides: the journal has to be read again.
            self._broken = True
            write_all(self._descriptor, line)
            os.fsync(self._descriptor)
            self._size += len(line)
            self.entries.append(entry)
            self._broken = False
            return entry

    def fix(self) -> None:
        """Write the last line's mark to the anchor; what follows may be shown.

        Raises
        ------
        ForkedState
            The anchor is not where this journal left it: a copy was advanced meanwhile.
        """
        if self._anchor is None:
            return
        with self.guard:
            self.check()
            self._broken = True
            if self._anchor.read() != self._marked:
                raise ForkedState("the anchor was moved by a copy of this journal: only one of the two may go on.")
            self._anchor.write(self.mark)
            self._marked = self.mark
            self._broken = False

    def check(self) -> None:
        """Raise where nothing may be appended.

        Raises
        ------
        ForkedState
            Somebody else wrote to the journal, or this process was forked after it was opened.
        PrivacyError
            The journal is closed, or an earlier append failed.
        """
        if self._closed:
            raise PrivacyError("the journal is closed: open the budget again.")
        if self._broken:
            raise PrivacyError("an earlier write to the journal failed: close() the budget and open it again.")
        self._lock.check()
        here = os.fstat(self._descriptor)
        if here.st_size != self._size or not self._path.exists() or not os.path.samestat(here, self._path.stat()):
            raise ForkedState("the journal was changed or replaced while it was open here: nothing was written.")

    def spoil(self) -> None:
        """Refuse everything from now on: what is in memory may be behind what is on the disk."""
        self._broken = True

    def close(self) -> None:
        """Let go of the files and the lock; may be called again."""
        self._closed = True
        if self._finalizer is not None:
            self._finalizer()
        if self._anchor is not None:
            self._anchor.close()
        self._lock.release()

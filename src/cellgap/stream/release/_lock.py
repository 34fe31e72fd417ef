"""One process at a time."""

import fcntl
import os
import weakref
from pathlib import Path

from cellgap.errors import ForkedState
from cellgap.stream.release._durable import PRIVATE_FILE


class Lock:
    """An exclusive lock on a file, held until `release`, the end of the object, or the end of the process.

    The lock is the operating system's (``flock``), so a killed process leaves none behind. It is not to be relied on
    between machines that share a network folder.

    Parameters
    ----------
    path
        Created where it does not exist.
    what
        What is locked, for the message.

    Raises
    ------
    ForkedState
        Another process (or another object of this one) holds it.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._process = os.getpid()
        self._what = what
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise ForkedState(
                f"another process is advancing this {what} ({path.parent}): close it there, or close() the budget that "
                "is open here."
            ) from None
        # A budget that is forgotten without close() (a notebook cell run twice) lets go of its lock.
        self._finalizer = weakref.finalize(self, os.close, descriptor)

    def check(self) -> None:
        """Raise where this process only inherited the lock.

        Raises
        ------
        ForkedState
            The process was forked after the lock was taken.
        """
        if os.getpid() != self._process:
            raise ForkedState(f"this {self._what} was opened by the parent of this process: advance it there.")

    def release(self) -> None:
        """Let go."""
        self._finalizer()

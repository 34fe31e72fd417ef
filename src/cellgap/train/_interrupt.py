"""Ctrl-C between chunks of work, not inside of them."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag that is read between chunks; the second one interrupts at once."""
    seen = threading.Event()
    previous = signal.getsignal(signal.SIGINT)
    # Only the main thread gets signals; a background job was told to ignore them, and goes on doing so.
    if threading.current_thread() is not threading.main_thread() or previous in (None, signal.SIG_IGN):
        yield seen.is_set
        return

    def note(signum, frame):
        if seen.is_set():
            signal.signal(signal.SIGINT, previous)
            raise KeyboardInterrupt
        seen.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield seen.is_set
    finally:
        signal.signal(signal.SIGINT, previous)

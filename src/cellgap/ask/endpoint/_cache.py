"""Replies of language models, kept: nothing is paid for twice, and a run repeats bit by bit without a server."""

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cellgap.errors import StorageError

_VERSION = 1
_BUSY_S = 30.0


def digest_of(request: Any) -> str:
    """Return the sha256 of the canonical JSON of plain values: sorted keys, no spaces."""
    text = json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class ReplyCache:
    """One SQLite file (write-ahead log) of replies by the digest of what was asked.

    Several threads and processes may use one at a time, and one that is killed leaves it whole: a reply is in the file,
    on the disk, before anybody sees it. The file holds digests, replies and counts of tokens; no questions and no keys.
    It belongs on a local disk: SQLite's log does not work over network file systems.

    Parameters
    ----------
    path
        The file; made at the first reply that is kept.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._process = 0

    def __repr__(self) -> str:
        return f"ReplyCache({str(self.path)!r})"

    def __enter__(self) -> "ReplyCache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        rows = self._read("SELECT count(*) FROM replies", ())
        return int(rows[0]) if rows else 0

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was kept under a digest, None where nothing was."""
        row = self._read("SELECT reply FROM replies WHERE key = ?", (key,))
        return None if row is None else self._parsed(row[0])

    def put(self, key: str, reply: dict[str, Any]) -> dict[str, Any]:
        """Keep a reply and return the one that is kept: the first, where another process was faster."""
        text = json.dumps(reply, sort_keys=True, ensure_ascii=True)
        with self._open() as db:
            with db:
                db.execute("INSERT OR IGNORE INTO replies (key, reply) VALUES (?, ?)", (key, text))
            row = db.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return self._parsed(row[0])

    def learned(self, server: str) -> dict[str, Any] | None:
        """Return what was learned of a model on a server."""
        row = self._read("SELECT knows FROM servers WHERE server = ?", (server,))
        return None if row is None else self._parsed(row[0])

    def learn(self, server: str, knows: dict[str, Any]) -> None:
        """Keep what was learned of a model on a server."""
        with self._open() as db, db:
            db.execute("INSERT OR REPLACE INTO servers (server, knows) VALUES (?, ?)", (server, json.dumps(knows)))

    def close(self) -> None:
        """Close the file; it opens again when it is used."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection = None

    def _read(self, query: str, values: tuple[str, ...]) -> Any:
        if self._connection is None and not self.path.exists():
            return None
        with self._open() as db:
            return db.execute(query, values).fetchone()

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            return json.loads(text)
        except ValueError:
            raise StorageError(f"The file of replies {self.path} is damaged: a reply in it is no JSON.") from None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._connection is None or self._process != os.getpid():
                    self._connection = self._connected()
                    self._process = os.getpid()
                yield self._connection
            except sqlite3.Error as error:
                raise StorageError(f"The file of replies {self.path} cannot be used: {error}.") from None

    def _connected(self) -> sqlite3.Connection:
        if not self.path.parent.is_dir():
            raise StorageError(
                f"The file of replies {self.path} cannot be made: there is no folder {self.path.parent}."
            )
        db = sqlite3.connect(self.path, timeout=_BUSY_S, check_same_thread=False)
        try:
            found = db.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, _VERSION):
                raise StorageError(
                    f"The file of replies {self.path} has version {found}, expected {_VERSION}: take another file."
                )
            if found == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                # Another process may be making it; if so, the version is there once its transaction is.
                db.execute("BEGIN IMMEDIATE")
                found = db.execute("PRAGMA user_version").fetchone()[0]
                db.rollback()
                if found == 0:
                    raise StorageError(f"{self.path} is a database, but not one of replies: take another file.")
            db.execute("PRAGMA journal_mode = WAL")
            # On the disk before it is used: what was paid for survives a power cut, too.
            db.execute("PRAGMA synchronous = FULL")
            if found == 0:
                db.execute("BEGIN IMMEDIATE")
                db.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
                db.execute("CREATE TABLE IF NOT EXISTS servers (server TEXT PRIMARY KEY, knows TEXT NOT NULL)")
                db.execute(f"PRAGMA user_version = {_VERSION}")
                db.commit()
        except BaseException:
            db.close()
            raise
        return db

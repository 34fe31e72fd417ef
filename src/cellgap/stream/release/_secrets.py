"""Exact sums and donors' entries on disk: as sensitive as the cells, kept only as long as they are needed."""

import hmac
import io
import os
from pathlib import Path

import numpy as np

from cellgap.errors import PrivacyError
from cellgap.stream.release._durable import (
    PRIVATE_FILE,
    PRIVATE_FOLDER,
    close_to_others,
    make_private_folder,
    write_durably,
)

_OBJECT = ":object"
Arrays = dict[str, np.ndarray]


class Secrets:
    """The folder ``secrets`` and the file ``key`` of a journal.

    Parameters
    ----------
    folder
        The journal's folder.
    first
        Whether the journal is empty, so that a key may be made.

    Raises
    ------
    PrivacyError
        The key is missing or damaged.
    """

    def __init__(self, folder: Path, first: bool) -> None:
        self._folder = folder / "secrets"
        make_private_folder(self._folder)
        path = folder / "key"
        if first and not path.exists():
            write_durably(path, os.urandom(32))
        for ours, mode in ((path, PRIVATE_FILE), (self._folder, PRIVATE_FOLDER)):
            if ours.exists():
                close_to_others(ours, mode)
        for ours in self._folder.iterdir():
            if ours.suffix == ".part":
                ours.unlink()
            else:
                close_to_others(ours, PRIVATE_FILE)
        try:
            self._key = path.read_bytes()
        except FileNotFoundError:
            self._key = b""
        if len(self._key) != 32:
            raise PrivacyError(f"{path} is missing or damaged: bring back the whole folder of the journal.")

    def digest(self, purpose: str, content: bytes) -> str:
        """Return a keyed hash: without the key nobody can try out guesses of `content`.

        Parameters
        ----------
        purpose
            Hashes for different purposes are unrelated.
        content
            What is hashed.
        """
        return hmac.digest(hmac.digest(self._key, purpose.encode(), "sha256"), content, "sha256").hex()

    def write(self, name: str, t: int, arrays: Arrays) -> str:
        """Return the keyed digest of a step's secrets after they are on the disk.

        Parameters
        ----------
        name
            Of the statistic.
        t
            The step.
        arrays
            Integers, also Python's (dtype object), which are kept as decimal strings: nothing is pickled.
        """
        plain = {
            (key + _OBJECT if array.dtype == object else key): (
                np.array([str(int(item)) for item in array.ravel()], dtype=str).reshape(array.shape)
                if array.dtype == object
                else array
            )
            for key, array in arrays.items()
        }
        buffer = io.BytesIO()
        np.savez(buffer, **plain)  # pyright: ignore[reportArgumentType]
        content = buffer.getvalue()
        write_durably(self._path(name, t), content)
        return self._digest(name, t, content)

    def read(self, name: str, t: int, digest: str) -> Arrays:
        """Return what `write` wrote.

        Raises
        ------
        PrivacyError
            The file is missing, or not the one whose digest the journal holds.
        """
        path = self._path(name, t)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            content = b""
        if not hmac.compare_digest(self._digest(name, t, content), digest):
            raise PrivacyError(
                f"{path} is missing, damaged, or not what the journal refers to: bring back the whole folder."
            )
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {
                key.removesuffix(_OBJECT): (
                    np.array([int(item) for item in archive[key].ravel()], dtype=object).reshape(archive[key].shape)
                    if key.endswith(_OBJECT)
                    else archive[key]
                )
                for key in archive.files
            }

    def forget(self, name: str, t: int) -> None:
        """Delete the secrets of a step, if there are any."""
        self._path(name, t).unlink(missing_ok=True)

    def keep(self, name: str, first: int, last: int) -> None:
        """Delete a statistic's secrets of other steps than `first` to `last`.

        Parameters
        ----------
        name
            Of the statistic.
        first, last
            Steps, both kept.
        """
        for path in self._folder.glob("*.npz"):
            found, _, t = path.stem.rpartition("-")
            if found == name and not first <= int(t) <= last:
                path.unlink()

    def _path(self, name: str, t: int) -> Path:
        return self._folder / f"{name}-{t}.npz"

    def _digest(self, name: str, t: int, content: bytes) -> str:
        return self.digest(f"secrets of {name} at {t}", content)

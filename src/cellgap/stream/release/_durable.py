"""Files that are on the disk, whole and closed to others, when the call returns."""

import os
import stat
import warnings
from pathlib import Path

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700


def write_durably(path: Path, content: bytes) -> None:
    """Write a file through a neighbor and a rename, and wait until both are on the disk.

    Unlike `cellgap.storage.replace` the file is closed to others from its first byte on, and the rename itself is
    waited for.

    Parameters
    ----------
    path
        In a folder that exists; mode 0600.
    content
        All bytes.
    """
    part = path.with_name(f".{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(part, path)
    fsync_folder(path.parent)


def write_all(descriptor: int, content: bytes) -> None:
    """Write all bytes; a single ``os.write`` may take a part of them."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def fsync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private_folder(folder: Path) -> None:
    """Make a folder of mode 0700 where there is none, and its name durable."""
    if not folder.is_dir():
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        fsync_folder(folder.parent)


def close_to_others(path: Path, mode: int) -> None:
    """Set the mode of a file or folder of ours back to `mode` where others could read it (copying loses modes)."""
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        path.chmod(mode)
        warnings.warn(
            f"{path} was open to other users and is closed again (mode {mode:o}): it is as sensitive as the cells.",
            stacklevel=2,
        )

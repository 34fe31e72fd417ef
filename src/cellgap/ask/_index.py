"""Search over passages: by words, by meaning, and both as one ranking."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cellgap.ask._answer import Notice
from cellgap.ask._bm25 import BM25
from cellgap.ask._corpus import Corpus
from cellgap.ask._encoder import SentenceEncoder, find_encoder
from cellgap.ask._fuse import best, fused_best
from cellgap.ask._index_folder import Stored, encoded, suspicious, text_of, usable, write
from cellgap.ask._passage import Passage
from cellgap.errors import ConfigError, DataError, StorageError

HOW = ("rrf", "bm25", "dense")
NO_ENCODER = Notice(
    "no_encoder",
    "Passages were searched by words alone (BM25), because there is no sentence encoder.",
)
_NO_VECTORS = Notice(
    "no_encoder",
    "Passages were searched by words alone (BM25), because the index was built without a sentence encoder.",
)


@dataclass(frozen=True)
class Hit:
    """A passage that was found.

    Parameters
    ----------
    position
        In the corpus, from 0.
    score
        Of the ranking that was asked for; comparable within one search only.
    passage
        What was found.
    """

    position: int
    score: float
    passage: Passage


class Index:
    """Passages that can be searched; made by ``Index.build`` and ``Index.open``.

    The search by words is BM25 over title and text (``BM25``); that by meaning compares the question with every
    passage (exact inner products, good up to some 10^5 passages); both become one by reciprocal rank.
    """

    def __init__(
        self,
        passages: Sequence[Passage],
        words: BM25,
        dense: Float[np.ndarray, "n 384"] | None,
        encoder: SentenceEncoder | None,
        suspicious: np.ndarray,
        digest: str,
    ):
        self.passages, self.encoder, self.digest = passages, encoder, digest
        self._words, self._dense, self._suspicious = words, dense, suspicious

    @classmethod
    def build(
        cls,
        corpus: Corpus,
        encoder: SentenceEncoder | None = None,
        folder: str | Path | None = None,
        *,
        progress: bool = False,
    ) -> "Index":
        """Return an index of passages.

        Parameters
        ----------
        corpus
            Not empty.
        encoder
            See ``find_encoder``; without one the index is searched by words alone.
        folder
            Where it is kept. A finished index of the same passages and encoder there is opened, another one is built
            anew, and one whose build was killed goes on after its last 512 passages. In memory where it is None.
        progress
            Draw a bar on standard error.

        Raises
        ------
        DataError
            There is no passage.
        StorageError
            The folder holds something else, or passages carry what JSON cannot hold.
        MissingExtraError
            The package bm25s is not installed.
        """
        if not len(corpus):
            raise DataError("An index needs a passage: the corpus is empty.")
        if folder is not None:
            folder = Path(folder)
            if not usable(folder, corpus, encoder):
                write(folder, corpus, encoder, progress=progress)
            return cls._stored(folder, encoder)
        words = BM25([text_of(passage) for passage in corpus])
        dense = None if encoder is None else encoded(corpus, encoder, progress=progress)
        return cls(corpus.passages, words, dense, encoder, suspicious(corpus), corpus.digest)

    @classmethod
    def open(cls, folder: str | Path, encoder: SentenceEncoder | None = None) -> "Index":
        """Return the index of a folder, mapped into memory.

        Parameters
        ----------
        folder
            Written by ``build``.
        encoder
            The one it was built with; looked for (``find_encoder``) where it is None and the index has vectors.

        Raises
        ------
        StorageError
            The folder is no index, unfinished, damaged, of another version, or built with another encoder.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise StorageError(f"There is no folder {folder} to open an index from.")
        return cls._stored(folder, encoder, look=True)

    @classmethod
    def _stored(cls, folder: Path, encoder: SentenceEncoder | None, *, look: bool = False) -> "Index":
        stored = Stored(folder)
        if encoder is None and look and stored.dense is not None:
            encoder = find_encoder()
        if encoder is not None and stored.encoder is not None and stored.encoder != encoder.digest:
            raise StorageError(f"The index {folder} was built with another sentence encoder: build it again.")
        return cls(stored.passages, stored.words, stored.dense, encoder, stored.suspicious, stored.digest)

    @property
    def degraded(self) -> tuple[Notice, ...]:
        """What a search with ``how="rrf"`` does in a lesser way than its name says; empty where nothing."""
        if self.encoder is None:
            return (NO_ENCODER,)
        return () if self._dense is not None else (_NO_VECTORS,)

    def search(self, question: str, k: int = 20, how: str = "rrf", *, suspicious: bool = False) -> tuple[Hit, ...]:
        """Return the passages that suit a question best, best first; equal scores by position.

        Parameters
        ----------
        question
            Not empty.
        k
            At most so many. The search by words finds only passages that share a word with the question.
        how
            ``"rrf"`` (words and meaning; words alone without an encoder, which ``degraded`` says), ``"bm25"`` or
            ``"dense"``.
        suspicious
            Whether passages that give orders to a model (``Passage.suspicious``) are found too.

        Raises
        ------
        ConfigError
            An argument is out of range, or ``"dense"`` is asked for without an encoder.
        """
        if not question.strip():
            raise ConfigError("A search needs a question: the one given is empty.")
        if k < 1:
            raise ConfigError(f"A search returns 1 passage or more, found k = {k}.")
        if how not in HOW:
            raise ConfigError(f"Search by one of {', '.join(HOW)}, found {how!r}.")
        if how == "dense" and self.degraded:
            raise ConfigError(f"A search by meaning is not possible: {self.degraded[0].text} Use how='bm25'.")
        lists = []
        if how != "dense":
            scores = self._words.scores(question)
            scores[scores <= 0] = -np.inf
            lists.append(scores)
        if how != "bm25" and not self.degraded:
            assert self.encoder is not None and self._dense is not None
            lists.append(self._dense @ self.encoder.encode([question])[0])
        if not suspicious:
            for scores in lists:
                scores[self._suspicious] = -np.inf
        if how == "rrf":
            positions, scores = fused_best(lists, k)
        else:
            positions = best(lists[0], k)
            scores = lists[0][positions]
        found = zip(positions.tolist(), scores.tolist(), strict=True)
        return tuple(Hit(position, score, self.passages[position]) for position, score in found)

    def __len__(self) -> int:
        return len(self.passages)

    def __repr__(self) -> str:
        return f"Index({len(self):,} passages, {'words alone' if self.degraded else 'words and meaning'})"

"""Search by words: Okapi's BM25 in the form that Lucene uses."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from cellgap.ask._words import words
from cellgap.errors import MissingExtraError, StorageError

K1, B = 1.2, 0.75


class BM25:
    """How well texts answer a question by their words.

    score = sum over the words of the question of idf · tf / (tf + k1 (1 - b + b length / mean length)), where
    idf = ln(1 + (n - df + 0.5) / (df + 0.5)), k1 = 1.2 and b = 0.75 (Kamphuis et al. 2020, "Lucene (accurate)"). The
    scores of all words in all texts are worked out once, by bm25s (Lù 2024, arXiv 2407.03618); a question adds up
    those of its words. A word that occurs twice in a question counts twice.

    Parameters
    ----------
    texts
        At position i of the scores stands text i.

    Raises
    ------
    MissingExtraError
        The package bm25s is not installed.
    """

    def __init__(self, texts: Sequence[str]):
        bm25s = _library()
        self._n = len(texts)
        self._vocabulary: dict[str, int] = {}
        ids = [self._numbers(words(text)) for text in texts]
        if not self._vocabulary:
            self._starts, self._texts, self._parts = np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0)
            return
        # Numbers in the order of the texts, not of a set, and double precision: the same bytes in every process.
        search = bm25s.BM25(k1=K1, b=B, method="lucene", dtype="float64")
        search.index((ids, dict(self._vocabulary)), create_empty_token=False, show_progress=False)
        self._parts = np.asarray(search.scores["data"])
        self._texts = np.asarray(search.scores["indices"], np.int32)
        self._starts = np.asarray(search.scores["indptr"], np.int64)

    def __len__(self) -> int:
        return self._n

    def scores(self, question: str) -> Float[np.ndarray, " n"]:
        """Return the score of every text; 0 where it has no word of the question."""
        scores = np.zeros(self._n)
        for word, times in Counter(words(question)).items():
            number = self._vocabulary.get(word)
            if number is not None:
                rows = slice(self._starts[number], self._starts[number + 1])
                parts = self._parts[rows]
                # A text occurs once in the list of a word, so that nothing is added to the same place twice.
                scores[self._texts[rows]] += parts if times == 1 else times * parts
        return scores

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the scores of words in texts as arrays that ``from_arrays`` takes; the words are not among them."""
        return {"parts": self._parts, "texts": self._texts, "starts": self._starts}

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The words, in the order of their numbers."""
        return tuple(self._vocabulary)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], vocabulary: Iterable[str], n_texts: int) -> "BM25":
        """Return the search that ``arrays`` and ``vocabulary`` describe; needs no package and reads no text.

        Raises
        ------
        StorageError
            The arrays do not fit one another.
        """
        made = cls.__new__(cls)
        made._n = n_texts
        made._vocabulary = {word: number for number, word in enumerate(vocabulary)}
        made._parts, made._texts, made._starts = arrays["parts"], arrays["texts"], arrays["starts"]
        whole = len(made._starts) == len(made._vocabulary) + 1 and len(made._parts) == len(made._texts)
        if not whole or made._starts[-1] != len(made._parts):
            raise StorageError("The arrays of a search by words do not fit its vocabulary: build the index anew.")
        return made

    def _numbers(self, tokens: list[str]) -> list[int]:
        known = self._vocabulary
        return [known.setdefault(token, len(known)) for token in tokens]


def _library():
    try:
        import bm25s
    except ImportError:
        raise MissingExtraError(
            'Searching by words needs the package bm25s: pip install "cellgap[ask]" brings it.'
        ) from None
    return bm25s

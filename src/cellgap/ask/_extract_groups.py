"""Passages that speak of the same thing: one group of them is one reading of a question."""

import json
import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from cellgap.ask._passage import Passage
from cellgap.ask._relevance import Encoder, Sentence
from cellgap.ask._words import words

_TOGETHER = 0.6
_LISTS_READINGS = re.compile(
    r"\b(?:may|can|might|could)\s+(?:also\s+)?(?:refer|mean)\b|\bmay stand for\b", re.IGNORECASE
)

_QUALIFIER = re.compile(r"\([^()]*\)|\b(?:1\d{3}|20\d{2})\b")


def grouped(passages: Sequence[Passage], positions: Sequence[int], encoder: Encoder | None) -> list[list[int]]:
    """Return groups of positions, in the order in which their first members come.

    By ``meta["key"]`` where a passage has one, else by its whole title, bracketed part included (it is what tells
    readings apart), else by average linkage of embeddings at cosine 0.6; without an encoder a passage without title is
    a group of its own.
    """
    bare = [i for i in positions if not passages[i].title and "key" not in passages[i].meta]
    clusters = _clusters([passages[i].text for i in bare], encoder)
    names = {i: f"cluster {label}" for i, label in zip(bare, clusters, strict=True)}
    groups: dict[str, list[int]] = {}
    for i in positions:
        groups.setdefault(names.get(i) or _name(passages[i]), []).append(i)
    return list(groups.values())


def lists_readings(passage: Passage) -> bool:
    """Return whether a passage only lists what a phrase may mean, as encyclopedias' disambiguation pages do."""
    return passage.title.casefold().rstrip().endswith("(disambiguation)") or (
        _LISTS_READINGS.search(passage.text[:120]) is not None
    )


def bears_name(title: str, named: Sequence[str]) -> bool:
    """Return whether a title is what the question names, apart from what is in brackets and from a year."""
    bare = words(_QUALIFIER.sub(" ", title))
    return any(bare == words(_QUALIFIER.sub(" ", name)) for name in named) and bool(bare)


def defines(sentence: Sentence, title: str) -> bool:
    """Return whether a sentence says what the thing of a title is: "<title> (...) is ...", "The <title> was ..."."""
    head = re.sub(r"\s*[(,\[].*", "", title).strip()
    if not head:
        return False
    before = r"(?:(?:The|A|An|This|In)\s+)?(?:[a-z]+\s+)?"
    found = rf"{before}{re.escape(head)}\b(?:\s*\([^()]*\)|\s*,[^,.]*,)?\s+(?:is|was|are|were)\b"
    return re.match(found, sentence.text, re.IGNORECASE) is not None


def _name(passage: Passage) -> str:
    key = passage.meta.get("key")
    if isinstance(key, Mapping):
        return "key " + json.dumps(key, sort_keys=True, default=str)
    return f"key {key}" if key is not None else "title " + " ".join(passage.title.casefold().split())


def _clusters(texts: Sequence[str], encoder: Encoder | None) -> list[int]:
    if len(texts) < 2 or encoder is None:
        return list(range(len(texts)))
    from scipy.cluster.hierarchy import fcluster, linkage

    vectors: Float[np.ndarray, "n dim"] = np.asarray(encoder.encode(list(texts)), np.float64)
    distances = (1.0 - vectors @ vectors.T)[np.triu_indices(len(texts), 1)]
    found = fcluster(linkage(np.maximum(distances, 0.0), "average"), 1.0 - _TOGETHER, "distance")
    return [int(label) for label in found]

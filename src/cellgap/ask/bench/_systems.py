"""What can be run on records: the library's own ways to answer, an endpoint, and floors that know nothing."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from cellgap.ask._answer import Answers, Citation, Notice
from cellgap.ask._passage import Passage
from cellgap.ask._sentences import sentences
from cellgap.ask.bench._predictions import Prediction, predictions_of
from cellgap.ask.bench._records import Record
from cellgap.errors import ConfigError, DataError

PROTOCOLS = ("closed", "rag", "conditions", "given", "open")
"""What a system sees and returns; scores of different protocols are not comparable.

``closed``: the question only; ``rag``: question and passages, answers without conditions; ``conditions``: question and
passages, answers with conditions; ``given``: also the gold conditions, one answer each; ``open``: question and a corpus
of all passages of all records.
"""

FLOORS = ("random", "first", "blind", "top3", "gold", "shuffled")
SYSTEMS = ("extractive", "structured", "endpoint", *FLOORS)
_OPEN_HITS = 20


@dataclass(frozen=True)
class System:
    """What answers records.

    Parameters
    ----------
    name
        Goes with every number.
    protocol, k_max
        That `answer` was made for.
    answer
        Record to ``Answers`` or predictions; a ``Notice`` or an error of cellgap makes a failed record.
    versions
        What has to be the same for two runs to be one (package, weights, model, prompt).
    bounded
        Whether at most `k_max` of its outputs are kept. Not so for floors that know how many readings there are.
    check
        Called with the records of a run before the first question; raises where they cannot be answered.
    """

    name: str
    protocol: str
    k_max: int | None
    answer: Callable[[Record], Answers | Sequence[Any] | Notice]
    versions: Mapping[str, str] = field(default_factory=dict)
    bounded: bool = True
    check: Callable[[Sequence[Record]], None] | None = None


def named_system(
    name: str,
    *,
    protocol: str = "conditions",
    k_max: int | None = 3,
    encoder: Any = None,
    records: Sequence[Record] = (),
    client: Any = None,
) -> System:
    """Return a system by its name.

    Parameters
    ----------
    name
        ``"extractive"`` (sentences of the passages), ``"structured"`` (the effect table of the record, ``x_table``),
        ``"endpoint"`` (a language model), or a floor: ``"random"`` (two random passages, seed 0), ``"first"`` (the
        first passage), ``"blind"`` (fragments 1 to 3 for each gold reading, unread), ``"top3"`` (the first three
        passages by relevance, one answer each), ``"gold"``, ``"shuffled"`` (extractive answers to another question).
    encoder
        Of ``"extractive"``, ``"top3"`` and ``"shuffled"``; None ranks by words alone.
    records
        Of ``"shuffled"``, and of the corpus of ``open``.
    client
        Of ``"endpoint"``.

    Raises
    ------
    ConfigError
        An unknown name, or a system that cannot be run under the protocol.
    """
    if name not in SYSTEMS:
        raise ConfigError(f"system is one of {', '.join(map(repr, SYSTEMS))}, or a function; found {name!r}.")
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol is one of {', '.join(map(repr, PROTOCOLS))}, found {protocol!r}.")
    if protocol == "closed" and name != "endpoint":
        raise ConfigError(f"Only an endpoint can be asked under 'closed', {name!r} has nothing to answer from.")
    if protocol == "open" and name not in ("extractive", "endpoint"):
        raise ConfigError(f"Under 'open' a system searches a corpus, which {name!r} does not.")
    if name == "endpoint" and client is None:
        raise ConfigError("The system 'endpoint' needs client=..., of cellgap.ask.endpoint.")
    versions = _versions(encoder if name in ("extractive", "top3", "shuffled") else None)
    if name == "endpoint":
        return _endpoint(protocol, k_max, client, records, encoder, versions)
    if name == "extractive":
        return System(name, protocol, k_max, _extractive(protocol, k_max, encoder, records), versions)
    if name == "structured":
        return System(name, protocol, k_max, _structured(k_max), versions)
    if name == "shuffled":
        return System(
            name, protocol, k_max, _shuffled(_extractive(protocol, k_max, encoder, records), records), versions
        )

    def floor(record: Record) -> tuple[Prediction, ...]:
        return floor_predictions(name, record, protocol=protocol, encoder=encoder)

    return System(name, protocol, k_max, floor, versions, bounded=name not in ("gold", "blind"))


def floor_predictions(
    name: str, record: Record, *, protocol: str = "conditions", encoder: Any = None
) -> tuple[Prediction, ...]:
    """Return what a floor says of a record (``named_system``); under ``given`` every gold condition has an answer."""
    n, m = len(record.passages), len(record.golds)
    if name == "gold":
        return tuple(Prediction(g.condition, g.answer, g.fragments) for g in record.golds)
    if n == 0:
        return ()
    given = protocol == "given"
    cited: tuple[int, ...] = ()
    if name == "random":
        # By record, so that the floor of a record does not depend on which others are run.
        seed = int(hashlib.sha256(record.id.encode()).hexdigest()[:12], 16)
        wanted = min(n, m if given else 2)
        numbers = [int(place) + 1 for place in np.random.default_rng((0, seed)).choice(n, wanted, replace=False)]
    elif name == "first":
        numbers = [1]
    elif name == "blind":
        cited = tuple(range(1, min(3, n) + 1))
        numbers = [1 + j % len(cited) for j in range(m)]
    elif name == "top3":
        numbers = _by_relevance(record, encoder)[:3]
    else:
        raise ConfigError(f"A floor is one of {', '.join(map(repr, FLOORS))}, found {name!r}.")
    if given:
        numbers = [numbers[j % len(numbers)] for j in range(m)]
    said = [_whole(record, number, cited) for number in numbers]
    if not given:
        return tuple(said)
    return tuple(Prediction(g.condition, p.answer, p.fragments) for g, p in zip(record.golds, said, strict=True))


def _whole(record: Record, number: int, cited: tuple[int, ...] = ()) -> Prediction:
    """Return a passage as an output: its title and two sentences, without regard to the question."""
    passage = record.passages[number - 1]
    text = " ".join(sentences(passage.text)[:2])
    return Prediction(f"{passage.title}: {text}" if passage.title else text, text, cited or (number,))


def _by_relevance(record: Record, encoder: Any) -> list[int]:
    from cellgap.ask._relevance import dense, fused, lexical

    texts = [f"{passage.title}\n{passage.text}" for passage in record.passages]
    known = [score for score in record.stored if score is not None]
    stored = np.array(known, float) if len(known) == len(texts) else None
    meant = None if encoder is None else dense(record.question, texts, encoder)
    scores = fused(lexical(record.question, texts), meant, stored)
    return [int(place) + 1 for place in np.argsort(-scores, kind="stable")]


def _extractive(
    protocol: str, k_max: int | None, encoder: Any, records: Sequence[Record]
) -> Callable[[Record], Answers]:
    from cellgap.ask._extract import extract

    search = _search(records, encoder) if protocol == "open" else None

    def answer(record: Record) -> Answers:
        if search is not None:
            return extract(record.question, search(record.question), encoder, k_max=k_max)
        if protocol == "given":
            conditions = [gold.condition for gold in record.golds]
            return extract(
                record.question, record.passages, encoder, k_max=None, conditions=conditions, stored=record.stored
            )
        return extract(record.question, record.passages, encoder, k_max=k_max, stored=record.stored)

    return answer


def _endpoint(
    protocol: str, k_max: int | None, client: Any, records: Sequence[Record], encoder: Any, versions: dict[str, str]
) -> System:
    from cellgap.ask.endpoint import PROMPT_VERSION, generate

    search = _search(records, encoder) if protocol == "open" else None

    def answer(record: Record) -> Answers:
        passages = () if protocol == "closed" else record.passages if search is None else search(record.question)
        conditions = [gold.condition for gold in record.golds] if protocol == "given" else None
        shown = "conditions" if protocol == "open" else protocol
        return generate(
            record.question, passages, client, protocol=shown, conditions=conditions, k_max=k_max, encoder=encoder
        )

    settings = client.endpoint
    versions = versions | {
        "model": settings.model,
        "prompt": str(PROMPT_VERSION),
        "temperature": str(settings.temperature),
        "two_step": str(settings.two_step),
    }
    return System(f"endpoint:{settings.model}", protocol, k_max, answer, versions)


def _structured(k_max: int | None) -> Callable[[Record], Answers]:
    from cellgap.ask._calls import CallRule
    from cellgap.ask._effect_table import EffectTable
    from cellgap.ask._table_answers import answer_from_tables

    def answer(record: Record) -> Answers:
        rows = record.raw.get("x_table")
        if not rows:
            raise DataError(f"The record {record.id!r} has no effect table (x_table): 'structured' answers from one.")
        table = EffectTable.of(pd.DataFrame(rows), name="effects")
        given = record.raw.get("x_rule") or {}
        names = {"min_abs_effect": "min_effect", "max_q": "max_q"}
        rule = CallRule(**{name: given[key] for key, name in names.items() if key in given})
        places = {p.meta["x_row"]: n for n, p in enumerate(record.passages, 1) if "x_row" in p.meta}

        def cite(table: EffectTable, row: int) -> Citation:
            number = places.get(int(table.origin[row]))
            if number is None:
                return table.cite(row)
            passage = record.passages[number - 1]
            return Citation(passage.id, passage.title, passage.text, position=number, sha256=passage.sha256)

        said = answer_from_tables(record.question, [table], rule, k_max=k_max, cite=cite)
        if said is None:
            notice = Notice("no_treatment", "The question names no treatment of the table.")
            return Answers(record.question, (), abstained=notice)
        return said

    return answer


def _shuffled(
    inner: Callable[[Record], Answers], records: Sequence[Record]
) -> Callable[[Record], Sequence[Prediction]]:
    """Return a system that gives every record what another one half the list away was answered."""
    places = {record.id: place for place, record in enumerate(records)}
    if len(records) < 2:
        raise ConfigError("The floor 'shuffled' needs at least two records.")

    def answer(record: Record) -> Sequence[Prediction]:
        other = records[(places[record.id] + len(records) // 2) % len(records)]
        return predictions_of(inner(other), other)

    return answer


def _search(records: Sequence[Record], encoder: Any) -> Callable[[str], tuple[Passage, ...]]:
    from cellgap.ask._corpus import Corpus
    from cellgap.ask._index import Index

    index = Index.build(Corpus.of([passage for record in records for passage in record.passages]), encoder)
    how = "bm25" if encoder is None else "rrf"

    def search(question: str) -> tuple[Passage, ...]:
        return tuple(hit.passage for hit in index.search(question, k=_OPEN_HITS, how=how))

    return search


def _versions(encoder: Any) -> dict[str, str]:
    versions = {"cellgap": version("cellgap")}
    return versions | ({"encoder": str(encoder.digest)} if hasattr(encoder, "digest") else {})

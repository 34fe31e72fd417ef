"""Questions answered from tables of effects and from passages, condition by condition."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from cellgap.ask._answer import Answers, Notice
from cellgap.ask._calls import CallRule
from cellgap.ask._conditions_asked import conditions_asked
from cellgap.ask._corpus import Corpus
from cellgap.ask._drug_notes import DrugNotes
from cellgap.ask._effect_table import EffectTable
from cellgap.ask._encoder import SentenceEncoder, find_encoder
from cellgap.ask._extract import extract
from cellgap.ask._index import Index
from cellgap.ask._passage import Passage, clean
from cellgap.ask._question import read_question
from cellgap.ask._reported import with_reported
from cellgap.ask._table_answers import answer_from_tables
from cellgap.ask.endpoint import Budget, ChatClient, ChatEndpoint, ReplyCache, generate
from cellgap.errors import ConditionError, ConfigError
from cellgap.study import Condition

MAX_QUESTION = 2_000
"""Most characters of a question."""

EXTRACTIVE = "extractive"


@dataclass(frozen=True, eq=False)
class Asker(AbstractContextManager["Asker"]):
    """Answers questions from passages and from tables of measured and predicted effects.

    What a table knows of the treatments that a question names is answered from its rows, with exact numbers, one answer
    a condition, and what the passages report under the same condition is quoted beside it. All other questions are
    answered from the passages. Nothing that a passage, a table or a model says is ever followed or run.

    Parameters
    ----------
    corpus
        Passages, or an index of them; None for none.
    tables
        Effect tables (``EffectTable.read``, ``EffectTable.of``), or one.
    answerer
        ``"extractive"``: answers from text are sentences of the passages, without any model. A ``ChatEndpoint``: they
        are written by a language model and checked; where that fails they are extractive, with a notice.
    rule
        When a row counts as an effect.
    notes
        Names and mechanisms of treatments.
    predict
        Called with conditions (at most 24) that a question binds and no table has a row of; returns their predicted
        effects as a table, such as ``lambda asked: cg.evaluate.effect_table(split, fitted, conditions=asked,
        measured=False)``. Where it raises a ConditionError, the answer says that there is no prediction.
    k_max
        Most answers from text. Answers from tables are one a condition, however many there are.
    n_passages
        Passages that are retrieved for a question.
    retriever
        ``"rrf"`` (both, fused by reciprocal rank), ``"bm25"`` or ``"dense"``.
    encoder
        Sentence encoder, or the folder of its weights; None finds the installed weights. Without any, passages are
        ranked by their words alone, and the answers say so.
    cache, offline, budget
        Of the endpoint: a file of replies; whether nothing but that file is asked; what may be spent in all.

    Raises
    ------
    ConfigError
        There is neither corpus nor table, or a setting is out of bounds.

    Examples
    --------
    >>> import pandas as pd
    >>> import cellgap as cg
    >>> rows = {"drug": "trametinib", "cell_line": "A549", "dose_nM": [10, 100], "readout": "DUSP6",
    ...         "effect": [-0.3, -1.8], "q": [0.4, 0.001], "n_cells": [310, 290]}
    >>> asker = cg.Asker(tables=cg.ask.EffectTable.of(pd.DataFrame(rows)))
    >>> [answer.verdict["DUSP6"] for answer in asker.ask("What does trametinib do to DUSP6?")]
    ['lowers']
    """

    corpus: Corpus | Index | None = None
    tables: Sequence[EffectTable] | EffectTable = ()
    answerer: str | ChatEndpoint = EXTRACTIVE
    rule: CallRule = field(default_factory=CallRule)
    notes: DrugNotes | None = None
    predict: Callable[[Sequence[Condition]], pd.DataFrame | EffectTable] | None = None
    k_max: int = 3
    n_passages: int = 20
    retriever: str = "rrf"
    encoder: SentenceEncoder | str | Path | None = None
    cache: str | Path | ReplyCache | None = None
    offline: bool = False
    budget: Budget | None = None

    def __post_init__(self) -> None:
        tables = (self.tables,) if isinstance(self.tables, EffectTable) else tuple(self.tables)
        object.__setattr__(self, "tables", tables)
        if self.corpus is None and not tables:
            raise ConfigError("Asker needs something to answer from: a corpus, or tables of effects.")
        if isinstance(self.answerer, str) and self.answerer != EXTRACTIVE:
            raise ConfigError(f'answerer must be "extractive" or a ChatEndpoint, found {self.answerer!r}.')
        if self.retriever not in ("rrf", "bm25", "dense"):
            raise ConfigError(f'retriever must be "rrf", "bm25" or "dense", found {self.retriever!r}.')
        for name in ("k_max", "n_passages"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}.")

    def ask(self, question: str, *, conditions: Sequence[str] | None = None) -> Answers:
        """Return one answer a condition, or none with the reason.

        Parameters
        ----------
        question
            As a person would ask it. What it binds (a cell line, a dose, a time, a readout) narrows the answers.
        conditions
            Readings to answer under, as sentences, for answers from text; None finds them.

        Raises
        ------
        ConfigError
            The question is empty or longer than 2,000 characters.
        EndpointError
            The server cannot be used at all: a wrong address, key or model.
        """
        shown = clean(question)
        if not shown or len(shown) > MAX_QUESTION:
            raise ConfigError(f"A question has 1 to {MAX_QUESTION:,} characters, found {len(shown):,}.")
        passages, notices = self._retrieved(shown)
        tables = self._tables
        found = None
        if tables and conditions is None:
            tables, said = self._predicted(shown, tables)
            notices = (*notices, *said)
            found = answer_from_tables(shown, tables, self.rule, notes=self.notes)
        if found is None:
            if not passages:
                return self._nothing(shown, notices)
            answered = self._from_text(shown, passages, conditions)
            return replace(answered, degraded=(*notices, *answered.degraded))
        found, left = with_reported(found, passages, tables)
        tested = any(verdict != "not_tested" for answer in found for verdict in answer.verdict.values())
        if not tested:
            found = self._joined(found, passages)
        elif left and not _narrowed(found):
            found = self._joined(found, [passages[i] for i in left])
        return replace(found, degraded=(*notices, *found.degraded))

    def evidence(self, identifier: str) -> Passage | Mapping[str, Any] | None:
        """Return the passage, or the values of the row, that a citation names; None where it is of no corpus or table.

        Rows that were predicted for a question are not kept: their citation holds their values in words.

        Parameters
        ----------
        identifier
            ``Citation.source_id``.
        """
        place = self._places.get(identifier)
        if place is None:
            return None
        if isinstance(place, Passage):
            return place
        number, row = place
        return self._tables[number].values(row)

    def describe(self) -> dict[str, Any]:
        """Return what it answers from, in plain values."""
        treatments = [name for table in self._tables for name in table.codes("treatment")[1]]
        return {
            "passages": 0 if self.corpus is None else len(self.corpus),
            "retriever": self.retriever,
            "encoder": self.encoder_name,
            "tables": [
                {
                    "name": t.name,
                    "rows": len(t.frame),
                    "treatments": len(t.codes("treatment")[1]),
                    "file": t.source_file,
                }
                for t in self._tables
            ],
            "answerer": self.answerer if isinstance(self.answerer, str) else self.answerer.model,
            "rule": self.rule.words,
            "examples": [f"What does {name} do?" for name in dict.fromkeys(treatments)][:3],
        }

    @property
    def encoder_name(self) -> str | None:
        """Name of the sentence encoder, None where passages are ranked by their words alone."""
        found = self.corpus.encoder if isinstance(self.corpus, Index) else self._encoder
        return None if found is None else found.name

    def close(self) -> None:
        """Close the connections of the endpoint."""
        if "_client" in self.__dict__:
            self._client.close()
            object.__delattr__(self, "_client")

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _tables(self) -> tuple[EffectTable, ...]:
        assert isinstance(self.tables, tuple)
        return self.tables

    @cached_property
    def _places(self) -> Mapping[str, Passage | tuple[int, int]]:
        """Where every identifier leads."""
        passages = () if self.corpus is None else self.corpus.passages
        rows = {
            str(identifier): (number, row)
            for number, table in enumerate(self._tables)
            for row, identifier in enumerate(table.frame["row_id"])
        }
        return rows | {passage.id: passage for passage in passages}

    @cached_property
    def _encoder(self) -> SentenceEncoder | None:
        if isinstance(self.encoder, SentenceEncoder):
            return self.encoder
        found = find_encoder(self.encoder)
        if found is None and self.encoder is not None:
            raise ConfigError(f"{self.encoder} holds no weights of the sentence encoder.")
        return found

    @cached_property
    def _index(self) -> Index | None:
        if self.corpus is None or isinstance(self.corpus, Index):
            return self.corpus
        # A search by words alone does not pay for vectors.
        return Index.build(self.corpus, None if self.retriever == "bm25" else self._encoder)

    @cached_property
    def _client(self) -> ChatClient:
        assert isinstance(self.answerer, ChatEndpoint)
        return self.answerer.client(cache=self.cache, offline=self.offline, budget=self.budget)

    def _predicted(
        self, question: str, tables: tuple[EffectTable, ...]
    ) -> tuple[tuple[EffectTable, ...], tuple[Notice, ...]]:
        """Return the tables with predictions of what a question binds and no table has, and why there is none."""
        if self.predict is None:
            return tables, ()
        synonyms = self.notes.lexicon(tables) if self.notes else None
        asked = conditions_asked(read_question(question, tables, synonyms), tables)
        if not asked:
            return tables, ()
        try:
            made = self.predict(asked)
        except ConditionError as error:
            return tables, (Notice("not_predicted", f"There is no prediction for what was asked: {error}"),)
        if not isinstance(made, EffectTable):
            made = EffectTable.of(made, name="predicted for this question")
        return (*tables, made), ()

    def _retrieved(self, question: str) -> tuple[list[Passage], tuple[Notice, ...]]:
        """Return the passages nearest to a question, best first, and what was done in a lesser way."""
        index = self._index
        if index is None:
            return [], ()
        hits = index.search(question, k=self.n_passages, how=self.retriever)
        return [hit.passage for hit in hits], index.degraded if self.retriever != "bm25" else ()

    def _from_text(self, question: str, passages: Sequence[Passage], conditions: Sequence[str] | None) -> Answers:
        if isinstance(self.answerer, str):
            return extract(question, passages, self._encoder, k_max=self.k_max, conditions=conditions)
        protocol = "conditions" if conditions is None else "given"
        return generate(
            question,
            passages,
            self._client,
            protocol=protocol,
            k_max=self.k_max,
            conditions=conditions,
            encoder=self._encoder,
        )

    def _joined(self, found: Answers, passages: Sequence[Passage]) -> Answers:
        """Return answers from tables, and after them those that only passages give."""
        if not passages:
            return found
        text = self._from_text(found.question, passages, None)
        trace = {**found.trace, "text": dict(text.trace)}
        if not text.answers:
            return replace(found, trace=trace, usage=found.usage + text.usage)
        return replace(
            found,
            answers=(*found.answers, *text.answers),
            abstained=None,
            degraded=(*found.degraded, *text.degraded),
            usage=found.usage + text.usage,
            trace=trace,
        )

    def _nothing(self, question: str, notices: tuple[Notice, ...]) -> Answers:
        if self.corpus is None:
            names = list(dict.fromkeys(name for table in self._tables for name in table.codes("treatment")[1]))
            some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            why = Notice("unknown_treatment", f"The question names no treatment of the tables, which hold {some}.")
        else:
            why = Notice("no_evidence", "No passage has anything to do with the question.")
        return Answers(question, (), abstained=why, degraded=notices)


def _narrowed(found: Answers) -> bool:
    """Return whether a question binds a condition: what passages say of others is then not asked."""
    return bool(set(found.trace.get("bound", ())) - {"treatment", "readout"})

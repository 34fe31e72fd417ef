"""Answers with their conditions and their sources: from text, and from tables of measured and predicted effects.

``Asker`` answers questions; ``EffectTable``, ``Corpus`` and ``Index`` are what it answers from; ``ChatEndpoint`` lets a
language model write what passages say. ``cellgap.ask.bench`` scores answers as CondAmbigQA does, and better.
"""

from cellgap.ask import bench
from cellgap.ask._answer import VERDICTS, Answer, Answers, Citation, Notice, Usage
from cellgap.ask._asker import Asker
from cellgap.ask._bm25 import BM25
from cellgap.ask._calls import CallRule
from cellgap.ask._corpus import Corpus
from cellgap.ask._drug_notes import DrugNotes
from cellgap.ask._effect_table import EffectTable
from cellgap.ask._encoder import SentenceEncoder, find_encoder
from cellgap.ask._extract import extract
from cellgap.ask._fuse import reciprocal_rank
from cellgap.ask._index import Hit, Index
from cellgap.ask._passage import Passage, clean, gives_orders
from cellgap.ask._rows_in_text import rows_in_text
from cellgap.ask._table_answers import answer_from_tables
from cellgap.ask.endpoint import Budget, ChatClient, ChatEndpoint, ReplyCache, generate

__all__ = [
    "BM25",
    "VERDICTS",
    "Answer",
    "Answers",
    "Asker",
    "Budget",
    "CallRule",
    "ChatClient",
    "ChatEndpoint",
    "Citation",
    "Corpus",
    "DrugNotes",
    "EffectTable",
    "Hit",
    "Index",
    "Notice",
    "Passage",
    "ReplyCache",
    "SentenceEncoder",
    "Usage",
    "answer_from_tables",
    "bench",
    "clean",
    "extract",
    "find_encoder",
    "generate",
    "gives_orders",
    "reciprocal_rank",
    "rows_in_text",
]

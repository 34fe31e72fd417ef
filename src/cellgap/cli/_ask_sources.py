"""What `cellgap ask` answers from, as options that its commands share."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from cellgap.cli._say import note
from cellgap.errors import ConfigError

if TYPE_CHECKING:
    from cellgap.ask import Asker, Budget, ChatEndpoint, EffectTable
    from cellgap.cli._run_folder import Run

MANY = 500
"""Passages whose encoding takes so long that it is shown."""

Many = Annotated[tuple[Path, ...], Parameter(negative="")]


@dataclass(frozen=True)
class Sources:
    """Where answers come from.

    Parameters
    ----------
    run
        Folder of a finished run of `cellgap fit`: its measured and predicted effects; may be given several times.
    table
        Effect table of your own (.csv, .tsv, .parquet, .jsonl); may be given several times.
    corpus
        Passages (.jsonl, .json, .csv, .txt, .md, folders), or the folder of an index; may be given several times.
    notes
        Table about treatments: name, synonyms, targets, mechanism.
    gene_sets
        GMT file whose sets become readouts of a run.
    data
        Where the run's data are now, if they were moved.
    k
        Most answers from text; answers from tables are one a condition, however many.
    passages
        Passages that are looked at for a question.
    min_effect
        An effect counts from this size on, in standard deviations of controls.
    max_q
        ... up to this false discovery rate.
    min_cells
        ... from at least this many cells.
    encoder
        Folder with the weights of the sentence encoder, if they are not installed.
    """

    run: Many = ()
    table: Many = ()
    corpus: Many = ()
    notes: Path | None = None
    gene_sets: Path | None = None
    data: Path | None = None
    k: Annotated[int, Parameter(validator=Number(gte=1))] = 3
    passages: Annotated[int, Parameter(validator=Number(gte=1))] = 20
    min_effect: float = 1.0
    max_q: float = 0.05
    min_cells: int = 20
    encoder: Path | None = None

    @contextlib.contextmanager
    def asker(self, endpoint: "Endpoint", *, quiet: bool) -> Iterator["Asker"]:
        """Yield what answers questions from these sources.

        Raises
        ------
        ConfigError
            There is no source, or options contradict each other.
        """
        if not (self.run or self.table or self.corpus):
            raise ConfigError(
                "There is nothing to answer from: give the folder of a run (--run), an effect table (--table) or "
                "passages (--corpus)."
            )
        from cellgap.ask import Asker, CallRule, Corpus, DrugNotes, Index, find_encoder
        from cellgap.cli._ask_effects import predicting
        from cellgap.cli._run_folder import Run

        rule = CallRule(min_effect=self.min_effect, max_q=self.max_q, min_cells=self.min_cells)
        chat = endpoint.settings()
        folders = [path for path in self.corpus if (path / "index.json").exists()]
        if folders and len(self.corpus) > 1:
            raise ConfigError(f"{folders[0]} is an index: give it alone as --corpus, or give the files it was made of.")
        weights = find_encoder(self.encoder)
        if self.encoder is not None and weights is None:
            raise ConfigError(f"--encoder {self.encoder} holds no weights of the sentence encoder.")
        runs = tuple(Run.open(folder, self.data) for folder in self.run)
        corpus = None
        if folders:
            corpus = Index.open(folders[0], weights)
        elif self.corpus:
            read = Corpus.read(*self.corpus)
            if len(read) > MANY and weights is not None and not quiet:
                note(f"{len(read):,} passages are encoded for this question: `cellgap ask index` does it once for all.")
            corpus = Index.build(read, weights, progress=len(read) > MANY and not quiet)
        asker = Asker(
            corpus=corpus,
            tables=self._tables(runs, quiet),
            predict=predicting(runs[0], self.gene_sets) if len(runs) == 1 else None,
            answerer="extractive" if chat is None else chat,
            rule=rule,
            notes=None if self.notes is None else DrugNotes.read(self.notes),
            k_max=self.k,
            n_passages=self.passages,
            encoder=weights,
            cache=endpoint.cache,
            offline=endpoint.offline,
            budget=endpoint.budget(),
        )
        with asker:
            yield asker

    def _tables(self, runs: "tuple[Run, ...]", quiet: bool) -> "tuple[EffectTable, ...]":
        from cellgap.ask import EffectTable
        from cellgap.cli._ask_effects import effects_of

        if self.gene_sets is not None and not runs:
            raise ConfigError("--gene-sets adds readouts to a run: give --run too, or leave it out.")
        made = [effects_of(run, gene_sets=self.gene_sets, quiet=quiet) for run in runs]
        return tuple(EffectTable.read(path) for path in (*made, *self.table))


@dataclass(frozen=True)
class Endpoint:
    """A language model to answer from the passages with; without one they are quoted.

    Parameters
    ----------
    endpoint
        Address of an OpenAI-compatible server, such as http://localhost:11434/v1.
    model
        Name of the model there.
    key_env
        Environment variable that holds the key of the server.
    timeout
        Seconds that a question may take, all attempts together.
    cache
        File in which replies are kept, so that the same question is asked once.
    offline
        Answer from the cache only.
    max_requests
        Most requests; checked before each one, as are the next two.
    max_tokens
        Most tokens.
    max_cost
        Most cost, in the currency of --price.
    price
        Of a million prompt tokens and of a million completion tokens, in your currency: --price 0.15 0.6.
    """

    endpoint: str | None = None
    model: str | None = None
    key_env: str = "OPENAI_API_KEY"
    timeout: Annotated[float, Parameter(validator=Number(gt=0))] = 120.0
    cache: Path | None = None
    offline: Annotated[bool, Parameter(negative="")] = False
    max_requests: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    price: Annotated[tuple[float, float] | None, Parameter(negative="")] = None

    def settings(self) -> "ChatEndpoint | None":
        """Return the endpoint, or None where none is asked for.

        Raises
        ------
        ConfigError
            One of address and model is missing.
        """
        if self.endpoint is None and self.model is None:
            given = {"--cache": self.cache, "--max-requests": self.max_requests, "--max-cost": self.max_cost}
            for name, value in given.items():
                if value is not None:
                    raise ConfigError(f"{name} belongs to a language model: give --endpoint and --model too.")
            return None
        if self.endpoint is None or self.model is None:
            missing = "--endpoint" if self.endpoint is None else "--model"
            raise ConfigError(f"A language model needs --endpoint and --model: {missing} is missing.")
        from cellgap.ask import ChatEndpoint

        prices = None if self.price is None else {"prompt": self.price[0], "completion": self.price[1]}
        return ChatEndpoint(self.endpoint, self.model, key_env=self.key_env, timeout_s=self.timeout, prices=prices)

    def budget(self) -> "Budget | None":
        """Return what may be spent, or None where there is no limit."""
        if self.max_requests is None and self.max_tokens is None and self.max_cost is None:
            return None
        from cellgap.ask import Budget

        return Budget(requests=self.max_requests, tokens=self.max_tokens, cost=self.max_cost)

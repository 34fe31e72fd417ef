"""``cellgap ask bench``: a system's answers to the questions of a file, scored, beside what chance gets."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from cellgap.cli._ask_sources import Endpoint
from cellgap.cli._say import note, show
from cellgap.errors import ConfigError

if TYPE_CHECKING:
    from cellgap.ask.bench import BenchResult, Record, System
    from cellgap.gap import Gap

Flag = Annotated[bool, Parameter(negative="")]
Protocol = Literal["closed", "rag", "conditions", "given", "open"]


def bench(
    file: Path,
    /,
    *,
    protocol: Protocol = "conditions",
    system: str | None = None,
    answers: Path | None = None,
    judge: Literal["det-1", "lex-1", "model"] = "det-1",
    pairing: Literal["det-1", "judge"] | None = None,
    k: Annotated[int, Parameter(validator=Number(gte=0))] = 3,
    split: Literal["dev", "test"] | None = None,
    out: Path | None = None,
    compat: Literal["v1", "v2"] | None = None,
    gaps: Flag = False,
    workers: Annotated[int, Parameter(validator=Number(gte=1))] = 1,
    encoder: Path | None = None,
    report: Path | None = None,
    quiet: Flag = False,
    endpoint: Annotated[Endpoint | None, Parameter(name="*")] = None,
) -> int:
    """Score answers on a benchmark file in the layout of CondAmbigQA; a run that was stopped is continued.

    Parameters
    ----------
    file
        JSON array or JSON lines, also .gz.
    protocol
        What the system is shown: the question (closed), passages too (rag, conditions), also the gold conditions
        (given), or a corpus that it searches by itself (open).
    system
        extractive, structured (effect tables of the records), endpoint, or a floor: random, first, blind, top3, gold,
        shuffled. By default the endpoint where one is given, else extractive.
    answers
        Score answers that are stored in a file instead, JSON array or JSON lines, also .gz: id, and answers with
        condition, answer and citations. A record without a line counts as failed.
    judge
        det-1 (deterministic, needs the sentence encoder), lex-1 (by words alone), or model: the endpoint scores too.
    pairing
        With --judge model: judge the pairs of det-1 (the default), or all outputs against all golds (with --compat).
    k
        Most answers to a question; 0 for as many as there are.
    split
        One half of the records, by the hash of their names: dev to choose by, test to report.
    out
        Folder to keep the run in, so that it can be continued.
    compat
        Print the scores as that revision of the benchmark's paper computes them, too; needs --judge model.
    gaps
        Also ask for one undivided answer, and with the gold conditions, and print how much conditions are worth.
    workers
        Questions that are asked at a time.
    encoder
        Folder with the weights of the sentence encoder, if they are not installed.
    report
        Write a page, one HTML file.
    quiet
        Say nothing but results and errors.
    """
    from cellgap.ask import ChatClient, find_encoder
    from cellgap.ask.bench import LLMJudge, ambiguity_gap, load, remaining_gap, run, stored

    chosen = endpoint or Endpoint()
    chat = chosen.settings()
    name = system or ("extractive" if chat is None or answers is not None else "endpoint")
    if answers is not None and system is not None:
        raise ConfigError("--answers are scored instead of a system: leave --answers or --system out.")
    if chat is None and (name == "endpoint" or judge == "model"):
        raise ConfigError("A language model answers or judges only where one is given: add --endpoint and --model.")
    if chat is not None and name != "endpoint" and judge != "model":
        raise ConfigError("Nothing asks the language model: leave --endpoint out, or add --judge model.")
    if compat is not None and judge != "model":
        raise ConfigError("--compat scores as the paper does, with a language model: add --judge model.")
    if compat is not None and pairing == "det-1":
        raise ConfigError("--compat judges all outputs against all golds: leave --pairing det-1 out.")
    if compat is not None and protocol == "open":
        raise ConfigError("--compat scores a protocol of the paper, found --protocol open: leave one of them out.")
    if pairing == "judge" and judge != "model":
        raise ConfigError("--pairing judge lets a language model pair: add --judge model.")
    if gaps and protocol != "conditions":
        raise ConfigError(f"--gaps compares with --protocol conditions, found {protocol}: leave one of them out.")
    if gaps and answers is not None:
        raise ConfigError(
            "--gaps asks again under other protocols, which stored answers cannot: leave one of them out."
        )
    if report is not None and report.suffix not in (".html", ".htm"):
        raise ConfigError(f"--report must name an .html file, found {str(report)!r}.")
    records = load(file, split=split)
    if not records:
        raise ConfigError(f"{file} has no record in --split {split}.")
    replay: System | None = None
    if answers is not None:
        # Those of the other half of the file are known, and not scored.
        known = records if split is None else load(file)
        replay = stored(answers, protocol=protocol, k_max=k or None, records=known)
        name = replay.name
    weights = find_encoder(encoder)
    if encoder is not None and weights is None:
        raise ConfigError(f"--encoder {encoder} holds no weights of the sentence encoder.")
    client: ChatClient | None = None
    if chat is not None:
        client = chat.client(cache=chosen.cache, offline=chosen.offline, budget=chosen.budget())

    def result_of(asked: str, most: int | None, folder: Path | None, published: str | None = None) -> "BenchResult":
        from cellgap.train import progress_bar

        with progress_bar(f"{name}, {asked}", len(records), 0, shown=not quiet) as shown:
            return run(
                records,
                replay or name,
                protocol=asked,
                folder=folder,
                judge=LLMJudge(client) if judge == "model" else judge,
                pairing=pairing or ("det-1" if compat is None else "judge"),
                compat=published,
                k_max=most,
                encoder=weights,
                client=client,
                workers=workers,
                progress=lambda done, total: shown(done, {}, 0.0),
            )

    try:
        most = k or None
        found = [result_of(protocol, most, out, compat)]
        measured: list[Gap] = []
        if gaps:
            if not quiet:
                note("the same with one undivided answer (rag), and with the gold conditions (given)")
            found.append(result_of("rag", 1, None if out is None else out.with_name(f"{out.name}-rag")))
            found.append(result_of("given", most, None if out is None else out.with_name(f"{out.name}-given")))
            measured = [ambiguity_gap(found[0], found[1]), remaining_gap(found[2], found[0])]
    finally:
        if client is not None:
            client.close()
    show(str(found[0]), *map(str, measured))
    if out is not None:
        show(f"run: {out}")
    if report is not None:
        _page(found, report, records, measured)
        show(f"page: {report}")
    return 0


def _page(found: "Sequence[BenchResult]", path: Path, records: "Sequence[Record]", gaps: "Sequence[Gap]") -> None:
    from cellgap.report import write_bench_report

    rescored = found[0].rescored
    notes = () if rescored is None else (rescored.sentence(),)
    write_bench_report(found, path, records=records, gaps=gaps, notes=notes)

"""A run of the benchmark: one line a record as it comes, so that a run that was killed goes on where it stopped."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from cellgap.ask._answer import Answers, Notice, Usage
from cellgap.ask.bench._det1 import Encoder, RecordScores, Scorer, scorer
from cellgap.ask.bench._journal import Journal, replace
from cellgap.ask.bench._judge import KINDS, Judge, as_judge
from cellgap.ask.bench._judging import Judged, Panel
from cellgap.ask.bench._predictions import Prediction, predictions_of
from cellgap.ask.bench._published_run import check_compat, published_run
from cellgap.ask.bench._records import Record
from cellgap.ask.bench._result import BenchResult, RecordResult, frame_of, save_text
from cellgap.ask.bench._systems import PROTOCOLS, System, floor_predictions, named_system
from cellgap.ask.endpoint._budget import BudgetSpent
from cellgap.errors import CellgapError, ConfigError, MissingExtraError, OfflineMiss, StorageError

_FORMAT = 1
_BUDGET = "budget"
PAIRINGS = ("det-1", "lex-1", "judge")


def run(
    records: Sequence[Record],
    system: str | System | Callable[[Record], Any] = "extractive",
    *,
    protocol: str = "conditions",
    folder: str | Path | None = None,
    judge: Any = "det-1",
    pairing: str = "det-1",
    compat: str | None = None,
    k_max: int | None = 3,
    encoder: Encoder | None = None,
    client: Any = None,
    workers: int = 1,
    retry_failed: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> BenchResult:
    """Return how well a system answers records.

    Parameters
    ----------
    records
        Of ``load``.
    system
        A name (see ``named_system``), a ``System``, or any function of a record that returns ``Answers`` or
        predictions.
    protocol
        What the system sees and returns: ``"closed"``, ``"rag"``, ``"conditions"``, ``"given"`` or ``"open"``.
    folder
        Where the run is kept, one line a record: a run that was interrupted goes on there, and asks nothing again.
        None keeps nothing.
    judge
        ``"det-1"``, ``"lex-1"`` (without the weights of the encoder), an ``LLMJudge``, or a function (question, got,
        expected) -> score in [0, 1].
    pairing
        What a judge that reads is asked for: the pairs of ``"det-1"`` (or ``"lex-1"``), or with ``"judge"`` all outputs
        against all golds as the benchmark's paper does.
    compat
        ``"v1"`` or ``"v2"``: also the scores of that revision of the benchmark's paper (``published``). Needs a judge
        that reads and ``pairing="judge"``; for v1 it judges outputs beyond the gold list against an empty reference.
    k_max
        Most answers of a question, further ones are left out; None takes as many as there are. ``given`` has one for
        each gold condition.
    encoder
        None looks for the installed weights.
    client
        Of an endpoint, for the system ``"endpoint"``.
    workers
        Records that are asked at a time; the order of the results does not depend on it.
    retry_failed
        Whether records that failed in an earlier, interrupted run are asked again.
    progress
        Called with the number of records done and their total.

    Raises
    ------
    ConfigError
        A wrong argument, found before the first question.
    StorageError
        The folder holds another run, or is damaged.
    MissingExtraError
        A judge or a system needs what is not installed.
    OfflineMiss
        A system is offline and has no reply for a record; what was answered before is kept.
    """
    records = tuple(records)
    _check(records, protocol, k_max, workers, pairing)
    check_compat(compat, protocol, judge, pairing)
    base, reader = _judges(judge, pairing, encoder)
    if isinstance(system, str):
        system = named_system(
            system, protocol=protocol, k_max=k_max, encoder=encoder or base.encoder, records=records, client=client
        )
    elif not isinstance(system, System):
        system = System(_name(system), protocol, k_max, system)
    if (system.protocol, system.k_max) != (protocol, k_max):
        raise ConfigError(
            f"The system {system.name!r} was made for {system.protocol!r} with k_max={system.k_max}, the run is "
            f"{protocol!r} with k_max={k_max}."
        )
    if system.check is not None:
        system.check(records)
    folder = None if folder is None else Path(folder)
    digest = _digest([record.to_dict() for record in records])
    _claim(folder, system, digest, records)
    answers = Journal(None if folder is None else folder / "answers.jsonl")
    costs = Journal(None if folder is None else folder / "usage.jsonl")
    if retry_failed:
        answers.forget({key for key, line in answers.lines.items() if line["status"] == "failed"})
    stopped = _answer(records, system, answers, costs, workers, progress)
    results = tuple(_result_of(answers.lines[r.id]) for r in records if r.id in answers.lines)
    by_id = {record.id: record for record in records}
    items = [(by_id[result.id], result.predictions) for result in results]
    floors = [(record, floor_predictions("random", record, protocol=protocol)) for record, _ in items]
    scored = base.score_all([*items, *floors])
    scores, floor = scored[: len(items)], scored[len(items) :]
    judged = None if reader is None else _judge_all(reader, folder, items, scores, protocol, pairing, compat)
    frame = frame_of(scores, protocol)
    for k, values in enumerate(judged.values if judged else ()):
        for name, value in values.items():
            frame.loc[results[k].id, name] = value
    published = None
    if compat is not None and judged is not None and reader is not None:
        published = published_run(items, judged.scores, compat=compat, protocol=protocol, judge=reader.name)
    result = BenchResult(
        system=system.name,
        versions=system.versions,
        protocol=protocol,
        k_max=k_max,
        judge=reader.name if reader else base.name,
        judge_versions=_judge_versions(base, reader, pairing),
        dataset=", ".join(dict.fromkeys(record.dataset or "records in memory" for record in records)),
        digest=digest,
        n_records=len(records),
        results=results,
        scores=frame,
        floor=frame_of(floor, protocol),
        controls=judged.controls if judged else (),
        judged=judged.counts if judged else {},
        judge_scores={r.id: s for r, s in zip(results, judged.scores, strict=True)} if judged and judged.scores else {},
        rescored=published,
        pairs={r.id: p for r, p in zip(results, judged.pairs if judged else [s.pairs for s in scores], strict=True)},
        usage=_total(costs, {result.id for result in results}),
        stopped=stopped,
    )
    if folder is not None:
        replace(folder / "result.json", save_text(result))
    return result


def _answer(
    records: Sequence[Record],
    system: System,
    answers: Journal,
    costs: Journal,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> str:
    """Ask for the records that are not in the journal; return why it ended early, or an empty text."""
    todo = [record for record in records if record.id not in answers.lines]
    done = len(records) - len(todo)
    for record, said in _asked(todo, system, workers):
        if isinstance(said, Exception):
            kind, message = type(said).__name__, str(said)
            line: dict[str, Any] = {"status": "failed", "predictions": [], "notice": [kind, message], "degraded": []}
        elif isinstance(said, Notice):
            line = {"status": "failed", "predictions": [], "notice": [said.code, said.text], "degraded": []}
        elif isinstance(said, Answers) and _out_of_budget(said):
            return f"the budget is spent, {done} of {len(records)} records are answered"
        else:
            predictions = predictions_of(said, record)
            if system.bounded and system.protocol != "given":
                predictions = predictions[: system.k_max]
            if system.protocol in ("rag", "closed"):
                predictions = tuple(Prediction("", p.answer, p.fragments) for p in predictions)
            line = {
                "status": "answered" if predictions else "abstained",
                "predictions": [prediction.to_dict() for prediction in predictions],
                "notice": None,
                "degraded": [],
            }
            if isinstance(said, Answers):
                if not predictions and said.abstained:
                    line["notice"] = [said.abstained.code, said.abstained.text]
                line["degraded"] = [[notice.code, notice.text] for notice in said.degraded]
                if said.usage != Usage():
                    # Apart from the answers: what a question cost differs between two runs, what was answered not.
                    costs.lines.pop(record.id, None)
                    costs.append({"id": record.id} | vars(said.usage))
        answers.append({"id": record.id} | line)
        done += 1
        if progress is not None:
            progress(done, len(records))
    return ""


def _asked(records: Sequence[Record], system: System, workers: int) -> Iterator[tuple[Record, Any]]:
    """Yield what the system says of records, in their order."""
    if workers == 1:
        for record in records:
            yield record, _one(system, record)
        return
    todo = iter(records)
    with ThreadPoolExecutor(workers) as pool:
        # No more than are at work: what comes after the last one that is wanted is not asked.
        waiting = [(record, pool.submit(_one, system, record)) for record in islice(todo, workers)]
        try:
            while waiting:
                record, future = waiting.pop(0)
                yield record, future.result()
                waiting += [(record, pool.submit(_one, system, record)) for record in islice(todo, 1)]
        finally:
            for _, future in waiting:
                future.cancel()


def _one(system: System, record: Record) -> Any:
    try:
        return system.answer(record)
    except BudgetSpent as error:
        return Answers(record.question, (), abstained=Notice(_BUDGET, str(error)))
    except (ConfigError, MissingExtraError, OfflineMiss):
        # No other record would fare better.
        raise
    except CellgapError as error:
        return error


def _out_of_budget(said: Answers) -> bool:
    notices = (*said.degraded, said.abstained) if said.abstained else said.degraded
    return any(notice.code == _BUDGET for notice in notices)


def _judges(judge: Any, pairing: str, encoder: Encoder | None) -> tuple[Scorer, Judge | None]:
    if isinstance(judge, str):
        return scorer(judge, encoder if judge == "det-1" else None), None
    reader = as_judge(judge)
    name = "lex-1" if pairing == "lex-1" else "det-1"
    return scorer(name, encoder if name == "det-1" else None), reader


def _judge_all(
    reader: Judge,
    folder: Path | None,
    items: list[tuple[Record, tuple[Prediction, ...]]],
    scores: Sequence[RecordScores],
    protocol: str,
    pairing: str,
    compat: str | None,
) -> Judged:
    path = None if folder is None else folder / f"judged-{_digest(dict(reader.versions))}.jsonl"
    kinds = KINDS if protocol in ("conditions", "open") else ("answer",)
    return Panel(reader, Journal(path)).run(items, scores, kinds, pairing, surplus=compat == "v1")


def _judge_versions(base: Scorer, reader: Judge | None, pairing: str) -> dict[str, str]:
    versions = {"judge": base.name} if reader is None else dict(reader.versions) | {"pairing": pairing}
    versions |= {"beside": base.name}
    known = getattr(base.encoder, "digest", None)
    return versions | ({"encoder": str(known)} if known else {})


def _claim(folder: Path | None, system: System, digest: str, records: Sequence[Record]) -> None:
    """Write what the run is into a new folder, or check that the folder is of this run."""
    if folder is None:
        return
    wanted = {
        "format": _FORMAT,
        "system": system.name,
        "versions": dict(system.versions),
        "protocol": system.protocol,
        "k_max": system.k_max,
        "records": digest,
        "n_records": len(records),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.json"
    if not path.exists():
        if (folder / "answers.jsonl").exists():
            raise StorageError(f"{folder} has answers but no run.json that says of what: give another folder.")
        replace(path, json.dumps(wanted, ensure_ascii=False, indent=1) + "\n")
        return
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        raise StorageError(f"{path} is damaged: give another folder.") from None
    if found != json.loads(json.dumps(wanted)):
        other = found if isinstance(found, dict) else {}
        differ = [name for name in wanted if other.get(name) != wanted[name]]
        shown = ", ".join(f"{name} {other.get(name)!r} there, {wanted[name]!r} here" for name in differ)
        raise StorageError(f"{folder} holds another run ({shown}): give another folder.")


def _check(records: Sequence[Record], protocol: str, k_max: int | None, workers: int, pairing: str) -> None:
    if not records:
        raise ConfigError("A run needs at least one record, found none.")
    if len({record.id for record in records}) < len(records):
        raise ConfigError("The records of a run have different ids, found one twice.")
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol is one of {', '.join(map(repr, PROTOCOLS))}, found {protocol!r}.")
    if pairing not in PAIRINGS:
        raise ConfigError(f"pairing is one of {', '.join(map(repr, PAIRINGS))}, found {pairing!r}.")
    if k_max is not None and k_max < 1:
        raise ConfigError(f"k_max is at least 1 or None, found {k_max}.")
    if workers < 1:
        raise ConfigError(f"workers is at least 1, found {workers}.")


def _result_of(line: Any) -> RecordResult:
    predictions = tuple(Prediction(p["condition"], p["answer"], tuple(p["fragments"])) for p in line["predictions"])
    notice = None if line["notice"] is None else Notice(*line["notice"])
    return RecordResult(line["id"], line["status"], predictions, notice, tuple(Notice(*d) for d in line["degraded"]))


def _total(costs: Journal, ids: set[str]) -> Usage:
    total = Usage()
    for key, line in costs.lines.items():
        if key in ids:
            total += Usage(**{name: value for name, value in line.items() if name != "id"})
    return total


def _name(function: Any) -> str:
    return str(getattr(function, "name", getattr(function, "__qualname__", type(function).__name__)))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]

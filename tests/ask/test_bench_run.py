import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cellgap.ask._answer import Answer, Answers, Citation, Notice, Usage
from cellgap.ask._passage import Passage
from cellgap.ask.bench import (
    Gold,
    Prediction,
    Record,
    System,
    ambiguity_gap,
    compare,
    floor_predictions,
    load,
    named_system,
    predictions_of,
    remaining_gap,
    run,
    save,
)
from cellgap.errors import ConfigError, DataError, EndpointError, OfflineMiss, StorageError

PASSAGES = tuple(Passage(f"Title {i}", f"Sentence {i} is first. It has number {i}. A third one.") for i in range(1, 6))


def records(n: int = 8) -> tuple[Record, ...]:
    golds = [(Gold("case one", "value one", (1,)), Gold(f"case two {i}", f"value two {i}", (2, 3))) for i in range(n)]
    return tuple(Record(f"r{i}", f"Question {i}?", golds[i], PASSAGES) for i in range(n))


def nearly(record: Record) -> list[Prediction]:
    """Answer right, with 0.1 + 0.2 in the text, but for every third record nothing."""
    number = int(record.id[1:])
    return [] if number % 3 == 2 else [Prediction("case one", f"value one {0.1 + 0.2}", (1, number % 5 + 1))]


class Counted:
    """A system that counts what it is asked, and gives up after so many."""

    def __init__(self, most: int = 10**9) -> None:
        self.most = most
        self.asked: list[str] = []

    name = "counted"

    def __call__(self, record: Record) -> list[Prediction]:
        if len(self.asked) == self.most:
            raise OfflineMiss("as if killed")
        self.asked.append(record.id)
        return nearly(record)


def lex(asked=None, system=nearly, **kwargs):
    return run(asked or records(), system, judge="lex-1", **kwargs)


def test_a_run_goes_on_where_it_stopped_and_is_the_same_to_the_byte(tmp_path):
    whole = lex(system=Counted(), folder=tmp_path / "whole")
    wanted = (tmp_path / "whole" / "answers.jsonl").read_bytes()
    for stop in range(8):
        folder = tmp_path / str(stop)
        first, second = Counted(stop), Counted()
        with pytest.raises(OfflineMiss):
            lex(system=first, folder=folder)
        # As a kill leaves it: the line that was being written is there in part.
        with (folder / "answers.jsonl").open("ab") as file:
            file.write(wanted.split(b"\n")[stop][: 3 + 5 * stop])
        result = lex(system=second, folder=folder)
        assert first.asked + second.asked == [f"r{i}" for i in range(8)]
        assert (folder / "answers.jsonl").read_bytes() == wanted
        assert (folder / "result.json").read_bytes() == (tmp_path / "whole" / "result.json").read_bytes()
        assert str(result) == str(whole)
    third = Counted()
    lex(system=third, folder=tmp_path / "whole")
    assert third.asked == []


SLOW = """
import sys, time
from cellgap.ask.bench import Prediction, load, run
class Slow:
    name = "slow"
    def __call__(self, record):
        time.sleep(0.02)
        return [Prediction(record.golds[0].condition, record.golds[0].answer + record.id, (1,))]
if __name__ == "__main__":
    run(load(sys.argv[1]), Slow(), folder=sys.argv[2], judge="lex-1")
"""


def test_a_killed_process_is_taken_up_by_another(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW, encoding="utf-8")
    save(records(150), tmp_path / "records.jsonl")
    command = [sys.executable, str(tmp_path / "slow.py"), str(tmp_path / "records.jsonl"), str(tmp_path / "killed")]
    child = subprocess.Popen(command, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    answers = tmp_path / "killed" / "answers.jsonl"
    waited = time.monotonic()
    while time.monotonic() - waited < 120 and (not answers.exists() or answers.read_bytes().count(b"\n") < 5):
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = answers.read_bytes().count(b"\n")
    assert 5 <= done < 150
    asked = []

    class Slow:
        name = "slow"

        def __call__(self, record):
            asked.append(record.id)
            return [Prediction(record.golds[0].condition, record.golds[0].answer + record.id, (1,))]

    given = load(tmp_path / "records.jsonl")
    resumed = run(given, Slow(), folder=tmp_path / "killed", judge="lex-1")
    assert asked == [f"r{i}" for i in range(done, 150)]
    fresh = run(given, Slow(), folder=tmp_path / "fresh", judge="lex-1")
    assert answers.read_bytes() == (tmp_path / "fresh" / "answers.jsonl").read_bytes()
    assert resumed.to_dict() == fresh.to_dict()


def test_a_folder_belongs_to_one_run(tmp_path):
    lex(folder=tmp_path / "a")
    with pytest.raises(StorageError, match=r"holds another run \(k_max 3 there, 2 here\)"):
        lex(folder=tmp_path / "a", k_max=2)
    with pytest.raises(StorageError, match="records '"):
        lex(records(7), folder=tmp_path / "a")
    with pytest.raises(StorageError, match="system 'nearly' there, 'counted' here"):
        lex(system=Counted(), folder=tmp_path / "a")
    lines = (tmp_path / "a" / "answers.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "a" / "answers.jsonl").write_text("".join([*lines, lines[0]]), encoding="utf-8")
    with pytest.raises(StorageError, match="line 9, is the second one of 'r0'"):
        lex(folder=tmp_path / "a")
    (tmp_path / "a" / "answers.jsonl").write_text("{\n" + "".join(lines), encoding="utf-8")
    with pytest.raises(StorageError, match="line 1, is damaged"):
        lex(folder=tmp_path / "a")
    (tmp_path / "a" / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(StorageError, match=r"run\.json is damaged"):
        lex(folder=tmp_path / "a")
    (tmp_path / "a" / "run.json").unlink()
    with pytest.raises(StorageError, match=r"no run\.json"):
        lex(folder=tmp_path / "a")


def failing(record: Record):
    if record.id in ("r1", "r4"):
        raise EndpointError("no connection to http://somewhere")
    return nearly(record)


failing.name = "flaky"


def test_no_record_is_dropped(tmp_path):
    result = lex(system=failing, folder=tmp_path)
    assert (result.attempted, result.answered, result.failed, result.abstained) == (8, 4, 2, 2)
    assert result.failures == {"EndpointError": 2} and len(result.scores) == 8
    assert result.value("answer_strict") == pytest.approx(result.scores["answer_strict"].sum() / 8)
    assert (result.scores.loc[["r1", "r4", "r2", "r5"], "combined_strict"] == 0).all()
    assert "attempted 8 of 8, answered 4, abstained 2, failed 2, EndpointError x 2" in str(result)
    assert lex(system=failing, folder=tmp_path).failed == 2  # not asked again

    def mended(record: Record):
        return nearly(record)

    mended.name = "flaky"
    again = lex(system=mended, folder=tmp_path, retry_failed=True)
    assert (again.failed, again.answered) == (0, 6)
    assert [r.id for r in again.results] == [f"r{i}" for i in range(8)]


def test_a_spent_budget_ends_the_run_and_more_budget_goes_on(tmp_path):
    left = [3]

    def metered(record: Record) -> Answers:
        if left[0] == 0:
            return Answers(record.question, (), abstained=Notice("budget", "no request is left"))
        left[0] -= 1
        answer = Answer("case one", "value one", (Citation(PASSAGES[0].id, "Title 1", "x", 1),), 1.0)
        return Answers(record.question, (answer,), usage=Usage(requests=1, prompt_tokens=7, cost=None))

    part = lex(system=metered, folder=tmp_path)
    assert (part.attempted, part.n_records, len(part.scores)) == (3, 8, 3)
    assert "attempted 3 of 8" in str(part) and "stopped: the budget is spent" in str(part)
    left[0] = 99
    whole = lex(system=metered, folder=tmp_path)
    assert (whole.attempted, whole.stopped) == (8, "") and left[0] == 94
    assert (whole.usage.requests, whole.usage.prompt_tokens, whole.usage.cost) == (8, 56, None)


def test_judgements_are_kept_too(tmp_path):
    seen: list[str] = []

    def judge(question: str, got: str, expected: str) -> float:
        seen.append(got)
        return 0.5

    result = run(records(), nearly, judge=judge, pairing="lex-1", folder=tmp_path)
    asked = len(seen)
    assert asked == result.judged["calls"] + result.judged["control_calls"] > 0
    again = run(records(), nearly, judge=judge, pairing="lex-1", folder=tmp_path)
    assert len(seen) == asked and again.to_dict() == result.to_dict()


def test_the_order_of_results_does_not_depend_on_workers(tmp_path):
    def late(record: Record):
        time.sleep(0.002 * (8 - int(record.id[1:])))
        return nearly(record)

    one = lex(system=late, folder=tmp_path / "1")
    three = lex(system=late, folder=tmp_path / "3", workers=3)
    assert str(one) == str(three)
    assert (tmp_path / "1" / "answers.jsonl").read_bytes() == (tmp_path / "3" / "answers.jsonl").read_bytes()


def test_tables_have_intervals_the_floor_and_what_is_above_it():
    table = lex().table().set_index("metric")
    row = table.loc["combined_strict"]
    assert row["low"] <= row["value"] <= row["high"] and row["low"] < row["high"]
    assert row["floor_of"] == "two random passages" and row["judge"] == "lex-1" and row["n"] == 8
    assert row["corrected"] == pytest.approx((row["value"] - row["floor"]) / (1 - row["floor"]))
    gold = lex(system="gold").table().set_index("metric")
    assert gold.loc["combined_strict", ["value", "low", "high", "corrected"]].tolist() == [1, 1, 1, 1]
    floor = lex(system="random").table().set_index("metric")
    assert floor.loc["answer_strict", "corrected"] == pytest.approx(0.0, abs=1e-12)


def test_metrics_that_a_protocol_has_not_are_not_in_its_table():
    rag = lex(protocol="rag")
    assert not any(m.startswith(("condition", "combined")) for m in rag.scores)
    assert all(p.condition == "" for r in rag.results for p in r.predictions)
    closed = lex(protocol="closed")
    assert {"answer_strict", "outputs"} <= set(closed.scores) and "citation_strict" not in closed.scores


def test_comparisons_are_paired():
    good, other = lex(system="gold"), lex()
    table = compare(good, other).set_index("metric")
    row = table.loc["answer_strict"]
    assert row["difference"] == pytest.approx(1 - other.value("answer_strict")) and row["low"] > 0
    same = compare(other, other)
    assert (same[["difference", "low", "high"]].to_numpy() == 0).all()
    with pytest.raises(ConfigError, match="same questions"):
        compare(good, lex(records(7), system="gold"))
    with pytest.raises(ConfigError, match="different judges"):
        compare(good, run(records(), "gold", judge=lambda q, g, e: 1.0, pairing="lex-1"))
    with pytest.raises(ConfigError, match="found 'bleu'"):
        compare(good, other, ["bleu"])


def test_the_gaps_are_differences_of_protocols():
    def system(outputs):
        def answer(record: Record):
            return [Prediction(g.condition, g.answer, g.fragments) for g in record.golds][:outputs]

        answer.name = "ours"
        return answer

    conditions = lex(system=system(2))
    undivided = lex(system=system(2), protocol="rag", k_max=1)
    given = lex(system=system(2), protocol="given")
    gap = ambiguity_gap(conditions, undivided)
    assert gap.value == pytest.approx(0.5) and gap.remedy == "State cell line, dose, time."
    assert "answer_strict of lex-1: 1.000 with conditions, 0.500 undivided" in str(gap)
    assert remaining_gap(given, conditions).value == 0.0
    with pytest.raises(ConfigError, match="k_max=1, found 'conditions' minus 'given'"):
        ambiguity_gap(conditions, given)
    with pytest.raises(ConfigError, match="'given' minus 'conditions', found 'rag'"):
        remaining_gap(undivided, conditions)
    with pytest.raises(ConfigError, match="about one system"):
        remaining_gap(lex(protocol="given"), conditions)


def test_most_answers_are_kept_to_but_by_the_oracle():
    many = lex(system=lambda r: [Prediction("", f"value {i}") for i in range(5)], k_max=3)
    assert (many.scores["outputs"] == 3).all()
    assert (lex(system="gold", k_max=1).scores["outputs"] == 2).all()
    assert (lex(system=lambda r: [Prediction("", str(i)) for i in range(5)], k_max=None).scores["outputs"] == 5).all()


def test_floors():
    (record, other) = records(2)
    first = floor_predictions("first", record)
    assert [p.fragments for p in first] == [(1,)] and first[0].answer == "Sentence 1 is first. It has number 1."
    random = floor_predictions("random", record)
    assert len(random) == 2 and random == floor_predictions("random", record) != floor_predictions("random", other)
    assert [p.fragments for p in floor_predictions("blind", record)] == [(1, 2, 3)] * 2
    assert [p.condition for p in floor_predictions("random", record, protocol="given")] == ["case one", "case two 0"]
    assert floor_predictions("random", Record("r", "q", record.golds, ())) == ()
    (top, *_) = floor_predictions("top3", Record("r", "What has number 4?", record.golds, PASSAGES))
    assert top.fragments == (4,)
    with pytest.raises(ConfigError, match="A floor is one of"):
        floor_predictions("best", record)


def test_predictions_are_read_from_what_systems_return():
    record = records(1)[0]
    cited = (Citation(PASSAGES[1].id, "Title 2", "x", position=1), Citation("elsewhere", "Other", "y", position=2))
    (moved,) = predictions_of([Answer("c", "a", cited, 1.0)], record)
    assert moved.fragments == (2, 1_000_001)  # by content: this position is one of another list
    stored = {"condition": "c", "answer": "a", "citations": ["Fragment 3", {"title": "1. One"}, "none"]}
    assert predictions_of([stored], record) == (Prediction("c", "a", (1, 3)),)
    for wrong in ("text", [3], [{"condition": "c"}]):
        with pytest.raises(DataError):
            predictions_of(wrong, record)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"protocol": "free"}, "protocol is one of"),
        ({"k_max": 0}, "k_max is at least 1"),
        ({"workers": 0}, "workers is at least 1"),
        ({"pairing": "best"}, "pairing is one of"),
        ({"system": "oracle"}, "system is one of"),
        ({"system": "endpoint"}, "needs client"),
        ({"system": "first", "protocol": "closed"}, "Only an endpoint"),
        ({"system": "top3", "protocol": "open"}, "searches a corpus"),
        ({"asked": records(1) * 2}, "different ids"),
        ({"system": System("mine", "rag", 3, nearly)}, "was made for 'rag'"),
    ],
)
def test_wrong_arguments_are_found_before_the_first_question(kwargs, said):
    with pytest.raises(ConfigError, match=said):
        lex(**kwargs)
    with pytest.raises(ConfigError, match="at least one record"):
        run((), nearly, judge="lex-1")


@pytest.mark.data
def test_the_librarys_own_systems_on_the_self_written_sets(data_dir):
    folder = data_dir / "condambigqa"
    ency = load(folder / "mini_ency_dev.jsonl.gz")[:4]
    own = lex(ency, system="extractive")
    wrong = lex(ency[:2], system="shuffled")
    assert own.degraded == {"no_encoder": 4} and own.value("support") == 1.0
    assert own.value("combined_strict") > 0.25 > 0.15 > wrong.value("combined_strict")
    given = lex(ency, system="extractive", protocol="given")
    assert all(r.predictions[0].condition == e.golds[0].condition for r, e in zip(given.results, ency, strict=True))
    opened = lex(ency[:2], system="extractive", protocol="open")
    assert opened.protocol == "open" and opened.answered == 2
    perturb = load(folder / "mini_perturb_dev.jsonl.gz")[:12]
    table = lex(perturb, system="structured", k_max=None)
    assert table.value("outputs_off") == 0.0 and table.value("short_answers_strict") == 1.0
    assert table.value("citation_strict") == 1.0
    with pytest.raises(ConfigError, match="at least two records"):
        named_system("shuffled", records=ency[:1])
    assert lex(ency[:2], system="structured").failures == {"DataError": 2}


def test_results_are_plain_values(tmp_path):
    result = lex(folder=tmp_path)
    kept = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert kept == json.loads(json.dumps(result.to_dict()))
    assert kept["protocol"] == "conditions" and kept["judge"] == "lex-1" and kept["attempted"] == 8
    assert np.isfinite(kept["scores"]["r0"]["combined_strict"]) and kept["scores"]["r0"]["planted_cited"] is None
    assert Path(tmp_path / "answers.jsonl").read_bytes().count(b"\n") == 8

import json
import math
from typing import Any

import numpy as np
import pytest

from cellgap.ask._passage import Passage
from cellgap.ask.bench import BenchResult, Gold, Prediction, PublishedRun, Record, balanced, load, run, save
from cellgap.errors import ConfigError, OfflineMiss

CONDITION = [[0.7, 0.2], [0.4, 0.5], [0.3, 0.3]]
ANSWER = [[0.6, 0.1], [0.5, 0.4], [0.2, 0.2]]
PASSAGES = tuple(Passage(f"Title {i}", f"Text {i}.") for i in range(1, 10))
GOLDS = (Gold("gold condition 0", "gold answer 0", (1, 3)), Gold("gold condition 1", "gold answer 1", (5,)))
WORTH = {
    (f"{kind} {i}", f"gold {kind} {j}"): grid[i][j]
    for kind, grid in (("condition", CONDITION), ("answer", ANSWER))
    for i in range(3)
    for j in range(2)
} | {("condition 2", ""): 0.25, ("answer 2", ""): 0.2}


class Encoder:
    """As much as pairing needs: the judge pairs by itself."""

    def encode(self, texts):
        return np.ones((len(texts), 1), np.float32)


def record(name: str = "p7") -> Record:
    return Record(name, f"Question {name}?", GOLDS, PASSAGES)


def outputs(record: Record) -> list[Prediction]:
    cited = [(1,), (2, 5), (9,)]
    return [Prediction(f"condition {i}", f"answer {i}", cited[i]) for i in range(3)]


class Graded:
    """A judge of texts that stops after so many."""

    __qualname__ = "graded"

    def __init__(self, most: int = 10**9, fails: tuple[tuple[str, str], ...] = ()) -> None:
        self.most, self.fails, self.seen = most, fails, []

    def __call__(self, question: str, got: str, expected: str) -> float:
        if len(self.seen) == self.most:
            raise OfflineMiss("as if killed")
        self.seen.append((got, expected))
        return math.nan if (got, expected) in self.fails else WORTH.get((got, expected), 0.0)


def scored(compat: str | None, judge=None, records=None, system=outputs, **kwargs) -> BenchResult:
    given: dict[str, Any] = dict(judge=judge or Graded(), pairing="judge", compat=compat, encoder=Encoder())
    return run(records or [record()], system, **(given | kwargs))


def paper(result: BenchResult) -> PublishedRun:
    assert result.rescored is not None
    return result.rescored


def values(result: BenchResult) -> dict[str, list[float]]:
    table = result.published().set_index("scores")
    return {str(name): row[["condition", "answer", "citation"]].tolist() for name, row in table.iterrows()}


def test_a_run_reproduces_the_scores_of_the_paper(tmp_path):
    save([record()], tmp_path / "p7.jsonl")
    records = load(tmp_path / "p7.jsonl")
    v1 = scored("v1", records=records)
    assert values(v1) == {"raw": pytest.approx([0.48333, 0.4, 0.5], abs=1e-5)}
    v2 = scored("v2", records=records)
    cited = (1 + 2 + 1) / 3
    even = balanced(0.6, 0.5, 0.75, cited, 3, 2)
    assert values(v2) == {"raw": pytest.approx([0.6, 0.5, 0.75]), "balanced": pytest.approx(list(even))}
    table = v2.published().set_index("scores")
    assert table.loc["balanced", "combined"] == pytest.approx(sum(even) / 3) and math.isnan(
        table.loc["raw", "combined"]
    )
    assert v1.published().loc[0, ["n_pairs", "n_questions", "failed_judgements"]].tolist() == [3, 1, 0]
    assert table.loc["raw", ["compat", "protocol", "judge", "n_pairs"]].tolist() == ["v2", "conditions", v2.judge, 2]
    assert paper(v2).questions["p7"].pairs == ((0, 0), (1, 1)) == v2.pairs["p7"]
    assert (v2.judge_scores["p7"].condition == CONDITION).all() and (v2.judge_scores["p7"].answer == ANSWER).all()
    assert (v1.judge_scores["p7"].surplus_condition, v1.judge_scores["p7"].surplus_answer) == ((0.25,), (0.2,))


def test_calls_are_as_many_as_the_paper_needs():
    plain, v1, v2 = scored(None), scored("v1"), scored("v2")
    assert plain.judged == v2.judged and plain.judged["calls"] == 3 * 2 * 2
    assert v1.judged["calls"] == 3 * 2 * 2 + 2 and v1.judged["of them against nothing"] == 2
    assert v1.value("judged_answer_strict") == plain.value("judged_answer_strict")
    assert plain.rescored is None and "paper" not in str(plain)
    with pytest.raises(ConfigError, match="no published scores"):
        plain.published()


def test_what_is_printed_and_kept(tmp_path):
    v1 = scored("v1", folder=tmp_path)
    head, _, row, note = str(v1).splitlines()[-4:]
    assert head == f"as v1 of the paper computes it, under 'conditions', judged by {v1.judge}:"
    assert row.split() == ["raw", "0.483", "0.400", "0.500", "-"]
    assert note == (
        "pairs 3, questions 1, outputs a question 3.00 (+1.00 to the golds), outputs beyond the golds judged against "
        "an empty reference 1, left out: questions with failed judgements 0 (0 judgements), without an output 0"
    )
    kept = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["published"]
    assert kept == json.loads(json.dumps(v1.to_dict()["published"])) and kept["compat"] == "v1"
    assert kept["table"][0]["condition"] == pytest.approx(0.48333, abs=1e-5) and kept["table"][0]["combined"] is None
    assert "outputs beyond the golds in no mean 1" in str(scored("v2"))


@pytest.mark.parametrize("compat", ["v1", "v2"])
def test_judging_that_was_killed_goes_on_and_ends_the_same(tmp_path, compat):
    records = [record("a"), record("b")]
    whole = scored(compat, records=records, folder=tmp_path / "whole", judge=(all_of := Graded()))
    for stop in (0, 5, 13, 21):
        with pytest.raises(OfflineMiss):
            scored(compat, Graded(stop), records, folder=tmp_path / str(stop))
        rest = Graded()
        again = scored(compat, rest, records, folder=tmp_path / str(stop))
        assert len(rest.seen) == len(all_of.seen) - stop
        assert again.to_dict() == whole.to_dict() and str(again) == str(whole)
        kept = [(tmp_path / name / "result.json").read_bytes() for name in (str(stop), "whole")]
        assert kept[0] == kept[1]
    # The other revision takes what is there, and asks for the rest alone.
    other = Graded()
    scored("v2" if compat == "v1" else "v1", other, records, folder=tmp_path / "whole")
    assert len(other.seen) == (0 if compat == "v1" else 4)


def test_questions_that_the_paper_has_no_rule_for_are_left_out_there_alone():
    def system(record: Record):
        return [] if record.id == "none" else outputs(record)

    def judge(question: str, got: str, expected: str) -> float:
        failed = question == "Question bad?" and (got, expected) == ("answer 0", "gold answer 1")
        return 7.0 if failed else WORTH.get((got, expected), 0.0)

    records = [record(name) for name in ("good", "bad", "none")]
    v2 = scored("v2", judge, records, system)
    assert values(v2)["raw"] == pytest.approx([0.6, 0.5, 0.75])
    assert (paper(v2).failed, paper(v2).silent) == ({"bad": 1}, ("none",))
    assert v2.published()["failed_judgements"].tolist() == [1, 1] and len(v2.scores) == 3
    assert "left out: questions with failed judgements 1 (1 judgements), without an output 1" in str(v2)
    assert v2.judged["failed (a score outside [0, 1])"] == 1
    # v1 does not look at that pair.
    v1 = scored("v1", judge, records, system)
    assert paper(v1).failed == {} and v1.published().loc[0, "n_pairs"] == 6
    # ... but at the surplus.
    lost = scored("v1", Graded(fails=(("answer 2", ""),)))
    assert paper(lost).failed == {"p7": 1} and lost.published()[["condition", "answer"]].isna().to_numpy().all()


@pytest.mark.parametrize(("protocol", "pairs"), [("rag", 2), ("given", 2), ("closed", 3)])
def test_protocols_without_conditions_have_no_condition_scores(protocol, pairs):
    result = scored("v2", protocol=protocol)
    (row,) = result.published().to_dict("records")
    assert math.isnan(row["condition"]) and row["n_pairs"] == pairs and row["scores"] == "raw"
    assert row["answer"] == pytest.approx(1.0 / pairs)
    assert math.isnan(row["citation"]) == (protocol == "closed")
    assert result.judge_scores["p7"].condition is None


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"compat": "v3"}, "compat is one of"),
        ({"pairing": "lex-1"}, "found such a judge and pairing='lex-1'"),
        ({"judge": "det-1"}, "found 'det-1' and pairing='judge'"),
        ({"protocol": "open"}, "'open' is not"),
    ],
)
def test_wrong_arguments_are_found_before_the_first_question(kwargs, said):
    def never(record: Record):
        raise AssertionError

    with pytest.raises(ConfigError, match=said):
        scored(**({"compat": "v2", "system": never} | kwargs))

import json
import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from scripted_server import ScriptedServer, Step

from cellgap.ask._answer import Usage
from cellgap.ask._passage import Passage
from cellgap.ask.bench import Gold, LLMJudge, NullControl, Prediction, Record, run
from cellgap.ask.bench._judge import prompt_version
from cellgap.ask.bench._reply_score import reply_score, score_token
from cellgap.ask.endpoint import BudgetSpent, ChatEndpoint, Reply, TokenLogprob
from cellgap.errors import ConfigError, OfflineMiss, ReplyError

PASSAGES = (Passage("One", "alpha is the first."), Passage("Two", "beta is the second."))
SURE = (("3", math.log(1.0)),)


def reply(text: str, top=None) -> Reply:
    """Return a reply whose tokens are its characters, with `top` at every digit."""
    tokens = () if top is None else tuple(TokenLogprob(c, -0.1, top if c.isdigit() else ()) for c in text)
    return Reply(text, json.loads(text), Usage(requests=1), False, token_logprobs=tokens)


@dataclass
class Script:
    """A client that replies by a function of what the judge was shown."""

    says: object
    temperature: float = 0.0
    seen: list = field(default_factory=list)

    @property
    def endpoint(self):
        return SimpleNamespace(model="scripted", temperature=self.temperature)

    def complete(self, messages, schema, *, stage, top_logprobs, version):
        shown = json.loads(messages[1]["content"])
        self.seen.append((shown, messages[0]["content"], stage, top_logprobs, version))
        said = self.says(shown)
        if isinstance(said, Exception):
            raise said
        return said


def records(n: int = 20, m: int = 2) -> tuple[Record, ...]:
    golds = [tuple(Gold(f"case {i} {j}", f"value {i} {j}", (1,)) for j in range(m)) for i in range(n)]
    return tuple(Record(f"r{i}", f"Question {i}?", golds[i], PASSAGES) for i in range(n))


def says(n: int):
    def system(record: Record) -> list[Prediction]:
        return [Prediction(f"case {record.id} {j}", f"value {record.id} {j}", (1,)) for j in range(n)]

    return system


def judged(client: Script, n: int = 20, m: int = 2, outputs: int = 2, pairing: str = "lex-1", **kwargs):
    judge = LLMJudge(client, **{k: kwargs.pop(k) for k in ("repeats", "passages") if k in kwargs})
    return run(records(n, m), says(outputs), judge=judge, pairing=pairing, k_max=None, **kwargs)


def test_a_judge_that_always_says_the_same_is_worth_nothing():
    result = judged(Script(lambda shown: reply('{"score": 3, "reason": "as ever"}', SURE)))
    table = result.table().set_index("metric")
    for kind in ("condition", "answer"):
        assert table.loc[f"judged_{kind}_matched", "value"] == pytest.approx(0.3)
        assert math.isnan(table.loc[f"judged_{kind}_matched", "corrected"])
        assert table.loc[f"judged_{kind}_strict", "floor"] == pytest.approx(0.3)
    for control in result.controls:
        assert (control.empty, control.shuffled, control.self_reference) == pytest.approx((0.3, 0.3, 0.3))
        assert min(control.n_empty, control.n_shuffled) >= 30
    (line,) = [line for line in str(result).splitlines() if line.strip().startswith("judged_answer_matched")]
    assert "undefined" in line
    assert result.judged["with token probabilities"] == result.judged["calls"] == 80


def test_a_judge_that_can_tell_is_corrected_by_what_it_gives_for_nothing():
    def grade(shown):
        same = shown["candidate"] == shown["reference"]
        near = shown["reference"] and shown["reference"].split()[0] == shown["candidate"].split()[0]
        return reply(json.dumps({"score": 9 if same else 5 if near else 1, "reason": ""}))

    result = run(
        records(), lambda r: [Prediction(g.condition, "value off") for g in r.golds], judge=LLMJudge(Script(grade)),
        pairing="lex-1",
    )  # fmt: skip
    table = result.table().set_index("metric")
    assert table.loc["judged_condition_matched", "value"] == pytest.approx(0.9)
    assert table.loc["judged_condition_matched", "corrected"] == pytest.approx(1.0)
    assert table.loc["judged_answer_matched", "corrected"] == pytest.approx(0.0, abs=1e-9)
    (condition, _) = result.controls
    assert (condition.empty, condition.shuffled, condition.self_reference) == pytest.approx((0.1, 0.5, 0.9))
    assert set(table["judge"]) == {"llm:scripted", "lex-1"}


def test_correction_takes_missing_outputs_as_zero_and_small_controls_as_undefined():
    control = NullControl("answer", 0.2, 0.2, 0.8, 30, 30, 30)
    assert control.corrected(0.5) == pytest.approx(0.5)
    assert control.corrected(0.25, coverage=0.5) == pytest.approx(0.25)  # half of the golds have no output
    assert NullControl("answer", 0.2, 0.2, 0.8, 29, 30, 30).corrected(0.5) is None
    assert NullControl("answer", 0.2, 0.8, 0.8, 30, 30, 30).corrected(0.5) is None
    assert NullControl("answer", None, None, 0.8, 0, 0, 30).corrected(0.5) is None


@pytest.mark.parametrize(("pairing", "calls"), [("lex-1", 6), ("judge", 24)])
def test_calls_by_pairing(pairing, calls, monkeypatch):
    class Encoder:
        def encode(self, texts):
            return np.eye(len(texts), dtype=np.float32)

    client = Script(lambda shown: reply('{"score": 4, "reason": ""}'))
    result = judged(client, n=1, m=4, outputs=3, pairing=pairing, encoder=Encoder() if pairing == "judge" else None)
    assert result.judged["calls"] == calls
    assert len(client.seen) == calls + result.judged["control_calls"]
    assert len(result.pairs["r0"]) == 3


def test_pairing_by_the_judge_is_greedy_in_the_order_of_outputs():
    def grade(shown):
        worth = {("value r0 0", "value 0 0"): 6, ("value r0 1", "value 0 0"): 9}
        return reply(json.dumps({"score": worth.get((shown["candidate"], shown["reference"]), 0), "reason": ""}))

    class Encoder:
        def encode(self, texts):
            return np.ones((len(texts), 1), np.float32)

    result = judged(Script(grade), n=1, pairing="judge", encoder=Encoder())
    assert result.pairs["r0"] == ((0, 0), (1, 1))
    assert result.value("judged_answer_strict") == pytest.approx(0.3)


def test_failed_judgements_are_counted_and_are_neither_zero_nor_nan():
    def grade(shown):
        if shown["candidate"].endswith("r1 0"):
            return ReplyError("nothing usable")
        if "r2" in shown["candidate"]:
            return reply('{"score": 12, "reason": "out of range"}')
        return reply('{"score": 8, "reason": ""}')

    result = judged(Script(grade))
    assert result.judged["failed (ReplyError)"] == 2 and result.judged["failed (a reply without a score)"] == 4
    assert result.judged["valid"] == 80 - 6
    assert result.value("judged_answer_strict") == pytest.approx(0.8)
    assert result.table().set_index("metric").loc["judged_answer_strict", "n"] == 19  # all of r2 failed
    assert "failed (ReplyError) 2" in str(result)


def test_the_judge_sees_question_and_two_texts_and_nothing_else():
    client = Script(lambda shown: reply('{"score": 8, "reason": ""}'))
    judged(client, n=2)
    shown, system, stage, top_logprobs, version = client.seen[0]
    assert shown == {"question": "Question 0?", "reference": "case 0 0", "candidate": "case r0 0"}
    assert stage == "judge" and top_logprobs == 20 and version == prompt_version()
    assert "alpha" not in system
    client = Script(lambda shown: reply('{"score": 8, "reason": ""}'))
    judged(client, n=2, passages=True)
    assert client.seen[0][0]["passages"][1] == {"title": "Two", "text": "beta is the second."}


def test_repeats_are_other_requests_and_give_a_mean():
    values = iter([2, 6] * 1000)
    client = Script(lambda shown: reply(json.dumps({"score": next(values), "reason": ""})))
    judgement = LLMJudge(client, repeats=2).judge("answer", "q?", "a", "b")
    assert judgement.score == pytest.approx(0.4) and judgement.spread == pytest.approx(0.2)
    assert len({seen[4] for seen in client.seen}) == 2


def test_what_no_pair_would_survive_ends_the_run():
    for error in (OfflineMiss("not kept"), BudgetSpent("spent")):
        with pytest.raises(type(error)):
            judged(Script(lambda shown, error=error: error))
    with pytest.raises(ConfigError, match="temperature 0"):
        LLMJudge(Script(None, temperature=0.7))
    with pytest.raises(ConfigError, match="repeats"):
        LLMJudge(Script(None), repeats=0)
    with pytest.raises(ConfigError, match="answer"):
        LLMJudge(Script(None)).judge("style", "q", "a", "b")


def test_a_function_judges_too_and_its_nonsense_is_a_failure():
    scores = {"r0": 0.5, "r1": 7.0, "r2": "high", "r3": float("nan")}

    def graded(question: str, got: str, expected: str):
        return scores[got.split()[1]] if "r" in got else 0.0

    result = run(records(4), says(2), judge=graded, pairing="lex-1")
    assert result.judge.endswith("graded") and result.value("judged_answer_strict") == 0.5
    assert result.judged["failed (a score outside [0, 1])"] == 8
    assert result.judged["failed (a str instead of a number)"] == 4
    with pytest.raises(ConfigError, match="a function of question"):
        run(records(4), says(2), judge=3, pairing="lex-1")


def test_the_probability_is_read_inside_the_score_field():
    top = (("3", math.log(0.62)), ("4", math.log(0.25)), ("2", math.log(0.12)), ("7", math.log(0.004)))
    tokens = ["{", '"', "reason", '":', ' "at \\"score\\": ', "9", ' of 10",', ' "', "score", '":', " ", "3", "}"]
    spread = tuple(TokenLogprob(t, -0.1, top if i == 11 else (("9", 0.0),)) for i, t in enumerate(tokens))
    text = "".join(tokens)
    found = reply_score(Reply(text, json.loads(text), Usage(), False, token_logprobs=spread))
    assert found == (pytest.approx(0.31313, abs=1e-5), True)
    bare = reply_score(Reply(text, json.loads(text), Usage(), False))
    assert bare == (0.3, False)


@pytest.mark.parametrize(
    ("tokens", "number", "place"),
    [
        (["<think>{3}</think>", '{"score":', " 7", "}"], "7", 2),
        (['{"score":', "1", "0", "}"], "10", None),  # the first half of ten is the whole of one
        (['{"score":', "10", "}"], "10", 1),
        (['{"score": 7, "', "x", '": 1}'], "7", None),
        (['{"a": {"score": ', "1", '}, "score": ', "2", "}"], "2", 3),
        (["seven"], "7", None),
        (["{", "{"], "7", None),
    ],
)
def test_the_token_of_the_score(tokens, number, place):
    assert score_token(tokens, number) == place


@pytest.mark.parametrize("value", [None, 3, {"score": 3.0}, {"score": True}, {"score": 11}, {"score": -1}, {}])
def test_what_is_no_score(value):
    assert reply_score(Reply("", value, Usage(), False)) == (None, False)


def test_an_endpoint_answers_and_judges_over_the_wire_and_a_second_run_asks_nothing(tmp_path):
    answers = {"answers": [{"citations": [1], "condition": "alpha is meant", "answer": "alpha is the first."}]}
    text = '{"score": 6, "reason": "near"}'
    top = [{"token": "6", "logprob": math.log(0.5)}, {"token": "8", "logprob": math.log(0.5)}]
    logprobs = {"content": [{"token": c, "logprob": -0.7, "top_logprobs": top if c == "6" else []} for c in text]}

    def serve(body) -> Step:
        wants = body["response_format"]["json_schema"]["schema"]["properties"]
        return Step(text, logprobs=logprobs) if "score" in wants else Step(answers)

    given = records(3, 1)
    with ScriptedServer(default=serve) as server:
        endpoint = ChatEndpoint(server.url, "scripted", timeout_s=10.0)
        with endpoint.client(cache=tmp_path / "replies.sqlite") as client:
            settings = {"judge": LLMJudge(client), "pairing": "lex-1", "client": client}
            result = run(given, "endpoint", folder=tmp_path / "run", **settings)
            asked = len(server.requests)
            again = run(given, "endpoint", folder=tmp_path / "run", **settings)
        assert len(server.requests) == asked and again.to_dict() == result.to_dict()
    assert (result.system, result.judge) == ("endpoint:scripted", "llm:scripted")
    assert (result.answered, result.usage.requests) == (3, 3) and result.versions["model"] == "scripted"
    assert result.value("judged_answer_matched") == pytest.approx(0.7)
    assert result.judged["calls"] == result.judged["with token probabilities"] == 6
    assert result.judge_versions["prompt"] == prompt_version()
    assert result.value("citation_strict") == 1.0

"""The client of a language model's server: what it sends, keeps, counts and refuses."""

import json
import logging
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
import time
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_server import ScriptedServer, Step, only_loopback

from cellgap.ask.endpoint import NONCE, Budget, BudgetSpent, ChatEndpoint, ReplyCache, Tally, _cache
from cellgap.ask.endpoint._reply import Unreadable, read_value, strict
from cellgap.ask.endpoint._retry import Waits, retry_after
from cellgap.ask.endpoint._schema import problems
from cellgap.errors import ConfigError, EndpointError, OfflineMiss, ReplyError, StorageError
from cellgap.settings import from_dict, to_dict

KEY = "sk-secret-0123456789"
SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 10}},
    "required": ["score"],
    "additionalProperties": False,
}
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def nothing_leaves_this_machine(monkeypatch):
    only_loopback(monkeypatch)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def endpoint(server, **settings):
    return ChatEndpoint(server.url, "scripted", **{"timeout_s": 2.0, "backoff_s": 0.01, **settings})


def say(text):
    return [{"role": "user", "content": text}]


# settings


@pytest.mark.parametrize(
    "url",
    [
        "localhost:1/v1",
        "ftp://a/v1",
        "http://",
        "http://u:pass@a/v1",
        "http://a/v1?key=hush",
        "http://a/v1 b",
        "http://[::1/v1",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url):
    with pytest.raises(ConfigError) as error:
        ChatEndpoint(url, "m")
    assert "pass" not in str(error.value).replace("password", "") and "hush" not in str(error.value)


def test_the_address_of_the_call_itself_is_refused():
    with pytest.raises(ConfigError, match="version"):
        ChatEndpoint("http://a/v1/chat/completions", "m")


@pytest.mark.parametrize("prices", [{"prompt": 1.0}, {"prompt": 1.0, "completion": -1.0}, {}])
def test_prices_are_both_or_none(prices):
    with pytest.raises(ConfigError, match="prices"):
        ChatEndpoint("http://a/v1", "m", prices=prices)


def test_settings_are_plain_values():
    made = ChatEndpoint("http://a/v1/", "m", prices={"prompt": 1.0, "completion": 2.0}, seed=None)
    assert from_dict(json.loads(json.dumps(to_dict(made)))) == made
    assert made.url == "http://a/v1"


# what is sent


def test_the_body_of_a_request():
    with ScriptedServer([Step({"score": 7})]) as server, endpoint(server, seed=3).client(key=KEY) as client:
        reply = client.complete(HELLO, SCHEMA)
    assert reply.value == {"score": 7} and reply.structured == "json_schema" and not reply.cache_hit
    request = server.requests[0]
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    form = request.body.pop("response_format")
    assert form["json_schema"]["schema"] == SCHEMA and form["json_schema"]["strict"] is True
    assert request.body == {
        "model": "scripted",
        "messages": HELLO,
        "stream": False,
        "temperature": 0.0,
        "max_tokens": 1024,
        "seed": 3,
    }


def test_log_probabilities_are_asked_for_and_read():
    top = [{"token": "3", "logprob": -0.5}, {"token": "4", "logprob": float("-1e9")}, {"token": 5}]
    logprobs = {"content": [{"token": "3", "logprob": -0.5, "top_logprobs": top}, {"token": "x", "logprob": None}]}
    with ScriptedServer([Step({"score": 3}, logprobs=logprobs)]) as server, endpoint(server).client() as client:
        reply = client.complete(HELLO, SCHEMA, top_logprobs=20)
    assert server.requests[0].body["top_logprobs"] == 20 and server.requests[0].body["logprobs"] is True
    assert [(t.token, t.logprob, t.top) for t in reply.token_logprobs] == [("3", -0.5, (("3", -0.5), ("4", -1e9)))]


def test_a_server_without_log_probabilities_is_remembered_and_said():
    script = [
        Step(status=400, raw=b'{"error": {"message": "logprobs are not available"}}'),
        Step({"score": 1}, times=2),
    ]
    with ScriptedServer(script) as server, endpoint(server).client() as client:
        replies = [client.complete(say(text), SCHEMA, top_logprobs=5) for text in "ab"]
    assert [[n.code for n in reply.degraded] for reply in replies] == [["no_logprobs"]] * 2
    assert replies[0].usage.requests == 2 and replies[0].usage.retries == 0


def test_a_nonce_is_random_and_new_in_every_request():
    texts = say(f"<<<{NONCE}>>> data <<<{NONCE}>>>")
    with ScriptedServer([Step("a"), Step(status=500), Step("b")]) as server, endpoint(server).client() as client:
        client.complete(texts)
        client.complete(texts)
    sent = [request.user for request in server.requests]
    assert len(set(sent)) == 3 and all(NONCE not in text and len(text) == len(sent[0]) for text in sent)
    first, second = sent[0].split(" data ")
    assert first == second


def test_what_a_model_takes_is_remembered_in_the_client_and_in_the_cache(tmp_path):
    refusal = Step(status=400, raw=b'{"error": {"message": "response_format: unsupported"}}')
    with ScriptedServer([refusal, Step({"score": 1}, times=3)]) as server:
        for texts in ("ab", "c"):
            with endpoint(server).client(cache=tmp_path / "replies.sqlite") as client:
                for text in texts:
                    assert client.complete(say(text), SCHEMA).structured == "json_object"
    forms = [request.body["response_format"]["type"] for request in server.requests]
    assert forms == ["json_schema", "json_object", "json_object", "json_object"]


def test_a_refusal_that_only_quotes_the_request_steps_nothing_down():
    quoted = {"detail": [{"loc": ["body", "messages"], "msg": "too long", "input": {"seed": 0, "response_format": {}}}]}
    with (
        ScriptedServer([Step(status=422, raw=json.dumps(quoted).encode())]) as server,
        endpoint(server).client() as client,
        pytest.raises(EndpointError, match="422"),
    ):
        client.complete(HELLO, SCHEMA)


# time


def test_a_deadline_covers_all_attempts():
    with (
        ScriptedServer([Step(status=503, times=4)]) as server,
        endpoint(server, retries=3, timeout_s=2.0).client() as client,
    ):
        start = time.monotonic()
        with pytest.raises(EndpointError, match="4 attempts"):
            client.complete(HELLO)
        assert time.monotonic() - start <= 2.5


def test_the_repair_of_a_reply_has_the_same_deadline():
    script = [Step("no JSON", delay=0.3), Step({"score": 1}, delay=9)]
    with ScriptedServer(script) as server, endpoint(server, timeout_s=0.6).client() as client:
        start = time.monotonic()
        with pytest.raises(EndpointError, match="deadline"):
            client.complete(HELLO, SCHEMA)
        assert time.monotonic() - start < 1.1


def test_waits_are_drawn_below_a_growing_bound_and_are_reproducible():
    drawn = [Waits(str(seed), 0.5) for seed in range(200)]
    waits = [[w.next() for _ in range(7)] for w in drawn]
    for n, column in enumerate(zip(*waits, strict=True)):
        bound = min(0.5 * 2**n, 8.0)
        assert 0 <= min(column) < 0.1 * bound and 0.9 * bound < max(column) <= bound
    again = Waits("3", 0.5)
    assert [again.next() for _ in range(7)] == waits[3]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("", None),
        ("soon", None),
        ("-3", None),
        ("9" * 30, float("9" * 30)),
        ("²", None),
        (".", None),
    ],
)
def test_retry_after_in_seconds(said, seconds):
    assert retry_after({"retry-after": said}) == seconds


def test_retry_after_as_a_date_counts_from_the_servers_own_clock():
    headers = {"retry-after": formatdate(1e9 + 7, usegmt=True), "date": formatdate(1e9, usegmt=True)}
    assert retry_after(headers) == 7.0
    assert retry_after({"retry-after": formatdate(1e9, usegmt=True)}) == 0.0


# the cache


def test_the_second_call_costs_nothing(tmp_path):
    with (
        ScriptedServer([Step({"score": 4})]) as server,
        endpoint(server).client(cache=tmp_path / "replies.sqlite") as client,
    ):
        first = client.complete(HELLO, SCHEMA)
        second = client.complete(HELLO, SCHEMA)
        assert client.usage.requests == 1 and client.usage.cache_hits == 1
    assert (first.cache_hit, second.cache_hit) == (False, True)
    assert (second.text, second.value, second.key) == (first.text, first.value, first.key)
    assert second.usage.requests == second.usage.prompt_tokens == 0 and second.usage.cost == 0.0
    # Offline, without a server, the same comes back.
    with ChatEndpoint("http://127.0.0.1:9/v1", "scripted").client(
        cache=tmp_path / "replies.sqlite", offline=True
    ) as client:
        assert client.complete(HELLO, SCHEMA).value == {"score": 4}


@pytest.mark.parametrize("change", [{"model": "other"}, {"temperature": 0.5}, {"seed": 1}, {"max_tokens": 9}])
def test_another_question_is_another_entry(tmp_path, change):
    made = {"model": "scripted", "temperature": 0.0, "seed": 0, "max_tokens": 1024}
    with ScriptedServer([Step("a"), Step("b")]) as server:
        for settings in (made, made | change):
            with ChatEndpoint(server.url, **settings).client(cache=tmp_path / "replies.sqlite") as client:
                client.complete(HELLO)


def test_a_reply_that_needed_repair_is_replayed_without_a_server(tmp_path):
    with ScriptedServer([Step("sorry"), Step({"score": 2})]) as server:
        with endpoint(server).client(cache=tmp_path / "r.sqlite") as client:
            first = client.complete(HELLO, SCHEMA)
        with endpoint(server).client(cache=tmp_path / "r.sqlite", offline=True) as client:
            second = client.complete(HELLO, SCHEMA)
    assert first.repaired and second.repaired and second.cache_hit and second.value == first.value
    repair = server.requests[1].body["messages"]
    assert [m["role"] for m in repair] == ["user", "assistant", "user"] and "not valid JSON" in repair[2]["content"]


@pytest.mark.parametrize("cold", [True, False])
def test_offline_without_a_reply_opens_no_socket(tmp_path, monkeypatch, cold):
    def refuse(*_):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    cache = tmp_path / "none.sqlite" if cold else None
    with (
        ChatEndpoint("http://127.0.0.1:9/v1", "m").client(cache=cache, offline=True) as client,
        pytest.raises(OfflineMiss),
    ):
        client.complete(HELLO)
    assert not (tmp_path / "none.sqlite").exists()


def test_the_same_question_at_the_same_time_is_asked_once(tmp_path):
    with (
        ScriptedServer([Step({"score": 5}, delay=0.1)]) as server,
        endpoint(server).client(cache=tmp_path / "r.sqlite") as client,
    ):
        values = client.map(lambda _: client.complete(HELLO, SCHEMA).value, range(8))
        assert values == [{"score": 5}] * 8 and client.usage.cache_hits == 7


def test_two_processes_write_one_cache(tmp_path):
    # Loaded from its file: two whole imports of the package would take longer than the test.
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('kept', {_cache.__file__!r})\n"
        "kept = importlib.util.module_from_spec(spec); spec.loader.exec_module(kept)\n"
        "cache = kept.ReplyCache(sys.argv[1])\n"
        "for i in range(60): cache.put(f'{sys.argv[2]}-{i}', {'n': i}); cache.put(f'both-{i}', {'by': sys.argv[2]})"
    )
    path = tmp_path / "r.sqlite"
    children = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    assert [child.wait(timeout=60) for child in children] == [0, 0]
    with ReplyCache(path) as cache:
        assert len(cache) == 180
        assert all(cache.get(f"{name}-{i}") == {"n": i} for name in "ab" for i in range(60))


def test_the_first_reply_kept_stays(tmp_path):
    with ReplyCache(tmp_path / "r.sqlite") as cache:
        assert cache.put("k", {"n": 1}) == {"n": 1}
        assert cache.put("k", {"n": 2}) == {"n": 1}


def test_files_that_are_no_cache_are_refused(tmp_path):
    (tmp_path / "text").write_text("this is no database, and it is longer than a header of one would be" * 20)
    with sqlite3.connect(tmp_path / "other") as db:
        db.execute("CREATE TABLE t (x)")
    db.close()
    with sqlite3.connect(tmp_path / "newer") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    for name in ("text", "other", "newer"):
        with pytest.raises(StorageError, match=name):
            ReplyCache(tmp_path / name).get("k")
    with pytest.raises(StorageError, match="no folder"):
        ReplyCache(tmp_path / "a" / "b").put("k", {})


# what it costs


def test_a_budget_is_checked_before_each_request():
    with ScriptedServer([Step("a", times=3)]) as server, endpoint(server).client(budget=Budget(requests=3)) as client:
        for text in "abc":
            client.complete(say(text))
        with pytest.raises(BudgetSpent, match="3 requests"):
            client.complete(say("d"))
        assert client.usage.requests == 3


def test_attempts_count_against_the_budget():
    with (
        ScriptedServer([Step(status=500, times=2)]) as server,
        endpoint(server).client(budget=Budget(requests=2)) as client,
        pytest.raises(BudgetSpent),
    ):
        client.complete(HELLO)


@pytest.mark.parametrize("budget", [Budget(tokens=1200), Budget(cost=0.0025)])
def test_a_budget_holds_even_if_the_model_writes_all_it_may(budget):
    prices = {"prompt": 1.0, "completion": 2.0}
    usage = {"prompt_tokens": 100, "completion_tokens": 100}
    with (
        ScriptedServer([Step("a", usage=usage)]) as server,
        endpoint(server, prices=prices, max_tokens=1100).client(budget=budget) as client,
    ):
        assert client.complete(HELLO).usage.cost == pytest.approx(3e-4)
        with pytest.raises(BudgetSpent):
            client.complete(say("again"))


def test_a_budget_of_threads_is_kept():
    with (
        ScriptedServer([Step("a", delay=0.05, times=5)]) as server,
        endpoint(server, concurrency=8).client(budget=Budget(requests=5)) as client,
    ):

        def ask(n):
            try:
                return client.complete(say(str(n))).text
            except BudgetSpent:
                return None

        assert sorted(client.map(ask, range(12)), key=str).count("a") == 5


def test_a_budget_of_cost_needs_prices():
    with pytest.raises(ConfigError, match="prices"):
        ChatEndpoint("http://a/v1", "m").client(budget=Budget(cost=1.0))
    with pytest.raises(ConfigError, match="requests"):
        Budget(requests=-1)


def test_usage_by_stage_and_unknown_cost():
    tally = Tally()
    with (
        ScriptedServer([Step("a"), Step("bb", usage=None), Step(status=404)]) as server,
        endpoint(server).client() as client,
    ):
        client.complete(HELLO, stage="one", tally=tally)
        client.complete(HELLO, stage="two", tally=tally)
        with pytest.raises(EndpointError):
            client.complete(HELLO, stage="two", tally=tally)
    stages = client.usage_by_stage
    assert stages == tally.by_stage and client.usage == tally.usage
    assert (stages["one"].prompt_tokens, stages["one"].completion_tokens, stages["one"].estimated) == (100, 20, False)
    # Five and two characters are two tokens and one; the request that failed cost none.
    assert (stages["two"].prompt_tokens, stages["two"].completion_tokens, stages["two"].estimated) == (2, 1, True)
    assert stages["two"].requests == 2 and client.usage.cost is None


# threads


def test_results_are_in_order_and_requests_bounded():
    def reply(body):
        return Step(body["messages"][0]["content"], delay=0.02)

    with ScriptedServer(default=reply) as server, endpoint(server, concurrency=3).client() as client:
        texts = [str(n) for n in range(12)]
        assert client.map(lambda text: client.complete(say(text)).text, texts) == texts
        threads = [threading.Thread(target=client.complete, args=(say("x"),)) for _ in range(9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert server.most_at_once == 3


def test_the_first_error_of_a_map_is_raised():
    with ScriptedServer() as server, endpoint(server).client() as client, pytest.raises(ZeroDivisionError):
        client.map(lambda n: 1 // n, [1, 0, 2])


# secrets


def test_a_key_is_nowhere_to_be_seen(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    caplog.set_level(logging.DEBUG)
    script = [
        Step({"echo": KEY}),
        Step(status=401, raw=f'{{"error": {{"message": "bad {KEY}"}}}}'.encode()),
        Step(status=500, raw=KEY.encode()),
        Step(None, refusal=f"not with {KEY}"),
        Step(raw=f"<p>{KEY}</p>".encode()),
        Step(drop_after=-1),
    ]
    seen = []
    with (
        ScriptedServer(script) as server,
        endpoint(server, retries=0).client(cache=tmp_path / "r.sqlite") as client,
    ):
        seen += [client.complete(say("0"), {"type": "object"}), repr(client), repr(client._key), str(vars(client))]
        for n in range(1, 6):
            with pytest.raises(EndpointError) as error:
                client.complete(say(str(n)), SCHEMA)
            seen += [error.getrepr(style="long"), error.value]
        with pytest.raises(TypeError):
            pickle.dumps(client._key)
        seen += [to_dict(client.endpoint), repr(client.endpoint)]
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert KEY not in "\n".join(map(str, seen)) and KEY.encode() not in kept
    assert caplog.records and KEY not in caplog.text
    assert not any(KEY in str(vars(record)) for record in caplog.records)


def test_a_key_of_the_environment_does_not_travel_in_the_open(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert "without a key" in repr(ChatEndpoint("http://far.example/v1", "m").client())
    assert "with a key" in repr(ChatEndpoint("https://far.example/v1", "m").client())
    assert "with a key" in repr(ChatEndpoint("http://far.example/v1", "m").client(key="given-by-hand"))
    assert "without a key" in repr(ChatEndpoint("https://far.example/v1", "m", key_env=None).client())


def test_a_key_that_cannot_be_sent_is_refused_without_being_shown():
    with pytest.raises(ConfigError) as error:
        ChatEndpoint("http://a/v1", "m").client(key="two\nlines")
    assert "two" not in str(error.value)


def test_a_proxy_of_the_environment_is_used(monkeypatch):
    with ScriptedServer([Step("through")]) as server:
        monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
        monkeypatch.delenv("no_proxy", raising=False)
        with ChatEndpoint("http://far.example/v1", "m").client() as client:
            assert client.complete(HELLO).text == "through"
    assert server.requests[0].headers["host"] == "far.example"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with ScriptedServer([Step("straight")]) as server, endpoint(server).client() as client:
        assert client.complete(HELLO).text == "straight"


def test_importing_loads_no_framework_and_opens_no_socket():
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise SystemExit('a socket was opened')\n"
        "socket.socket.__init__ = refuse\n"
        "import cellgap.ask.endpoint\n"
        "print([m for m in ('torch', 'jax', 'openai', 'anthropic', 'httpx2', 'httpcore2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=60)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


# parsing


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NaN",
        "[1,]",
        "{'a': 1}",
        '{"a": 1} x',
        '{"a": 1, "a": 2}',
        "[" * 40 + "]" * 40,
        "1e999",
        "9" * 40,
        "[-Infinity]",
    ],
)
def test_what_is_no_json(text):
    with pytest.raises(Unreadable):
        strict(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), st.booleans())
def test_an_object_is_found_within_prose_unchanged(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert read_value(text, lambda v: v) == value
    assert read_value(f"<think>{{}} hm</think> As asked:\n```json\n{text}\n``` Done }}.", lambda v: v) == value


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet='{}[]"\\:,a1 <think/>', max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        read_value(text, lambda v: v)
    except Unreadable as error:
        assert error.errors


@pytest.mark.parametrize("piece", ["<think>", "{", '{"a', "{x} ", '"\\', '{"\\', '"', "</think>"])
def test_long_replies_are_read_in_linear_time(piece):
    def refuse(_):
        raise Unreadable("no")

    start = time.process_time()
    with pytest.raises(Unreadable):
        read_value(piece * (300_000 // len(piece)) + "{", refuse)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("value", "n"),
    [
        ({"score": 3}, 0),
        ({"score": "3"}, 1),
        ({"score": 3.0}, 1),
        ({"score": True}, 1),
        ({"score": None}, 1),
        ({"score": 11}, 1),
        ({}, 1),
        ({"score": 3, "why": ""}, 1),
        ([], 1),
    ],
)
def test_types_are_strict(value, n):
    assert len(problems(value, SCHEMA)) == n


def test_a_schema_that_would_not_be_checked_is_refused():
    with ScriptedServer() as server, endpoint(server).client() as client, pytest.raises(ConfigError, match="anyOf"):
        client.complete(HELLO, {"type": "object", "properties": {"a": {"anyOf": []}}})


def test_a_refusal_is_an_error_of_its_own_sentence():
    with (
        ScriptedServer([Step(None, refusal="No.")]) as server,
        endpoint(server).client() as client,
        pytest.raises(ReplyError, match=r"refuses to answer: 'No\.'"),
    ):
        client.complete(HELLO, SCHEMA)

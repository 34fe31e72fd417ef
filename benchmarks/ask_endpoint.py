"""A language model's server fails in every way we know: do answers get lost, paid for twice, or come too late?

Question: does every fault end as documented, in time, with a typed error at worst; does a run that is killed again and
again pay for a reply twice; and what does the client itself cost?
Data: made-up passages, and a scripted server on this machine (``tests/ask/scripted_server.py``).
Machine: any CPU; nothing leaves it.
How to read: answers lost are those the server did give in the end and the client did not return. In the run that is
killed (kill -9, at random moments), a reply is charged twice if it had been sent whole at least 50 ms before the kill
and was asked for again; what was under way at that moment nobody can know to be answered, and it is counted apart.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from bars import Bar
from children import say, table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "ask"))

from endpoint_faults import ALBUM, FAULTS, FILM, GOOD, PASSAGES, Outcome, complaint, run  # noqa: E402
from scripted_server import ScriptedServer, Step  # noqa: E402

from cellgap.ask.endpoint import ChatEndpoint, generate  # noqa: E402

SETTLED_S = 0.05


def bar(what: str, value: float | None, target: str | None = None) -> None:
    Bar("endpoint", what, value, target, "ask").emit()


def faults() -> None:
    right = lost = 0
    overrun = 0.0
    rows = []
    for fault in FAULTS:
        try:
            found = run(fault)
            wrong = complaint(fault, found)
        except Exception as error:
            found, wrong = Outcome("untyped error", 0.0), f"{type(error).__name__}: {error}"
        right += not wrong
        if fault.outcome in ("answer", "repair"):
            lost += max(0, fault.n - (len(found.answers) if found.answers is not None else 0))
        overrun = max(overrun, found.seconds - fault.timeout_s)
        rows.append((fault.name, found.kind, found.seconds, fault.timeout_s, wrong or "as documented"))
    table("faults", rows, ("fault", "ended as", "seconds", "deadline", ""))
    bar(f"share of {len(FAULTS)} faults with the documented outcome", right / len(FAULTS), ">= 1")
    bar("answers lost that the server gave", lost, "<= 0")
    bar("largest overrun of a deadline, s", max(overrun, 0.0), "<= 0.5")


def kills(n_questions: int, n_kills: int) -> None:
    """A run of many questions in a process that is killed, again and again, and finished at last."""
    draw = random.Random(0)
    lock = threading.Lock()
    seen: list[str] = []

    def reply(body: dict) -> Step:
        with lock:
            seen.append(body["messages"][-1]["content"].rsplit("The question: ", 1)[1])
            delay = draw.uniform(0.01, 0.06)
        return Step(GOOD, delay=delay)

    again = under_way = killed = 0
    with tempfile.TemporaryDirectory() as folder, ScriptedServer(default=reply) as server:
        command = [
            sys.executable,
            __file__,
            "--run",
            server.url,
            str(Path(folder) / "replies.sqlite"),
            str(n_questions),
        ]
        ended: dict[int, float] = {}
        first = 0
        for turn in range(n_kills + 1):
            child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            if turn < n_kills:
                until = len(server.requests) + draw.randint(1, max(2, n_questions // n_kills))
                while child.poll() is None and len(server.requests) < until:
                    time.sleep(0.001)
                time.sleep(draw.uniform(0.0, 0.06))
                killed += child.poll() is None
                ended_at = time.monotonic()
                child.kill()
            out, _ = child.communicate()
            if turn == n_kills:
                ended_at = time.monotonic()
            time.sleep(0.1)
            ended.update(dict.fromkeys(range(first, len(server.requests)), ended_at))
            first = len(server.requests)
        for place, question in enumerate(seen):
            earlier = [n for n in range(place) if seen[n] == question]
            if earlier:
                served = [server.requests[n].served_at for n in earlier]
                pairs = zip(served, earlier, strict=True)
                kept = any(at is not None and at < ended[n] - SETTLED_S for at, n in pairs)
                again, under_way = again + kept, under_way + (not kept)
        distinct = len(set(seen))
    answered = int(out.split()[-1]) if out.split() else 0
    table(
        "the run that is killed",
        [(killed, len(seen), distinct, again, under_way, answered)],
        ("kills", "requests", "questions", "charged twice", "under way at a kill", "answered"),
    )
    bar("kills in the middle of the run", killed, f">= {max(1, n_kills - 1)}")
    bar("questions of the killed run that were not answered in the end", n_questions - answered, "<= 0")
    bar("requests charged twice", again, "<= 0")
    bar("requests under way at a kill, asked again", under_way)


def run_questions(url: str, cache: str, n: int) -> None:
    """The process that is killed: answers questions with a cache, several at a time."""
    with ChatEndpoint(url, "scripted", key_env=None, two_step=False).client(cache=cache) as client:
        questions = [f"Who made Marrow Lane, part {i}?" for i in range(n)]
        done = client.map(lambda question: len(generate(question, PASSAGES, client)), questions)
    print(sum(count == len(GOOD["answers"]) for count in done))


def overhead(calls: int) -> None:
    import httpx2

    schema = {"type": "object", "properties": {"answers": {"type": "array"}}, "required": ["answers"]}
    messages = [{"role": "user", "content": "x" * 8000}]
    spent: dict[str, list[float]] = {"ours": [], "with cache": [], "hit": [], "bare": []}
    body = {"model": "scripted", "messages": messages, "max_tokens": 1024}
    with (
        tempfile.TemporaryDirectory() as folder,
        ScriptedServer(default=lambda _: Step({"answers": [FILM, ALBUM]})) as server,
    ):
        endpoint = ChatEndpoint(server.url, "scripted", key_env=None)
        cache = Path(folder) / "replies.sqlite"
        with endpoint.client() as plain, endpoint.client(cache=cache) as kept, httpx2.Client() as bare:
            for i in range(calls + 5):
                mine = [{"role": "user", "content": messages[0]["content"] + str(i)}]

                def timed(name: str, work: object, i: int = i) -> None:
                    start = time.thread_time()
                    work()  # type: ignore[operator]
                    if i >= 5:
                        spent[name].append(time.thread_time() - start)

                timed("ours", lambda m=mine: plain.complete(m, schema))
                timed("with cache", lambda m=mine: kept.complete(m, schema))
                timed("hit", lambda m=mine: kept.complete(m, schema))
                timed("bare", lambda: bare.post(f"{server.url}/chat/completions", json=body).json())
    median = {name: 1e3 * sorted(values)[len(values) // 2] for name, values in spent.items()}
    bar("CPU ms of a call of ours", median["ours"])
    bar("CPU ms of a call of ours whose reply is kept", median["with cache"])
    bar("CPU ms of a reply from the cache", median["hit"])
    bar("CPU ms of a bare call of httpx2", median["bare"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 kills, 12 questions, to see that it runs")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    args, _ = parser.parse_known_args()
    if args.run:
        run_questions(args.run[0], args.run[1], int(args.run[2]))
        return
    say(f"{len(FAULTS)} faults")
    faults()
    n_questions, n_kills = (12, 2) if args.quick else (40, 8)
    say(f"{n_questions} questions, {n_kills} kills")
    kills(n_questions, n_kills)
    overhead(40 if args.quick else 300)


if __name__ == "__main__":
    main()

"""A long run of private statistics is killed 200 times: is a step lost, drawn twice, or paid for twice?

Question: after kill -9 at random moments, does the ledger alone prove that each step was drawn once, that the budget
was spent once, and that what was published is what was drawn?
Data: made-up donors, 1,000 steps, five statistics (a sum by a tree, a sum by factors, a maximum, a selection, a
quantile), noise of the operating system. A run is killed at a random moment and started again, 200 times, spread over
the first nine tenths of the steps, every fourth time right after it was started; then it comes to its end. Each run
appends what it releases to a file that nobody corrects.
Machine: any CPU and disk; how many steps pass between kills depends on both.
How to read: the journal is checked by `verify`, which sees nothing else. Lost steps are those that are missing in the
journal or in what was published; drawn twice are those with two draws in the journal or with two different releases in
what was published, and releases that are not what the journal's draw says.
"""

import argparse
import json
import tempfile
from pathlib import Path

from bars import Bar
from cellgap.stream.release import Verified, verify
from cellgap.stream.release._entries import parse
from cellgap.stream.release._journal import NAME
from cellgap.stream.release._mechanisms import mechanism_of
from children import run_child, say, table


def bar(what: str, value: float, target: str | None = None) -> None:
    Bar("kills", what, value, target, "stream").emit()


def published_wrongly(found: Verified, rows: list[dict], steps: int) -> tuple[int, int, int]:
    """Return releases that are missing, those that were published again otherwise, and those that nobody drew so."""
    by_step: dict[tuple[str, int], dict] = {}
    again = other = 0
    for row in rows:
        again += by_step.setdefault((row["name"], row["t"]), row) != row
    for name, one in found.statistics.items():
        mechanism = mechanism_of(one.public)
        for t in range(1, steps + 1):
            row = by_step.get((name, t))
            if row is not None and t <= len(found.drawn[name]):
                other += row["values"] != mechanism.estimate(found.drawn[name][:t]).values.tolist()
    missing = sum((name, t) not in by_step for name in found.statistics for t in range(1, steps + 1))
    return missing, again, other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 kills, 60 steps, to see that it runs")
    args, _ = parser.parse_known_args()
    steps, kills = (60, 10) if args.quick else (1000, 200)
    with tempfile.TemporaryDirectory() as temporary:
        folder, public = Path(temporary) / "journal", Path(temporary) / "public.jsonl"
        say(f"{steps:,} steps of five statistics, {kills} kills")
        arguments = {"folder": folder, "public": public, "steps": steps, "kills": kills}
        run = run_child("ours/release_run.py", arguments)
        say("checking the journal")
        found = verify(folder)
        rows = [json.loads(line) for line in public.read_bytes().splitlines()]
        missing, again, other = published_wrongly(found, rows, steps)
        entries, _ = parse((folder / NAME).read_bytes())
    counts: dict[tuple[str, str, int], int] = {}
    for entry in entries:
        if entry.kind in ("INTENT", "VALUE", "DONE"):
            key = (entry.kind, entry.body["name"], entry.body["t"])
            counts[key] = counts.get(key, 0) + 1
    lost = sum(steps - min(one.published, one.done) for one in found.statistics.values())
    twice = sum(count - 1 for count in counts.values())
    reserved = [entry for entry in entries if entry.kind == "RESERVE"]
    names = {entry.body["name"] for entry in reserved}

    bar("kills", run["killed"], f">= {kills}")
    bar("steps lost in the journal", lost, "<= 0")
    bar("steps lost in what was published", missing, "<= 0")
    bar("steps fixed, drawn or finished twice", twice, "<= 0")
    bar("releases published again with other values", again, "<= 0")
    bar("releases that are not what the journal drew", other, "<= 0")
    bar("rho spent less rho reserved once by each statistic", float(abs(found.spent - found.total)), "<= 0")
    bar("reservations beyond one a statistic", len(reserved) - len(names), "<= 0")
    bar("noise that is not the operating system's", float(not found.safe), "<= 0")
    bar("share of all releases that were public at the last kill", run["before"] / (len(names) * steps), ">= 0.5")
    table(
        "the journal",
        [(name, one.published, one.horizon, float(one.rho)) for name, one in found.statistics.items()],
        ("statistic", "published", "of", "rho"),
    )
    shown = ("kills", "openings", "lines", "releases", "spent", "of", "CPU-s of the runs")
    values = (int(run["killed"]), found.opened, found.versions, len(rows), float(found.spent), float(found.total))
    table("the runs", [(*values, run["process_cpu_s"])], shown)


if __name__ == "__main__":
    main()

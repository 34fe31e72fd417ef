"""Runs of a budget that are killed at random moments and started again. A child of stream_kills.py.

Forks one run after the other, each with five statistics of the library's mechanisms over the same stream and noise of
the operating system, and kills it (SIGKILL) at a random moment, until there were ``--kills`` kills; then lets one run
come to its end. Every run appends what it releases to ``--public``, one JSON line each. Prints the number of kills,
of runs, and of steps that were already there at the last kill.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from cellgap.stream.release import DonorBounds, PrivacyBudget, RunningStatistic

FEATURES = tuple("abcdefgh")
BOUNDS = DonorBounds(l2=4.0, l1=8.0, lattice=2**-8, max_steps=2, min_separation=2, max_donors=5)
SHARES = 5


def contributions(t: int) -> dict[str, np.ndarray]:
    """Return the vectors of step `t`: the same whenever they are asked for; a donor enters two steps, two apart."""
    donors = [f"donor-{t % 2}-{(t - 1) // 4}-{i}" for i in range(2 + t % 2)]
    return {donor: np.random.default_rng([t, i]).random(len(FEATURES)) for i, donor in enumerate(donors)}


def statistics(budget: PrivacyBudget, steps: int) -> list[RunningStatistic]:
    """Reserve the statistics, or continue them."""
    given = (FEATURES, steps, BOUNDS)
    return [
        budget.running_sum("tree", *given, mechanism="tree", share=f"1/{SHARES}"),
        budget.running_sum("factor", *given, mechanism="factor", share=f"1/{SHARES}"),
        budget.running_max("max", *given, share=f"1/{SHARES}"),
        budget.running_select("select", *given, share=f"1/{SHARES}"),
        budget.running_quantile("quantile", steps, BOUNDS, bins=range(len(FEATURES) + 1), share=f"1/{SHARES}"),
    ]


def rows_of(public: Path) -> list[dict[str, object]]:
    """Return the whole lines of a public file, which may be torn at its end."""
    content = public.read_bytes() if public.exists() else b""
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def run(folder: Path, public: Path, steps: int) -> None:
    """Run all steps, or those that are left, and publish what is not public yet."""
    with PrivacyBudget(rho=1, delta=1e-6, journal=folder, anchor=folder.parent / "anchor") as budget:
        opened = statistics(budget, steps)
        known = {(row["name"], row["t"]) for row in rows_of(public)}
        whole = public.read_bytes().rfind(b"\n") + 1 if public.exists() else 0
        with public.open("ab") as file:
            file.truncate(whole)
            for t in range(1, steps + 1):
                offered = contributions(t)
                for statistic in opened:
                    # What is public already is not asked for again: a long journal would be read at every start.
                    if t < statistic.published or (t == statistic.published and (statistic.name, t) in known):
                        continue
                    release = statistic.step(offered, t)
                    file.write(json.dumps(release.to_dict()).encode() + b"\n")
                    file.flush()


def wait_for(public: Path, releases: int, child: int) -> None:
    """Return when there are so many releases, or when the child has ended."""
    used = found = 0
    while found < releases and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.005)
        if public.exists():
            with public.open("rb") as file:
                file.seek(used)
                new = file.read()
            used += len(new)
            found += new.count(b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--public", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--longest", type=float, default=0.1, help="seconds from there to a kill, at most")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as elsewhere:
        # What is imported at the first draw is imported before the runs are forked, which are killed early.
        run(Path(elsewhere) / "journal", Path(elsewhere) / "public.jsonl", 2)
    chance = random.Random(0)
    killed = runs = before = 0
    while True:
        runs += 1
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(args.folder, args.public, args.steps)
                code = 0
            finally:
                os._exit(code)
        if killed < args.kills:
            # Kills fall on the whole run, whatever the machine: after so many releases, or, every fourth, right away.
            share = 0.9 * (killed + chance.random()) / args.kills if killed % 4 else 0.0
            wait_for(args.public, int(share * args.steps * SHARES), child)
            time.sleep(chance.uniform(0.0, args.longest))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            if os.WEXITSTATUS(status):
                raise SystemExit("a run failed")
            break
        killed += 1
        before = len(rows_of(args.public))
    print(json.dumps({"killed": killed, "runs": runs, "before": before}))


if __name__ == "__main__":
    main()

"""Runs of a budget that are killed and started again: for the tests here and for benchmarks.

``python killed.py run FOLDER PUBLIC [--anchor PATH] [--steps T] [--real] [--kill-at N]`` runs `statistics` over the
data of `contributions` and appends every release to PUBLIC as one JSON line; started again it goes on. With --kill-at
it kills itself at its N-th fsync (-N: right before it). ``python killed.py campaign FOLDER KILLS`` forks such runs one
after the other, each killed at a random fsync, until one comes to its end, and prints what `check` found.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

from cellgap.stream.release._bounds import DonorBounds
from cellgap.stream.release._budget import PrivacyBudget
from cellgap.stream.release._interface import AbstractMechanism, Estimate
from cellgap.stream.release._mechanisms import mechanism_of
from cellgap.stream.release._verify import verify

FEATURES = ("a", "b", "c")
BOUNDS = DonorBounds(l2=4.0, lattice=0.5, max_steps=2, min_separation=2, max_donors=5)


class Fake(AbstractMechanism):
    """Running sums with a fixed offset of each step for noise, and a random mark by which a second draw is told."""

    def __init__(self, name="sum", steps=6, rho="1/4", small_state=True, bounds=BOUNDS, features=FEATURES, large=0):
        self.name, self.features, self.steps, self.bounds = name, tuple(features), steps, bounds
        self.rho, self.small_state, self.large = Fraction(rho), small_state, large

    def public(self):
        return {
            "kind": "fake",
            "name": self.name,
            "features": list(self.features),
            "steps": self.steps,
            "rho": str(self.rho),
            "small_state": self.small_state,
            "large": self.large,
        }

    def start(self):
        return (np.zeros(self.width, object if self.large else np.int64),) if self.small_state else ()

    def absorb(self, state, t, total):
        return (state[0] + total,) if self.small_state else (*state, total)

    def draw(self, state, t, drawn, randomness):
        assert len(drawn) == t - 1
        offset = int.from_bytes(hashlib.sha256(f"{self.name} {t}".encode()).digest()[:2]) + self.large
        mark = np.array([int(randomness.words(1)[0] >> np.uint64(2))])
        return np.concatenate([sum(state, np.zeros(self.width, np.int64)) + offset, mark])

    def estimate(self, drawn):
        return Estimate(drawn[-1][:-1].astype(float), np.full(self.width, 2.0), {"mark": drawn[-1][-1:]})

    def bound(self, t, beta):
        return 3.0

    def describe(self):
        return f"fake, {self.steps} steps"


def contributions(t):
    """Two to three donors at step `t`; each of a plate of two steps enters at most twice, two steps apart."""
    donors = [f"donor-{t % 2}-{t // 4}-{i}" for i in range(2 + t % 2)]
    return {donor: np.array([t, -i, 1.0]) for i, donor in enumerate(donors)}


def statistics(budget, steps, real):
    """Open a few statistics of different kinds."""
    if not real:
        return [
            budget.add(Fake("small", steps)),
            budget.add(Fake("whole", steps, small_state=False)),
            budget.add(Fake("large", steps, large=10**30)),
        ]
    given = (FEATURES, steps, BOUNDS)
    return [
        budget.running_sum("tree", *given, mechanism="tree", share="1/4"),
        budget.running_sum("factor", *given, mechanism="factor", share="1/4"),
        budget.running_max("max", *given, share="1/4"),
        budget.running_select("select", *given, share="1/4"),
    ]


def run(folder, public, anchor=None, steps=6, real=False):
    """Run all steps, or those that are left, and publish what is not public yet."""
    with PrivacyBudget(rho=1, delta=1e-6, journal=folder, anchor=anchor) as budget:
        opened = statistics(budget, steps, real)
        whole = public.read_bytes().rfind(b"\n") + 1 if public.exists() else 0
        with public.open("ab") as file:
            file.truncate(whole)
            known = {(row["name"], row["t"]) for row in published(public)}
            for t in range(1, steps + 1):
                for statistic in opened:
                    release = statistic.step(contributions(t), t)
                    if (release.name, t) not in known:
                        file.write(json.dumps(release.to_dict()).encode() + b"\n")
                        file.flush()


def published(public):
    """Return the releases in a public file that was killed or not."""
    content = public.read_bytes()
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def check(folder, public, steps):
    """Raise unless what is public is what the journal says was drawn, once and in full; return both counts."""
    found = verify(folder)
    rows = published(public)
    by_step = {(row["name"], row["t"]): row for row in rows}
    assert len(rows) == len(by_step), "published twice"
    assert all(s.published == steps == s.done for s in found.statistics.values()), "a step was lost"
    assert set(by_step) == {(name, t) for name in found.statistics for t in range(1, steps + 1)}, "a release was lost"
    for (name, t), row in by_step.items():
        public = dict(found.statistics[name].public)
        made = Fake(**public) if public.pop("kind") == "fake" else mechanism_of(found.statistics[name].public)
        estimate = made.estimate(found.drawn[name][:t])
        assert row["values"] == estimate.values.tolist(), "what is public is not what was drawn"
        assert row["extra"].keys() == estimate.extra.keys()
        assert row["extra"].get("mark") == ([int(found.drawn[name][t - 1][-1])] if "mark" in row["extra"] else None)
    return {"opened": found.opened, "lines": found.versions, "published": len(rows)}


def kill_at(n):
    """Kill this process at its n-th fsync; before the data are on the disk where n is negative."""
    count = 0
    fsync = os.fsync

    def counted(descriptor):
        nonlocal count
        count += 1
        if count == -n:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)
        if count == n:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = counted


def campaign(folder, kills, steps=6, real=False, seed=0):
    """Kill runs, by turns at a random fsync and at a random moment, then let one come to its end.

    Returns the counts of `check` and the number of kills; fewer than asked for where the steps were done before.
    """
    chance = random.Random(seed)
    public, anchor = folder.parent / "public.jsonl", folder.parent / "anchor"
    killed = 0
    for attempt in range(4 * kills + 1):
        at = chance.choice([-1, 1]) * chance.randint(1, 12)
        moment = chance.uniform(0.0, 0.03)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if killed < kills and attempt % 2:
                    kill_at(at)
                run(folder, public, anchor, steps, real)
                code = 0
            finally:
                os._exit(code)
        if killed < kills and not attempt % 2:
            time.sleep(moment)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0, "a run failed"
            break
        killed += 1
        if (folder / "journal.jsonl").exists() and b"\n" in (folder / "journal.jsonl").read_bytes():
            verify(folder)
    return check(folder, public, steps) | {"killed": killed}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["run", "campaign", "hold"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("more")
    parser.add_argument("--anchor", type=Path)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--kill-at", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.kill_at:
        kill_at(args.kill_at)
    if args.what == "hold":
        with PrivacyBudget(rho=1, delta=1e-6, journal=args.folder):
            print("held", flush=True)
            time.sleep(float(args.more))
    elif args.what == "run":
        run(args.folder, Path(args.more), args.anchor, args.steps, args.real)
    else:
        print(json.dumps(campaign(args.folder, int(args.more), args.steps, args.real, args.seed)))


if __name__ == "__main__":
    main()

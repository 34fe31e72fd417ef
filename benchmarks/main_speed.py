"""Speed of training: ours beside ott-jax and the package cmonge, in CPU time, and the memory it takes.

Questions: what does one of the first training steps cost with the published objective, at n = 512, d = 50 and at
n = 256, d = 1000, beside the step of ott-jax's `MongeGapEstimator`? What does a run of 1,000 steps over six conditions
cost (n = 256, d = 50) beside the package cmonge's own trainer? How much memory does training at d = 1000, n = 512 take?
Data: the known-answer problem, 2500 cells a population, which each side divides by its own rule; no autoencoder.
Same objective: Sinkhorn divergence of one batch (Euclidean cost, eps 1) plus the Monge gap (Euclidean cost, eps 0.01,
weight 1). Same batch size. Same network: x + MLP(x), hidden 64 x 4, GELU, for the steps (ours has the published
condition branch as well); the published conditional network of ten numbers and the dose for the run. AdamW, 1e-3.
Each side solves its own way, to the tolerance of 1e-3 that both come with: ours leaves out the target's self term,
which has no gradient, and stops the gap's iterations at 100 (ott-jax: 2000).
Machine: any CPU. Ours and the peer run as children of this process, in turns, three times each, with the same
environment, and medians are taken. CPU seconds are user plus system time of all threads, read by each child around
the steps; compiling is not in them, but our validations on held-out cells are. The peers are timed over their first
10 (d = 50) or 4 (d = 1000) steps, which are their cheapest; ours over the 200 that follow its first 10. Wall time
would say less on a shared machine.
How to read: "ratio" is the peer's CPU time over ours (20: ours takes 1/20). Lines without a target give our estimator
as it comes (two batches, Gaussian start, gate), the ratio with compiling on both sides, and ott-jax's memory.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bars import Bar
from children import medians, run_child, say, table
from environments import CMONGE, OTT, peer_python
from problem import problem

OURS = "ours/training.py"
Measures = dict[str, float]


Child = tuple[str, Mapping[str, object], str | None]  # program, options, interpreter


def interleaved(rounds: int, children: Mapping[str, Child]) -> dict[str, Measures]:
    """Run every child once a round, in turns, and return the medians of each."""
    runs: dict[str, list[Measures]] = {name: [] for name in children}
    for r in range(rounds):
        for name, (program, options, python) in children.items():
            runs[name].append(run_child(program, options, python))
            say(f"  round {r + 1}/{rounds}: {name}, {runs[name][-1]['process_cpu_s']:.1f} CPU-s in all")
    return {name: medians(several) for name, several in runs.items()}


def first_steps(folder: Path, python: str, n: int, d: int, at_least: int, rounds: int, quick: bool) -> list[tuple]:
    """Print the bar of one training step against ott-jax and return the rows of its table."""
    data = problem(folder, d, 2500)
    ours = {"data": data, "n": n, "estimator": "monge", "steps": 50 if quick else 200}
    peer = {"data": data, "n": n, "steps": (4 if d > 100 else 10)}
    found = interleaved(
        rounds,
        {
            "cellgap, published objective": (OURS, ours | {"objective": "published"}, None),
            "cellgap, as it comes": (OURS, ours | {"objective": "default"}, None),
            "ott-jax": ("peers/ott_monge_step.py", peer, python),
            "ott-jax, started at the identity": ("peers/ott_monge_step.py", peer | {"identity-start": 1}, python),
        },
    )
    theirs = found["ott-jax"]["cpu_s_per_step"]
    same, two = (found[k]["cpu_s_per_step"] for k in list(found)[:2])
    near = found["ott-jax, started at the identity"]["cpu_s_per_step"]
    where = f"first steps, n {n}, d {d}"
    Bar("speed", f"CPU time ratio ott-jax / ours, {where}, same objective", theirs / same, f">= {at_least}").emit()
    Bar("speed", f"CPU time ratio ott-jax / ours, {where}, both started at the identity", near / same).emit()
    Bar("speed", f"CPU time ratio ott-jax / ours, {where}, everything as it comes (two batches)", theirs / two).emit()
    Bar("speed", f"CPU milliseconds a step, ours, {where}, same objective", 1e3 * same).emit()
    Bar("speed", f"CPU milliseconds a step, ott-jax, {where}", 1e3 * theirs).emit()
    return [
        (f"n {n}, d {d}", name, int(m["steps"]), 1e3 * m["cpu_s_per_step"], m["first_call_cpu_s"], m["peak_mb"])
        for name, m in found.items()
    ]


def whole_run(folder: Path, python: str, steps: int, peer_steps: int, rounds: int) -> list[tuple]:
    """Print the bar of a whole run against cmonge and return the rows of its table."""
    data = problem(folder, 50, 2500)
    ours = {"data": data, "n": 256, "estimator": "conditional", "chunk": 50, "steps": steps}
    peer = {"data": data, "n": 256, "steps": peer_steps, "run-steps": steps}
    found = interleaved(
        rounds,
        {
            "cellgap, published objective": (OURS, ours | {"objective": "published"}, None),
            "cellgap, as it comes": (OURS, ours | {"objective": "default"}, None),
            "cmonge": ("peers/cmonge_run.py", peer, python),
        },
    )
    same, two, theirs = found.values()
    scale = steps / peer_steps
    note = ""
    if scale != 1:
        note = f" (cmonge: {peer_steps} steps measured, {theirs['cpu_s']:.1f} CPU-s, times {scale:g})"
        say(f"cmonge was run for {peer_steps} of {steps} steps; its CPU seconds are multiplied by {scale:g}")
    cost = theirs["cpu_s"] * scale
    where = f"run of {steps} steps, n 256, d 50, six conditions"
    Bar("speed", f"CPU time ratio cmonge / ours, {where}, same objective{note}", cost / same["cpu_s"], ">= 12").emit()
    both = (cost + theirs["first_call_cpu_s"]) / (same["cpu_s"] + same["first_call_cpu_s"])
    Bar("speed", f"CPU time ratio cmonge / ours, {where}, same objective, compiling included{note}", both).emit()
    default = cost / two["cpu_s"]
    Bar("speed", f"CPU time ratio cmonge / ours, {where}, everything as it comes (two batches){note}", default).emit()
    Bar("speed", f"CPU seconds, ours, {where}, same objective", same["cpu_s"]).emit()
    Bar("speed", f"CPU seconds, cmonge, {where}{note}", cost).emit()
    return [
        (name, int(m["steps"]), m["cpu_s"], m["first_call_cpu_s"], int(m["parameters"]), m["peak_mb"])
        for name, m in found.items()
    ]


def memory(folder: Path, python: str, rounds: int) -> list[tuple]:
    """Print the bar of peak memory and return the rows of its table."""
    data = problem(folder, 1000, 2500)
    ours = {"data": data, "n": 512, "estimator": "monge", "steps": 10}
    found = interleaved(
        rounds,
        {
            "cellgap, published objective": (OURS, ours | {"objective": "published"}, None),
            "cellgap, as it comes": (OURS, ours | {"objective": "default"}, None),
            "ott-jax": ("peers/ott_monge_step.py", {"data": data, "n": 512, "steps": 1}, python),
        },
    )
    same, two, theirs = (m["peak_mb"] for m in found.values())
    where = "peak memory of the process in MB, training at d 1000, n 512"
    Bar("speed", f"{where}, ours, same objective", same, "< 1000").emit()
    Bar("speed", f"{where}, ours, as it comes", two, "< 1000").emit()
    Bar("speed", f"{where}, ott-jax", theirs).emit()
    return [(name, m["peak_mb"]) for name, m in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ott-python", help="interpreter that has ott-jax 0.6.0 with its neural extra")
    parser.add_argument("--cmonge-python", help="interpreter that has cmonge 0.1.3")
    parser.add_argument("--peer-steps", type=int, help="steps that cmonge is run for; scaled up, and said so")
    parser.add_argument("--quick", action="store_true", help="one round of few steps, to see that it runs")
    args, _ = parser.parse_known_args()
    ott, cmonge = peer_python(OTT, args.ott_python), peer_python(CMONGE, args.cmonge_python)
    rounds = 1 if args.quick else 3
    steps = 100 if args.quick else 1000
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = first_steps(folder, ott, 512, 50, 20, rounds, args.quick)
        rows += first_steps(folder, ott, 256, 1000, 40, rounds, args.quick)
        table("First training steps", rows, ("problem", "who", "steps", "CPU-ms a step", "all else CPU-s", "peak MB"))
        run = whole_run(folder, cmonge, steps, args.peer_steps or steps, rounds)
        header = ("who", "steps", "CPU-s", "all else CPU-s", "parameters", "peak MB")
        table(f"A run of {steps} steps, n 256, d 50, six conditions", run, header)
        table("Peak memory at d 1000, n 512", memory(folder, ott, 1), ("who", "peak MB"))


if __name__ == "__main__":
    main()

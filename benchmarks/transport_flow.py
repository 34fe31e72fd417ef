"""Flow matching: the cost of a training step and of a prediction, ours beside cellflow-tools, in CPU time.

Question    What does a training step of OT flow matching cost with the same network, batch and number of conditions?
            What does it cost to move 6,000 cells?
Data        The known-answer problem, 2,500 cells a population, six conditions, 50 dimensions.
Same        One condition a step; batch of 1,024 (the published one) and of 256; pairs drawn from the entropic plan with
            the published epsilon (the mean squared distance); layers of the same widths: time 64, cells 64 x 2, decoder
            64 x 2, embedding 64, 16 frequencies, concatenation, mean over the set; AdamW 1e-3.
Differs     Ours clips gradients, averages the weights and logs the plan. GELU and SiLU. Ours draws cells on the device
            without replacement and pairs every control once; theirs draws on the host with replacement.
Left out    Validations, compiling (shown in the table), encoding of cells.
Measured    Every child in turns, medians of the rounds; CPU seconds are user plus system time of all threads. After the
            run every child times parts of a step alone. Prediction: ours with 20 steps of Heun, theirs adaptive (5th
            order, 1e-5), cells one by one, as it comes; both compiled before.
Read        "ratio" is the peer's CPU time over ours.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bars import Bar
from children import medians, run_child, say, table
from environments import CELLFLOW, peer_python
from problem import problem

SMALL = {"time": "64", "cells": "64,64", "decoder": "64,64", "embedding": 64, "frequencies": 16}
WIDE = {"time": "256,256", "cells": "256,256", "decoder": "512,512", "embedding": 256, "frequencies": 64}

OURS = ("cellgap", "ours/flow.py")
PEER = ("cellflow-tools", "peers/cellflow_step.py")


def interleaved(rounds: int, python: str, ours: Mapping, peer: Mapping) -> dict[str, dict[str, float]]:
    """Run both sides once a round, in turns, and return the medians of each."""
    runs: dict[str, list[dict[str, float]]] = {OURS[0]: [], PEER[0]: []}
    for r in range(rounds):
        for (name, program), options, interpreter in ((OURS, ours, None), (PEER, peer, python)):
            runs[name].append(run_child(program, options, interpreter))
            spent = 1e3 * runs[name][-1]["cpu_s_per_step"]
            say(f"  round {r + 1}/{rounds}: {name}, {spent:.2f} CPU-ms a step")
    return {name: medians(several) for name, several in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, fewer steps (not for the record)")
    parser.add_argument("--cellflow-python", help="an interpreter that has cellflow-tools 0.0.9")
    args, _ = parser.parse_known_args()
    python = peer_python(CELLFLOW, args.cellflow_python)
    rounds = 1 if args.quick else 3
    rows, parts = [], []
    with tempfile.TemporaryDirectory() as temporary:
        data = problem(Path(temporary), 50, 2500)
        for name, widths, n, epsilon, steps, target in (
            ("small network", SMALL, 1024, 1.0, 200, ">= 5"),
            ("small network", SMALL, 1024, 0.05, 100, None),
            ("small network", SMALL, 256, 1.0, 200, None),
            ("wide network", WIDE, 1024, 1.0, 20, None),
        ):
            steps = steps // 5 if args.quick else steps
            common = {"data": data, "n": n, "epsilon": epsilon, **widths}
            found = interleaved(
                rounds if target else 1,
                python,
                common | {"steps": steps, "chunk": max(steps // 5, 1)},
                common | {"steps": steps},
            )
            ours, peer = found.values()
            where = f"flow matching, {name}, batch {n}, epsilon {epsilon:g}"
            ratio = peer["cpu_s_per_step"] / ours["cpu_s_per_step"]
            Bar("flow", f"CPU time ratio cellflow / ours a step, {where}", ratio, target, "transport").emit()
            for side, m in found.items():
                what = f"CPU milliseconds a step, {side}, {where}"
                Bar("flow", what, 1e3 * m["cpu_s_per_step"], capability="transport").emit()
                rows.append((where, side, int(m["steps"]), 1e3 * m["cpu_s_per_step"], m["first_call_cpu_s"]))
            drawn = 1e3 * ours["pairing_cpu_s"]
            parts += [
                (where, OURS[0], "cells, plan and pairs", drawn),
                (where, OURS[0], "network and optimizer", 1e3 * ours["cpu_s_per_step"] - drawn),
                (where, PEER[0], "cells, on the host", 1e3 * peer["sample_cpu_s"]),
                (where, PEER[0], "plan", 1e3 * peer["plan_cpu_s"]),
                (where, PEER[0], "pairs", 1e3 * peer["pairs_cpu_s"]),
                (where, PEER[0], "network and optimizer", 1e3 * peer["network_cpu_s"]),
            ]
        # Trained a little, so that the field is not the one of the start.
        common = {"data": data, "n": 256, "steps": 300, "predict": 6000, **SMALL}
        found = interleaved(1, python, common, common)
        ours, peer = (m["predict_cpu_s"] for m in found.values())
        what = "CPU seconds to move 6,000 cells along the flow"
        Bar("flow", f"{what}, ours (20 Heun steps)", ours, capability="transport").emit()
        Bar("flow", f"{what}, cellflow (adaptive)", peer, capability="transport").emit()
        Bar("flow", "CPU time ratio cellflow / ours, 6,000 cells moved", peer / ours, capability="transport").emit()
    table("training", rows, ("problem", "side", "steps", "CPU-ms a step", "compiling, CPU-s"))
    table("what a step spends where", parts, ("problem", "side", "part", "CPU-ms"))


if __name__ == "__main__":
    main()

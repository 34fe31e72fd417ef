"""Speed of a contrastive training step: ours beside the NT-Xent losses of two PyTorch packages, in CPU seconds.

Question: what does one training step cost at equal network, batch and optimizer, beside lightly's and
pytorch-metric-learning's loss in a PyTorch step, and what does the loss with its gradient cost alone?
Data: Gaussian inputs and embeddings, in memory on both sides, the same for both. A step is both views through the
network (one after the other, so batch norm has each view's moments), the loss over 2n embeddings, backpropagation and
Adam. Published: 3-128-256-256-256-128-3, ReLU and batch norm, batches of 2,000 pairs, tau 0.3. Cells: 2,000 genes
to 256-128-64, layer norm and GELU, tau 0.1.
Peers: lightly 1.6.0 and pytorch-metric-learning 2.9.0 with torch 2.13.0, eager; lightly with torch.compile for context.
The loss of pytorch-metric-learning compares all negative pairs with all positive ones, memory with the cube of the
batch, so it is run at 256 pairs only.
Machine: any CPU. Children on one core and one thread, in turns; medians over steps, and of those over rounds.
Compiling is in neither.
How to read: "ratio" is the peer's CPU seconds over ours. The part "network" is the step with the mean square of outputs
for a loss. The values of the losses on the same embeddings must agree.
"""

import argparse
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bars import Bar
from children import medians, run_child, say, table
from environments import LIGHTLY, peer_python

CAPABILITY = "embed"
OURS, PEER = "ours/contrastive_step.py", "peers/contrastive_step.py"
CUBIC = 256  # pairs up to which pytorch-metric-learning is run
Measures = dict[str, float]


@dataclass(frozen=True)
class Setting:
    """A network and a batch; without widths the loss alone."""

    name: str
    n: int
    k: int
    tau: float
    network: str = "none"
    widths: tuple[int, ...] = ()
    target: str | None = None

    @property
    def where(self) -> str:
        return f"{self.name}, {self.n} pairs, k {self.k}"


SETTINGS = (
    Setting("published network", 2000, 3, 0.3, "published", (3, 128, 256, 256, 256, 128, 3), ">= 2"),
    Setting("cells, 2,000 genes", 256, 64, 0.1, "cells", (2000, 256, 128, 64)),
    Setting("cells, 2,000 genes", 1024, 64, 0.1, "cells", (2000, 256, 128, 64)),
    Setting("loss and gradient alone", 512, 128, 0.1),
    Setting("loss and gradient alone", 2048, 128, 0.1),
)


def bar(what: str, value: float | None, target: str | None = None) -> None:
    Bar("speed", what, value, target, CAPABILITY).emit()


def one_thread() -> None:
    """Put this process and its children on one core, and their libraries on one thread."""
    for name in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{name}_NUM_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def write(folder: Path, setting: Setting) -> Path:
    """Write inputs and embeddings of a setting, partners near each other, and return the path."""
    rng = np.random.default_rng(0)
    path = folder / f"{setting.network}_{setting.n}_{setting.k}.npz"
    arrays = {}
    for names, width in ((("left", "right"), setting.widths[:1]), (("first", "second"), (setting.k,))):
        if not width:
            continue
        shared = rng.normal(size=(setting.n, *width))
        for name in names:
            arrays[name] = (shared + 0.5 * rng.normal(size=shared.shape)).astype(np.float32)
    np.savez(path, **arrays)
    return path


def measured(setting: Setting, data: Path, python: str | None, rounds: int, steps: int) -> dict[str, Measures]:
    """Run all sides in turns and return the medians of each."""
    options = {"data": data, "network": setting.network, "tau": setting.tau, "steps": steps}
    if setting.widths:
        options["widths"] = ",".join(map(str, setting.widths))
    sides: dict[str, tuple[str, dict[str, object], str | None, int]] = {"ours": (OURS, options, None, rounds)}
    if python is not None:
        sides["lightly"] = (PEER, options, python, rounds)
        sides["lightly, torch.compile"] = (PEER, options | {"compile": 1}, python, 1)
        if setting.n <= CUBIC:
            slow = options | {"package": "pytorch-metric-learning", "steps": min(steps, 3)}
            sides["pytorch-metric-learning"] = (PEER, slow, python, 1)
    runs: dict[str, list[Measures]] = {side: [] for side in sides}
    for turn in range(rounds):
        for side, (program, given, interpreter, most) in sides.items():
            if turn < most:
                try:
                    runs[side].append(run_child(program, given, interpreter))
                except RuntimeError as error:
                    if side != "lightly, torch.compile":
                        raise
                    say(f"  torch.compile did not run: {str(error)[-300:]}")
    return {side: medians(several) for side, several in runs.items() if several}


def report(setting: Setting, found: dict[str, Measures]) -> list[tuple[object, ...]]:
    """Print the lines of a setting and return the rows of its table."""
    ours, whole = found["ours"], "step_s" if setting.widths else "loss_s"
    for side, measures in found.items():
        if side != "ours":
            target = setting.target if side == "lightly" else None
            bar(f"CPU time ratio {side} / ours, {setting.where}", measures[whole] / ours[whole], target)
            if "compile" not in side:
                apart = abs(measures["value"] - ours["value"])
                bar(f"difference of the loss on the same embeddings, {side}, {setting.where}", apart, "<= 1e-5")
            if setting.widths:
                for part, name in (("network_s", "network and optimizer"), ("loss_s", "loss and gradient")):
                    if part in measures:
                        bar(f"CPU time ratio {side} / ours, {name}, {setting.where}", measures[part] / ours[part])
        bar(f"CPU milliseconds, {side}, {setting.where}", 1e3 * measures[whole])
    return [
        (setting.where, side, *(1e3 * m[p] if p in m else "" for p in ("step_s", "network_s", "loss_s")), m["value"])
        for side, m in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lightly-python", help="interpreter that has lightly 1.6.0 and pytorch-metric-learning 2.9.0")
    parser.add_argument("--no-peers", action="store_true", help="ours only")
    parser.add_argument("--quick", action="store_true", help="two settings, few steps, to see that it runs")
    args, _ = parser.parse_known_args()
    python = None if args.no_peers else peer_python(LIGHTLY, args.lightly_python)
    one_thread()
    rounds, steps = (1, 3) if args.quick else (3, 15)
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as temporary:
        # Not where it keeps programs otherwise: a run that is cut off while it compiles leaves one that does not load.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(temporary) / "compiled")
        for setting in SETTINGS[:2] if args.quick else SETTINGS:
            say(f"{setting.where}, {rounds} rounds")
            found = measured(setting, write(Path(temporary), setting), python, rounds, steps)
            rows += report(setting, found)
    table("CPU milliseconds", rows, ("setting", "side", "step", "network", "loss", "value of the loss"))


if __name__ == "__main__":
    main()

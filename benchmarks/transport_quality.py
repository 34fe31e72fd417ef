"""Quality on unseen treatments and unseen doses: ours beside the packages cmonge and cellflow-tools and the baselines.

Question: same cells, same codes, same split, same evaluation: who predicts held-out treatments and doses better?
Data: the sets of `main_real.py` that hold out treatments or doses without several contexts (dapg_flow, every second
dose; bbbc021_wells, the first fold of compounds; with --sets auxin_yeast_dose too) and the simulated screen (16 drugs
at 3 doses in one cell line; four drugs held out at all doses, and one dose of four other drugs). Every side is trained
on the codes of the training cells with the same condition vectors (ours may also use their parts: descriptor, dose,
context), as many steps and cells a step, and moves the same SOURCE controls; `cellgap.evaluate` compares in the space
of the model. For the peers codes are scaled to a mean distance of 10 between control and treated cells, where the
absolute epsilons that cmonge was published with belong, and what they predict is scaled back. cmonge knows no context:
one model a context. Nothing is tuned on held-out conditions: ours runs as it comes.
Lines: means over held-out conditions (the captured share is that of the energy distance, pooled); the mean gain over
either peer and over ridge regression, and the share of conditions that gain. What the peers predict is kept in
benchmarks/out, by the hash of the inputs.
"""

import argparse
import hashlib
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax.random as jr
import numpy as np
import pandas as pd
from rich.console import Console

import cellgap as cg
from bars import Bar
from cellgap.errors import ConditionError
from cellgap.space import AbstractFittedSpace
from cellgap.study import Condition, Role, Split
from cellgap.transport import Codes
from children import HERE, run_child, say
from environments import CELLFLOW, CMONGE, peer_python
from real_sets import SETS, RealSet, data_root

METRICS = ("energy", "r2_delta", "pearson_delta", "mmd", "variance_ratio")
JUDGED = ("capture", "r2_delta", "mmd")
OURS = "conditional Monge"
RIDGE = "ridge mean shift"
PEERS = {"cmonge": ("peers/cmonge_predict.py", CMONGE), "cellflow": ("peers/cellflow_predict.py", CELLFLOW)}


@dataclass(frozen=True)
class Moved:
    """A peer's prediction, looked up by the codes of the control cells."""

    name: str
    space: AbstractFittedSpace
    table: dict[Condition, dict[bytes, np.ndarray]]

    def transport(self, z: np.ndarray, condition: Condition) -> np.ndarray:
        """Return what the peer made of these cells; ConditionError where it was not asked."""
        if condition not in self.table:
            raise ConditionError(f"{self.name} was not asked for {str(condition)!r}.")
        rows = self.table[condition]
        return np.stack([rows[cell.tobytes()] for cell in np.ascontiguousarray(z, np.float32)])


def simulated() -> Iterator[RealSet]:
    """Yield the simulated screen with held-out drugs, and with a held-out dose."""
    sizes = {"n_cells": 150, "n_controls": 600, "n_genes": 500}
    screen = cg.simulate(n_drugs=16, n_combinations=0, cell_lines=("line1",), seed=11, **sizes)
    study = screen.study()
    encoder = cg.encode.Table(screen.descriptors) | cg.encode.Dose()
    space = cg.space.PCA(dim=30)
    doses = sorted({c.treatments[0].dose for c in study.conditions})
    drugs = cg.split.unseen_treatment(study, ["A2", "B3", "C4", "A5"])
    yield RealSet("simulated screen (drugs)", "four drugs never seen", study, space, encoder, (drugs,))
    dose = cg.split.unseen_dose(study, [doses[1]], treatments=["B1", "C2", "A3", "B4"])
    yield RealSet("simulated screen (dose)", "a dose of four drugs never seen", study, space, encoder, (dose,))


def sets(names: list[str]) -> Iterator[RealSet]:
    for name in names:
        if name == "simulated":
            yield from simulated()
            continue
        real = SETS[name](data_root())
        splits = real.splits[:1] if name == "bbbc021_wells" else real.splits[1::2]
        yield RealSet(real.name, real.question, real.study, real.space, real.encoder, splits)


def inputs(codes: Codes) -> tuple[dict[str, np.ndarray], dict[str, tuple[Condition, ...]]]:
    """Return what the peers read, and the questions by context."""
    split, arrays, asked = codes.split, {}, {}
    encoded = {c: vector(codes, c) for c in (*split.train_conditions, *split.scored_conditions)}
    scale = np.abs(np.stack(list(encoded.values()))).max(0)
    encoded = {c: v / np.where(scale > 0, scale, 1.0) for c, v in encoded.items()}
    controls = dict.fromkeys(c.control for c in split.scored_conditions)
    controls |= dict.fromkeys(c.control for c in split.train_conditions)
    for g, control in enumerate(controls):
        train = [c for c in split.train_conditions if c.control == control]
        questions = tuple(c for c in split.scored_conditions if c.control == control)
        arrays[f"{g}/controls"] = codes.cells(control, Role.TRAIN)
        for i, condition in enumerate(train):
            arrays[f"{g}/treated/{i}"] = codes.cells(condition, Role.TRAIN)
        arrays[f"{g}/vectors"] = np.stack([encoded[c] for c in train])
        arrays[f"{g}/asked"] = np.asarray([encoded[c] for c in questions]).reshape(len(questions), -1)
        source = codes.cells(control, Role.SOURCE)
        arrays[f"{g}/source"] = source if len(source) else arrays[f"{g}/controls"][:1]
        asked[str(g)] = questions
    return arrays, asked


def vector(codes: Codes, condition: Condition) -> np.ndarray:
    """Return descriptor and dose of a condition, side by side, with its context."""
    entities, context = codes.encoder.encode(condition)
    return np.concatenate([entities.sum(0), context]).astype(np.float32)


def distance_of(arrays: dict[str, np.ndarray]) -> float:
    """Return the mean distance of random control and treated cells."""
    rng, found = np.random.default_rng(0), []
    for key, treated in arrays.items():
        if "/treated/" in key:
            controls = arrays[f"{key.split('/')[0]}/controls"]
            x, y = controls[rng.integers(len(controls), size=500)], treated[rng.integers(len(treated), size=500)]
            found.append(np.linalg.norm(x - y, axis=1).mean())
    return float(np.mean(found))


def peer(name: str, codes: Codes, steps: int, n: int, python: str, folder: Path) -> Moved:
    """Return the trained peer's predictions, from the folder where they are there."""
    program, _ = PEERS[name]
    arrays, asked = inputs(codes)
    sources = {g: arrays[f"{g}/source"] for g in asked}
    unit = distance_of(arrays) / 10.0
    arrays = {k: v if k.endswith(("vectors", "asked")) else v / np.float32(unit) for k, v in arrays.items()}
    digest = hashlib.sha256(f"{name} {steps} {n} {(HERE / program).read_text()}".encode())
    for key, value in arrays.items():
        digest.update(key.encode() + np.ascontiguousarray(value).tobytes())
    out = folder / f"{name}-{digest.hexdigest()[:16]}.npz"
    if not out.exists():
        with tempfile.TemporaryDirectory() as temporary:
            np.savez(Path(temporary) / "in.npz", **arrays)
            options = {"data": Path(temporary) / "in.npz", "out": Path(temporary) / "out.npz", "steps": steps, "n": n}
            done = run_child(program, options, python)
            (Path(temporary) / "out.npz").rename(out)
        say(f"  {name}: {done['process_cpu_s']:.0f} CPU-s")
    table: dict[Condition, dict[bytes, np.ndarray]] = {}
    with np.load(out) as stored:
        for g, questions in asked.items():
            keys = [cell.tobytes() for cell in np.ascontiguousarray(sources[g], np.float32)]
            for j, condition in enumerate(questions):
                table[condition] = dict(zip(keys, stored[f"{g}/moved/{j}"] * np.float32(unit), strict=True))
    return Moved(name, codes.space, table)


def scored(real: RealSet, split: Split, steps: int, n: int, pythons: dict[str, str], folder: Path):
    """Return the evaluation of one split, and our map."""
    codes = Codes.of(split, real.space, real.encoder)
    loop = cg.train.Loop(n_steps=steps)
    optimization = cg.transport.Optimization(loop=loop, batch_size=n)
    shared = {"space": real.space, "encoder": real.encoder}
    began = time.process_time()
    ours = cg.ConditionalMonge(**shared, optimization=optimization).fit_codes(codes, key=jr.key(0))
    say(f"  ours: {time.process_time() - began:.0f} CPU-s, best step {ours.best_step}, {chosen(ours)}")
    models = {OURS: ours, "Gaussian": cg.Gaussian(**shared).fit_codes(codes)}
    for name, python in pythons.items():
        models[name] = peer(name, codes, steps, n, python, folder)
    return cg.evaluate(models, split, metrics=METRICS, spaces=("latent",), n_draws=3, progress=False), ours


def chosen(fitted: object) -> str:
    """Return which simple rule the map stands on."""
    return f"start {getattr(fitted, 'chosen', 'gaussian')}"


def report(name: str, tables: list[pd.DataFrame], console: Console) -> dict[str, dict[str, pd.Series]]:
    """Print the means of one set and return the value of every condition by metric and predictor."""
    table = pd.concat(tables)
    kinds = table.drop_duplicates("predictor")["predictor"]
    values = table.groupby(["metric", "predictor", "condition"], sort=False)["value"].mean()
    lines, found = [], {}
    for metric in METRICS:
        here = values[metric]
        found[metric] = {who: here[who].dropna() for who in kinds if who in here.index.unique("predictor")}
    # Shares pooled over conditions: those of conditions without an effect would blow up.
    whole = found["energy"]["control"].mean()
    found["capture"] = {who: 1.0 - one / whole for who, one in found["energy"].items()}
    for metric in ("capture", *METRICS):
        lines.append({who: float(one.mean()) for who, one in found[metric].items()} | {"metric": metric})
    frame = pd.DataFrame(lines).set_index("metric").T
    console.print(f"\n{name}: means over {table['condition'].nunique()} held-out conditions")
    console.print(frame.to_string(float_format=lambda v: f"{v:.3f}"), highlight=False)
    return found


def better(metric: str, ours: pd.Series, other: pd.Series) -> tuple[float, float, int]:
    """Return the mean gain over another predictor (positive: ours is better), the share of wins, and how many."""
    both = ours.index.intersection(other.index)
    gain = (ours[both] - other[both]) * (-1.0 if metric == "mmd" else 1.0)
    return float(gain.mean()), float((gain > 0).mean()), len(both)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="simulated,dapg_flow,bbbc021_wells")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--peers", default="cmonge,cellflow", help="names separated by commas")
    args, _ = parser.parse_known_args()
    warnings.simplefilter("ignore", FutureWarning)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    folder = HERE / "out"
    folder.mkdir(exist_ok=True)
    pythons = {name: peer_python(PEERS[name][1]) for name in args.peers.split(",") if name}
    console = Console(stderr=True, width=160)
    for real in sets(args.sets.split(",")):
        say(f"{real.name}: {real.question}")
        tables, starts = [], []
        for split in real.splits:
            scores, ours = scored(real, split, args.steps, args.n, pythons, folder)
            tables.append(scores.table.assign(condition=lambda t, s=split: t["condition"] + f" #{id(s)}"))
            starts.append(chosen(ours))
        found = report(real.name, tables, console)
        for metric in JUDGED:
            if OURS not in found[metric] or found[metric][OURS].empty:
                continue
            mine = found[metric][OURS]
            Bar("quality", f"{real.name}: {metric} of ours", float(mine.mean()), capability="transport").emit()
            for other in (*pythons, RIDGE):
                if other not in found[metric]:
                    continue
                gain, share, n = better(metric, mine, found[metric][other])
                what = f"{real.name}: gain in {metric} over {other} (positive: ours is better)"
                Bar("quality", what, gain, ">= 0", capability="transport").emit()
                what = f"{real.name}: share of {n} conditions with {metric} better than {other}"
                Bar("quality", what, share, capability="transport").emit()
        console.print(f"{real.name}: {'; '.join(starts)}", highlight=False)


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"wall {time.perf_counter() - began:.0f} s", file=sys.stderr)

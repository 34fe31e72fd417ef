"""Real cells: the conditional Monge map beside every baseline, the floor and the replicate, on seven real data sets.

Question    On cells that nobody simulated, is the conditional map better than the rules that need no training?
Data        Seven sets (see `real_sets`): what each is asked follows from what it holds. Read from CELLGAP_DATA.
Figures     For every set a table: every predictor, the mean over held-out conditions, 95 % interval, and the scale on
            which 0 is the mean effect and 1 a repeat of the experiment; then the paired comparison with every baseline.
            One JSON line a set and figure, without a target: whatever they say.
Settings    The defaults of the library for all sets; nothing was tuned on any of them.
Machine     Any; about ten minutes of CPU time. ``--sets dapg_flow,kang_ifnb`` takes some.
"""

import argparse
import dataclasses
import os
import sys
import time
import warnings

import jax.random as jr
import pandas as pd
from rich.console import Console

import cellgap as cg
from bars import Bar
from cellgap.evaluate import Evaluation
from cellgap.transport import Codes
from real_sets import SETS, RealSet, load_sets

SHOWN = (
    "r2_delta",
    "pearson_delta",
    "energy",
    "capture_energy",
    "capture_divergence2",
    "variance_ratio",
    "discrimination",
)
BARS = ("capture_divergence2", "energy", "pearson_delta")
OTHERS = ("ridge mean shift", "nearest condition", "dose interpolation", "additive", "identity", "Gaussian")


def evaluated(real: RealSet) -> tuple[Evaluation, list[int]]:
    """Return the scores over all splits of a set, and the step kept in each."""
    parts, kept = [], []
    for i, split in enumerate(real.splits):
        codes = Codes.of(split, real.space, real.encoder)
        fitted = cg.ConditionalMonge(space=real.space, encoder=real.encoder).fit_codes(codes, key=jr.key(i))
        gaussian = cg.Gaussian(space=real.space, encoder=real.encoder).fit_codes(codes)
        models = {"conditional Monge": fitted, "Gaussian": gaussian}
        parts.append(cg.evaluate(models, split, progress=False))
        kept.append(fitted.best_step)
    whole = dataclasses.replace(
        parts[0],
        table=pd.concat([part.table for part in parts], ignore_index=True),
        conditions=pd.concat([part.conditions for part in parts], ignore_index=True),
        kinds={name: kind for part in parts for name, kind in part.kinds.items()},
        unscored={name: why for part in parts for name, why in part.unscored.items()},
    )
    return whole, kept


def report(real: RealSet, scores: Evaluation, kept: list[int], seconds: float) -> None:
    """Print the tables of a set and its JSON lines."""
    console = Console(file=sys.stderr, width=190)
    n = scores.table.condition.nunique()
    console.rule(f"{real.name}: {real.question} ({n} conditions, {len(real.splits)} fits, {seconds:.0f} CPU s)")
    console.print(f"steps whose weights were kept: {kept} (0: the closed-form start)")
    for condition, why in scores.unscored.items():
        console.print(f"not scored: {condition} ({why})")
    summary = scores.summary()
    # Where a space reconstructs the genes exactly, both readings are the same.
    spaces = ("genes", "latent") if isinstance(real.space, cg.space.PCA) else ("genes",)
    for space in spaces:
        here = summary[(summary.space == space) & summary.metric.isin(SHOWN) & summary["mean"].notna()]
        for metric in (m for m in SHOWN if m in set(here.metric)):
            console.print(f"\n{metric} ({space}): mean over conditions [95 % interval], s = scale", highlight=False)
            rows = here[here.metric == metric].set_index("predictor")
            for name in (p for p in scores.predictors if p in rows.index):
                r = rows.loc[name]
                text = f"{r['mean']:8.3g} [{r.low:.3g}, {r.high:.3g}]"
                console.print(f"  {name:20s} {text:32s} s = {r.scaled:.2f}", highlight=False)
        for metric in (m for m in BARS if m in set(here.metric)):
            emit(real, scores, here, metric, space, console)
    held = {c for split in real.splits for c in split.params.get("extrapolation", ())}
    if held:
        outside = {str(c) for split in real.splits for c in split.test_conditions if repr(c) in held}
        # Pooled over conditions, as in the summary: shares of single conditions blow up where a dose has no effect.
        left, whole = (
            scores.values(name, "divergence2", "genes").mean(axis=1) for name in ("conditional Monge", "control")
        )
        for word, chosen in (("between", False), ("outside", True)):
            part = [c for c in left.index if (c in outside) == chosen]
            what = (
                f"{real.name}: capture_divergence2 (genes) at {len(part)} conditions {word} the training doses, pooled"
            )
            Bar("real", what, float(1.0 - left[part].sum() / whole[part].sum())).emit()


def emit(real: RealSet, scores: Evaluation, here: pd.DataFrame, metric: str, space: str, console: Console) -> None:
    """Print the JSON lines of one metric, and the paired comparisons."""
    mine = here[(here.metric == metric) & (here.predictor == "conditional Monge")]
    if mine.empty:
        return
    row = mine.iloc[0]
    where = f"{real.name}: {metric} ({space})"
    Bar(
        "real", f"{where} of the conditional map, {int(row.n_conditions)} held-out conditions", float(row["mean"])
    ).emit()
    Bar("real", f"{where} on the scale 0 = mean effect, 1 = repeat", float(row.scaled)).emit()
    for other in OTHERS:
        if other not in set(here[here.metric == metric].predictor):
            continue
        paired = scores.compare("conditional Monge", other, metric, space)
        console.print(str(paired), highlight=False)
        if other == "ridge mean shift":
            Bar("real", f"{where}: share of conditions better than the ridge mean shift", float(paired.share)).emit()


def main() -> None:
    """Print the tables and the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS), help="names separated by commas")
    args, _ = parser.parse_known_args()
    warnings.simplefilter("ignore", FutureWarning)
    for real in load_sets(args.sets.split(",")):
        began = os.times()
        scores, kept = evaluated(real)
        ended = os.times()
        report(real, scores, kept, ended.user + ended.system - began.user - began.system)


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"wall {time.perf_counter() - began:.0f} s", file=sys.stderr)

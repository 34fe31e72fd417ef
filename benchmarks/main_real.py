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
from bars import Bar
from real_sets import SETS, RealSet, load_sets
from rich.console import Console

import cellgap as cg
from cellgap.evaluate import Evaluation
from cellgap.transport import Codes

SHOWN = (
    "r2_delta",
    "pearson_delta",
    "energy",
    "capture_energy",
    "capture_divergence2",
    "variance_ratio",
    "discrimination",
)


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
    space = "genes"
    here = summary[(summary.space == space) & summary.metric.isin(SHOWN)]
    with pd.option_context("display.width", 190, "display.max_rows", 500):
        cells = here.assign(
            text=[
                f"{m:.3g} [{lo:.3g}, {hi:.3g}] s={s:.2f}"
                for m, lo, hi, s in zip(here["mean"], here.low, here.high, here.scaled, strict=True)
            ]
        )
        order = [p for p in scores.predictors if p in set(cells.predictor)]
        wide = cells.pivot(index="predictor", columns="metric", values="text").reindex(order)
        wide = wide[[m for m in SHOWN if m in wide.columns]]
        for metric in wide.columns:
            console.print(f"\n{metric} ({space}): mean over conditions [95 % interval] s = scale", highlight=False)
            print(wide[metric].to_string(header=False), file=sys.stderr)
    metrics = [m for m in ("capture_divergence2", "energy", "pearson_delta") if m in set(here.metric)]
    for metric in metrics:
        values = here[(here.metric == metric) & (here.predictor == "conditional Monge")]
        if values.empty or values["mean"].isna().all():
            continue
        row = values.iloc[0]
        Bar(
            "real", f"{real.name}: {metric} of the conditional map ({n} held-out conditions)", float(row["mean"])
        ).emit()
        Bar("real", f"{real.name}: {metric} on the scale 0 = mean effect, 1 = repeat", float(row.scaled)).emit()
        for other in (
            "ridge mean shift",
            "nearest condition",
            "dose interpolation",
            "additive",
            "identity",
            "Gaussian",
        ):
            if other not in scores.predictors:
                continue
            try:
                paired = scores.compare("conditional Monge", other, metric, space)
            except cg.CellgapError as error:
                console.print(f"no comparison with {other} on {metric}: {error}")
                continue
            console.print(str(paired))
            if other == "ridge mean shift":
                what = f"{real.name}: {metric}, share of conditions better than the ridge mean shift"
                Bar("real", what, float(paired.share)).emit()


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

"""Guidance and its correction on exact Gaussian mixtures: what is closest to the truth over all weights.

Question: how far are guided cells from fresh draws of their class, over the weights 1, 1.5, 2, 3, 5, and how much does
the weight matter? Data: the reference problem (4 classes of three components, drawn by seed), sampled with the exact
field of a wrong law (15 % leak between classes, widths times 1.25), so that the error of the model is known. 20 Euler
steps, 1,500 cells a class, unbiased energy distance to as many true draws, mean over classes and problems.
Samplers: plain guidance; RK4 with the same steps; the correctors G1 and G2 (reconstructions after the idea of DiffIER;
evaluations count a reverse pass as two); guidance in an interval that is chosen for every weight by 300 other true
draws a class, never by what is scored; and that interval with a corrector in fewer steps, at about as many evaluations
as plain guidance. The sensitivity is the largest mean distance over the weights less the smallest one.
"""

import argparse
import sys
import time

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from bars import Bar
from cellgap.generate import (
    Corrector,
    Guidance,
    Sampler,
    Told,
    calibrate,
    flow,
    guide,
    reference_mixture,
)
from cellgap.ot import energy_distance
from children import table

WEIGHTS = (1.0, 1.5, 2.0, 3.0, 5.0)
LEAK, INFLATION = 0.15, 1.25
FIRST = 10  # problems 0 to 4 were looked at while the default rate of the corrector was chosen
EULER = Sampler(solver="euler", n_steps=20)
SAMPLERS = {
    "plain": EULER,
    "RK4": Sampler(solver="rk4", n_steps=20),
    "corrector G1": Sampler(solver="euler", n_steps=20, corrector=Corrector(objective="G1")),
    "corrector G2": Sampler(solver="euler", n_steps=20, corrector=Corrector()),
    "corrector G2, rate 0.1": Sampler(solver="euler", n_steps=20, corrector=Corrector(rate=0.1)),
}
SHORT = Sampler(solver="euler", n_steps=8, corrector=Corrector(iterations=1))
CHOSEN = {"calibrated interval": EULER, "calibrated interval + corrector G2": SHORT}
distance = jax.jit(energy_distance)


def bar(what: str, value: float, target: str | None = None) -> None:
    Bar("mixture", what, value, target, capability="generate").emit()


def problem(dim: int, seed: int, n: int) -> dict[str, list[tuple[float, float]]]:
    """Return distance and evaluations of every sampler at every weight."""
    truth = reference_mixture(dim, seed=seed)
    model = truth.leaky(LEAK, INFLATION)
    labels = jnp.repeat(jnp.arange(4), n)[:, None]
    there = truth.sample(labels, key=jr.key(1000 + seed)).reshape(4, n, dim)
    noise = jr.normal(jr.key(2000 + seed), (4 * n, dim))
    few = jnp.repeat(jnp.arange(4), 300)[:, None]
    real = np.asarray(truth.sample(few, key=jr.key(3000 + seed)))
    other = jr.normal(jr.key(4000 + seed), real.shape)

    def score(guidance: Guidance, sampler: Sampler) -> tuple[float, float]:
        path = flow(guide(Told(model, labels), guidance), noise, sampler)
        cells = path.z.reshape(4, n, dim)
        found = np.mean([float(distance(a, b)) for a, b in zip(cells, there, strict=True)])
        return float(found), float(path.evaluations) + 2.0 * float(path.reverse)

    found = {name: [score(Guidance(weight=w), how) for w in WEIGHTS] for name, how in SAMPLERS.items()}
    for name, how in CHOSEN.items():

        def draw(guidance: Guidance, how: Sampler = how) -> np.ndarray:
            return np.asarray(flow(guide(Told(model, few), guidance), other, how).z)

        calibration = calibrate(draw, real, np.asarray(few)[:, 0], weights=WEIGHTS)
        found[name] = [score(calibration.at(w) if w > 1 else Guidance(schedule="interval"), how) for w in WEIGHTS]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", default="2,10,50")
    parser.add_argument("--problems", type=int, default=5)
    parser.add_argument("--cells", type=int, default=1500)
    args, _ = parser.parse_known_args()
    for dim in map(int, args.dims.split(",")):
        runs = [problem(dim, seed, args.cells) for seed in range(FIRST, FIRST + args.problems)]
        means, rows, spread = {}, [], {}
        for name in runs[0]:
            values = np.asarray([[energy for energy, _ in run[name]] for run in runs])
            spent = np.mean([[n for _, n in run[name]] for run in runs])
            means[name] = float(values.mean())
            spread[name] = float(np.mean(values.max(1) - values.min(1)))
            rows.append((name, *values.mean(0), means[name], spread[name], spent))
        table(
            f"d = {dim}, {args.problems} problems",
            rows,
            ("sampler", *(f"w {w:g}" for w in WEIGHTS), "mean", "S", "evaluations"),
        )
        for name in means:
            bar(f"d {dim}: mean energy distance over weights, {name}", means[name])
        plain, g2 = means["plain"], means["corrector G2"]
        gated = None if dim > 10 else "<= 0.75"
        bar(f"d {dim}: corrector G2 / plain guidance, mean over weights", g2 / plain, gated)
        interval = means["calibrated interval"] / plain
        bar(f"d {dim}: calibrated interval / plain guidance, mean over weights", interval, "<= 0.5")
        both = means["calibrated interval + corrector G2"] / plain
        bar(f"d {dim}: calibrated interval + corrector / plain guidance, mean over weights", both)
        sensitivity = spread["calibrated interval"] / spread["plain"]
        bar(f"d {dim}: sensitivity to the weight, calibrated interval / plain guidance", sensitivity, "<= 0.75")
        sensitivity = spread["corrector G2"] / spread["plain"]
        bar(f"d {dim}: sensitivity to the weight, corrector G2 / plain guidance", sensitivity)


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"wall {time.perf_counter() - began:.0f} s", file=sys.stderr)

"""Sinkhorn against ott-jax: the same values and gradients, and how much less CPU time.

Question: do `cellgap.ot.entropic_cost` and ott-jax's `linear.solve` give the same entropic cost (KL form) and the
same gradient, and what does one value with its gradient cost on each side?
Data: controls and cells treated at the high dose from the known-answer problem, d = 50, n cells on both sides, n in
{256, 1024, 4096}; Euclidean cost with eps 1 (as published) and squared Euclidean with 5 % of the mean cost. Both
sides get the same arrays, eps, tolerance (L1 violation of a marginal below 1e-4) and cap (2000 iterations). Two
solvers that stop at a violation of t may differ by about t in the gradient, so the tolerance lies below the bar.
Machine: any CPU. Each figure is the median of three child processes a side, taken in turns; CPU seconds (user and
system, all threads) after compilation, so a shared machine disturbs little.
How to read: "value" is ``|ours - peer| / |peer|``, "gradient" ``|ours - peer| / |peer|`` in the Euclidean norm over all
cells; "ratio" is the peer's CPU time over ours (above 1: we are faster), and has no target.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from bars import Bar
from children import medians, run_child, say, table
from environments import OTT, peer_python
from problem import problem

TOLERANCE = 1e-4
REPEATS = {256: 50, 1024: 10, 4096: 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ott-python", help="interpreter that has ott-jax 0.6.0")
    parser.add_argument("--quick", action="store_true", help="smaller n and one round, to see that it runs")
    args, _ = parser.parse_known_args()
    peer = peer_python(OTT, args.ott_python)
    sizes, rounds = ((64, 256), 1) if args.quick else ((256, 1024, 4096), 3)

    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        data = problem(Path(temporary), d=50, cells=max(sizes))
        with np.load(data) as stored:
            x, y = stored["controls"][:1000].astype(np.float64), stored["treated"][1][:1000].astype(np.float64)
        mean_squared = float(np.mean((x**2).sum(1)[:, None] + (y**2).sum(1)[None, :] - 2 * x @ y.T))
        for cost, epsilon in (("euclidean", 1.0), ("sqeuclidean", round(0.05 * mean_squared, 3))):
            for n in sizes:
                options = {
                    "data": data,
                    "n": n,
                    "cost": cost,
                    "epsilon": epsilon,
                    "tolerance": TOLERANCE,
                    "repeats": REPEATS.get(n, 50),
                }
                sides: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
                for _ in range(rounds):
                    sides["ours"].append(
                        run_child("ours/sinkhorn.py", options | {"save": Path(temporary) / "ours.npz"})
                    )
                    sides["peer"].append(
                        run_child("peers/ott_sinkhorn.py", options | {"save": Path(temporary) / "peer.npz"}, peer)
                    )
                ours, theirs = medians(sides["ours"]), medians(sides["peer"])
                with np.load(Path(temporary) / "ours.npz") as a, np.load(Path(temporary) / "peer.npz") as b:
                    gradient = float(np.linalg.norm(a["gradient"] - b["gradient"]) / np.linalg.norm(b["gradient"]))
                value = abs(ours["value"] - theirs["value"]) / abs(theirs["value"])
                ratio = theirs["cpu_s"] / ours["cpu_s"]
                where = f"n {n}, d 50, {cost} cost, eps {epsilon:g}, tolerance {TOLERANCE:g}"
                if not (ours["converged"] and theirs["converged"]):
                    say(f"not converged at {where}: ours {ours['converged']}, ott-jax {theirs['converged']}")
                    value = gradient = float("nan")
                Bar("sinkhorn", f"value, relative difference to ott-jax, {where}", value, "<= 1e-4").emit()
                Bar("sinkhorn", f"gradient, relative difference to ott-jax, {where}", gradient, "<= 1e-3").emit()
                Bar("sinkhorn", f"CPU time ratio, ott-jax / ours, {where}", ratio).emit()
                rows.append(
                    (
                        cost,
                        n,
                        value,
                        gradient,
                        int(ours["iterations"]),
                        int(theirs["iterations"]),
                        1e3 * ours["cpu_s"],
                        1e3 * theirs["cpu_s"],
                        ratio,
                        ours["peak_mb"],
                        theirs["peak_mb"],
                    )
                )
    header = ("cost", "n", "value", "gradient", "steps", "(ott)", "CPU-ms", "(ott)", "ratio", "peak-MB", "(ott)")
    table("Sinkhorn value and gradient against ott-jax", rows, header)


if __name__ == "__main__":
    main()

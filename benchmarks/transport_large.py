"""Sinkhorn divergence of 10^5 by 10^5 cells: memory, sweeps, agreement, and time beside ott-jax and geomloss.

Question: does `cellgap.ot.streamed_divergence` give the divergence of two clouds of 10^5 cells in 50 dimensions within
2 GB, is it right, and what does it cost beside ott-jax 0.6.0 (`sinkdiv` with costs computed on the fly, ``batch_size``
1024) and geomloss 0.3.1 (KeOps, "online")?
Data: controls and cells treated at the high dose from the known-answer problem, d = 50; squared Euclidean cost with
epsilon at 5 % of its mean. All sides get the same arrays and epsilon. Ours and ott-jax stop at an L1 violation of a
marginal of 1e-3; geomloss has no tolerance, its blur falls by the factor "scaling".
Agreement: at n = 4096 with the solver that holds all pairs, in double precision at tolerance 1e-9, value and gradient;
at n where a peer runs, with its value (no bar: geomloss ends unconverged, by design).
Machine: any CPU. One call a side, compiling included; CPU seconds (user and system, all threads), so that a shared
machine disturbs little. A peer that needs more than ``--peer-cpu-limit`` seconds is ended and has no number.
How to read: times have no target. "sweep" is one evaluation of all pairs of the cross problem; the two self terms take
half of the pairs each.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from bars import Bar
from children import run_child, say, table
from environments import GEOMLOSS, OTT_ONLINE, peer_python
from problem import problem

CAPABILITY = "transport"
TOLERANCE = 1e-3


def bar(what: str, value: float | None, target: str | None = None) -> None:
    Bar("large", what, value, target, CAPABILITY).emit()


def attempt(name: str, program: str, options: dict[str, object], python: str | None) -> dict[str, float] | None:
    """Run a peer; None where it ends without a result."""
    try:
        return run_child(program, options, python)
    except RuntimeError as error:
        say(f"{name} ended without a result: {str(error).splitlines()[0][-200:]} {str(error)[-300:]}")
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller n, to see that it runs")
    parser.add_argument("--no-peers", action="store_true", help="ours only")
    parser.add_argument("--peer-cpu-limit", type=int, default=1200, help="CPU seconds a peer may take for one call")
    parser.add_argument("--ott-online-python", help="interpreter that has ott-jax 0.6.0 and a JAX its geometry runs on")
    parser.add_argument("--geomloss-python", help="interpreter that has geomloss and pykeops")
    args, _ = parser.parse_known_args()
    exact, shared, largest = (1024, (2000,), 10_000) if args.quick else (4096, (10_000, 20_000), 100_000)

    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        whole = problem(folder, d=50, cells=largest)
        with np.load(whole) as stored:
            x, y = stored["controls"], stored["treated"][1]
            data = folder / "large.npz"
            np.savez(data, controls=x, treated=y)
            few, others = x[:1000].astype(np.float64), y[:1000].astype(np.float64)
        del x, y
        whole.unlink()
        mean = float(np.mean((few**2).sum(1)[:, None] + (others**2).sum(1)[None, :] - 2 * few @ others.T))
        options: dict[str, object] = {"data": data, "epsilon": round(0.05 * mean, 3)}
        where = f"d 50, squared Euclidean cost, eps {options['epsilon']}"

        saved = [folder / "reference.npz", folder / "ours.npz"]
        reference = run_child(
            "ours/large.py", options | {"n": exact, "tolerance": 1e-9, "reference": 1, "save": saved[0]}
        )
        for tolerance, on_value, on_gradient in ((TOLERANCE, "<= 1e-4", None), (1e-5, "<= 1e-5", "<= 1e-4")):
            ours = run_child("ours/large.py", options | {"n": exact, "tolerance": tolerance, "save": saved[1]})
            with np.load(saved[0]) as a, np.load(saved[1]) as b:
                off = float(np.linalg.norm(a["gradient"] - b["gradient"]) / np.linalg.norm(a["gradient"]))
            at = f"n {exact}, {where}, tolerance {tolerance:g}"
            value = abs(ours["value"] / reference["value"] - 1)
            bar(f"divergence, relative difference to all pairs in double precision, {at}", value, on_value)
            bar(f"gradient, relative difference to all pairs in double precision, {at}", off, on_gradient)

        peers = {}
        if not args.no_peers:
            peers["ott-jax"] = ("peers/large_ott.py", peer_python(OTT_ONLINE, args.ott_online_python))
            peers["geomloss"] = ("peers/large_geomloss.py", peer_python(GEOMLOSS, args.geomloss_python))
        for n in (largest, *shared):
            say(f"n {n}")
            ours = run_child(
                "ours/large.py",
                options | {"n": n, "tolerance": TOLERANCE, "gradient": 0, "save": saved[1]},
            )
            at = f"n {n}, {where}"
            if n == largest:
                bar(f"peak memory, MB, {at}", ours["peak_mb"], "< 2000")
                bar(f"largest L1 violation of a marginal, {at}", ours["error"], f"<= {TOLERANCE:g}")
            bar(f"sweeps of the cross problem, {at}", ours["sweeps"])
            bar(f"CPU seconds, ours, {at}", ours["process_cpu_s"])
            rows.append(("ours", n, ours["value"], ours["sweeps"], ours["own_sweeps"], ours["process_cpu_s"]))
            rows[-1] += (ours["wall_s"], ours["peak_mb"])
            for name, (program, python) in peers.items():
                given = options | {"n": n, "cpu-limit": args.peer_cpu_limit}
                for variant in ({"scaling": 0.5}, {"scaling": 0.9}) if name == "geomloss" else ({"tolerance": 1e-3},):
                    label = name if name != "geomloss" else f"geomloss, scaling {variant['scaling']}"
                    theirs = attempt(label, program, given | variant, python)
                    if theirs is None:
                        rows.append((label, n, "none", "", "", f"> {args.peer_cpu_limit} or failed", "", ""))
                        continue
                    bar(f"CPU seconds, {label}, {at}", theirs["process_cpu_s"])
                    bar(f"divergence, relative difference to {label}, {at}", abs(ours["value"] / theirs["value"] - 1))
                    rows.append((label, n, theirs["value"], theirs.get("sweeps", ""), theirs.get("own_sweeps", "")))
                    rows[-1] += (theirs["process_cpu_s"], theirs["wall_s"], theirs["peak_mb"])
    header = ("side", "n", "value", "sweeps", "own sweeps", "CPU-s", "wall-s", "peak-MB")
    table("Sinkhorn divergence of large clouds", rows, header)


if __name__ == "__main__":
    sys.exit(main())

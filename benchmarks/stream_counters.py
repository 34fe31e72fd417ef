"""Errors of continual counters, maxima, selections and quantiles at equal budget, against theory and against peers.

Question: how far from the truth are running counts when a donor is hidden over the whole horizon, does the error obey
the bounds that are promised with it, and how does it grow with the horizon?
Data: none; streams without anybody (errors of counters do not depend on data), a column that grows at every step
(maxima), and 500 tied columns of which one begins to grow (selections). rho = 1/2, one donor of norm 1 in one step;
errors in donors.
Peers: a plain binary tree, computed from the same noisy nodes as ours, which is refined (Honaker 2015); jax-privacy
2.0.0 (its optimal Toeplitz mechanism, float noise, in an environment of its own); OpenDP's b-ary tree with its
consistency step (Laplace, epsilon = 1), which is no continual mechanism: it needs the whole tree before it says
anything, and is context beside our tree of the same epsilon. OpenDP is also one of the backends of our noise.
Machine: any CPU, one thread. Noise is seeded, but for the times of the backends.
How to read: "measured / theory" is the root mean square over all steps and runs, over that of the formulas of the
specification (sections 14, 15 and 18); "inside" is the share of runs in which the error of every step is below the
simultaneous bound at 95 %. Slopes are of log error against log T: maxima of dense rows must grow as T^(1/3) (T^(1/2)
for pure privacy), donors of bounded norm escape that, and counters grow like a power of log T.
"""

import argparse
import math
import time
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy.signal import fftconvolve

from bars import Bar
from cellgap.stream.release import DonorBounds, SeededRandomness, SystemRandomness, _factor, _tree
from cellgap.stream.release._noise import discrete_gaussian
from cellgap.stream.release._running_max import RecomputedMax
from cellgap.stream.release._running_quantile import KroneckerQuantile
from cellgap.stream.release._running_select import RecomputedSelect
from cellgap.stream.release._running_sum import FactorSum, TreeSum
from children import run_child, say, table
from environments import JAX_PRIVACY, peer_python

HALF, BETA = Fraction(1, 2), 0.05
ONE = DonorBounds(l2=1.0, l1=1.0, max_donors=1)
HELD = 2**23
"""Draws to hold at a time."""


def bar(what: str, value: float, target: str | None = None) -> None:
    Bar("counters", what, value, target, "stream").emit()


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def names(m: int) -> tuple[str, ...]:
    return tuple(f"g{j}" for j in range(m))


# Counters


def factor_errors(mechanism: FactorSum, runs: int, seed: int) -> np.ndarray:
    """Return errors of all steps and runs, (steps, runs): on an empty stream what is published is noise."""
    steps, randomness = mechanism.steps, SeededRandomness(seed)
    if steps <= 256:
        # The mechanism itself, step by step; its features are the runs.
        wide = FactorSum(name="c", features=names(runs), steps=steps, bounds=ONE, rho=HALF)
        state, drawn, found = wide.start(), [], []
        for t in range(1, steps + 1):
            state = wide.absorb(state, t, np.zeros(runs, np.int64))
            drawn.append(wide.draw(state, t, drawn, randomness))
            found.append(wide.estimate(drawn).values)
        return np.stack(found)
    noise = mechanism.noise.draw(steps * runs, randomness).reshape(steps, runs)
    inverse = _factor.inverse_series(_factor.integer_coefficients(steps))[:, None]
    return fftconvolve(noise, inverse, axes=0)[:steps] * float(ONE.step)


def tree_errors(mechanism: TreeSum, runs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return errors of the refined and the plain tree from the same nodes, (steps, runs) each."""
    wide = TreeSum(
        name="c",
        features=names(runs),
        steps=mechanism.steps,
        bounds=ONE,
        **({"rho": HALF} if mechanism.epsilon is None else {"epsilon": mechanism.epsilon}),
    )
    randomness, refinement, kept = SeededRandomness(seed), _tree.Refinement(), {}
    state, nothing = wide.start(), np.zeros(runs, np.int64)
    refined, plain = np.empty((2, wide.steps, runs))
    for t in range(1, wide.steps + 1):
        state = wide.absorb(state, t, nothing)
        nodes = wide.draw(state, t, (), randomness).reshape(-1, runs)
        refinement.add(nodes)
        kept[len(nodes) - 1] = nodes[-1]
        refined[t - 1] = refinement.prefix()
        plain[t - 1] = np.sum([kept[h] for h in _tree.bits(t)], axis=0)
    return refined * float(ONE.step), plain * float(ONE.step)


def counted(steps: int, runs: int) -> dict[str, dict[str, float]]:
    """Return what was measured of the counters, by their names."""
    given = {"name": "c", "features": ("a",), "steps": steps, "bounds": ONE, "rho": HALF}
    factor, tree = FactorSum(**given), TreeSum(**given)
    each = max(1, min(runs, HELD // steps))
    pieces: dict[str, list[np.ndarray]] = {"factorized": [], "refined tree": [], "plain tree": []}
    bounds = {
        "factorized": np.array([factor.bound(t, BETA) for t in range(1, steps + 1)]),
        "refined tree": np.array([tree.bound(t, BETA) for t in range(1, steps + 1)]),
        # (C L / sqrt(rho)) sqrt(ln(2 T / beta)) at the fullest prefix
        "plain tree": np.array(
            [
                math.sqrt(2 * _tree.levels(steps) * _tree.prefix_variance(t, False) * math.log(2 * steps / BETA))
                for t in range(1, steps + 1)
            ]
        ),
    }
    norms = np.cumsum(_factor.coefficients(steps) ** 2)
    theory = {
        "factorized": np.sqrt(norms[-1] * norms),
        "refined tree": np.sqrt([_tree.levels(steps) * _tree.prefix_variance(t) for t in range(1, steps + 1)]),
        "plain tree": np.sqrt([_tree.levels(steps) * _tree.prefix_variance(t, False) for t in range(1, steps + 1)]),
    }
    for start in range(0, runs, each):
        few = min(each, runs - start)
        refined, plain = tree_errors(tree, few, 2 * start + 1)
        for name, errors in zip(pieces, (factor_errors(factor, few, 2 * start + 2), refined, plain), strict=True):
            largest = np.abs(errors).max(axis=0)
            inside = (np.abs(errors) <= bounds[name][:, None]).all(axis=0)
            pieces[name].append(np.stack([(errors**2).mean(axis=0), largest, inside]))
    found = {}
    for name, parts in pieces.items():
        squares, largest, inside = np.concatenate(parts, axis=1).mean(axis=1)
        found[name] = {
            "rms": math.sqrt(squares),
            "ratio": math.sqrt(squares / (theory[name] ** 2).mean()),
            "largest": float(largest),
            "inside": float(inside),
            "bound": float(bounds[name].max()),
            "worst_sd": float(theory[name].max()),
        }
    return found


def counters(sizes: Sequence[int], runs: int, python: str, gated: bool) -> None:
    found, rows = {}, []
    for steps in sizes:
        say(f"counters, T = {steps:,}")
        many = min(runs, 8 * HELD // steps)
        found[steps] = counted(steps, many)
        for name, one in found[steps].items():
            where = f"{name}, T = {steps:,}"
            bar(f"rms error, measured / theory, off 1, {where}", abs(one["ratio"] - 1), "<= 0.03" if gated else None)
            bar(f"share of runs inside the simultaneous bound, {where}", one["inside"], ">= 0.95")
            rows.append((name, steps, many, *(one[key] for key in ("rms", "ratio", "largest", "bound", "inside"))))
        ours = found[steps]["factorized"]
        for name in ("plain tree", "refined tree"):
            ratio = found[steps][name]["worst_sd"] / ours["worst_sd"]
            bar(f"worst sd, {name} / factorized, T = {steps:,}", ratio)
            ratio = found[steps][name]["rms"] / ours["rms"]
            bar(f"rms error measured, {name} / factorized, T = {steps:,}", ratio, "> 1")
        if steps <= 4096:
            peer = run_child("ours/release_peer.py", {"steps": steps, "runs": 40 if steps > 1024 else 400}, python)
            mechanism = FactorSum(name="c", features=("a",), steps=steps, bounds=ONE, rho=HALF)
            sd = mechanism.bound(steps, BETA) / math.sqrt(2 * math.log(2 * steps / BETA))
            bar(f"worst sd, ours (integers) / jax-privacy (floats), T = {steps:,}", sd / peer["worst_sd"], "<= 1.01")
            rows.append(("jax-privacy", steps, "", peer["rms"], "", peer["largest"], "", ""))
    table(
        "counters, rho = 1/2",
        rows,
        ("who", "T", "runs", "rms", "measured / theory", "mean largest", "bound", "inside"),
    )
    for name in ("factorized", "refined tree"):
        largest = [found[steps][name]["largest"] for steps in sizes]
        bar(f"slope of the mean largest error in T, {name}", slope(sizes, largest), "< 0.27" if gated else None)
        upper = slope(sizes[len(sizes) // 2 :], largest[len(sizes) // 2 :])
        bar(
            f"the same, on the larger half of T less all, {name}",
            upper - slope(sizes, largest),
            "<= 0" if gated else None,
        )


def norms() -> None:
    """Print how near the closed forms of S_T^2 are (B3)."""
    grid = [*range(1, 65), *(2**k for k in range(7, 18))]
    exact = np.cumsum(_factor.coefficients(grid[-1]) ** 2)[np.array(grid) - 1]
    safe = 1 + np.log(4 * np.array(grid) - 3) / math.pi
    near = (np.log(grid) + np.euler_gamma + math.log(16)) / math.pi
    bar("S_T^2 less its safe closed form, the largest over T", float((exact - safe).max()), "<= 1e-9")
    bar("S_T^2 against its asymptotic form, T >= 64", float(np.abs(exact - near)[63:].max()), "<= 0.002")


def opendp_tree(runs: int) -> None:
    """Print errors of OpenDP's tree of the same epsilon, which answers at the end only."""
    import opendp.prelude as dp

    dp.enable_features("contrib")
    rows = []
    for steps in (64, 1024):
        space = dp.vector_domain(dp.atom_domain(T=int)), dp.l1_distance(T=int)
        scale = 1024.0 * _tree.levels(steps)
        made = dp.t.make_b_ary_tree(*space, leaf_count=steps, branching_factor=2)
        made = made >> dp.m.then_laplace(scale=scale) >> dp.t.make_consistent_b_ary_tree(branching_factor=2)
        theirs = np.array([np.cumsum(made([0] * steps)) for _ in range(runs)]) / 1024
        ours, plain = tree_errors(
            TreeSum(name="c", features=("a",), steps=steps, bounds=ONE, epsilon=Fraction(1)), runs, steps
        )
        rms = [float(np.sqrt((errors**2).mean())) for errors in (ours, plain, theirs)]
        bar(f"rms error, our refined tree / OpenDP's consistent tree, epsilon = 1, T = {steps:,}", rms[0] / rms[2])
        rows.append((steps, *rms))
    table("epsilon = 1 (pure)", rows, ("T", "ours, refined", "plain", "OpenDP, at the end"))


# Maxima


def maxima(runs: int, largest: int) -> None:
    """Print how errors of maxima grow (B5, B6, B7)."""
    sizes, rows = [2**k for k in range(8, largest + 1, 2)], []
    for label, loss, power in (
        ("rho = 1/2", {"rho": HALF}, 1 / 3),
        ("epsilon = 1", {"epsilon": Fraction(1)}, 1 / 2),
    ):
        errors = []
        for steps in sizes:
            mechanism = RecomputedMax(name="m", features=names(2), steps=steps, bounds=ONE, **loss)
            noise = mechanism.noise.draw(mechanism.releases * runs, SeededRandomness(steps)).reshape(runs, -1) / 1024
            # The truth grows by 1 a step and runs ahead of the last answer by up to r - 1.
            off = np.maximum(np.abs(noise), np.abs(noise - (mechanism.every - 1))).max(axis=1)
            bound = mechanism.bound(steps, BETA)
            errors.append(off.mean() / math.log(2 * steps / BETA) ** power)
            inside = float((off <= bound).mean())
            bar(f"share of runs inside the bound, maximum of dense rows, {label}, T = {steps:,}", inside, ">= 0.95")
            rows.append((label, steps, mechanism.every, float(off.mean()), bound, inside))
        found = slope(sizes, errors)
        bar(f"slope of the error of a maximum of dense rows, {label}", found)
        bar(f"the same, off {power:.3f}", abs(found - power), "<= 0.05")
    table(
        "maxima of dense rows, recomputed",
        rows,
        ("loss", "T", "every", "mean largest error", "bound", "inside"),
    )
    # Donors of norm 1: the largest of 200 noisy counters, one of which grows.
    sizes, found = [2**8, 2**10, 2**12], []
    for steps in sizes:
        counter = FactorSum(name="c", features=names(200), steps=steps, bounds=ONE, rho=HALF)
        off = []
        for seed in range(5):
            errors = factor_errors(counter, 200, seed + 7 * steps)
            errors[:, 0] += np.arange(1, steps + 1)
            off.append(np.abs(errors.max(axis=1) - np.arange(1, steps + 1)).max())
        found.append(float(np.mean(off)))
    bar("slope of the error of a maximum, donors of norm 1, 200 counters", slope(sizes, found))
    table("maxima of donors of norm 1", list(zip(sizes, found, strict=True)), ("T", "mean largest error"))


def crossover() -> None:
    """Print where counters stop winning over recomputation for dense rows (B8): by formula."""
    for steps, expected in ((256, 6), (4096, 19), (65_536, 70)):
        recomputed = 3 * (steps * math.log(2 * steps / BETA) / (4 * 0.5)) ** (1 / 3)
        norm2, d = _factor.norm2(steps), 1
        while math.sqrt(d / 0.5) * norm2 * math.sqrt(math.log(2 * d * steps / BETA)) <= recomputed:
            d += 1
        bar(f"columns from which recomputation wins, T = {steps:,}, off the {expected} of the formula",
            abs(d - expected), "<= 0")  # fmt: skip


def selections(runs: int) -> None:
    """Print regrets of selections when one of 500 tied columns begins to grow at every step (B7)."""
    sizes, rows, regrets = [2**8, 2**10, 2**12], [], []
    total = np.zeros(500, np.int64)
    total[7] = ONE.kinf
    for steps in sizes:
        mechanism = RecomputedSelect(name="s", features=names(500), steps=steps, bounds=ONE, rho=HALF)
        bound, worst = mechanism.bound(steps, BETA), []
        for seed in range(runs):
            randomness, state, right, off = SeededRandomness(seed), mechanism.start(), False, 0
            for t in range(1, steps + 1):
                state = mechanism.absorb(state, t, total)
                drawn = mechanism.draw(state, t, (), randomness)
                right = int(drawn[0]) == 7 if len(drawn) else right
                off = max(off, 0 if right else t)
            worst.append(off)
        inside = float((np.array(worst) <= bound).mean())
        bar(f"share of runs inside the bound, selection among 500, T = {steps:,}", inside, ">= 0.95")
        bar(f"mean worst regret / bound, selection among 500, T = {steps:,}", float(np.mean(worst)) / bound)
        regrets.append(float(np.mean(worst)))
        rows.append((steps, mechanism.every, regrets[-1], bound, inside))
    bar("slope of the mean worst regret, selection among 500", slope(sizes, regrets))
    table("selections among 500 ties", rows, ("T", "every", "mean worst regret", "bound", "inside"))


def quantiles(runs: int, gated: bool) -> None:
    """Print the standard deviation of noisy ranks (B16)."""
    steps, bins = 256, 128
    mechanism = KroneckerQuantile(
        name="q", features=names(bins), edges=range(bins + 1), steps=steps, bounds=ONE, rho=HALF
    )
    randomness, ranks = SeededRandomness(1), []
    for _ in range(runs):
        noise = mechanism.noise.draw(steps * bins, randomness).reshape(steps, bins)
        ranks.append(mechanism.cumulated(list(noise)))
    ranks = np.array(ranks)
    norms = np.cumsum(_factor.coefficients(bins) ** 2)
    theory = _factor.norm2(steps) * np.sqrt(_factor.norm2(bins) * norms)
    bar("sd of the noisy rank of the last bin at the last step, T = 256, 128 bins", float(ranks[:, -1].std()))
    off = abs(float(np.sqrt(((ranks / theory) ** 2).mean())) - 1)
    bar("sd of noisy ranks at the last step, all bins, measured / theory, off 1", off, "<= 0.05" if gated else None)
    two_trees = _tree.levels(steps) * _tree.levels(bins)
    bar("worst sd, two dyadic trees (plain) / ours, T = 256, 128 bins", two_trees / float(theory[-1]))


def noise_times() -> None:
    """Print the CPU time of a draw for each backend, at sigma = 1,500 and 10^6."""
    rows = []
    for sigma in (1500, 10**6):
        for backend, size in (("exact", 20_000), ("bulk", 10**6), ("opendp", 100_000)):
            began = time.process_time()
            discrete_gaussian(Fraction(sigma**2), size, SystemRandomness(), backend)  # type: ignore[arg-type]
            spent = 1e6 * (time.process_time() - began) / size
            rows.append((backend, sigma, spent))
            bar(f"CPU microseconds a draw, discrete Gaussian, {backend}, sigma = {sigma:,}", spent)
    table("noise", rows, ("backend", "sigma", "us a draw"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short horizons and few runs, to see that it runs")
    parser.add_argument("--jax-privacy-python", help="an interpreter that has jax-privacy")
    args, _ = parser.parse_known_args()
    python = peer_python(JAX_PRIVACY, args.jax_privacy_python)
    sizes = (64, 256, 1024) if args.quick else (64, 256, 1024, 4096, 16_384)
    norms()
    counters(sizes, 400 if args.quick else 4000, python, not args.quick)
    opendp_tree(40 if args.quick else 200)
    maxima(400, 14 if args.quick else 20)
    crossover()
    selections(4 if args.quick else 20)
    quantiles(200 if args.quick else 2000, not args.quick)
    noise_times()


if __name__ == "__main__":
    main()

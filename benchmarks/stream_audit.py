"""Is a donor hidden as well as is claimed? Attacks on every mechanism, and on broken ones, which must be caught.

Question: what does an attacker who knows everything but the presence of one donor prove about epsilon, against what is
claimed; is noise exactly as large as it has to be; and do the same attacks notice mechanisms that are wrong?
Data: none. Streams of 16 steps without anybody, and with one donor who enters at the first step (or at three steps)
with the largest vector, 40,000 runs each, 200,000 where they are cheap. Mechanisms of the library itself, rho = 1/2
unless said (epsilon = 4.728 at delta = 1e-5). A refined tree publishes the same nodes as a plain one: lines about trees
are about both. Noise is seeded so that a run can be repeated; one line has that of the operating system.
Machine: any CPU, one thread; CPU seconds of each audit are in the table.
How to read: "proven" is a lower bound of epsilon (95 %, Clopper and Pearson, threshold chosen on one half of the runs
and judged on the other). The mean shift is that of the log-likelihood ratio, in standard deviations, which has to be
sqrt(2 rho) = 1; it notices noise that is too small or too large by some percent, which the first hardly does. An audit
that is passed is no proof: it would not find an error that its attacks do not know.
"""

import argparse
import time
from collections.abc import Iterator
from fractions import Fraction

from bars import Bar
from cellgap.stream.release import DonorBounds, SeededRandomness, SystemRandomness
from cellgap.stream.release._audit_twins import TWINS
from cellgap.stream.release._interface import AbstractMechanism
from cellgap.stream.release._privacy_audit import Audit, audit
from cellgap.stream.release._randomness import AbstractRandomness
from cellgap.stream.release._running_max import RecomputedMax
from cellgap.stream.release._running_quantile import KroneckerQuantile
from cellgap.stream.release._running_select import RecomputedSelect
from cellgap.stream.release._running_sum import FactorSum, TreeSum
from children import table

HALF, STEPS = Fraction(1, 2), 16
# Odd in lattice steps, so that noise on a coarser lattice would show.
BOUNDS = DonorBounds(l2=1.0, l1=1.0, max_donors=1, lattice=1 / 1001)
OFTEN = DonorBounds(l2=1.0, l1=1.0, max_donors=1, max_steps=3, min_separation=2)
BASE = {"name": "audited", "features": ("a", "b"), "steps": STEPS, "bounds": BOUNDS}


def mechanisms() -> Iterator[tuple[str, AbstractMechanism]]:
    yield "tree", TreeSum(**BASE, rho=HALF)
    yield "tree, donor in 3 steps", TreeSum(**{**BASE, "bounds": OFTEN}, rho=HALF)
    yield "tree, epsilon = 1", TreeSum(**BASE, epsilon=Fraction(1))
    yield "factorized", FactorSum(**BASE, rho=HALF)
    yield "factorized, donor in 3 steps", FactorSum(**{**BASE, "bounds": OFTEN}, rho=HALF)
    yield "factorized, donors counted", FactorSum(**BASE, rho=HALF, count=True)
    yield "maximum", RecomputedMax(**BASE, rho=HALF)
    yield "maximum, epsilon = 1", RecomputedMax(**BASE, epsilon=Fraction(1))
    yield "selection", RecomputedSelect(**BASE, rho=HALF)
    yield "selection, epsilon = 1", RecomputedSelect(**BASE, epsilon=Fraction(1))
    bins = {"features": tuple("abcdefgh"), "edges": range(9)}
    yield "quantile", KroneckerQuantile(**{**BASE, **bins}, rho=HALF)


def bar(what: str, value: float, target: str | None = None) -> None:
    Bar("audit", what, value, target, "stream").emit()


def attacked(
    mechanism: AbstractMechanism, runs: int, randomness: AbstractRandomness
) -> tuple[Audit, tuple[object, ...]]:
    """Return an audit and the rest of its row in the table."""
    began = time.process_time()
    found = audit(mechanism, runs, randomness=randomness)
    shift = "" if found.shift is None else f"{found.shift:.4g} +- {found.shift_error:.2g}"
    spent = time.process_time() - began
    return found, (found.runs, found.epsilon, found.epsilon_low, shift, found.integers, found.passed, spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4,000 runs of the mechanisms that are right")
    args, _ = parser.parse_known_args()
    runs = 4000 if args.quick else 40_000
    header = ("mechanism", "runs", "claimed", "proven", "mean shift", "integers", "passed", "CPU-s")
    rows = []
    audited = [(name, mechanism, SeededRandomness(i)) for i, (name, mechanism) in enumerate(mechanisms())]
    audited.append(("factorized, noise of the system", FactorSum(**BASE, rho=HALF), SystemRandomness()))
    for name, mechanism, randomness in audited:
        # Linear ones cost next to nothing.
        more = 5 if isinstance(mechanism, FactorSum | TreeSum | KroneckerQuantile) and not randomness.safe else 1
        found, row = attacked(mechanism, runs * more, randomness)
        rows.append((name, *row))
        bar(f"epsilon proven less epsilon claimed, {name}", found.epsilon_low - found.epsilon, "<= 0")
        if found.shift is not None and found.shift_error is not None:
            off = abs(found.shift - float(2 * found.rho) ** 0.5) / found.shift_error
            bar(f"mean shift off sqrt(2 rho), in standard errors, {name}", off, "<= 4")
        bar(f"what is published is integers of equal low bits, {name}", float(found.integers), ">= 1")
    table(f"mechanisms that are right, {STEPS} steps", rows, header)

    caught, rows = 0, []
    for i, (name, (kind, broken)) in enumerate(TWINS.items()):
        found, row = attacked(broken(kind(**BASE, rho=HALF)), 40_000, SeededRandomness(100 + i))
        rows.append((name, *row))
        caught += not found.passed
    bar(f"broken mechanisms caught, of {len(TWINS)}", caught, f">= {len(TWINS)}")
    table(f"broken mechanisms, {STEPS} steps", rows, header)


if __name__ == "__main__":
    main()

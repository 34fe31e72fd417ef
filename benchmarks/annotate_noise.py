"""Label noise: clean test accuracy of comp-sum losses by tau, and of the tau that cross-validation chooses.

Question: how much of the accuracy that wrong labels cost does a comp-sum loss with tau above 1 save, and can tau be
chosen without a single clean label?
Data: 1,797 digits of 8x8 pixels (scikit-learn); 1,300 are for training, and a share of their labels (0, 20 or 40 %) is
replaced by one of the ten digits at random; the other 497 are the clean test. A multilayer perceptron 64-128-128-10,
AdamW, batches of 64, the last state, without early stopping.
How to read: accuracy in percent on the clean test, mean over seeds (noise, start and batches anew; the split too). The
choice ("auto") sees the noisy labels of training cells only: 5-fold cross-validation among the candidates, tau 1 unless
another is better by more than a standard error; its accuracy is that of the network of the chosen tau in each seed.
Targets: the choice comes within 1 point of the tau with the best mean test accuracy of the row, which nobody knows in
practice. The best is the maximum of six means, so that a row without noise shows a gap of some tenths by chance.
The second table tells how far the given labels, wrong ones included, were learnt by heart; with ``--steps 4000`` they
are nearly all learnt at tau 1 and below, which then loses more.
About 2 CPU-minutes; ``--quick`` is one seed and few steps, to see that it runs.
"""

import argparse
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from sklearn.datasets import load_digits

from bars import Bar
from cellgap.annotate._choose_tau import CompSumObjective, TauChoice, choose_tau
from cellgap.annotate._comp_sum import CompSum
from cellgap.annotate._labelled import Labelled
from cellgap.annotate.drm._side_by_side import Trainer
from cellgap.nn import Tower
from cellgap.train import Loop
from children import say, table

CAPABILITY = "annotate"
NOISE = (0.0, 0.2, 0.4)
TAUS = (0.0, 0.5, 1.0, 1.5, 1.7, 2.0)
N_TRAIN, CLASSES, WIDTH, BATCH = 1300, 10, 128, 64
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-4


@dataclass(frozen=True)
class Problem:
    """Training cells with some wrong labels, and the clean test."""

    data: Labelled
    x_test: np.ndarray
    y_test: np.ndarray


def problem(noise: float, seed: int) -> Problem:
    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32) / 16
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    train, test = order[:N_TRAIN], order[N_TRAIN:]
    given = np.where(rng.random(N_TRAIN) < noise, rng.integers(CLASSES, size=N_TRAIN), y[train])
    return Problem(Labelled.of(x[train], given, n_classes=CLASSES), x[test], y[test])


def build(key: jax.Array) -> Tower:
    return Tower((64, WIDTH, WIDTH, CLASSES), norm="none", activation="gelu", key=key)


def accuracy(net: Any, x: np.ndarray, y: np.ndarray) -> float:
    return 100 * float(np.mean(np.asarray(jnp.argmax(eqx.filter_jit(_scores)(net, jnp.asarray(x)), axis=1)) == y))


def _scores(net: Any, x: jax.Array) -> jax.Array:
    return net(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, help="runs of everything")
    parser.add_argument("--steps", type=int, help="training steps")
    parser.add_argument("--first-seed", type=int, default=0, help="number of the first seed")
    parser.add_argument("--warm-start", type=float, default=CompSum().warm_start, help="see CompSum")
    parser.add_argument("--candidates", type=float, nargs="+", default=CompSum().taus, help="see CompSum")
    parser.add_argument("--quick", action="store_true", help="one seed and few steps, to see that it runs")
    args, _ = parser.parse_known_args()
    steps = args.steps or (20 if args.quick else 1200)
    seeds = range(args.first_seed, args.first_seed + (args.seeds or (1 if args.quick else 3)))
    loss = CompSum(tau="auto", taus=tuple(args.candidates), warm_start=args.warm_start)
    loop = Loop(n_steps=steps, chunk=min(100, steps))
    optimizer = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def objective(data: Labelled, tau: jax.Array) -> CompSumObjective:
        return CompSumObjective(data, tau, loss, steps, BATCH)

    problems = {(noise, seed): problem(noise, seed) for noise in NOISE for seed in seeds}
    found: dict[tuple[float, int, float], float] = {}
    fitted: dict[tuple[float, int, float], float] = {}
    choices: dict[tuple[float, int], TauChoice] = {}
    taus = tuple(sorted({*TAUS, *loss.taus}))
    for (noise, seed), given in problems.items():
        # One program trains the networks of all taus, which share their start.
        trainer = Trainer(build, lambda pair: objective(*pair), optimizer, loop)
        nets = trainer.each([(given.data, jnp.float32(tau)) for tau in taus], jr.key(seed))
        for tau, net in zip(taus, nets, strict=True):
            found[noise, seed, tau] = accuracy(net, given.x_test, given.y_test)
            fitted[noise, seed, tau] = accuracy(net, np.asarray(given.data.x), np.asarray(given.data.y))
        key = jr.fold_in(jr.key(1), seed)
        choices[noise, seed] = choose_tau(given.data, build, objective, optimizer, loop, loss.taus, key=key)
        say(f"noise {noise:g}, seed {seed}: {choices[noise, seed]}")

    rows: list[tuple[object, ...]] = []
    shares: list[tuple[object, ...]] = []
    for noise in NOISE:
        means = {tau: float(np.mean([found[noise, seed, tau] for seed in seeds])) for tau in taus}
        auto = float(np.mean([found[noise, seed, choices[noise, seed].tau] for seed in seeds]))
        picked = " ".join(f"{choices[noise, seed].tau:g}" for seed in seeds)
        rows.append((noise, *means.values(), auto, picked))
        shares.append((noise, *(float(np.mean([fitted[noise, seed, tau] for seed in seeds])) for tau in taus)))
        for tau in taus:
            Bar("noise", f"clean test accuracy %, noise {noise:g}, tau {tau:g}", means[tau], None, CAPABILITY).emit()
        what = f"clean test accuracy %, noise {noise:g}, chosen tau"
        Bar("noise", what, auto, None, CAPABILITY).emit()
        Bar("noise", f"{what}: below the best tau, points", max(means.values()) - auto, "<= 1", CAPABILITY).emit()
        Bar("noise", f"{what}: above tau 1, points", auto - means[1.0], None, CAPABILITY).emit()
    header = ("noise", *(f"tau {tau:g}" for tau in taus))
    table(f"Clean test accuracy (%), {len(seeds)} seeds, {steps} steps", rows, (*header, "auto", "choices"))
    table("Training accuracy on the given labels (%)", shares, header)


if __name__ == "__main__":
    main()

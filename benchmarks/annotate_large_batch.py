"""The large-batch regime: what batches of 4,096 cost against 128, and what step size, ghosts and more updates repair.

Question: how much accuracy does a large batch lose after the same number of epochs, and how much of it comes back with
a learning rate times the square root of the ratio, with batch normalization in ghosts of 128, and with as many updates
as the small batch had (Hoffer, Hubara, Soudry 2017, arXiv 1705.08741)? And do weights move away from their start as
the logarithm of the number of updates?
Data: the 1,797 digits of scikit-learn (8 x 8 pixels). A seed draws 500 of them; 16,384 training images are these,
turned by up to 20 degrees, moved by up to 1 pixel in both directions (bilinear) and with Gaussian noise of 0.1 of the
range of gray on every pixel: strengths at which batch 128 fits the training images to over 99.5 %, which is all that was
looked at to choose them (at 25 degrees, 1.5 pixels and 0.2 it fitted 96 %, and the gap was half as wide). Test images are four such versions of each of the other 1,297. The network has four
layers of 128 with batch normalization; SGD with momentum 0.9, learning rate 0.1 at batch 128, constant, gradients
clipped at 5, 20 epochs. Seeds differ in digits, augmentation, weights and batches; all regimes of a seed share the
first three. Then cells: control cells of Kang et al. 2018, log CP10k of the 256 genes that vary most in the training
donors, one donor left out (the three with most cells in turn), layers 64-64, batch 2,048 against 128, 10 epochs.
How to read: percent of test images, mean over seeds (the table adds standard deviations). The learning rate is
constant, so that a run of 2,560 updates is the run of 640 at that step, and of 80. The ghost effect is the paired
difference to one ghost (the whole batch) with the t interval of 95 % over seeds. Nothing was chosen on test images;
learning rates and genes were set once, before any run. Lines of cells have no target.
By default, batch normalization without ghosts stops at 640 updates at batch 4,096 (about 8 CPU-minutes in all);
``--full`` goes on to 2,560 (about 4 more).
"""

import argparse
from dataclasses import dataclass
from typing import Any

import anndata
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from scipy import ndimage, stats
from sklearn.datasets import load_digits

from bars import Bar
from cellgap.annotate._labelled import Labelled
from cellgap.annotate._train_classifier import AbstractObjective, train_classifier
from cellgap.nn import GhostBatchNorm, Tower, recalibrate
from cellgap.train import (
    DistanceLog,
    LargeBatch,
    Loop,
    WeightDistanceFit,
    gradient_weights,
    record_distance,
    weight_distance_fit,
)
from children import say, table
from real_sets import data_root

SMALL, LARGE, GHOST = 128, 4096, 128
TURN, SHIFT, NOISE = 20.0, 1.0, 0.1
RATE, MOMENTUM = 0.1, 0.9
CELLS_LARGE, CELLS_GENES, CELLS_EPOCHS, CELLS_TARGETS = 2048, 256, 10, 3
SHORT, LONG = f", {CELLS_EPOCHS} epochs", ", as many updates as batch 128"


def bar(what: str, value: float, target: str | None = None) -> None:
    Bar("large batch", what, float(value), target, "annotate").emit()


class CrossEntropy(AbstractObjective):
    """Cross-entropy of a random batch; with `sigma`, every cell's loss has a random factor."""

    cells: Labelled
    batch: int = eqx.field(static=True)
    sigma: float = eqx.field(static=True)

    def __call__(self, net: Any, key: Any, step: Any) -> Any:
        of_batch, of_noise = jr.split(key)
        batch = self.cells.batch(of_batch, self.batch)
        scores, moved = net.training(batch.x)
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, batch.y)
        if self.sigma > 0:
            losses = losses * gradient_weights(of_noise, self.batch, self.sigma)
        return jnp.mean(losses), (moved, {})


@eqx.filter_jit
def scores(net: Any, cells: Labelled) -> tuple[Any, Any]:
    """Return accuracy and macro-F1 over the classes that are present."""
    found = jnp.argmax(net(cells.x), 1)
    truth, said = (jax.nn.one_hot(labels, cells.n_classes) for labels in (cells.y, found))
    agree, true, predicted = jnp.sum(truth * said, 0), jnp.sum(truth, 0), jnp.sum(said, 0)
    f1 = 2 * agree / jnp.maximum(true + predicted, 1)
    return jnp.mean(found == cells.y), jnp.sum(f1 * (true > 0)) / jnp.sum(true > 0)


def judged(train: Labelled, test: Labelled, state: Any) -> dict[str, Any]:
    """Return scores of a state for the log; none chooses a state ("valid" is constant)."""
    accuracy, f1 = scores(state.net, test)
    return {"valid": jnp.zeros(()), "train": scores(state.net, train)[0], "accuracy": accuracy, "f1": f1}


@dataclass(frozen=True)
class Run:
    """One training run: scores in percent by number of updates, distances of weights, and the last network."""

    scores: dict[int, dict[str, float]]
    steps: np.ndarray
    distances: np.ndarray
    net: Any

    def line(self, until: int, reference: float | None = None) -> WeightDistanceFit:
        """Return the fits to the distances of the first updates."""
        used = self.steps <= until
        return weight_distance_fit(self.steps[used], self.distances[used], reference)


def trained(
    train: Labelled, test: Labelled, hidden: tuple[int, ...], seed: int, *, batch: int, size: int | None,
    rate: float, loop: Loop, sigma: float = 0.0,
) -> Run:  # fmt: skip
    """Return a run with ghosts of `size`, None: the whole batch is one."""
    widths = (train.x.shape[1], *hidden, train.n_classes)
    of_net, of_run = jr.split(jr.key(seed))
    net = Tower(widths, norm=GhostBatchNorm(size=size), activation="relu", key=of_net)
    optimizer = optax.chain(optax.sgd(rate, momentum=MOMENTUM), record_distance(DistanceLog.of(loop.n_steps)))
    objective = CrossEntropy(train, batch, sigma)
    result = train_classifier(
        net, objective, optimizer, loop, key=of_run, clip=5.0, validate=eqx.Partial(judged, train, test)
    )
    rows = [row for row in result.history if "accuracy" in row]
    found = {int(row["step"]): {k: 100 * row[k] for k in ("train", "accuracy", "f1")} for row in rows}
    slots: Any = result.state.optimizer
    return Run(found, *slots[-1][-1].log.read(), result.state.net)


def augmented(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return images turned, moved and with noise, as rows."""
    out = np.empty_like(images)
    turns, shifts = np.deg2rad(rng.uniform(-TURN, TURN, len(images))), rng.uniform(-SHIFT, SHIFT, (len(images), 2))
    for i, (image, angle, shift) in enumerate(zip(images, turns, shifts, strict=True)):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        out[i] = ndimage.affine_transform(image, turn, 3.5 - turn @ [3.5, 3.5] + shift, order=1)
    return (out + NOISE * rng.normal(size=out.shape)).reshape(len(images), -1)


def digits(seed: int, n: int) -> tuple[Labelled, Labelled]:
    """Return training and test images."""
    found: Any = load_digits()
    images, labels = found.images / 16, found.target
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    known, other = order[:500], np.repeat(order[500:], 4)
    rows = np.resize(known, n)
    return tuple(Labelled.of(augmented(images[r], rng), labels[r], n_classes=10) for r in (rows, other))


def interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of paired differences, and the t interval of 95 %."""
    n = len(differences)
    half = stats.t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / np.sqrt(n) if n > 1 else np.nan
    mean = float(np.mean(differences))
    return mean, mean - half, mean + half


def effect(what: str, differences: list[float], target: str | None = None) -> None:
    mean, low, high = interval(np.asarray(differences))
    bar(what, mean, target)
    bar(f"{what}: lower end of the interval", low)
    bar(f"{what}: upper end of the interval", high)


def on_digits(seeds: int, n: int, full: bool) -> None:
    epochs = Loop(n_steps=20 * n // LARGE, chunk=20 * n // LARGE, valid_every=20 * n // LARGE)
    few = epochs.n_steps
    plain = LargeBatch(SMALL, rule="none", adapt_regime=False).scaled(LARGE, RATE, epochs)
    noisy = LargeBatch(SMALL, rule="noise", adapt_regime=False).scaled(LARGE, RATE, epochs)
    scaled = LargeBatch(SMALL, adapt_regime=True).scaled(LARGE, RATE, epochs)
    many, some = scaled.loop.n_steps, 8 * few
    to_many = Loop(n_steps=many, chunk=few, valid_every=few)
    to_some = Loop(n_steps=many if full else some, chunk=few, valid_every=few)
    at_once = Loop(n_steps=many, chunk=many // 8, valid_every=many)
    regimes: dict[str, tuple[int, int | None, float, Loop, float]] = {
        "small": (SMALL, None, RATE, at_once, 0.0),
        "plain": (LARGE, None, plain.learning_rate, plain.loop, 0.0),
        "noise": (LARGE, None, noisy.learning_rate, noisy.loop, noisy.sigma),
        "BN": (LARGE, None, scaled.learning_rate, to_some, 0.0),
        "ghosts": (LARGE, GHOST, scaled.learning_rate, to_many, 0.0),
    }
    runs: dict[str, list[Run]] = {name: [] for name in regimes}
    recalibrated = []
    for seed in range(seeds):
        train, test = digits(seed, n)

        for name, (batch, size, rate, loop, sigma) in regimes.items():
            found = trained(
                train, test, (128,) * 4, seed, batch=batch, size=size, rate=rate, loop=loop, sigma=sigma
            )  # fmt: skip
            runs[name].append(found)
            last = found.scores[loop.n_steps]
            say(f"seed {seed}, {name}: test {last['accuracy']:.2f}, train {last['train']:.2f}")
        ghosts = runs["ghosts"][-1]
        exact = recalibrate(ghosts.net, np.split(np.asarray(train.x), n // LARGE))
        recalibrated.append(100 * float(scores(exact, test)[0]) - ghosts.scores[many]["accuracy"])

    def values(name: str, step: int, what: str = "accuracy") -> np.ndarray:
        return np.array([run.scores[step][what] for run in runs[name]])

    asked = [
        ("batch 128, lr .1", "small", many),
        ("batch 4096, lr .1", "plain", few),
        ("batch 4096, lr .1, noise on gradients", "noise", few),
        ("+ lr x sqrt(32)", "BN", few),
        ("+ lr + ghosts of 128", "ghosts", few),
        ("+ lr, 8 times the updates", "BN", some),
        ("+ lr + ghosts, 8 times the updates", "ghosts", some),
        ("+ lr, as many updates as batch 128", "BN", many),
        ("+ lr + ghosts, as many updates as batch 128", "ghosts", many),
    ]
    rows: list[tuple[object, ...]] = []
    for title, name, step in asked:
        if step in runs[name][0].scores:
            accuracy, train_accuracy = values(name, step), values(name, step, "train")
            rows.append((title, step, accuracy.mean(), accuracy.std(ddof=int(seeds > 1)), train_accuracy.mean()))
            bar(f"digits, test accuracy %, {title}, {step} updates", accuracy.mean())
    table("Augmented digits", rows, ("regime", "updates", "test %", "sd", "train %"))

    def less(first: str, at: int, second: str, then: int) -> list[float]:
        return list(values(first, at) - values(second, then))

    bar("digits, points lost by batch 4096 after 20 epochs", float(np.mean(less("small", many, "plain", few))))
    effect("digits, points gained by the learning rate, 20 epochs (G7)", less("BN", few, "plain", few), "> 4")
    effect("digits, points gained by ghosts, 20 epochs", less("ghosts", few, "BN", few))
    effect(f"digits, points gained by ghosts, {some} updates (G9)", less("ghosts", some, "BN", some), "> 0.5")
    for name in ("BN", "ghosts"):
        bar(f"digits, training accuracy %, {name}, {some} updates (G9)", values(name, some, "train").mean(), ">= 99")
    if full:
        effect(f"digits, points gained by ghosts, {many} updates", less("ghosts", many, "BN", many))
        bar(f"digits, points short of batch 128, BN, {many} updates", np.mean(less("small", many, "BN", many)))
    short = less("small", many, "ghosts", many)
    effect(f"digits, points short of batch 128, ghosts, {many} updates", short, "<= 1")
    bar(f"digits, points gained by recalibration, ghosts, {many} updates", float(np.mean(recalibrated)))
    distances(runs, few, many, some)


def distances(runs: dict[str, list[Run]], few: int, many: int, some: int) -> None:
    """Print how the distance of the weights from their start grows."""
    far = [float(run.distances[-1]) for run in runs["small"]]
    rows: list[tuple[object, ...]] = []
    for name, until in (("small", many), ("plain", few), ("BN", few), ("ghosts", few), ("BN", some), ("ghosts", many)):
        fits = [run.line(until, d) for run, d in zip(runs[name], far, strict=True)]
        means = [float(np.mean([getattr(f, k) for f in fits])) for k in ("r2_log", "r2_sqrt", "slope")]
        updates = float(np.median([f.steps_to_reference or np.nan for f in fits]))
        rows.append((name, until, *means, " ".join(f.verdict for f in fits), updates))
        if name == "small":
            bar("digits, R2 of the logarithm, batch 128, least of seeds (G8)", min(f.r2_log for f in fits), "> 0.97")
            least = min(f.r2_log - f.r2_sqrt for f in fits)
            bar("digits, R2 of the logarithm less that of the root, batch 128, least (G8)", least, "> 0")
    header = ("run", "updates", "R2 log", "R2 sqrt", "log-log slope", "verdicts", "updates to batch 128's distance")
    table("Distance of weights from their start", rows, header)


def donors(path: Any, target: str) -> tuple[Labelled, Labelled]:
    """Return training donors and the target; genes are chosen on the former."""
    cells = anndata.read_h5ad(path)
    counts: Any = cells.X
    counts = np.asarray(counts.todense(), float)
    logs = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    names, labels = np.unique(np.asarray(cells.obs["cell_type"]).astype(str), return_inverse=True)
    held = np.asarray(cells.obs["donor"]).astype(str) == target
    genes = np.argsort(-logs[~held].var(0))[:CELLS_GENES]
    return tuple(Labelled.of(logs[rows][:, genes], labels[rows], n_classes=len(names)) for rows in (~held, held))


def on_cells(seeds: int, targets: int) -> None:
    path = data_root() / "kang_ifnb" / "annotation_ctrl.h5ad"
    names = anndata.read_h5ad(path, backed="r").obs["donor"].astype(str).value_counts().index[:targets]
    found: dict[str, np.ndarray] = {}
    for t, target in enumerate(names):
        train, test = donors(path, target)
        few = -(-CELLS_EPOCHS * len(train) // CELLS_LARGE)
        scaled = LargeBatch(SMALL).scaled(CELLS_LARGE, RATE, Loop(n_steps=few, chunk=few, valid_every=few))
        many = scaled.loop.n_steps
        loop = Loop(n_steps=many, chunk=few, valid_every=few)
        regimes = {
            "batch 128": (SMALL, None, RATE, {"": many}),
            "batch 2048 + lr": (CELLS_LARGE, None, scaled.learning_rate, {SHORT: few, LONG: many}),
            "batch 2048 + lr + ghosts": (CELLS_LARGE, GHOST, scaled.learning_rate, {SHORT: few, LONG: many}),
        }
        for name, (batch, size, rate, read) in regimes.items():
            for seed in range(seeds):
                run = trained(train, test, (64, 64), seed, batch=batch, size=size, rate=rate, loop=loop)
                for which, step in read.items():
                    both = run.scores[step]["f1"], run.scores[step]["accuracy"]
                    found.setdefault(name + which, np.zeros((2, targets, seeds)))[:, t, seed] = both
        say(f"target {target}: done")
    rows = [(name, *v[0].mean(1).tolist(), v[0].mean(), v[1].mean()) for name, v in found.items()]
    table("Cells, one donor left out", rows, ("regime", *(f"F1 {n}" for n in names), "macro-F1 %", "accuracy %"))
    for name, value in found.items():
        bar(f"cells, macro-F1 %, {name}", value[0].mean())
    for which in (SHORT, LONG):
        ghosts, batch = (found[f"batch 2048 + lr{with_}{which}"][0] for with_ in (" + ghosts", ""))
        effect(f"cells, points of macro-F1 gained by ghosts{which}", list((ghosts - batch).mean(0)))
        small = found["batch 128"][0]
        effect(f"cells, points of macro-F1 short of batch 128, ghosts{which}", list((small - ghosts).mean(0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, help="runs of everything")
    parser.add_argument("--full", action="store_true", help="batch normalization without ghosts to 2,560 updates too")
    parser.add_argument("--quick", action="store_true", help="few images and one seed, to see that it runs")
    args, _ = parser.parse_known_args()
    seeds = args.seeds or (1 if args.quick else 3)
    on_digits(seeds, LARGE if args.quick else 4 * LARGE, args.full)
    on_cells(seeds, 1 if args.quick else CELLS_TARGETS)


if __name__ == "__main__":
    main()

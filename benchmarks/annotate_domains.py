"""Domain heads against one head for all: accuracy in a domain that training never saw, and what the guard is worth.

Question: does domain-specific risk minimisation (a head for every source domain, weighed at each cell of a new one;
Zhang et al. 2023, arXiv 2208.08661) beat one model trained on all sources (ERM), and does the guarded rule, which
replaces ERM only where leaving source domains out has shown a gain, at least never lose to it (D6)?
Data: digits of 8 x 8 pixels, doubled to 16 x 16, in six domains of other images each, turned by 0 to 75 degrees; and
mixtures of RNA of three cell lines (Tian et al. 2019; 7 classes) in eight domains, two protocols by four amounts of
RNA, 636 samples, the 1,000 most variable genes of the training domains, log1p of counts per 10,000. Every domain is the
target once, with its labels used for nothing but the score; three seeds. All networks are the same tower (64, 64, layer
norm). The rules before "guarded" are as published: independent heads, no penalty. Guarded: offsets of the shared head
with the library's default penalty, calibrated, chosen by leaving source domains out.
How to read: accuracy on targets, mean over seeds. A D6 line is the mean of guarded less ERM over seeds and targets plus
its standard error, paired; it holds from 0 on. Where the guard falls back to ERM the two are the same model, so it can
lose only where source domains mislead it. The other lines have no target.
A first run, on seeds 0 to 2, let a rule replace ERM for one standard error: it did in 6 of 42 cases, drew level on
digits, and lost 0.23 ± 0.16 points on RNA mixtures, where D6 did not hold. Nine rules are compared on five to seven
domains, so the best of them clears one standard error by chance; the limit now allows for their number. It was changed
after that result, so these are other seeds.
The default takes about 5 CPU-minutes.
"""

import argparse
import gc
import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pandas as pd
from scipy import ndimage
from sklearn.datasets import load_digits

from bars import Bar
from cellgap.annotate._comp_sum import comp_sum
from cellgap.annotate._labelled import Labelled
from cellgap.annotate._train_classifier import AbstractObjective
from cellgap.annotate.drm import (
    DomainHeadsNet,
    Guarded,
    Trainer,
    combined,
    entropy_weights,
    fit_guarded,
    heads_trainer,
    mean_weights,
    prototypes_of,
    similarity_weights,
)
from cellgap.nn import Tower
from cellgap.train import Loop
from children import say, table
from real_sets import data_root

CAPABILITY = "annotate"
FIRST_SEED = 3  # 0 to 2 were looked at, see above
ANGLES = (0, 15, 30, 45, 60, 75)
PER_DOMAIN, GENES = 16, 1000
METHODS = ("ERM", "shared head", "mean of heads", "least entropy", "entropy^-1", "most similar", "guarded")


def bar(what: str, value: float, target: str | None = None) -> None:
    Bar("D6", what, value, target, CAPABILITY).emit()


class Cells(NamedTuple):
    """Cells of all domains, before genes are chosen."""

    x: np.ndarray
    y: np.ndarray
    domain: np.ndarray
    names: tuple[str, ...]
    n_top: int | None

    def divided(self, target: int) -> tuple[Labelled, jax.Array, np.ndarray]:
        """Return the source domains, and features and classes of the target."""
        own = self.domain == target
        x = self.x
        if self.n_top is not None:
            top = np.sort(np.argsort(-x[~own].var(0), kind="stable")[: self.n_top])
            x = x[:, top]
        domain = self.domain[~own]
        sources = Labelled.of(x[~own], self.y[~own], domain - (domain > target), n_classes=int(self.y.max()) + 1)
        return sources, jnp.asarray(x[own], jnp.float32), self.y[own]


def rotated_digits(seed: int) -> Cells:
    """Return digits, other images in every domain, which are dealt anew for every seed."""
    images, y = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8) / 16
    order = np.random.default_rng(seed).permutation(len(y))[: len(y) // len(ANGLES) * len(ANGLES)]
    domain = np.arange(len(order)) % len(ANGLES)
    large = ndimage.zoom(images[order], (1, 2, 2), order=1)
    turned = [ndimage.rotate(large[i], ANGLES[d], reshape=False, order=1) for i, d in enumerate(domain)]
    return Cells(np.stack(turned).reshape(len(order), -1), y[order], domain, tuple(str(a) for a in ANGLES), None)


def rna_mixtures() -> Cells:
    """Return samples of both protocols on their shared genes; domains are protocol by amount of RNA."""
    folder = data_root() / "rna_mixtures"
    counts, tables = [], []
    for protocol in ("celseq2", "sortseq"):
        count = pd.read_csv(folder / f"RNAmix_{protocol}.count.csv.gz", index_col=0)
        facts = pd.read_csv(folder / f"RNAmix_{protocol}.metadata.csv.gz", index_col=0)
        counts.append(count[facts.index])
        tables.append(facts.assign(protocol=protocol))
    shared = counts[0].index.intersection(counts[1].index)
    raw = np.concatenate([count.loc[shared].to_numpy(float).T for count in counts])
    facts = pd.concat(tables)
    proportions = facts[["H2228_prop", "H1975_prop", "HCC827_prop"]].astype(str).agg(" ".join, axis=1)
    domains = facts["protocol"] + " " + facts["mRNA_amount"].astype(str)
    y, _ = pd.factorize(proportions, sort=True)
    domain, names = pd.factorize(domains, sort=True)
    x = np.log1p(1e4 * raw / raw.sum(1, keepdims=True))
    return Cells(x, y, domain, tuple(names), GENES)


class CrossEntropy(AbstractObjective):
    """Cross-entropy on cells drawn alike from all domains."""

    data: Labelled
    size: int = eqx.field(static=True)

    def __call__(self, net: Any, key: jax.Array, step: jax.Array) -> Any:
        batch = self.data.batch(key, self.size)
        scores, moved = net.training(batch.x)
        return jnp.mean(comp_sum(scores, batch.y, 1.0)), (moved, {})


def erm_trainer(data: Labelled, settings: Guarded) -> Trainer:
    """Return how one model for all domains is trained: the same tower, batches of the same size, the same steps."""
    widths = (data.x.shape[1], *settings.hidden, data.n_classes)
    size = settings.per_domain * data.n_domains
    return Trainer(
        lambda key: Tower(widths, norm=settings.norm, activation=settings.activation, key=key),
        lambda cells: CrossEntropy(cells, size),
        optax.adamw(settings.learning_rate, weight_decay=settings.weight_decay),
        settings.loop,
    )


@eqx.filter_jit
def published(net: DomainHeadsNet, data: Labelled, x: jax.Array) -> dict[str, jax.Array]:
    """Return the classes that the published rules give, by name."""
    log_p = jax.nn.log_softmax(net.head_scores(x), -1)
    prototypes = prototypes_of(net.features(data.x), data.domain, data.n_domains)
    rules = {
        "shared head": log_p[:, -1],
        "mean of heads": combined(log_p[:, :-1], mean_weights(log_p[:, :-1])),
        "least entropy": combined(log_p, entropy_weights(log_p, -1.0)),
        "entropy^-1": combined(log_p, entropy_weights(log_p, 1.0)),
        "most similar": combined(log_p[:, :-1], similarity_weights(net.features(x), prototypes)),
    }
    return {name: jnp.argmax(p, 1) for name, p in rules.items()}


def measured(cells: Cells, target: int, settings: Guarded, seed: int) -> tuple[dict[str, float], str, float, str]:
    """Return accuracies on the target, the rule that the guard chose, its gain on sources, and inside or outside."""
    data, x, y = cells.divided(target)
    key_guarded, key_published = jr.split(jr.key(seed))
    result = fit_guarded(data, erm_trainer(data, settings), settings, key=key_guarded)
    independent = Guarded(**(vars(settings) | {"pooled": False, "penalty": 0.0}))
    net = heads_trainer(data, independent)(data, key_published)
    found = {"ERM": jnp.argmax(result.erm(x), 1), **published(net, data, x)}
    found["guarded"] = jnp.argmax(result.log_probability(x), 1)
    gain = next(choice.gain for choice in result.choices if choice.rule == result.rule)
    where = "inside" if result.placement(x).inside else "outside"
    return {name: float(np.mean(np.asarray(p) == y)) for name, p in found.items()}, str(result.rule), gain, where


def every(several: list[Cells], settings: Guarded, targets: int) -> Iterator[tuple[int, int, Any]]:
    """Yield target, seed and what was measured; seeds of a target have the same shapes and follow one another."""
    for target in range(targets):
        for seed, cells in enumerate(several, FIRST_SEED):
            yield target, seed, measured(cells, target, settings, seed)
        # A program takes memory maps, of which a process has 65,530.
        jax.clear_caches()
        gc.collect()


def report(name: str, several: list[Cells], settings: Guarded, quick: bool) -> None:
    names = several[0].names[: 2 if quick else None]
    accuracy = np.zeros((len(METHODS), len(names), len(several)))
    chosen = [Counter() for _ in names]
    placed = [Counter() for _ in names]
    for target, seed, (found, rule, gain, where) in every(several, settings, len(names)):
        accuracy[:, target, seed - FIRST_SEED] = [found[method] for method in METHODS]
        chosen[target][rule] += 1
        placed[target][where] += 1
        say(f"{name}, target {names[target]}, seed {seed}: {rule} ({100 * gain:+.1f} on sources), {where}")
    rows = [(m, *(100 * accuracy[i].mean(1)), 100 * accuracy[i].mean()) for i, m in enumerate(METHODS)]
    rows.append(("guarded uses", *("; ".join(f"{n} {r}" for r, n in c.items()) for c in chosen), ""))
    rows.append(("targets", *("; ".join(f"{n} {r}" for r, n in c.items()) for c in placed), ""))
    table(f"{name}: accuracy (%) on the target, mean of {len(several)} seeds", rows, ("method", *names, "mean"))
    for i, method in enumerate(METHODS):
        bar(f"{name}: accuracy in domains never seen, {method}", float(accuracy[i].mean()))
    for i, method in enumerate(METHODS[1:], 1):
        gain = (accuracy[i] - accuracy[0]).ravel()
        se = float(gain.std(ddof=1) / math.sqrt(len(gain)))
        if method == "guarded":
            bar(f"{name}: guarded less ERM", float(gain.mean()))
            bar(f"{name}: guarded less ERM, plus a standard error", float(gain.mean()) + se, ">= 0")
        else:
            bar(f"{name}: {method} less ERM", float(gain.mean()))
            bar(f"{name}: {method} less ERM, standard error", se)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="training steps")
    parser.add_argument("--seeds", type=int, help="runs of everything")
    parser.add_argument("--full", action="store_true", help="2,000 steps and ten seeds")
    parser.add_argument("--quick", action="store_true", help="few steps, two targets and one seed, to see that it runs")
    args, _ = parser.parse_known_args()
    steps = args.steps or (20 if args.quick else 2000 if args.full else 300)
    seeds = args.seeds or (1 if args.quick else 10 if args.full else 3)
    settings = Guarded(per_domain=PER_DOMAIN, loop=Loop(n_steps=steps, chunk=steps))
    with tempfile.TemporaryDirectory() as cache:
        # Seeds and targets of equal shape are the same program, which is compiled once.
        jax.config.update("jax_compilation_cache_dir", str(Path(cache)))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        report(
            "rotated digits",
            [rotated_digits(seed) for seed in range(FIRST_SEED, FIRST_SEED + seeds)],
            settings,
            args.quick,
        )
        report("RNA mixtures", [rna_mixtures()] * seeds, settings, args.quick)


if __name__ == "__main__":
    main()

"""Image control: augmentation sets and architectures on digits, the order of their linear probes, and the diagnosis.

Question: with images in place of cells, are digits read best from embeddings whose views use all augmentations, then
crops only, then all but crops, and best with a residual CNN, then a vision transformer, then an MLP? That order is
what the paper states of CIFAR-10 (Zaliaduonis et al. 2026, arXiv 2606.04280). And does the moved-variance spectrum of
each set of views, computed before any training, order them too?
Data: 10,000 MNIST digits in place of CIFAR-10. Encoders see 5,000 without labels; a logistic regression on their
features, not on the embedding, learns digits on these and is scored on the other 5,000. About 75,000 parameters each,
`two_view_info_nce` at tau 0.5, Adam. Raw pixels and untrained encoders are the baselines.
How to read: accuracy is the mean over seeds (the table adds the standard deviation), a difference of sets is averaged
over architectures and the other way round; above 0 it has the sign of the paper's order. No line has a target: the
paper shows its order in a figure, of other images and longer training. Digits are centered, so pixels in their places
already tell them (0.90), which suits the MLP: the order of architectures is the reverse of the paper's after the short
training, and of the sets no order is common to the three architectures. The spectrum is that of two views on the 30
first principal components of the images: alpha is the least moved direction over the most moved one, "frozen" counts
directions moved less than 0.02 of that.
Training is short by default (about 17 CPU-minutes); ``--full`` has 3,000 steps and five seeds, some hours.
"""

import argparse
import gzip
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bars import Bar
from cellgap.embed._loss import two_view_info_nce
from cellgap.embed._spectrum import Spectrum, moved_variance
from cellgap.train import Loop, fit
from children import say, table
from real_sets import data_root

sys.path.insert(0, str(Path(__file__).resolve().parent / "ours"))

from image_encoders import Architecture, ImageEncoder, parameters
from image_views import Views, batch_views

CAPABILITY = "embed"
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
VIEWS: tuple[Views, ...] = get_args(Views)
TAU, BATCH, LEARNING_RATE, COMPONENTS = 0.5, 128, 1e-3, 30


def bar(what: str, value: float) -> None:
    Bar("images", what, float(value), None, CAPABILITY).emit()


def digits(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the images, between 0 and 1, and their digits."""
    images = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
    return pixels.astype(np.float32) / 255, np.frombuffer(labels, np.uint8, offset=8).astype(int)


def train(encoders: ImageEncoder, images: jax.Array, views: Views, steps: int, key: jax.Array) -> ImageEncoder:
    """Return trained encoders, one a seed, stacked as given."""
    optimizer = optax.adam(LEARNING_RATE)

    def step(images: jax.Array, state: Any, key: jax.Array):
        def one(given: Any):
            encoder, slots, key = given
            rows, first, second = jr.split(key, 3)
            chosen = images[jr.choice(rows, len(images), (BATCH,), replace=False)]

            def loss_of(encoder: ImageEncoder):
                left, right = (batch_views(chosen, views, k) for k in (first, second))
                return two_view_info_nce(encoder(left), encoder(right), tau=TAU)

            loss, grads = eqx.filter_value_and_grad(loss_of)(encoder)
            updates, slots = optimizer.update(grads, slots)
            return optax.apply_updates(encoder, updates), slots, loss

        encoders, slots = state
        keys = jr.split(key, len(jax.tree.leaves(encoders)[0]))
        encoders, slots, loss = jax.lax.map(one, (encoders, slots, keys))
        return (encoders, slots), {"loss": jnp.mean(loss)}

    state = (encoders, jax.vmap(optimizer.init)(encoders))
    return fit(eqx.Partial(step, images), state, key=key, loop=Loop(n_steps=steps, chunk=min(50, steps))).state[0]


def probe(features: np.ndarray, labels: np.ndarray, n: int) -> float:
    """Return the accuracy of digits on rows from n on, of a logistic regression that learnt on the first n."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    return float(model.fit(features[:n], labels[:n]).score(features[n:], labels[n:]))


def probes(encoders: ImageEncoder, images: np.ndarray, labels: np.ndarray, n: int) -> list[float]:
    """Return the accuracy of every seed's features."""
    found = []
    of = eqx.filter_jit(lambda encoder, x: encoder.body(x))
    for seed in range(len(jax.tree.leaves(encoders)[0])):
        encoder = jax.tree.map(lambda leaf, seed=seed: leaf[seed], encoders)
        features = np.concatenate([np.asarray(of(encoder, jnp.asarray(x))) for x in np.split(images, 10)])
        found.append(probe(features, labels, n))
    return found


def spectrum(images: np.ndarray, views: Views, key: jax.Array) -> Spectrum:
    """Return the moved-variance spectrum of two views of every image, on principal components of the images."""
    flat = images.reshape(len(images), -1)
    center = flat.mean(0)
    values, vectors = np.linalg.eigh(np.cov(flat - center, rowvar=False))
    axes = vectors[:, -COMPONENTS:] / np.sqrt(values[-COMPONENTS:])
    of = jax.jit(lambda x, key: batch_views(x, views, key))
    pair = (np.asarray(of(jnp.asarray(images), k)).reshape(len(images), -1) for k in jr.split(key))
    return moved_variance(*((x - center) @ axes for x in pair))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="training steps")
    parser.add_argument("--seeds", type=int, help="runs of everything")
    parser.add_argument("--full", action="store_true", help="3,000 steps and five seeds")
    parser.add_argument("--quick", action="store_true", help="few images, steps and one seed, to see that it runs")
    args, _ = parser.parse_known_args()
    steps = args.steps or (3 if args.quick else 3000 if args.full else 400)
    seeds = args.seeds or (1 if args.quick else 5 if args.full else 3)
    images, labels = digits(data_root() / "mnist_t10k")
    order = np.random.default_rng(0).permutation(len(labels))[: 2000 if args.quick else None]
    images, labels = images[order], labels[order]
    n = len(labels) // 2

    rows: list[tuple[object, ...]] = []
    for views in VIEWS:
        found = spectrum(images[:n], views, jr.key(1))
        frozen = int(np.sum(found.rho < 0.02 * found.rho[-1]))
        bar(f"moved-variance spectrum of views, {views}: alpha", found.anisotropy)
        bar(f"moved-variance spectrum of views, {views}: frozen directions of {COMPONENTS}", frozen)
        rows.append((views, found.anisotropy, frozen, *np.quantile(found.rho, (0, 0.25, 0.5, 0.75, 1)).tolist()))
    table("Moved variance", rows, ("views", "alpha", "frozen", "rho least", "quarter", "median", "3 quarters", "most"))

    raw = probe(images.reshape(len(images), -1), labels, n)
    bar("accuracy of a linear probe, raw pixels", raw)
    rows = [("raw pixels", "", raw, "", 784)]
    accuracy = np.zeros((len(ARCHITECTURES), len(VIEWS)))
    on_device = jnp.asarray(images[:n])
    for a, architecture in enumerate(ARCHITECTURES):
        start = eqx.filter_vmap(lambda key, name=architecture: ImageEncoder(name, key=key))(jr.split(jr.key(2), seeds))
        size = parameters(start.body) // seeds
        several = probes(start, images, labels, n)
        bar(f"accuracy of a linear probe, {architecture}, untrained", float(np.mean(several)))
        rows.append((architecture, "untrained", float(np.mean(several)), float(np.std(several)), size))
        for v, views in enumerate(VIEWS):
            several = probes(train(start, on_device, views, steps, jr.key(3)), images, labels, n)
            accuracy[a, v] = np.mean(several)
            bar(f"accuracy of a linear probe, {architecture}, views: {views}", accuracy[a, v])
            rows.append((architecture, views, accuracy[a, v], float(np.std(several)), size))
            say(f"{architecture}, {views}: {accuracy[a, v]:.3f} over {seeds} seeds")
    table(f"Probes after {steps} steps", rows, ("encoder", "views", "accuracy", "sd over seeds", "parameters"))

    for axis, names, noun in ((0, VIEWS, "views"), (1, ARCHITECTURES, "encoder")):
        means = dict(zip(names, accuracy.mean(axis=axis), strict=True))
        for better, worse in pairwise(names):
            bar(f"accuracy, {noun}: {better} less {worse}, mean", means[better] - means[worse])


if __name__ == "__main__":
    main()

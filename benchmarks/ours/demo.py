"""Ours: the arithmetic of the published demo with our modules: autoencoder, conditional map, objective, metrics.

Starts from the weights and takes the batches that `peers/cmonge_demo.py` wrote, so that nothing random is left: 50
steps of `cellgap.nn.AutoencoderNet`, 100 steps of `cellgap.nn.PerturbationNet` (the published network) on
`cellgap.transport`'s same-batch objective through `cellgap.train.fit`, and `cellgap.evaluate.published_metrics`. The
demo's second part of a condition is the whole vector again (its slices overlap), which is repeated here. The Monge gap
is solved to the tolerance with at most 2,000 iterations, as the peer does. Prints one JSON object.
"""

import argparse
import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import cellgap
from cellgap.evaluate import PUBLISHED_METRICS, published_metrics
from cellgap.nn import AutoencoderNet, Linear, PerturbationNet
from cellgap.train import Loop, fit
from cellgap.transport._objective import Batch, GapBatch, Objective, objective

SAME = {"wasserstein": "wasserstein_kl", "sinkhorn div": "sinkhorn_euclidean", "r2": "r2_mean"}


def linear(arrays: dict[str, np.ndarray], name: str) -> Linear:
    """Return a layer with stored weights."""
    weight, bias = jnp.asarray(arrays[f"{name}/kernel"]), jnp.asarray(arrays[f"{name}/bias"])
    return eqx.tree_at(lambda one: (one.weight, one.bias), Linear(*weight.shape, key=jr.key(0)), (weight, bias))


def autoencoder(arrays: dict[str, np.ndarray], prefix: str) -> AutoencoderNet:
    n_in, n_hidden = arrays[f"{prefix}/encoder/Dense_0/kernel"].shape
    n_latent = arrays[f"{prefix}/encoder/Dense_2/kernel"].shape[1]
    hidden = (n_hidden, n_hidden)
    net = AutoencoderNet(
        n_in, n_in, n_latent, hidden=hidden, norm="none", activation="gelu", log_theta=None, key=jr.key(0)
    )
    towers = [tuple(linear(arrays, f"{prefix}/{side}/Dense_{i}") for i in range(3)) for side in ("encoder", "decoder")]
    return eqx.tree_at(lambda one: (one.encoder.layers, one.decoder.layers), net, tuple(towers))


def trained(step: Any, state: Any, n_steps: int) -> Any:
    return fit(step, state, key=jr.key(0), loop=Loop(n_steps=n_steps, chunk=50)).state


def stepper(loss: Any, optimizer: optax.GradientTransformation) -> Any:
    """Return a step that takes batch number ``count``."""

    def step(batches: Any, state: Any, key: jax.Array) -> Any:
        net, opt_state, count = state
        value, grads = eqx.filter_value_and_grad(loss)(net, jax.tree.map(lambda b: b[count], batches))
        updates, opt_state = optimizer.update(grads, opt_state, net)
        return (eqx.apply_updates(net, updates), opt_state, count + 1), {"loss": value}

    return step


def coder(arrays: dict[str, np.ndarray]) -> AutoencoderNet:
    """Return the autoencoder after the demo's steps."""
    net, batches = autoencoder(arrays, "ae_start"), jnp.asarray(arrays["ae_batches"])
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-4, 100, 5000, 1e-5)
    optimizer = optax.adamw(schedule, weight_decay=1e-5)

    def loss(net: AutoencoderNet, x: jax.Array) -> jax.Array:
        return jnp.mean((net.decode(net.encode(x)) - x) ** 2)

    start = (net, optimizer.init(eqx.filter(net, eqx.is_array)), jnp.int32(0))
    return trained(eqx.Partial(stepper(loss, optimizer), batches), start, len(batches))[0]


def mover(arrays: dict[str, np.ndarray]) -> PerturbationNet:
    """Return the map after the demo's steps."""
    sources, targets = jnp.asarray(arrays["map_sources"]), jnp.asarray(arrays["map_targets"])
    width, d, n = arrays["map_conditions"].shape[1], sources.shape[2], sources.shape[1]
    net = PerturbationNet(
        d,
        2 * width - 1,
        0,
        hidden=(64, 64, 64, 64),
        embedding=50,
        conditioning="concat",
        parts=(width - 1, width),
        key=jr.key(0),
    )
    layers = [linear(arrays, f"map_start/Dense_{i}") for i in range(7)]
    places = lambda one: (one.shared, one.trunk.layers, one.readout)  # noqa: E731
    net = eqx.tree_at(places, net, (tuple(layers[:2]), tuple(layers[2:6]), layers[6]))
    settings = Objective("same_batch", "euclidean", 1.0, "euclidean", 0.01, 1.0, gap_max_iterations=2000)
    optimizer = optax.adamw(optax.cosine_decay_schedule(1e-4, len(sources), alpha=1e-2), weight_decay=1e-5)

    def loss(net: PerturbationNet, batch: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        x, y, condition = batch
        t = moved(net, x, condition)
        return objective(Batch(t, None, y, None, GapBatch(x, t, None, jnp.zeros(n))), settings).loss

    start = (net, optimizer.init(eqx.filter(net, eqx.is_array)), jnp.int32(0))
    batches = (sources, targets, jnp.asarray(arrays["map_conditions"]))
    return trained(eqx.Partial(stepper(loss, optimizer), batches), start, len(sources))[0]


def moved(net: PerturbationNet, x: jax.Array, condition: jax.Array) -> jax.Array:
    entity = jnp.concatenate([condition[:-1], condition])
    return net(x, entity[None], jnp.ones(1, bool), jnp.zeros(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    args = parser.parse_args()
    with np.load(args.data) as stored:
        arrays = dict(stored)
    ae, net = coder(arrays), mover(arrays)
    out = {}
    for i in range(sum(name.startswith("eval_condition/") for name in arrays)):
        condition, found = jnp.asarray(arrays[f"eval_condition/{i}"]), []
        for x, y in zip(arrays[f"eval_sources/{i}"], arrays[f"eval_targets/{i}"], strict=True):
            predicted, target = ae.decode(moved(net, jnp.asarray(x), condition)), ae.decode(jnp.asarray(y))
            keep = arrays["markers"]
            found.append(published_metrics(np.asarray(target)[:, keep], np.asarray(predicted)[:, keep]))
        out[str(i)] = {name: float(np.mean([one[name] for one in found])) for name in PUBLISHED_METRICS}
    print(json.dumps({"version": cellgap.__version__, "jax": jax.__version__, "metrics": list(out.values())}))


if __name__ == "__main__":
    main()

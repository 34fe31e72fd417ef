"""CPU seconds of our contrastive training step on pairs in memory, compiling left out, and of its parts.

Prints one JSON object: the whole step (both views through the network, loss, gradient, Adam, running averages), the
same step with the mean square of the outputs for a loss (what the network and the optimizer cost), the loss and its
gradient alone, and the value of the loss on given embeddings.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from cellgap.embed._loss import normalized, two_view_info_nce
from cellgap.embed.sphere._networks import SphereEncoder
from cellgap.nn import Tower, trainable

LEARNING_RATE = 1e-3


def median_seconds(call: Callable[[], Any], steps: int) -> float:
    """Return the median CPU seconds of a call, after three that are not counted."""
    taken = []
    for i in range(steps + 3):
        began = time.process_time()
        jax.block_until_ready(call())
        taken.append(time.process_time() - began if i >= 3 else np.nan)
    return float(np.nanmedian(taken))


def network(name: str, widths: list[int]) -> Any:
    """Return the published network (ReLU, then batch norm), or that for cells (layer norm, then GELU)."""
    if name == "published":
        return SphereEncoder(widths, norm="batch", key=jr.key(0))
    return Tower(widths, norm="layer", activation="gelu", key=jr.key(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="npz with left, right (inputs) and first, second (embeddings)")
    parser.add_argument("--network", choices=("published", "cells", "none"), required=True)
    parser.add_argument("--widths", default="", help="such as 3,128,3")
    parser.add_argument("--tau", type=float, required=True)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    with np.load(args.data) as stored:
        arrays = {name: jnp.asarray(stored[name]) for name in stored.files}

    def loss(a: jax.Array, b: jax.Array) -> jax.Array:
        return two_view_info_nce(normalized(a), normalized(b), tau=args.tau)

    def mean_square(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.mean(a * a) + jnp.mean(b * b)

    first, second = arrays["first"], arrays["second"]
    alone = jax.jit(jax.value_and_grad(loss, (0, 1)))
    found = {"loss_s": median_seconds(lambda: alone(first, second), args.steps), "value": float(loss(first, second))}
    if args.network == "none":
        print(json.dumps(found))
        return

    left, right = arrays["left"], arrays["right"]
    optimizer = optax.adam(LEARNING_RATE)

    def step_with(loss: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[..., Any]:
        @eqx.filter_jit(donate="all-except-first")
        def step(pair: tuple[jax.Array, jax.Array], net: Any, slots: Any):
            learnt, kept = eqx.partition(net, trainable(net))

            def loss_of(learnt: Any):
                a, moved = eqx.combine(learnt, kept).training(pair[0])
                b, moved = moved.training(pair[1])
                return loss(a, b), moved

            (value, moved), grads = eqx.filter_value_and_grad(loss_of, has_aux=True)(learnt)
            updates, slots = optimizer.update(grads, slots)
            net = eqx.combine(optax.apply_updates(learnt, updates), eqx.filter(moved, trainable(net), inverse=True))
            return net, slots, value

        return step

    for name, chosen in (("step_s", loss), ("network_s", mean_square)):
        net = network(args.network, [int(width) for width in args.widths.split(",")])
        # Copies: a fresh network's leaves may share their buffers, which are donated.
        state = jax.tree.map(jnp.array, (net, optimizer.init(eqx.filter(net, trainable(net)))))
        step = step_with(chosen)
        began = time.process_time()
        *state, value = step((left, right), *state)
        jax.block_until_ready(value)
        found[name.replace("_s", "_first_s")] = time.process_time() - began

        def one(step=step) -> Any:
            nonlocal state
            *state, value = step((left, right), *state)
            return state, value

        found[name] = median_seconds(one, args.steps)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

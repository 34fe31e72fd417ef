"""Peer: the training step of ott-jax's own `MongeGapEstimator`, timed after compilation.

Its network (`PotentialMLP`, x + MLP(x), hidden 64 x 4, GELU), its step function, its losses: `sinkdiv` with Euclidean
cost and eps 1.0 between mapped and target batch, `monge_gap_from_samples` with Euclidean cost and eps 0.01, weight 1.
Batches are drawn beforehand and lie on the device, so only the step is timed. Prints one JSON object.
"""

import argparse
import json
import os
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import ott
from ott.geometry import costs
from ott.neural.methods.monge_gap import MongeGapEstimator, monge_gap_from_samples
from ott.neural.networks.potentials import PotentialMLP
from ott.tools import sinkhorn_divergence


def cpu_seconds() -> float:
    """User and system seconds of this process, all threads, and of children it waited for."""
    return time.process_time() + os.times().children_user + os.times().children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--identity-start", type=int, default=0, help="1: last layer zero, as ours starts")
    args = parser.parse_args()

    euclidean = costs.Euclidean()

    def fitting_loss(mapped: jax.Array, target: jax.Array) -> tuple[jax.Array, None]:
        return sinkhorn_divergence.sinkdiv(mapped, target, cost_fn=euclidean, epsilon=1.0)[0], None

    def regularizer(source: jax.Array, mapped: jax.Array) -> tuple[jax.Array, None]:
        return monge_gap_from_samples(source, mapped, cost_fn=euclidean, epsilon=0.01), None

    with np.load(args.data) as stored:
        controls, treated = stored["controls"], stored["treated"][1].copy()  # a copy, so that the rest is let go
    rng = np.random.default_rng(args.seed)
    batches = [
        {
            "source": jnp.asarray(controls[rng.integers(len(controls), size=args.n)]),
            "target": jnp.asarray(treated[rng.integers(len(treated), size=args.n)]),
        }
        for _ in range(args.steps)
    ]
    estimator = MongeGapEstimator(
        dim_data=controls.shape[1],
        model=PotentialMLP(dim_hidden=[64, 64, 64, 64], is_potential=False, act_fn=nn.gelu),
        optimizer=optax.adamw(1e-3, weight_decay=1e-5),
        fitting_loss=fitting_loss,
        regularizer=regularizer,
        regularizer_strength=1.0,
        num_train_iters=args.steps,
        rng=jax.random.key(args.seed),
    )
    start = estimator.state_neural_net
    if args.identity_start:
        params = dict(start.params)
        last = max(params, key=lambda name: int(name.rsplit("_", 1)[1]))
        params[last] = jax.tree.map(jnp.zeros_like, params[last])
        start = start.replace(params=params)

    before = cpu_seconds()
    jax.block_until_ready(estimator.step_fn(start, batches[0], None, False, 0))
    compiled = cpu_seconds() - before

    state, losses = start, []
    before, clock = cpu_seconds(), time.perf_counter()
    for step, batch in enumerate(batches):
        state, logs = estimator.step_fn(state, batch, None, False, step)
        losses.append(logs["train"]["total_loss"])
    jax.block_until_ready((state.params, losses))
    spent, wall = cpu_seconds() - before, time.perf_counter() - clock
    print(
        json.dumps(
            {
                "version": ott.__version__,
                "jax": jax.__version__,
                "steps": args.steps,
                "first_call_cpu_s": compiled,
                "cpu_s_per_step": spent / args.steps,
                "wall_s_per_step": wall / args.steps,
                "loss_first": float(losses[0]),
                "loss_last": float(losses[-1]),
                "parameters": sum(p.size for p in jax.tree.leaves(state.params)),
            }
        )
    )


if __name__ == "__main__":
    main()

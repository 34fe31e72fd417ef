"""Peer: ott-jax's Sinkhorn value and gradient between two clouds, timed after compilation.

`linear.solve` on a `PointCloud`, threshold as given, gradient of ``reg_ot_cost`` (the KL form) in the first cloud by
its own rule. Prints one JSON object; values and gradient go to ``--save``.
"""

import argparse
import json
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import ott
from ott.geometry import costs, pointcloud
from ott.solvers import linear


def cpu_seconds() -> float:
    """User and system seconds of this process, all threads, and of children it waited for."""
    return time.process_time() + os.times().children_user + os.times().children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--cost", choices=("euclidean", "sqeuclidean"), required=True)
    parser.add_argument("--epsilon", type=float, required=True)
    parser.add_argument("--tolerance", type=float, required=True)
    parser.add_argument("--max-iterations", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", required=True)
    args = parser.parse_args()
    with np.load(args.data) as stored:
        x, y = jnp.asarray(stored["controls"][: args.n]), jnp.asarray(stored["treated"][1][: args.n])
    ground = costs.Euclidean() if args.cost == "euclidean" else costs.SqEuclidean()

    def value(x: jax.Array, y: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        geometry = pointcloud.PointCloud(x, y, cost_fn=ground, epsilon=args.epsilon)
        out = linear.solve(geometry, threshold=args.tolerance, max_iterations=args.max_iterations)
        return out.reg_ot_cost, (out.n_iters, out.converged)

    solve = jax.jit(jax.value_and_grad(value, has_aux=True))
    before = cpu_seconds()
    (cost, (iterations, converged)), gradient = jax.block_until_ready(solve(x, y))
    compiled = cpu_seconds() - before
    before, clock = cpu_seconds(), time.perf_counter()
    for _ in range(args.repeats):
        jax.block_until_ready(solve(x, y))
    spent, wall = cpu_seconds() - before, time.perf_counter() - clock
    np.savez(args.save, gradient=np.asarray(gradient))
    print(
        json.dumps(
            {
                "version": ott.__version__,
                "value": float(cost),
                "iterations": int(iterations),
                "converged": bool(converged),
                "first_call_cpu_s": compiled,
                "cpu_s": spent / args.repeats,
                "wall_s": wall / args.repeats,
            }
        )
    )


if __name__ == "__main__":
    main()

"""Peer: ott-jax's Sinkhorn divergence of large clouds, costs computed on the fly, one call, compiling included.

`sinkdiv` with ``batch_size`` (its online geometry), symmetric self terms, squared Euclidean cost. Prints one JSON
object.
"""

import argparse
import json
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
import ott
from ott.geometry import costs
from ott.tools import sinkhorn_divergence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--epsilon", type=float, required=True)
    parser.add_argument("--tolerance", type=float, required=True)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--cpu-limit", type=int, default=3600, help="CPU seconds after which the system ends it")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CPU, (args.cpu_limit, args.cpu_limit + 5))
    with np.load(args.data) as stored:
        x, y = (jnp.asarray(stored[name][: args.n]) for name in ("controls", "treated"))

    @jax.jit
    def solve(x: jax.Array, y: jax.Array) -> tuple[jax.Array, tuple]:
        value, out = sinkhorn_divergence.sinkdiv(
            x,
            y,
            cost_fn=costs.SqEuclidean(),
            epsilon=args.epsilon,
            batch_size=args.batch_size,
            solve_kwargs={"threshold": args.tolerance, "max_iterations": 2000},
        )
        return value, (out.n_iters, out.converged)

    clock, before = time.perf_counter(), time.process_time()
    value, (iterations, converged) = jax.block_until_ready(solve(x, y))
    spent = {"cpu_s": time.process_time() - before, "wall_s": time.perf_counter() - clock}
    iterations, converged = np.asarray(iterations).ravel(), np.asarray(converged).ravel()
    more = {"version": ott.__version__, "sweeps": int(iterations[0]), "own_sweeps": int(iterations[1:].sum())}
    print(json.dumps({"value": float(value), "converged": bool(converged.all())} | more | spent))


if __name__ == "__main__":
    main()

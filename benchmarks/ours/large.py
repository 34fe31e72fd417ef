"""Ours: a Sinkhorn divergence of large clouds with its gradient, one call each, compiling included.

`cellgap.ot.streamed_divergence`, or, with ``--reference``, the solver with arrays of all pairs in double precision and
at a small tolerance. Prints one JSON object; the gradient in the first cloud goes to ``--save``.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from cellgap import ot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--cost", default="sqeuclidean")
    parser.add_argument("--epsilon", type=float, required=True)
    parser.add_argument("--tolerance", type=float, required=True)
    parser.add_argument("--gradient", type=int, default=1)
    parser.add_argument("--reference", type=int, default=0)
    parser.add_argument("--save", required=True)
    args = parser.parse_args()
    if args.reference:
        jax.config.update("jax_enable_x64", True)
    with np.load(args.data) as stored:
        kind = np.float64 if args.reference else np.float32
        x, y = (
            jnp.asarray(cloud[: args.n].astype(kind, copy=False)) for cloud in (stored["controls"], stored["treated"])
        )
    options = {"epsilon": args.epsilon, "cost": args.cost, "tol": args.tolerance}

    def plain(x: jax.Array, y: jax.Array) -> jax.Array:
        return ot.sinkhorn_divergence(x, y, max_iterations=20000, anneal=True, **options)

    def streamed(x: jax.Array) -> tuple[jax.Array, ot.StreamedDivergence]:
        found = ot.streamed_divergence(x, y, **options)
        return found.value, found

    clock, before = time.perf_counter(), time.process_time()
    if args.reference:
        value, gradient = jax.block_until_ready(jax.jit(jax.value_and_grad(plain))(x, y))
        more: dict[str, object] = {}
    else:
        if args.gradient:
            (value, found), gradient = jax.block_until_ready(jax.value_and_grad(streamed, has_aux=True)(x))
        else:
            (value, found), gradient = jax.block_until_ready(streamed(x)), x
        parts = (found.cross, found.own_x, found.own_y)
        more = {
            "sweeps": int(found.cross.iterations),
            "own_sweeps": int(found.own_x.iterations) + int(found.own_y.iterations),
            "error": max(float(part.error) for part in parts),
            "converged": all(bool(part.converged) for part in parts),
            "cross": float(found.cross.value),
        }
    spent = {"cpu_s": time.process_time() - before, "wall_s": time.perf_counter() - clock}
    np.savez(args.save, gradient=np.asarray(gradient))
    print(json.dumps({"value": float(value)} | more | spent))


if __name__ == "__main__":
    main()

"""Ours: the CPU time of training steps of flow matching, and of predictions, through the public estimator.

`cellgap.FlowMatching` is fitted once. The progress bar is replaced by a clock that reads the CPU time at the end of
each chunk: the first chunk contains compiling, the last one a validation on held-out cells, and neither is counted.
After the run, the drawing of cells and pairs is timed alone; what is left of a step is the network and the optimizer.
Prints one JSON object.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from training import cpu_seconds, read_study

import cellgap
from cellgap import space, split
from cellgap.ot import draw_pairs
from cellgap.study import Role
from cellgap.train import Loop, _fit
from cellgap.transport import Codes, FlowMatching, Optimization
from cellgap.transport._affine import fit_affine_path
from cellgap.transport._train_flow import batch_sizes, draw_batch
from cellgap.transport._training_data import training_problem


def widths(text: str) -> tuple[int, ...]:
    """Return the numbers of ``64,64``."""
    return tuple(int(number) for number in text.split(","))


def pairing_cost(codes: Codes, n: int, epsilon: float, steps: int) -> tuple[float, int]:
    """Return the CPU seconds of drawing the cells and pairs of one step, and the number of pairs."""
    path = fit_affine_path(codes, "identity")
    problem = training_problem(codes, codes.split.train_conditions, Role.TRAIN, path)
    n = min(n, int(jnp.max(batch_sizes(problem))))
    padded = bool(jnp.any(batch_sizes(problem) < n))

    @jax.jit
    def several(problem, key):
        def one(total, key):
            key_k, key_cells, key_pairs = jr.split(key, 3)
            k = jr.randint(key_k, (), 0, problem.n_conditions)
            x, y, weights = draw_batch(problem, k, key_cells, n, padded=padded)
            pairs = draw_pairs(x, y, epsilon=epsilon, a=weights, b=weights, key=key_pairs)
            return total + jnp.sum(y[pairs.partner] - x), None

        return jax.lax.scan(one, jnp.zeros(()), jr.split(key, steps))[0]

    several(problem, jr.key(0)).block_until_ready()
    before = cpu_seconds()
    several(problem, jr.key(1)).block_until_ready()
    return (cpu_seconds() - before) / steps, n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True, help="timed steps")
    parser.add_argument("--time", type=widths, required=True, help="widths of the time encoder")
    parser.add_argument("--cells", type=widths, required=True, help="widths of the cell encoder")
    parser.add_argument("--decoder", type=widths, required=True)
    parser.add_argument("--embedding", type=int, required=True)
    parser.add_argument("--frequencies", type=int, required=True)
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--predict", type=int, default=0, help="control cells to predict from")
    parser.add_argument("--chunk", type=int, default=20)
    args = parser.parse_args()

    study, encoder = read_study(args.data, one=False)
    divided = split.in_distribution(study)
    read: list[float] = []

    @contextmanager
    def clock(title: str, n_steps: int, done: int, *, shown: bool) -> Iterator[Callable[..., None]]:
        yield lambda step, row, seconds: read.append(cpu_seconds())

    _fit.progress_bar = clock
    n_steps = args.steps + 2 * args.chunk
    estimator = FlowMatching(
        space=space.Genes(transform="none"),
        encoder=encoder,
        modulation="concat",
        time=args.time,
        data=args.cells,
        decoder=args.decoder,
        embedding=args.embedding,
        frequencies=args.frequencies,
        epsilon=args.epsilon,
        optimization=Optimization(
            loop=Loop(n_steps=n_steps, chunk=args.chunk, valid_every=n_steps), batch_size=args.n, learning_rate=1e-3
        ),
    )
    codes = Codes.of(divided, estimator.space, encoder)
    before = cpu_seconds()
    fitted = estimator.fit_codes(codes, key=jr.key(0))
    whole = cpu_seconds() - before
    spent = read[-2] - read[0]
    pairing, batch = pairing_cost(codes, args.n, args.epsilon, args.steps)
    if batch != args.n:
        raise SystemExit(f"the populations give batches of {batch}, not of {args.n}: simulate more cells")
    losses = [row["loss"] for row in fitted.history if "loss" in row]
    found = {
        "version": cellgap.__version__,
        "jax": jax.__version__,
        "steps": args.steps,
        "first_call_cpu_s": whole - spent,
        "cpu_s": spent,
        "cpu_s_per_step": spent / args.steps,
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "plan_iterations": float(np.mean([row["plan_iterations"] for row in fitted.history if "loss" in row])),
        "parameters": sum(p.size for p in jax.tree.leaves(fitted.net)),
        "pairing_cpu_s": pairing,
        "evaluations": fitted.n_evaluations,
    }
    if args.predict:
        z = codes.cells(codes.split.train_conditions[0].control)
        z = z[np.arange(args.predict) % len(z)]
        condition = codes.split.train_conditions[-1]
        fitted.transport(z, condition)
        before = cpu_seconds()
        fitted.transport(z, condition)
        found["predict_cpu_s"] = cpu_seconds() - before
    print(json.dumps(found))


if __name__ == "__main__":
    main()

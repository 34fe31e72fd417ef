"""Ours: the whole job from raw counts: autoencoder, conditional map in the code, the published protocol.

The published recipes through the public interface: `cellgap.space.Autoencoder.sciplex` (50 gradient steps of 512 cells,
as the peer), `cellgap.ConditionalMonge.reference`, `cellgap.evaluate.published_protocol` (11 batches a condition, 50
genes). CPU seconds of every stage, compiling included; of training also without its first chunk, which compiles.
Prints one JSON object.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.random as jr
from training import cpu_seconds

import cellgap as cg
from cellgap.evaluate import published_protocol
from cellgap.train import Loop, _fit
from cellgap.transport import Codes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--n", type=int, default=512)
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    study = cg.Study.read(args.folder / "screen.h5ad", cg.Design.read(args.folder / "design.toml"))
    split = cg.split.in_distribution(study, test=0.2, valid=0.05)
    space = cg.space.Autoencoder.sciplex(genes=cg.space.Genes(), epochs=None, loop=Loop(n_steps=50, chunk=50))
    read: list[float] = []

    @contextmanager
    def clock(title: str, n_steps: int, done: int, *, shown: bool) -> Iterator[Callable[..., None]]:
        read.clear()
        yield lambda step, row, seconds: read.append(cpu_seconds())

    _fit.progress_bar = clock
    encoder = cg.encode.Table() | cg.encode.Dose()
    spent, before = {}, cpu_seconds()
    codes = Codes.of(split, space, encoder)
    spent["autoencoder_cpu_s"] = cpu_seconds() - before

    model = cg.ConditionalMonge.reference(space, encoder)
    loop = dataclasses.replace(model.optimization.loop, n_steps=args.steps)
    model = dataclasses.replace(
        model, optimization=dataclasses.replace(model.optimization, loop=loop, batch_size=args.n)
    )
    before, clock_before = cpu_seconds(), time.perf_counter()
    fitted = model.fit_codes(codes, key=jr.key(0))
    jax.block_until_ready(fitted.net)
    spent["training_cpu_s"] = cpu_seconds() - before
    spent["training_wall_s"] = time.perf_counter() - clock_before
    spent["steps_after_first_chunk_cpu_s"] = read[-1] - read[0]
    chunk = model.optimization.loop.chunk
    before = cpu_seconds()
    table = published_protocol(fitted, split, n_cells=args.n)
    spent["evaluation_cpu_s"] = cpu_seconds() - before
    head = {"version": cg.__version__, "jax": jax.__version__, "steps": args.steps, "timed_steps": args.steps - chunk}
    found = {"batches": int(table["n_batches"].sum()), "r2_mean": float(table["r2_mean"].mean())}
    print(json.dumps(head | spent | found))


if __name__ == "__main__":
    main()

"""Peer: training steps and predictions of the package `cellflow-tools`, with its own sampler, network and trainer.

What runs: `CellFlow(adata, solver="otfm")`, `prepare_data` (the cells as they are, a drug's ten numbers and its dose),
`prepare_model` with the widths given, `train`, `predict`. Nothing of it is rewritten here. Without ``--as-it-comes``
the network is that of ours: one dense layer a treatment, mean over the set, concatenation, no dropout, AdamW without
accumulation of gradients. A few steps compile everything before the timed ones.

After the run, its parts are timed one by one with the functions that a step calls. Prints one JSON object.
"""

import argparse
import json
import os
import time
from importlib import metadata

import anndata
import jax
import numpy as np
import optax
import pandas as pd
from cellflow.model import CellFlow
from cellflow.utils import match_linear
from ott.solvers import utils as solver_utils


def cpu_seconds() -> float:
    """User and system seconds of this process, all threads, and of children it waited for."""
    return time.process_time() + os.times().children_user + os.times().children_system


def read(data: str) -> anndata.AnnData:
    """Return the cells with the columns that its `prepare_data` reads."""
    with np.load(data) as stored:
        names = [str(name) for name in stored["names"]]
        groups = [stored["controls"], *stored["treated"]]
        drugs = {str(drug): row for drug, row in zip(stored["drugs"], stored["drug_embedding"], strict=True)}
    sizes = [len(group) for group in groups]
    drug = ["control", *(name.split("-")[0] for name in names)]
    dose = [0.0, *(np.log10(float(name.split("-")[1])) for name in names)]
    obs = pd.DataFrame({"drug": np.repeat(drug, sizes), "dose": np.repeat(dose, sizes)})
    obs["drug"] = obs["drug"].astype("category")
    obs["control"] = (obs["drug"] == "control").to_numpy()
    obs.index = obs.index.map(str)
    cells = anndata.AnnData(np.concatenate(groups).astype(np.float32), obs=obs)
    cells.obsm["X_cells"] = cells.X
    cells.uns["drugs"] = drugs | {"control": np.zeros_like(next(iter(drugs.values())))}
    return cells


def widths(text: str) -> list[int]:
    """Return the numbers of ``64,64``."""
    return [int(number) for number in text.split(",")]


def cost_of(work, repeats: int) -> float:
    """Return the CPU seconds of one call, after one that compiles."""
    jax.block_until_ready(work())
    before = cpu_seconds()
    for _ in range(repeats):
        jax.block_until_ready(work())
    return (cpu_seconds() - before) / repeats


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
    parser.add_argument("--as-it-comes", type=int, default=0, help="its own pooling, dropout and optimizer")
    args = parser.parse_args()

    cells = read(args.data)
    model = CellFlow(cells, solver="otfm")
    model.prepare_data(
        sample_rep="X_cells",
        control_key="control",
        perturbation_covariates={"drug": ("drug",), "dose": ("dose",)},
        perturbation_covariate_reps={"drug": "drugs"},
    )
    options = {
        "time_encoder_dims": args.time,
        "hidden_dims": args.cells,
        "decoder_dims": args.decoder,
        "condition_embedding_dim": args.embedding,
        "time_freqs": 2 * args.frequencies,
        "match_fn": lambda x, y: match_linear(x, y, epsilon=args.epsilon, scale_cost="mean"),
    }
    if args.as_it_comes:
        options = {key: options[key] for key in ("time_encoder_dims", "hidden_dims", "decoder_dims")}
        options["layers_before_pool"], options["layers_after_pool"] = [], []
    else:
        options |= {
            "pooling": "mean",
            "layers_before_pool": ({"layer_type": "mlp", "dims": (args.embedding,)},),
            "layers_after_pool": [],
            "cond_output_dropout": 0.0,
            "optimizer": optax.adamw(1e-3, weight_decay=1e-5),
        }
    before = cpu_seconds()
    model.prepare_model(**options)
    model.train(num_iterations=4, batch_size=args.n, valid_freq=10**9)
    compiled = cpu_seconds() - before
    before, clock = cpu_seconds(), time.perf_counter()
    model.train(num_iterations=args.steps, batch_size=args.n, valid_freq=10**9)
    jax.block_until_ready(model.solver.vf_state.params)
    spent, wall = cpu_seconds() - before, time.perf_counter() - clock
    losses = model.trainer.training_logs["loss"]
    found = {
        "version": metadata.version("cellflow-tools"),
        "jax": jax.__version__,
        "steps": args.steps,
        "first_call_cpu_s": compiled,
        "cpu_s": spent,
        "cpu_s_per_step": spent / args.steps,
        "wall_s": wall,
        "loss_first": float(np.mean(losses[:20])),
        "loss_last": float(np.mean(losses[-20:])),
        "parameters": sum(p.size for p in jax.tree.leaves(model.solver.vf_state.params)),
    }
    rng, repeats = np.random.default_rng(0), min(args.steps, 20)
    batch = model._dataloader.sample(rng)
    solver = model.solver
    plan = solver.match_fn(batch["src_cell_data"], batch["tgt_cell_data"])
    found["sample_cpu_s"] = cost_of(lambda: model._dataloader.sample(rng)["src_cell_data"], repeats)
    found["plan_cpu_s"] = cost_of(lambda: solver.match_fn(batch["src_cell_data"], batch["tgt_cell_data"]), repeats)
    found["pairs_cpu_s"] = cost_of(lambda: solver_utils.sample_joint(jax.random.key(0), plan), repeats)
    noise = jax.numpy.zeros((args.n, solver.vf.condition_embedding_dim))
    found["network_cpu_s"] = cost_of(
        lambda: solver.vf_step_fn(
            jax.random.key(0),
            solver.vf_state,
            jax.numpy.linspace(0.0, 1.0, args.n)[:, None],
            batch["src_cell_data"],
            batch["tgt_cell_data"],
            batch["condition"],
            noise,
        )[1],
        repeats,
    )
    if args.predict:
        source = cells[cells.obs["control"].to_numpy()]
        source = source[np.arange(args.predict) % source.n_obs].copy()
        source.obs_names = [str(i) for i in range(source.n_obs)]
        treated = cells.obs[~cells.obs["control"]]
        asked = treated[treated["dose"] == treated["dose"].max()].iloc[:1]
        model.predict(source, asked)
        before = cpu_seconds()
        model.predict(source, asked)
        found["predict_cpu_s"] = cpu_seconds() - before
    print(json.dumps(found))


if __name__ == "__main__":
    main()

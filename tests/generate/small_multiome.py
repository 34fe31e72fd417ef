"""A small multiome with known programs: a program of a cell raises some genes and opens some peaks."""

import anndata
import mudata
import numpy as np
import pandas as pd

import cellgap as cg
from cellgap.generate import CFGen, FlowTraining
from cellgap.space import JointAutoencoder, Modality
from cellgap.train import Loop

GENES, PEAKS = 30, 40


def tables(*, n: int = 150, seed: int = 0) -> tuple[anndata.AnnData, anndata.AnnData]:
    """Return counts of genes and of fragments in peaks of two types of cells.

    Genes 0-4 and peaks 0-9 follow a program that varies within each type; genes 10-14 and peaks 20-29 set types apart.
    """
    rng = np.random.default_rng(seed)
    kind = rng.permutation(np.repeat([0, 1], n))
    program = rng.normal(size=2 * n)
    base = np.random.default_rng(9).gamma(1.5, size=GENES) + 0.5
    share = np.tile(base, (2 * n, 1))
    share[:, :5] *= np.exp(1.2 * program)[:, None]
    share[kind == 1, 10:15] *= 5.0
    mean = share / share.sum(1, keepdims=True) * rng.lognormal(np.log(400), 0.25, (2 * n, 1))
    logit = np.full((2 * n, PEAKS), -1.0)
    logit[:, :10] += 2.0 * program[:, None]
    logit[kind == 1, 20:30] += 2.0
    fragments = rng.poisson(np.log1p(np.exp(logit)))
    obs = pd.DataFrame({"type": np.asarray(["a", "b"])[kind]}, index=pd.Index([f"c{i}" for i in range(2 * n)]))
    rna = anndata.AnnData(rng.poisson(mean).astype(np.float32), obs=obs.copy())
    atac = anndata.AnnData(fragments.astype(np.float32), obs=pd.DataFrame(index=obs.index))
    rna.var_names, atac.var_names = [f"g{i}" for i in range(GENES)], [f"p{i}" for i in range(PEAKS)]
    return rna, atac


def multiome(**options: int) -> mudata.MuData:
    """Return both as a MuData."""
    rna, atac = tables(**options)
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData({"rna": rna, "atac": atac})
    mdata.obs["type"] = rna.obs["type"]
    return mdata


DESIGN = cg.Design(context=("type",), counts="X")
SPACE = JointAutoencoder(
    (Modality("rna", hidden=(32,), code=8), Modality("atac", "bernoulli", hidden=(32,), code=8)),
    dim=4,
    noise=0.0,
    loop=Loop(n_steps=400, chunk=50, valid_every=50, patience=4),
    learning_rate=3e-3,
    batch_size=64,
)
MODEL = CFGen(
    space=SPACE,
    attributes=("type",),
    width=32,
    embedding=16,
    n_blocks=2,
    calibrate=False,
    training=FlowTraining(loop=Loop(n_steps=800, chunk=100, valid_every=100), batch_size=128, ema=0.98),
)

"""A small atlas of counts with known programs, and a generator that is trained on it in seconds."""

import anndata
import numpy as np
import pandas as pd

from cellgap.generate import CFGen, FlowTraining
from cellgap.space import PCA, Genes
from cellgap.study import Design, Study
from cellgap.train import Loop

TYPES, DONORS, GENES = ("B", "NK", "T"), ("d1", "d2"), 40


def atlas(*, n: int = 100, seed: int = 0, without: tuple[str, str] | None = None) -> Study:
    """Return three types in two donors: each has genes of its own, on top of a library of 300 and 600 counts."""
    rng = np.random.default_rng(seed)
    base = rng.gamma(1.0, size=GENES)
    rows, labels = [], []
    for i, kind in enumerate(TYPES):
        for j, donor in enumerate(DONORS):
            if (kind, donor) == without:
                continue
            share = base.copy()
            share[6 * i : 6 * i + 6] += 6.0
            share[30 + 5 * j : 35 + 5 * j] += 5.0
            mean = share / share.sum() * rng.lognormal(np.log(300 * (1 + j)), 0.2, (n, 1))
            rows.append(rng.poisson(mean * rng.gamma(5.0, 0.2, (n, GENES))))
            labels += [(kind, donor)] * n
    order = rng.permutation(len(labels))
    obs = pd.DataFrame([labels[i] for i in order], columns=["type", "donor"])
    obs.index = pd.Index([f"c{i}" for i in range(len(obs))])
    x = np.concatenate(rows)[order].astype(np.float32)
    var = pd.DataFrame(index=pd.Index([f"g{i}" for i in range(GENES)]))
    design = Design(context=("type",), donor="donor", counts="X")
    return Study(anndata.AnnData(x, obs=obs, var=var), design)


QUICK = FlowTraining(loop=Loop(n_steps=600, chunk=100, valid_every=100, checkpoint_every=100), batch_size=256, ema=0.98)
MODEL = CFGen(
    space=PCA(dim=6, genes=Genes()),
    attributes=("type", "donor"),
    library_by="donor",
    width=32,
    embedding=16,
    n_blocks=2,
    training=QUICK,
)

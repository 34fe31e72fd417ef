"""A small screen with known factors: types, donors and a treatment move different genes."""

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

import cellgap as cg

DESIGN = cg.Design(treatment="drug", control="none", donor="donor", counts="X")


def small_cells(n: int = 480, genes: int = 60, seed: int = 0) -> anndata.AnnData:
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "cell_type": rng.choice(["a", "b", "c"], n),
            "donor": rng.choice(["d1", "d2", "d3"], n),
            "drug": rng.choice(["none", "x"], n),
            "score": rng.normal(size=n),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    level = np.full((n, genes), 0.5)
    for j, value in enumerate(("a", "b", "c")):
        level[obs["cell_type"] == value, 10 * j : 10 * j + 10] += 2.0
    for j, value in enumerate(("d1", "d2", "d3")):
        level[obs["donor"] == value, 30 + 5 * j : 35 + 5 * j] += 1.5
    level[obs["drug"] == "x", 45:55] += 2.0
    counts = rng.poisson(level * rng.gamma(8, 1 / 8, size=(n, 1)) * 3)
    return anndata.AnnData(
        sp.csr_matrix(counts.astype(np.int32)), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(genes)])
    )


def small_study(n: int = 480, **changes: object) -> cg.Study:
    return cg.Study(small_cells(n), DESIGN)

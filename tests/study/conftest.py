"""A small study that the tests of this floor share."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from cellgap.study import Design, Study

LINES = ("A549", "K562")
DRUGS = ("trametinib", "dexamethasone", "nutlin")
DOSES = (10.0, 100.0, 1000.0)


def screen(n_cells: int = 60, n_genes: int = 6, sparse: bool = True, seed: int = 0) -> AnnData:
    """A screen of two lines, three drugs at three doses, one combination, and twice as many controls."""
    draw = np.random.Generator(np.random.PCG64(seed))
    rows = [("vehicle", 0.0, line) for line in LINES for _ in range(2 * n_cells)]
    rows += [(drug, dose, line) for line in LINES for drug in DRUGS for dose in DOSES for _ in range(n_cells)]
    rows += [("trametinib+nutlin", 100.0, line) for line in LINES for _ in range(n_cells)]
    obs = pd.DataFrame(rows, columns=["drug", "dose_nM", "cell_line"]).iloc[draw.permutation(len(rows))]
    obs["plate"] = [f"p{i % 3}" for i in range(len(obs))]
    obs.index = pd.Index([f"cell{i}" for i in range(len(obs))])
    counts = draw.poisson(1.5, size=(len(obs), n_genes)).astype(np.float32)
    x = sp.csr_matrix(counts) if sparse else counts
    var = pd.DataFrame(index=pd.Index([f"gene{i}" for i in range(n_genes)]))
    return AnnData(X=x, obs=obs, var=var)


@pytest.fixture
def make() -> Callable[..., AnnData]:
    return screen


@pytest.fixture
def adata() -> AnnData:
    return screen()


@pytest.fixture
def design() -> Design:
    return Design(treatment="drug", dose="dose_nM", control="vehicle", context=("cell_line",), counts="X")


@pytest.fixture
def study(adata: AnnData, design: Design) -> Study:
    return Study(adata, design)

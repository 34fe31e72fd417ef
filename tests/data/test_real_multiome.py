"""Two modalities of measured cells: RNA and open loci of A549 under dexamethasone."""

import anndata
import jax.random as jr
import mudata
import numpy as np
import pytest

import cellgap as cg
from cellgap.generate import CFGen, FlowTraining
from cellgap.space import JointAutoencoder, Modality
from cellgap.study import Role, parted
from cellgap.train import Loop

LOCI = 1000


@pytest.fixture(scope="module")
def split(data_dir):
    rna = anndata.read_h5ad(data_dir / "a549_dex_multiome" / "rna_counts.h5ad")
    atac = anndata.read_h5ad(data_dir / "a549_dex_multiome" / "atac_binary.h5ad")
    most = np.sort(np.argsort(-atac.var["n_cells"].to_numpy())[:LOCI])
    rna.obs["time"] = rna.obs["time_h"].astype(int).astype(str)
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData({"rna": rna, "atac": atac[:, most].copy()})
    study = cg.Study(mdata, cg.Design(context=("time",), counts="X"))
    return cg.split.in_distribution(study, test=0.2, valid=0.15, seed=0)


def test_codes_explain_both_modalities_and_cells_are_drawn_with_their_depth(split):
    space = JointAutoencoder(
        (Modality("rna", hidden=(64,), code=16), Modality("atac", "bernoulli", hidden=(32,), code=8)),
        dim=10,
        loop=Loop(n_steps=300, chunk=50, valid_every=50, patience=3),
    )
    quick = FlowTraining(loop=Loop(n_steps=400, chunk=100, valid_every=100), ema=0.99)
    fitted = CFGen(space=space, attributes=("time",), width=32, calibrate=False, training=quick).fit(
        split, key=jr.key(0)
    )
    adata, train, held = split.study.adata, split.cells(Role.TRAIN), split.cells(Role.VALID)
    loci = (adata.var["modality"] == "atac").to_numpy()
    before, there = ((adata.X[rows][:, loci] > 0).toarray() for rows in (train, held))
    rate = (before.sum(0) + 0.5) / (len(before) + 1)
    rates_only = -(there * np.log(rate) + (1 - there) * np.log1p(-rate)).sum(1).mean()
    assert fitted.space.reconstruction["nll_atac"] < rates_only - 3
    made = fitted.sample(600, key=jr.key(1))
    real = parted(adata[train])
    for name in ("rna", "atac"):
        x, y = made[name].X.toarray(), real[name].X.toarray()
        assert x.sum(1).mean() == pytest.approx(y.sum(1).mean(), rel=0.08), name
        assert np.corrcoef((x > 0).mean(0), (y > 0).mean(0))[0, 1] > 0.98, name
    depths = [np.log(m["atac"].X.sum(1) + 1.0).std() for m in (made, real)]
    assert depths[0] == pytest.approx(depths[1], rel=0.15)

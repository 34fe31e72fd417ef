"""Annotators on real cells of a donor, and a protocol, that training never saw."""

from pathlib import Path

import jax.random as jr
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData, read_h5ad

import cellgap as cg
from cellgap.annotate._annotator import Annotator
from cellgap.space import Genes
from cellgap.train import Loop

pytestmark = pytest.mark.data

QUICK = Annotator(
    domains="domain",
    hidden=(32,),
    n_members=1,
    n_views=2,
    loop=Loop(n_steps=100, chunk=100),
    learning_rate=5e-3,
    n_axes=(20,),
    linear_axes=60,
    strengths=(0.01, 0.1),
    genes=Genes(n_top=800),
    n_folds=3,
)


def calibration_error(p: pd.DataFrame, truth: np.ndarray, bins: int = 10) -> float:
    """Return the expected calibration error, in bins of as many cells."""
    order = np.argsort(p.max(axis=1).to_numpy())
    right = (p.idxmax(axis=1).to_numpy() == truth)[order]
    sure = p.max(axis=1).to_numpy()[order]
    parts = np.array_split(np.arange(len(order)), bins)
    return float(sum(abs(right[i].mean() - sure[i].mean()) * len(i) for i in parts) / len(order))


def test_kang_controls_of_an_unseen_donor(data_dir: Path) -> None:
    adata = read_h5ad(data_dir / "kang_ifnb" / "annotation_ctrl.h5ad")
    adata.obs["domain"] = adata.obs["donor"].astype(str)
    rng = np.random.default_rng(0)
    donors = ("1015", "1016", "1244", "1488")
    rows = np.concatenate([rng.permutation(np.flatnonzero(adata.obs["domain"] == d))[:250] for d in donors])
    cells = adata[np.sort(rows)].copy()
    new = (cells.obs["domain"] == "1488").to_numpy()
    truth = cells.obs["cell_type"].astype(str).to_numpy()
    cells.obs["cell_type"] = np.where(new, None, truth)
    cells.obs.loc[new, "domain"] = None
    fitted = QUICK.fit(cg.Study(cells, cg.Design(counts="X")), "cell_type", key=jr.key(0))
    assert fitted.n_unlabelled == 250 and len(fitted.domains) == 3
    p = fitted.predict_proba(cells, rows=new)
    right = p.idxmax(axis=1).to_numpy() == truth[new]
    assert right.mean() >= 0.85
    assert right.mean() == pytest.approx(fitted.accuracies.outside, abs=0.08)
    assert calibration_error(p, truth[new]) < 0.08
    table = fitted.predict(cells, rows=new)
    assert (table["label"] == "unassigned").mean() < 0.2
    assigned = (table["label"] != "unassigned").to_numpy()
    assert right[assigned].mean() >= right.mean(), "what is left unassigned is not what it gets right"


def test_rna_mixtures_of_an_unseen_protocol_and_amount(data_dir: Path) -> None:
    """Seven mixtures of three cell lines; two protocols by four amounts are eight domains of about 80 samples."""
    folder = data_dir / "rna_mixtures"
    tables, samples = [], []
    for protocol in ("celseq2", "sortseq"):
        counts = pd.read_csv(folder / f"RNAmix_{protocol}.count.csv.gz", index_col=0)
        about = pd.read_csv(folder / f"RNAmix_{protocol}.metadata.csv.gz", index_col=0).loc[counts.columns]
        shares = about[["H2228_prop", "H1975_prop", "HCC827_prop"]].round(2).astype(str)
        obs = pd.DataFrame(index=protocol + counts.columns)
        obs["mixture"] = shares.agg("/".join, axis=1).to_numpy()
        obs["domain"] = (protocol + " " + about["mRNA_amount"].astype(str)).to_numpy()
        tables.append(counts)
        samples.append(obs)
    genes = tables[0].index.intersection(tables[1].index)
    x = sp.csr_matrix(np.concatenate([t.loc[genes].to_numpy().T for t in tables]).astype(np.int32))
    adata = AnnData(x, obs=pd.concat(samples), var=pd.DataFrame(index=genes.astype(str)))
    assert adata.obs["mixture"].nunique() == 7 and adata.obs["domain"].nunique() == 8
    new = (adata.obs["domain"] == "sortseq 15.0").to_numpy()
    study = cg.Study(adata[~new].copy(), cg.Design(counts="X"))
    fitted = QUICK.fit(study, "mixture", key=jr.key(0))
    found = fitted.predict(adata[new].copy())["best"].to_numpy()
    truth = adata.obs["mixture"].to_numpy()[new]
    scores = []
    for name in np.unique(truth):
        hit = ((found == name) & (truth == name)).sum()
        scores.append(2 * hit / ((found == name).sum() + (truth == name).sum()))
    assert np.mean(scores) >= 0.8

"""An embedding as the space of a map: codes, decoding, counts."""

import dataclasses

import jax.random as jr
import numpy as np
import pytest
from small_screen import small_cells, small_study

import cellgap as cg
from cellgap.embed import Embedded, MLPEncoder, SameCondition, Thin
from cellgap.errors import ConfigError, DataError
from cellgap.train import Loop

EMBEDDING = cg.ContrastiveEmbedding(
    pairs=SameCondition(within="cell_type") | Thin(),
    dim=6,
    encoder=MLPEncoder(hidden=(32,)),
    loop=Loop(n_steps=150, chunk=50, valid_every=50),
    batch_size=64,
    warmup=10,
    n_pairs=500,
    reference_dim=5,
)
SPACE = Embedded(EMBEDDING, hidden=(32,), loop=Loop(n_steps=200, chunk=50, valid_every=50), batch_size=64)


@pytest.fixture(scope="module")
def divided() -> cg.Split:
    return cg.split.in_distribution(small_study(), test=0.2, seed=0, min_cells=10)


@pytest.fixture(scope="module")
def space(divided: cg.Split):
    return SPACE.fit(divided)


def test_decodes_better_than_the_mean_cell(space) -> None:
    assert space.dim == 6 and space.gives_counts
    assert space.reconstruction["nll"] < space.reconstruction["nll_gene_means"] - 1
    assert space.reconstruction["variance_kept"] > 0.05
    cells = small_cells(50, seed=5)
    z = space.encode(cells)
    assert z.shape == (50, 6) and space.decode(z).shape == (50, 60)
    counts = space.counts(z, np.full(50, 100.0), seed=0)
    assert counts.shape == (50, 60) and counts.sum() == pytest.approx(5000, rel=0.1)
    raw = z * space.spread + space.center
    assert np.linalg.norm(raw, axis=1) == pytest.approx(np.ones(50), abs=1e-4)


def test_points_beside_the_sphere_are_those_on_it(space) -> None:
    z = space.encode(small_cells(20, seed=5))
    raw = z * space.spread + space.center
    longer = (1.7 * raw - space.center) / space.spread
    assert space.rates(longer) == pytest.approx(space.rates(z), abs=1e-5)


def test_serves_a_map(divided: cg.Split, tmp_path) -> None:
    fitted = cg.MeanShift(space=SPACE, encoder=cg.encode.OneHot()).fit(divided, key=jr.key(0))
    cells = small_cells(40, seed=6)
    controls = cells[cells.obs["drug"] == "none"].copy()
    made = fitted.predict(controls, cg.Condition("x", donor="d1"), output="counts")
    assert made.shape == controls.shape and made.X.dtype == np.int32
    fitted.save(tmp_path)
    again = cg.load(tmp_path).predict(controls, cg.Condition("x", donor="d1"), output="counts")
    assert (again.X != made.X).nnz == 0


def test_from_a_folder(divided: cg.Split, tmp_path) -> None:
    quick = dataclasses.replace(EMBEDDING, loop=Loop(n_steps=50, chunk=50, valid_every=50))
    fitted = quick.fit(divided, key=jr.key(0))
    fitted.save(tmp_path)
    short = Loop(n_steps=50, chunk=50, valid_every=50)
    read = Embedded(path=str(tmp_path), hidden=(32,), loop=short, batch_size=64).fit(divided)
    cells = small_cells(30, seed=7)
    assert read.encode(cells) * read.spread + read.center == pytest.approx(fitted.encode(cells), abs=1e-5)
    cg.space.PCA(dim=3).fit(divided)
    from cellgap import storage

    storage.save(cg.space.PCA(dim=3).fit(divided), tmp_path / "other")
    with pytest.raises(ConfigError, match="and no embedding"):
        Embedded(path=str(tmp_path / "other")).fit(divided)


def test_mistakes_of_the_space() -> None:
    with pytest.raises(ConfigError, match="give one of both"):
        Embedded()
    with pytest.raises(ConfigError, match="give one of both"):
        Embedded(EMBEDDING, "folder")
    values = small_cells(100)
    values.X = np.log1p(values.X.toarray())
    measured = cg.Study(values, cg.Design(treatment="drug", control="none", donor="donor"))
    with pytest.raises(DataError, match="decodes to raw counts"):
        SPACE.fit(cg.split.everything(measured))

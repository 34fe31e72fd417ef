"""A study in which no cell was treated: an atlas."""

import anndata
import numpy as np
import pandas as pd
import pytest

import cellgap as cg
from cellgap.errors import SplitError
from cellgap.study import Role


@pytest.fixture(scope="module")
def atlas() -> cg.Study:
    obs = pd.DataFrame({"type": np.repeat(["a", "b", "c"], 100), "donor": np.tile(["d1", "d2"], 150)})
    obs.index = obs.index.astype(str)
    x = np.random.default_rng(0).poisson(1.0, (300, 20)).astype(np.float32)
    return cg.Study(anndata.AnnData(x, obs=obs), cg.Design(context=("type",), donor="donor", counts="X"))


def test_every_population_is_a_control_of_its_context(atlas):
    assert atlas.conditions == () and len(atlas.controls) == 6 and not atlas.findings.warnings
    assert cg.Design.from_toml(atlas.design.to_toml()) == atlas.design


@pytest.mark.parametrize("kind", ["in_distribution", "leave_one_domain_out"])
def test_cells_are_held_out_without_treatments(atlas, kind):
    if kind == "in_distribution":
        split = cg.split.in_distribution(atlas, test=0.3)
        held = np.ones(300, bool)
    else:
        split = cg.split.leave_one_domain_out(atlas, "donor", "d2")
        held = (atlas.obs["donor"] == "d2").to_numpy()
        assert np.isin(split.roles[held], [Role.SOURCE, Role.REFERENCE]).all()
    outside = split.cells(Role.SOURCE, Role.REFERENCE)
    assert held[outside].all() and len(outside) == (90 if kind == "in_distribution" else 150)
    assert len(split.cells(Role.TRAIN, Role.VALID)) == 300 - len(outside)
    assert split.train_conditions == split.test_conditions == ()


def test_everything_is_trained_on(atlas, tmp_path):
    split = cg.split.everything(atlas, valid=0.2, seed=3)
    assert len(split.cells(Role.TRAIN)) == 240 and len(split.cells(Role.VALID)) == 60
    for control in atlas.controls:
        assert len(split.rows(control, Role.VALID)) == 10
    split.save(tmp_path / "split.json")
    np.testing.assert_array_equal(cg.Split.load(tmp_path / "split.json", atlas).roles, split.roles)
    np.testing.assert_array_equal(cg.split.by_name("everything", atlas, valid=0.2, seed=3).roles, split.roles)
    with pytest.raises(SplitError, match="fraction"):
        cg.split.everything(atlas, valid=1.0)


def test_what_needs_treatments_says_so(atlas):
    with pytest.raises(SplitError, match="no treated condition to train on"):
        cg.Gaussian(space=cg.space.Genes(), encoder=cg.encode.OneHot()).fit(cg.split.everything(atlas))
    with pytest.raises(SplitError, match="Nothing to hold out"):
        cg.split.unseen_conditions(atlas, [])

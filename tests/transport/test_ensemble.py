"""Ensembles: who leaves out what, the bound of the error, and what is refused."""

import dataclasses
import math

import jax.random as jr
import numpy as np
import pytest

import cellgap as cg
from cellgap.errors import ConditionError, ConfigError, SplitError
from cellgap.settings import from_dict, to_dict
from cellgap.study import Role
from cellgap.train import Loop
from cellgap.transport import Calibration, Ensemble, Optimization
from cellgap.transport._calibration import spread_of


@pytest.fixture(scope="module")
def screen():
    return cg.simulate(n_drugs=9, n_combinations=0, n_genes=40, n_cells=30, n_controls=120, doses=(1000.0,), seed=3)


@pytest.fixture(scope="module")
def split(screen):
    return cg.split.unseen_treatment(screen.study(), ["B3", "C1"], seed=0, min_cells=10)


@pytest.fixture(scope="module")
def gaussian(screen):
    encoder = cg.encode.Table(screen.descriptors) | cg.encode.Context("cell_line")
    return cg.Gaussian(space=cg.space.PCA(dim=6), encoder=encoder)


@pytest.fixture(scope="module")
def fitted(gaussian, split):
    return Ensemble(model=gaussian, n_members=4).fit(split, key=jr.key(0))


def test_every_treatment_is_unknown_to_two_members(fitted, split):
    counts = dict.fromkeys(map(repr, split.train_conditions), 0)
    for left in fitted.left_out:
        for text in left:
            counts[text] += 1
    assert set(counts.values()) == {2}
    for left, member in zip(fitted.left_out, fitted.members, strict=True):
        assert not set(left) & set(member.vocabulary.conditions)
        assert set(left) | set(member.vocabulary.conditions) == set(map(repr, split.train_conditions))


def test_the_prediction_is_the_mean_of_the_members(fitted, split):
    condition = split.test_conditions[0]
    z = fitted.space.encode(split.study.adata, split.rows(condition.control, Role.SOURCE))
    moved = np.stack([member.transport(z, condition) for member in fitted.members])
    np.testing.assert_allclose(fitted.transport(z, condition), moved.mean(0), rtol=1e-5, atol=1e-5)
    assert np.array_equal(fitted.transport(z, condition.control), z)


def test_uncertainty_by_hand(fitted, split):
    condition = split.test_conditions[0]
    cells = fitted.controls[repr(condition.control)]
    effects = np.stack([m.transport(cells, condition).mean(0) - cells.mean(0) for m in fitted.members])
    found = fitted.uncertainty(condition)
    assert found.spread == pytest.approx(np.sqrt(((effects - effects.mean(0)) ** 2).sum() / 3), rel=1e-3)
    assert found.effect == pytest.approx(np.linalg.norm(effects.mean(0)), rel=1e-3)
    calibration = fitted.calibration
    assert found.error == pytest.approx(calibration.quantile * (found.spread + np.median(calibration.spread)), rel=1e-5)
    assert any("was not trained on" in reason for reason in found.extrapolates)
    assert found.relative == pytest.approx(found.error / found.effect)


def test_calibration_reads_members_that_had_not_seen_the_condition(fitted, split):
    calibration = fitted.calibration
    assert len(calibration.conditions) == len(split.train_conditions)
    assert "left out" in calibration.held_out
    # The bound holds on the calibrating conditions themselves as often as it promises.
    bounds = [calibration.bound(s) for s in calibration.spread]
    assert np.mean(calibration.error <= bounds) >= calibration.coverage
    condition = split.train_conditions[0]
    assert len(fitted.effects(condition, unseen_only=True)) == 2
    assert len(fitted.effects(condition)) == 4


def test_validation_conditions_calibrate_where_there_are_enough(screen, gaussian):
    study = screen.study()
    names = ["A1", "A2", "B1"]
    valid = [c for c in study.conditions if c.names[0] in names]
    split = cg.split.unseen_treatment(study, ["C2"], valid_conditions=valid, seed=0, min_cells=10)
    found = Ensemble(model=gaussian, n_members=3).fit(split, key=jr.key(0)).calibration
    assert found.held_out == "validation conditions"
    assert set(found.conditions) == set(map(str, valid))


def test_seeds_alone_give_no_bound(gaussian, split):
    fitted = Ensemble(model=gaussian, n_members=2, resample="seeds").fit(split, key=jr.key(0))
    assert fitted.calibration is None
    found = fitted.uncertainty(split.test_conditions[0])
    assert math.isnan(found.error)
    assert found.spread == pytest.approx(0.0, abs=1e-5)  # a closed form has no seed


def test_conformal_quantile_by_hand():
    spread, error = np.full(9, 1.0), np.arange(1.0, 10.0)
    calibration = Calibration(tuple("abcdefghi"), spread, error, 0.8, "validation conditions")
    # ceil(10 * 0.8) = 8th smallest of error / (1 + 1)
    assert calibration.quantile == pytest.approx(4.0)
    assert calibration.bound(3.0) == pytest.approx(16.0)
    assert dataclasses.replace(calibration, coverage=0.99).attained == pytest.approx(0.9)


def test_the_bound_covers_exchangeable_conditions():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        spread = rng.gamma(2.0, size=21)
        error = spread * rng.gamma(3.0, size=21)
        calibration = Calibration(tuple(map(str, range(20))), spread[:20], error[:20], 0.9, "validation conditions")
        covered.append(error[20] <= calibration.bound(spread[20]))
    # At least 0.9 in expectation; 400 draws have a standard error of 0.015.
    assert 0.86 <= np.mean(covered) <= 0.97


def test_saved_and_loaded_is_the_same(fitted, split, tmp_path):
    fitted.save(tmp_path / "run")
    loaded = cg.load(tmp_path / "run")
    condition = split.test_conditions[0]
    assert loaded.uncertainty(condition) == fitted.uncertainty(condition)
    z = fitted.controls[repr(condition.control)]
    np.testing.assert_array_equal(loaded.transport(z, condition), fitted.transport(z, condition))


def test_settings_survive_text():
    model = cg.Gaussian(space=cg.space.PCA(dim=3), encoder=cg.encode.OneHot())
    ensemble = Ensemble(model=model, n_members=3, resample="seeds")
    assert from_dict(to_dict(ensemble)) == ensemble


def test_trained_members_differ_by_seed_and_resume(screen, split, tmp_path):
    encoder = cg.encode.Table(screen.descriptors)
    short = Optimization(batch_size=16, loop=Loop(n_steps=4, chunk=2, valid_every=100))
    model = cg.ConditionalMonge(
        space=cg.space.PCA(dim=3), encoder=encoder, start="identity", hidden=(8,), optimization=short
    )
    ensemble = Ensemble(model=model, n_members=2, resample="seeds")
    fitted = ensemble.fit(split, key=jr.key(0), folder=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"member0", "member1"}
    again = ensemble.fit(split, key=jr.key(0), folder=tmp_path)
    condition = split.test_conditions[0]
    np.testing.assert_array_equal(fitted.effects(condition), again.effects(condition))
    assert spread_of(fitted.effects(condition)) > 0


def test_what_is_refused(gaussian, split, fitted):
    with pytest.raises(ConfigError, match="estimator"):
        Ensemble(model=3)
    with pytest.raises(ConfigError, match="estimator"):
        Ensemble(model=Ensemble(model=gaussian))
    with pytest.raises(ConfigError, match="n_members"):
        Ensemble(model=gaussian, n_members=1)
    with pytest.raises(SplitError, match="needs as many groups"):
        Ensemble(model=gaussian, n_members=30).fit(split, key=jr.key(0))
    with pytest.raises(ConditionError, match="nonsense"):
        fitted.uncertainty("nonsense | line1")
    with pytest.raises(ConfigError, match="two members"):
        spread_of(np.zeros((1, 3)))

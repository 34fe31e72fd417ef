"""The references on both sides of a conditional map: one map for all conditions, and one for each."""

import dataclasses
import tomllib

import jax.random as jr
import numpy as np
import pytest
import tomli_w
from interrupted import Stopped, same, stop_at, untrained
from small import FULL, QUICK, RAW, at, screen, vehicle

from cellgap.errors import ConditionError, ConfigError, SplitError
from cellgap.settings import from_dict, to_dict
from cellgap.study import Role, split
from cellgap.transport import (
    Codes,
    FittedPerCondition,
    FittedPooled,
    Monge,
    PerCondition,
    Pooled,
    _each,
    _train_map,
    load,
)
from cellgap.transport._affine import displacement

SHORT = dataclasses.replace(QUICK, loop=dataclasses.replace(QUICK.loop, n_steps=20))
POOLED = Pooled(space=RAW, encoder=FULL, hidden=(8, 8), optimization=SHORT)
EACH = PerCondition(space=RAW, encoder=FULL, hidden=(8, 8), optimization=SHORT)
Z = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def codes() -> Codes:
    return Codes.of(split.unseen_dose(screen(), 100, treatments="cora", min_cells=1), RAW, FULL)


@pytest.fixture(scope="module")
def pooled(codes) -> FittedPooled:
    return POOLED.fit_codes(codes, key=jr.key(1))


@pytest.fixture(scope="module")
def each(codes) -> FittedPerCondition:
    return EACH.fit_codes(codes, key=jr.key(1))


def test_the_pooled_map_is_one_for_all_conditions_and_turns_controls_into_all_treated_cells(pooled, codes):
    moved = pooled.transport(Z, at("anti", 10))
    for condition in (at("anti", 1000, "L2"), at("cora", 100), at(["anti", "beta"], 100)):
        np.testing.assert_array_equal(pooled.transport(Z, condition), moved)
    conditions = codes.split.train_conditions
    treated = np.concatenate([codes.cells(c, Role.TRAIN) for c in conditions])
    controls = np.concatenate([codes.cells(vehicle(line), Role.TRAIN) for line in ("L1", "L2")])
    found = pooled.transport(controls, conditions[0])
    assert np.linalg.norm(found.mean(0) - treated.mean(0)) < 0.2 * np.linalg.norm(controls.mean(0) - treated.mean(0))
    for line in ("L1", "L2"):
        np.testing.assert_array_equal(pooled.transport(Z, vehicle(line)), Z)
    assert pooled.name == "pooled Monge" and {g.name for g in pooled.gaps()} == {"Monge gap", "spread gap"}


def test_it_starts_at_the_gaussian_map_of_the_pooled_cells(codes):
    with untrained(_train_map):
        fitted = POOLED.fit_codes(codes, key=jr.key(0))
    moved = fitted.transport(Z, at("anti", 10))
    treated = np.concatenate([codes.cells(c, Role.TRAIN) for c in codes.split.train_conditions])
    controls = np.concatenate([codes.cells(vehicle(line), Role.TRAIN) for line in ("L1", "L2")])
    images = fitted.transport(controls, at("anti", 10))
    np.testing.assert_allclose(images.mean(0), treated.mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(images.T), np.cov(treated.T), atol=0.15)
    assert np.abs(moved - Z).max() > 0.5


def test_every_condition_starts_at_its_own_closed_form(codes):
    with untrained(_each):
        fitted = EACH.fit_codes(codes, key=jr.key(0))
    for moments in codes.moments:
        shift, linear = displacement(moments, moments.control_mean, "gaussian")
        expected = Z + shift + (Z - moments.control_mean) @ linear
        # The network starts near zero, not at zero.
        np.testing.assert_allclose(fitted.transport(Z, moments.condition), expected, atol=0.05)


def test_what_a_fit_of_every_condition_leaves(each, codes):
    assert each.name == "Monge per condition" and each.stopped == "finished"
    assert len(each.best_steps) == len(codes.split.train_conditions) and set(each.best_steps) <= {0, 10, 20}
    assert [row["step"] for row in each.history if "valid" in row] == [0, 10, 20]
    for condition in (at("anti", 1000), at("beta", 1000, "L2"), at(["anti", "beta"], 100)):
        x, y = codes.cells(condition.control, Role.TRAIN), codes.cells(condition, Role.TRAIN)
        moved = each.transport(x, condition)
        assert np.linalg.norm(moved.mean(0) - y.mean(0)) < 0.2 * np.linalg.norm(x.mean(0) - y.mean(0))
    np.testing.assert_array_equal(each.transport(Z, vehicle("L2")), Z)
    with pytest.raises(ConditionError, match=r"'cora@100nM . L1' was not trained on, and Monge per"):
        each.transport(Z, at("cora", 100))


def test_alone_it_is_the_monge_map_of_its_condition(codes):
    """Two programs of one method: not the same draws, the same answer within what training moves."""
    name = "anti@1000nM | L2"
    monge = Monge(space=RAW, encoder=FULL, condition=name, hidden=(8, 8), optimization=SHORT)
    condition = at("anti", 1000, "L2")
    one = monge.fit_codes(codes, key=jr.key(0)).transport(Z, condition)
    two = EACH.fit_codes(codes, key=jr.key(0)).transport(Z, condition)
    assert np.linalg.norm(one - two, axis=1).mean() < 0.1 * np.linalg.norm(one - Z, axis=1).mean()


@pytest.mark.parametrize("model", [POOLED, EACH], ids=["pooled", "each"])
def test_killed_and_resumed_is_bit_for_bit_as_if_never_killed(model, codes, tmp_path, monkeypatch, request):
    fitted = request.getfixturevalue("pooled" if model is POOLED else "each")
    with monkeypatch.context() as patch:
        stop_at(patch, 15)
        with pytest.raises(Stopped):
            model.fit_codes(codes, key=jr.key(1), folder=tmp_path)
    same(model.fit_codes(codes, key=jr.key(1), folder=tmp_path), fitted)


@pytest.mark.parametrize("model", [POOLED, EACH], ids=["pooled", "each"])
def test_settings_and_fits_survive_a_file(model, tmp_path, request):
    fitted = request.getfixturevalue("pooled" if model is POOLED else "each")
    back = from_dict(tomllib.loads(tomli_w.dumps(to_dict(model))))
    assert back == model and hash(back) == hash(model)
    with pytest.raises(ConfigError, match="gap_weight"):
        dataclasses.replace(model, gap_weight=-1.0)
    fitted.save(tmp_path)
    read = load(tmp_path)
    assert type(read) is type(fitted) and read.gaps() == fitted.gaps()
    same(read, fitted)
    np.testing.assert_array_equal(read.transport(Z, at("anti", 10)), fitted.transport(Z, at("anti", 10)))


def test_held_out_cells_are_not_trained_on(pooled, each, codes):
    z = codes.z.copy()
    z[codes.split.cells(Role.TEST, Role.REFERENCE, Role.SOURCE)] += 100.0
    moved = dataclasses.replace(codes, z=z)
    same(POOLED.fit_codes(moved, key=jr.key(1)), pooled)
    same(EACH.fit_codes(moved, key=jr.key(1)), each)


def test_a_split_without_training_conditions_is_refused():
    study = screen(n=4)
    made = split.unseen_conditions(study, list(study.conditions)[1:], min_cells=1)
    empty = dataclasses.replace(
        made, train_conditions=(), roles=np.where(made.roles == Role.TRAIN, Role.UNUSED, made.roles)
    )
    for model in (POOLED, EACH):
        with pytest.raises(SplitError):
            model.fit(empty, key=jr.key(0))

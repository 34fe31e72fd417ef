"""Entropic maps: the plan's barycenters, the assignment at small epsilon, the identity on equal populations."""

import dataclasses
import tomllib

import numpy as np
import pytest
import tomli_w
from small import FULL, RAW, at, screen, study_of, vehicle

import ot
from cellgap.encode import OneHot
from cellgap.errors import ConditionError, ConfigError, DataError
from cellgap.ot import assignment
from cellgap.settings import from_dict, to_dict
from cellgap.study import Role, split
from cellgap.transport import Codes, EntropicMap, FittedEntropicMap, load

MODEL = EntropicMap(space=RAW, encoder=OneHot())


def pair(x: np.ndarray, y: np.ndarray) -> Codes:
    """Return the codes of one treated population and its controls, all of them to train on."""
    labels = [("vehicle", 0.0, "L1")] * len(x) + [("anti", 10.0, "L1")] * len(y) + [("held", 10.0, "L1")] * 2
    study = study_of(labels, np.concatenate([x, y, y[:2]]))
    codes = Codes.of(split.unseen_treatment(study, "held", min_cells=1, valid=0.0), RAW, OneHot())
    # Some controls are kept for the evaluation; here the plan has to be that of all.
    roles = codes.split.roles.copy()
    roles[: len(x)] = Role.TRAIN
    return dataclasses.replace(codes, split=dataclasses.replace(codes.split, roles=roles))


def clouds(n: int = 20, m: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)).astype(np.float32), (2 + 1.5 * rng.normal(size=(m, 3))).astype(np.float32)


@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean"])
@pytest.mark.parametrize("m", [20, 13])
def test_training_cells_go_to_the_barycenters_of_the_plan_of_another_library(cost, m):
    x, y = clouds(m=m)
    model = dataclasses.replace(MODEL, epsilon=0.5, relative=False, cost=cost, debiased=False, tol=1e-6)
    fitted = model.fit_codes(pair(x, y))
    matrix = ot.dist(x.astype(float), y.astype(float), metric=cost)
    plan = ot.sinkhorn(
        ot.unif(len(x)), ot.unif(m), matrix, 0.5, method="sinkhorn_log", stopThr=1e-10, numItermax=10_000
    )
    expected = plan @ y / plan.sum(1, keepdims=True)
    np.testing.assert_allclose(fitted.transport(x, at("anti", 10)), expected, atol=1e-4)


def test_at_small_epsilon_cells_go_to_their_partners():
    # Partners of random clouds have rivals nearly as good, which share them at any epsilon; a monotone map has none.
    x, _ = clouds()
    y = (2 + 1.5 * x)[np.random.default_rng(1).permutation(len(x))]
    partners = y[assignment(x, y, cost="sqeuclidean")[0]]
    np.testing.assert_allclose(partners, 2 + 1.5 * x, atol=1e-6)
    model = dataclasses.replace(MODEL, epsilon=1e-3, debiased=False, tol=1e-4, max_iterations=20_000)
    moved = model.fit_codes(pair(x, y)).transport(x, at("anti", 10))
    np.testing.assert_allclose(moved, partners, atol=0.02)


def test_at_large_epsilon_all_cells_go_to_the_mean_and_the_debiased_map_is_the_mean_shift():
    x, y = clouds()
    plain, debiased = (
        dataclasses.replace(MODEL, epsilon=1e3, debiased=flag).fit_codes(pair(x, y)).transport(x, at("anti", 10))
        for flag in (False, True)
    )
    np.testing.assert_allclose(plain, np.broadcast_to(y.mean(0), x.shape), atol=0.02)
    np.testing.assert_allclose(debiased, x + y.mean(0) - x.mean(0), atol=0.02)


def test_the_debiased_map_leaves_equal_populations_where_they_are_and_the_plain_one_contracts_them():
    """At an epsilon that ties all cells to one another: the potential of a cell apart is hardly determined."""
    x, _ = clouds()
    z = clouds(seed=1)[0]
    codes = pair(x, x)
    plain, debiased = (
        dataclasses.replace(MODEL, debiased=flag, epsilon=0.5, tol=1e-6).fit_codes(codes).transport(z, at("anti", 10))
        for flag in (False, True)
    )
    np.testing.assert_allclose(debiased, z, atol=1e-3)
    assert plain.var(0).sum() < 0.8 * z.var(0).sum()


@pytest.fixture(scope="module")
def codes() -> Codes:
    return Codes.of(split.unseen_treatment(screen(), "cora", min_cells=1), RAW, FULL)


@pytest.fixture(scope="module")
def fitted(codes) -> FittedEntropicMap:
    return EntropicMap(space=RAW, encoder=FULL).fit_codes(codes)


def test_every_condition_has_its_own_map_from_its_own_controls(fitted, codes):
    for condition in (at("anti", 1000), at("anti", 1000, "L2"), at(["anti", "beta"], 100, "L2")):
        x, y = codes.cells(condition.control, Role.TRAIN), codes.cells(condition, Role.TRAIN)
        moved = fitted.transport(x, condition)
        assert np.linalg.norm(moved.mean(0) - y.mean(0)) < 0.1 * np.linalg.norm(x.mean(0) - y.mean(0))
        assert 0.8 < moved.var(0).sum() / y.var(0).sum() < 1.2
    assert {gap.name for gap in fitted.gaps()} == {"Monge gap", "spread gap", "marginal gap"}
    assert all("epsilon" in gap.remedy for gap in fitted.gaps())
    assert fitted.gaps()[-1].value <= 1e-3


def test_padding_changes_nothing(fitted, codes):
    """Alone, a population has no padding; beside larger ones it has."""
    condition = at("beta", 10)
    size = len(codes.cells(condition, Role.TRAIN))
    roles = codes.split.roles.copy()
    roles[codes.rows(condition, Role.TRAIN)[size // 2 :]] = Role.UNUSED
    few = dataclasses.replace(codes, split=dataclasses.replace(codes.split, roles=roles))
    alone = dataclasses.replace(few, split=dataclasses.replace(few.split, train_conditions=(condition,)))
    model = EntropicMap(space=RAW, encoder=FULL, epsilon=1.0, relative=False, tol=1e-5)
    z = codes.cells(vehicle(), Role.TRAIN)
    beside, single = (model.fit_codes(given).transport(z, condition) for given in (few, alone))
    np.testing.assert_allclose(beside, single, atol=1e-4)


def test_what_was_not_trained_on_is_refused_and_controls_stay(fitted):
    z = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(fitted.transport(z, vehicle("L2")), z)
    with pytest.raises(ConditionError, match=r"'cora@10nM . L1' was not trained on, and entropic has a map for each"):
        fitted.transport(z, at("cora", 10))


def test_cells_at_one_point_and_wrong_settings_are_refused():
    one = np.ones((10, 3), np.float32)
    with pytest.raises(DataError, match="lie at one point"):
        MODEL.fit_codes(pair(one, one))
    for wrong in ({"epsilon": 0.0}, {"max_cells": 1}, {"cost": "cosine"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            EntropicMap(space=RAW, encoder=OneHot(), **wrong)


def test_unsolved_problems_say_so():
    x, y = clouds()
    model = dataclasses.replace(MODEL, epsilon=0.01, max_iterations=1)
    gap = model.fit_codes(pair(x, y)).gaps()[-1]
    assert gap.name == "marginal gap" and gap.value > 0.05


@pytest.mark.parametrize("debiased", [True, False])
def test_settings_and_fits_survive_a_file(codes, tmp_path, debiased):
    model = EntropicMap(space=RAW, encoder=FULL, max_cells=20, debiased=debiased, cost="euclidean")
    assert from_dict(tomllib.loads(tomli_w.dumps(to_dict(model)))) == model
    fitted = model.fit_codes(codes)
    assert fitted.targets.index.shape[1] == fitted.sources.index.shape[1] == 20
    fitted.save(tmp_path)
    z = codes.cells(vehicle(), Role.TRAIN)
    back = load(tmp_path)
    np.testing.assert_array_equal(back.transport(z, at("anti", 10)), fitted.transport(z, at("anti", 10)))
    assert back.gaps() == fitted.gaps()
